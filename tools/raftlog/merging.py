"""What the survivors of a cluster prove together: one log, and how certain each part of it is. Pure.

The log is the one that would win an election among the survivors: the highest last term, and of these the longest
(Raft §5.4.1). By Leader Completeness (§5.4.3) it holds every committed entry, if a majority of the voters survive. Each
of its entries is taken from whoever has an intact copy: the same index, term and chain value.

The voters are those of its newest configuration, and of both halves while that is joint. There may be a later one that
only others hold. It is joint, or has the same voters, until one that is joint is committed; and either needs a majority
of those voters. So what was committed with it is in the log as well, or they are no majority here.

An entry was committed by nobody when so many voters lack it that the others are no majority. The voters are those of
the configuration that counts at the entry. Of a joint one the outgoing voters are left out: an entry behind it may have
been committed after they were left. Where the joint one itself lacks a majority of either, no later entry has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from durable_raft.kv.records import StateSummary
from durable_raft.raft.configuration import Configurations, stored_at
from durable_raft.raft.quorum import can_be_held, halves
from durable_raft.raft.types import Base, Configuration, Entry, Index, LogPoint, Membership, chain_crc
from durable_raft.storage.state.meta import KvMeta
from raftlog.commitment import Commitment, commitment_of
from raftlog.replicas import Held, Range, Replica, ranges
from raftlog.survivors import Survivor

HOPELESS: Final = "certainly not committed"


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
    first_members: Membership
    """Those of the first start, who count until there is a configuration in the log."""
    configurations: Configurations
    """Those of the best log, before anything is given up."""
    given_up: list[LogPoint] = field(default_factory=list)
    """Entries at the end of the best log that are left out."""
    missing: list[LogPoint] = field(default_factory=list)
    """Entries that nobody has intact and no state covers."""
    lost_configurations: list[Configuration] = field(default_factory=list)
    """Those that some log has, or had, in what is left out."""

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
    def newest(self) -> Configuration:
        """The newest configuration that is known of the best log."""
        return self.configurations.newest

    @property
    def configuration(self) -> Configuration:
        """The one that counts where the merged log ends."""
        return self.configurations.at(self.last.index)

    @property
    def possible(self) -> list[Configuration]:
        """Those that some member may go by."""
        return self.configurations.since(self.best.meta.base.point.index)

    @property
    def is_end_hopeless(self) -> bool:
        """Whether all that is left out was certainly not committed."""
        hopeless = [each.range.first for each in self.verdicts if each.verdict == HOPELESS]
        return bool(hopeless) and self.last.index + 1 >= min(hopeless)

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
    first_members = next((each.meta.membership for each in survivors if each.meta.membership.voters), Membership(()))
    points = _points(best, survivors)
    state_of = _state_for(best, points, survivors)
    base = best.meta.base
    if state_of is not None and state_of.state is not None and state_of.state.applied.point.index > base.point.index:
        base = _first_needed(base, state_of.state, points, survivors)
    certain = commitment_of([_replica(each) for each in survivors], is_all=is_all)
    configurations = Configurations(Configuration.initial(first_members), best.meta.configurations)
    merged = Merged(best, base, [], state_of, {}, [], certain, first_members, configurations)
    merged.verdicts = _verdicts(merged, points, survivors)
    _fill(merged, points, survivors)
    if _is_end_hidden(merged, survivors):
        merged.missing.append(LogPoint(Index(best.last.index + 1), best.last.term, 0))
    _leave_out(merged, points, survivors, lose_from)
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
        is_there = point == base or points.get(point.index) == point
        # A start sets one aside that names another configuration.
        return is_there and stored_at(best.meta.configurations, point.index) == each.state.stored_configuration

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


def _is_end_hidden(merged: Merged, survivors: Sequence[Survivor]) -> bool:
    """Return whether damage may hide committed entries behind the last one of the best log.

    So it is when a majority may have held one that those whose end is whole do not, and none without the damage; or
    somebody knows of a configuration there.
    """
    last = merged.best.last.index
    voters = merged.configurations.at(last).voters
    is_known = any(each.meta.configuration.index > last for each in survivors)
    hidden = {each.node_id for each in survivors if each.is_end_lost}
    lacking = {each.node_id for each in survivors if each.meta.standing.is_voter} - hidden
    return can_be_held(voters, lacking) and (is_known or not can_be_held(voters, lacking | hidden))


def _leave_out(
    merged: Merged, points: dict[int, LogPoint], survivors: Sequence[Survivor], lose_from: int | None
) -> None:
    """Cut from the first missing entry, if it certainly was not committed, or if that was asked for."""
    if not merged.missing:
        return
    first = merged.missing[0].index
    if lose_from == first or merged.is_end_hopeless:
        merged.given_up = [points[index] for index in sorted(points) if index >= first]
        merged.missing = []
        known = {each.index: each for survivor in survivors for each in survivor.meta.configurations}
        known |= {each.index: each for each in merged.best.meta.configurations}
        merged.lost_configurations = [known[index] for index in sorted(known) if index >= first]


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


def _verdicts(merged: Merged, points: dict[int, LogPoint], survivors: Sequence[Survivor]) -> list[VerdictRange]:
    """Say of each index of the best log how certain it is that it was committed."""
    best, certain = merged.best, merged.certain
    upto = 0 if certain.point is None else certain.point.index
    found: list[VerdictRange] = []
    first = best.meta.base.point.index + 1
    if upto >= first:
        found.append(VerdictRange(Range(first, min(upto, best.last.index)), "certainly committed", certain.reasons[0]))
    verdicts: dict[tuple[str, str], list[int]] = {}
    joint = ("", "")
    for index in range(max(first, upto + 1), best.last.index + 1):
        configuration = merged.configurations.at(Index(index))
        judged = _verdict(index, points.get(index), survivors, configuration)
        if configuration.index == index and configuration.outgoing and judged[0] == HOPELESS:
            joint = (HOPELESS, f"the joint configuration at {index} was certainly not committed")
        elif joint[0] and judged[0] != HOPELESS:
            judged = joint
        verdicts.setdefault(judged, []).append(index)
    for (verdict, why), indexes in verdicts.items():
        found += [VerdictRange(each, verdict, why) for each in ranges(indexes)]
    return sorted(found, key=lambda judged: judged.range.first)


def _verdict(
    index: int, point: LogPoint | None, survivors: Sequence[Survivor], configuration: Configuration
) -> tuple[str, str]:
    """Return whether the entry may have been committed, and why."""
    holders = {each.node_id for each in survivors if point is not None and each.points.get(index) == point}
    lacking = {
        each.node_id
        for each in survivors
        if each.meta.standing.is_voter and point is not None and _lacks(each, index, point)
    }
    # An entry behind a joint configuration may have been committed by those who stay alone.
    needed = halves(configuration) if configuration.index == index else (configuration.voters,)
    voters = sorted({voter for half in needed for voter in half})
    unknown = [voter for voter in voters if voter not in holders and voter not in lacking]
    said = f"held by {_names(holders)}, lacked by {_names(lacking)}, not known of {_names(unknown)}"
    for half in needed:
        if not can_be_held(half, lacking - holders):
            return HOPELESS, f"{said}: {_names(lacking & {*half})} are a majority that never held it"
    return "possibly committed", f"{said}: a majority of {len(configuration.voters)} voters may have held it"


def _lacks(survivor: Survivor, index: int, point: LogPoint) -> bool:
    """Return whether a survivor certainly does not hold the entry: its log ends before, or has another one there."""
    held = survivor.points.get(index)
    if held is not None:
        return held != point
    return index > survivor.last.index and not survivor.wounds and not survivor.is_end_lost


def _names(nodes: Sequence[str] | set[str]) -> str:
    return ", ".join(sorted(nodes)) or "nobody"
