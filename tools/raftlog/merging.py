"""What the survivors of a cluster prove together: one log, and how certain each part of it is. Pure.

The log is the one that would win an election among the survivors: the highest last term, and of these the longest
(Raft §5.4.1). By Leader Completeness (§5.4.3) it holds every committed entry, if a majority of the voters survive. Each
of its entries is taken from whoever has an intact copy: the same index, term and chain value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from durable_raft.kv.records import StateSummary
from durable_raft.raft.configuration import stored_at
from durable_raft.raft.quorum import can_be_held
from durable_raft.raft.types import Base, Configuration, Entry, Index, LogPoint, chain_crc
from durable_raft.storage.state.meta import KvMeta
from raftlog.commitment import Commitment, commitment_of
from raftlog.replicas import Held, Range, Replica, ranges
from raftlog.survivors import Survivor


@dataclass(frozen=True, slots=True)
class VerdictRange:
    """A run of indexes of which the same can be said."""

    range: Range
    verdict: str
    """``certainly committed``, ``possibly committed`` or ``certainly not committed``."""
    why: str


@dataclass(slots=True)
class Merged:
    """The one log, and what is to be said of it."""

    best: Survivor
    """Whose log would win an election."""
    base: Base
    entries: list[Entry]
    """Behind ``base``, contiguous."""
    state_of: Survivor | None
    """Whose state goes with it; None: the log begins at its beginning."""
    taken: dict[str, int]
    """How many entries come from which directory."""
    verdicts: list[VerdictRange]
    certain: Commitment
    given_up: list[LogPoint] = field(default_factory=list)
    """Entries at the end of the best log that are left out."""
    missing: list[LogPoint] = field(default_factory=list)
    """Entries that nobody has intact and no state covers."""

    @property
    def last(self) -> LogPoint:
        """The last entry."""
        if not self.entries:
            return self.base.point
        return LogPoint(self.entries[-1].index, self.entries[-1].term, self.entries[-1].chain)

    @property
    def base_configuration(self) -> Configuration | None:
        """The one that counts at ``base``; None: the fixed one of the first start."""
        return stored_at(self.best.meta.configurations, self.base.point.index)

    @property
    def summary(self) -> StateSummary | None:
        """The state in numbers."""
        return None if self.state_of is None or self.state_of.state is None else self.state_of.state.summary


def merge(survivors: Sequence[Survivor], *, is_all: bool, lose_from: int | None = None) -> Merged:
    """Return the one log of ``survivors``, of one cluster.

    Args:
        survivors: at least one.
        is_all: every directory that was named could be read.
        lose_from: from this index on entries may be left out, if it is the first that nobody has intact.
    """
    best = max(survivors, key=lambda each: (each.last.term, each.last.index))
    points = _points(best, survivors)
    state_of = _state_for(best, points, survivors)
    base = best.meta.base
    if state_of is not None and state_of.state is not None and state_of.state.applied.point.index > base.point.index:
        base = _first_needed(base, state_of.state, points, survivors)
    certain = commitment_of([_replica(each) for each in survivors], is_all=is_all)
    verdicts = _verdicts(best, points, survivors, certain)
    merged = Merged(best, base, [], state_of, {}, verdicts, certain)
    _fill(merged, points, survivors)
    if _is_end_hidden(best, survivors):
        merged.missing.append(LogPoint(Index(best.last.index + 1), best.last.term, 0))
    _leave_out(merged, points, lose_from)
    return merged


def _points(best: Survivor, survivors: Sequence[Survivor]) -> dict[int, LogPoint]:
    """Return who each entry of the best log is, filling its gaps from others whose chain fits on both sides."""
    base, last = best.meta.base.point, best.last
    points: dict[int, LogPoint] = {}
    chain = base.chain
    for index in range(base.index + 1, last.index + 1):
        own = best.points.get(index)
        if own is None:
            fitting = [each.entries[index] for each in survivors if index in each.entries]
            own = next(
                (LogPoint(e.index, e.term, e.chain) for e in fitting if chain_crc(chain, e.crc) == e.chain), None
            )
        if own is None:
            continue
        points[index] = own
        chain = own.chain
    return points


def _state_for(best: Survivor, points: dict[int, LogPoint], survivors: Sequence[Survivor]) -> Survivor | None:
    """Return who has the newest sound state that is at a point of the best log, or where that begins."""
    base = best.meta.base.point

    def fits(each: Survivor) -> bool:
        if each.state is None:
            return False
        point = each.state.applied.point
        return point == base or points.get(point.index) == point

    fitting = [each for each in survivors if fits(each)]
    return max(fitting, key=lambda each: each.state.applied.point.index if each.state else 0, default=None)


def _first_needed(base: Base, state: KvMeta, points: dict[int, LogPoint], survivors: Sequence[Survivor]) -> Base:
    """Return where the log may begin: behind the last entry that nobody has intact and the state covers."""
    applied = state.applied
    for index in range(applied.point.index, base.point.index, -1):
        point = points.get(index)
        if point is None or _intact(point, survivors) is None:
            return applied
    return base


def _intact(point: LogPoint, survivors: Sequence[Survivor]) -> Survivor | None:
    for each in survivors:
        entry = each.entries.get(point.index)
        if entry is not None and (entry.term, entry.chain) == (point.term, point.chain):
            return each
    return None


def _fill(merged: Merged, points: dict[int, LogPoint], survivors: Sequence[Survivor]) -> None:
    """Take each entry behind the base from whoever has it."""
    ordered = [merged.best, *(each for each in survivors if each is not merged.best)]
    for index in range(merged.base.point.index + 1, merged.best.last.index + 1):
        point = points.get(index)
        source = None if point is None else _intact(point, ordered)
        if source is None:
            merged.missing.append(point or LogPoint(Index(index), merged.best.last.term, 0))
        elif not merged.missing:
            merged.entries.append(source.entries[index])
            name = str(source.directory)
            merged.taken[name] = merged.taken.get(name, 0) + 1


def _is_end_hidden(best: Survivor, survivors: Sequence[Survivor]) -> bool:
    """Return whether damage may hide committed entries behind the last one of the best log.

    So it is when a majority may have held one that those whose end is whole do not, and none without the damage.
    """
    voters = best.meta.membership.ids()
    hidden = {each.node_id for each in survivors if each.is_end_lost}
    lacking = {each.node_id for each in survivors if each.meta.standing.is_voter} - hidden
    return can_be_held(voters, lacking) and not can_be_held(voters, lacking | hidden)


def _leave_out(merged: Merged, points: dict[int, LogPoint], lose_from: int | None) -> None:
    """Cut from the first missing entry, if it certainly was not committed, or if that was asked for."""
    if not merged.missing:
        return
    first = merged.missing[0].index
    hopeless = [each.range.first for each in merged.verdicts if each.verdict == "certainly not committed"]
    if lose_from == first or (hopeless and first >= min(hopeless)):
        merged.given_up = [points[index] for index in sorted(points) if index >= first]
        merged.missing = []


# -- how certain ------------------------------------------------------------------------------------------------------


def _replica(survivor: Survivor) -> Replica:
    """Return a survivor as ``raftlog diff`` sees it."""
    meta = survivor.meta
    return Replica(
        str(survivor.directory),
        meta.identity.cluster_id.hex(),
        meta.identity.node_id,
        meta.configuration.voters,
        meta.standing.is_voter,
        meta.hard_state.current_term,
        meta.base.point,
        {index: Held(point.term, None, point.chain) for index, point in sorted(survivor.points.items())},
        is_running=False,
        wounds=survivor.wounds,
        checkpoint=None if survivor.state is None else survivor.state.applied.point,
        is_joint=bool(meta.configuration.outgoing),
    )


def _verdicts(
    best: Survivor, points: dict[int, LogPoint], survivors: Sequence[Survivor], certain: Commitment
) -> list[VerdictRange]:
    """Say of each index of the best log how certain it is that it was committed."""
    voters = best.meta.configuration.voters
    upto = 0 if certain.point is None else certain.point.index
    found: list[VerdictRange] = []
    first = best.meta.base.point.index + 1
    if upto >= first:
        found.append(VerdictRange(Range(first, min(upto, best.last.index)), "certainly committed", certain.reasons[0]))
    verdicts: dict[tuple[str, str], list[int]] = {}
    for index in range(max(first, upto + 1), best.last.index + 1):
        verdicts.setdefault(_verdict(index, points.get(index), survivors, voters), []).append(index)
    for (verdict, why), indexes in verdicts.items():
        found += [VerdictRange(each, verdict, why) for each in ranges(indexes)]
    return sorted(found, key=lambda judged: judged.range.first)


def _verdict(
    index: int, point: LogPoint | None, survivors: Sequence[Survivor], voters: Sequence[str]
) -> tuple[str, str]:
    """Return whether the entry may have been committed, and why."""
    holders = {each.node_id for each in survivors if point is not None and each.points.get(index) == point}
    lacking = {
        each.node_id
        for each in survivors
        if each.meta.standing.is_voter and point is not None and _lacks(each, index, point)
    }
    unknown = [voter for voter in voters if voter not in holders and voter not in lacking]
    said = f"held by {_names(holders)}, lacked by {_names(lacking)}, not known of {_names(unknown)}"
    if can_be_held(voters, lacking - holders):
        return "possibly committed", f"{said}: a majority of {len(voters)} voters may have held it"
    return "certainly not committed", f"{said}: {_names(lacking)} are a majority that never held it"


def _lacks(survivor: Survivor, index: int, point: LogPoint) -> bool:
    """Return whether a survivor certainly does not hold the entry: its log ends before, or has another one there."""
    held = survivor.points.get(index)
    if held is not None:
        return held != point
    return index > survivor.last.index and not survivor.wounds


def _names(nodes: Sequence[str] | set[str]) -> str:
    return ", ".join(sorted(nodes)) or "nobody"
