"""Which prefix of the log is committed for certain, as far as the directories at hand can prove it.

Two proofs are taken, both of which hold whatever the directories say that are not at hand:

- *Applied*: only committed entries are applied, so the last entry in a KV state at a checkpoint is committed, and with
  it all before it, as its chain value says.
- *Majority*: an entry of term T that a majority of voters holds while their current term is T was counted by T's leader
  (Raft §5.4.2: only entries of the leader's own term are committed by counting). That they are still in T matters: a
  majority may also come to hold an entry of T from a later leader, and then still lose it (Figure 8). When the logs of
  *all* voters are at hand, none of their nodes runs and T is the highest term in any of them, the entry need not have
  been counted: no voter without it can win an election (§5.4.1), so no leader can ever lack it.

What neither proves may be committed all the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from durable_raft.raft.quorum import is_majority
from durable_raft.raft.types import Index, LogPoint, Term
from raftlog.replicas import Range, Replica

_FINAL: Final = "the logs of all voters are here and no node runs (copies of different moments would not prove it)"


@dataclass(slots=True)
class Commitment:
    """What is certain, and why."""

    point: LogPoint | None = None
    """The last entry that is committed for certain."""
    reasons: list[str] = field(default_factory=list)
    """Each proof, the one that reaches furthest first."""
    open_range: Range | None = None
    """What is in some log behind it."""
    why_open: str = ""
    conflicts: list[str] = field(default_factory=list)
    """Directories that hold, or applied, other entries than the committed ones."""


def commitment_of(replicas: Sequence[Replica], *, is_all: bool) -> Commitment:
    """Return what is committed for certain.

    Args:
        replicas: of one cluster.
        is_all: every directory that was named could be read.
    """
    proofs, conflicts = _applied(replicas)
    found = Commitment(conflicts=conflicts)
    majority, lack = _majority(replicas, is_all=is_all)
    if majority is not None:
        proofs.append(majority)
    proofs.sort(key=lambda proof: proof[0].index, reverse=True)
    found.reasons = [reason for _, reason in proofs]
    last = max(replica.last for replica in replicas)
    if proofs:
        found.point = proofs[0][0]
        found.conflicts += _conflicts(replicas, [point for point, _ in proofs])
    after = 0 if found.point is None else found.point.index
    if last > after:
        found.open_range = Range(after + 1, last)
        found.why_open = f"no state at a checkpoint covers it, and {lack}"
    return found


def _applied(replicas: Sequence[Replica]) -> tuple[list[tuple[LogPoint, str]], list[str]]:
    """Return the last entries of the states that some log holds too, or begins behind; and who has another one."""
    covered: defaultdict[LogPoint, list[str]] = defaultdict(list)
    conflicts = []
    for replica in replicas:
        point = replica.checkpoint
        if point is None or not point.index:
            continue
        if any(other.holds(point) for other in replicas):
            covered[point].append(replica.directory)
        elif any(other.at(point.index) is not None for other in replicas):
            conflicts.append(
                f"the state in {replica.directory} is at index {point.index} term {point.term} chain {point.chain:08x},"
                " an entry that none of the logs holds there"
            )
    proofs = [
        (point, f"applied up to index {point.index}: the state in {', '.join(names)}")
        for point, names in covered.items()
    ]
    return proofs, conflicts


def _conflicts(replicas: Sequence[Replica], points: Sequence[LogPoint]) -> list[str]:
    """Return who contradicts an entry that is proven committed."""
    found = []
    for replica in replicas:
        for point in points:
            held = replica.at(point.index)
            if held is not None and not replica.holds(point):
                found.append(
                    f"{replica.directory} holds at index {point.index} term {held.term} chain {held.chain:08x}, but"
                    f" term {point.term} chain {point.chain:08x} is committed there"
                )
    return list(dict.fromkeys(found))


# -- the majority -----------------------------------------------------------------------------------------------------


def _majority(replicas: Sequence[Replica], *, is_all: bool) -> tuple[tuple[LogPoint, str] | None, str]:
    """Return the last entry that a majority proves, with the reason; and in words what is lacking behind it."""
    term = max(replica.last_term for replica in replicas)
    electorates = sorted({replica.voters for replica in replicas})
    voters = ", ".join(electorates[0])
    lack = f"no majority of the voters ({voters}) is seen to hold the same entry of term {term}, the highest in any log"
    if len(electorates) > 1:
        return None, "the directories name different voters, so no majority can be counted"
    if any(replica.is_joint for replica in replicas):
        return None, "the members are being changed, so no majority can be counted"
    holding = {replica.node_id for replica in replicas}
    is_final = is_all and holding >= set(electorates[0])
    is_final = is_final and not any(replica.is_running or replica.wounds for replica in replicas)
    counted = [
        replica
        for replica in replicas
        if replica.is_voter and replica.node_id in electorates[0] and (is_final or replica.current_term == term)
    ]
    for index in range(max((replica.last for replica in counted), default=0), 0, -1):
        groups = _groups(counted, index)
        if groups and all(held_term < term for held_term, _ in groups):
            break
        for (held_term, chain), nodes in groups.items():
            if held_term == term and is_majority(electorates[0], nodes):
                why = _FINAL if is_final else "each still in that term"
                reason = (
                    f"{', '.join(sorted(nodes))} of the voters {voters} hold the same entry at index {index}, of term"
                    f" {term}, the highest in any log: {why}"
                )
                return (LogPoint(Index(index), Term(term), chain), reason), f"behind index {index} {lack}"
    if not is_final:
        lack += " while still in that term"
    return None, lack


def _groups(replicas: Sequence[Replica], index: int) -> dict[tuple[int, int], set[str]]:
    """Return the nodes that hold the same entry at ``index``: by (term, chain)."""
    groups: defaultdict[tuple[int, int], set[str]] = defaultdict(set)
    for replica in replicas:
        if (held := replica.at(index)) is not None:
            groups[held.term, held.chain].add(replica.node_id)
    return groups
