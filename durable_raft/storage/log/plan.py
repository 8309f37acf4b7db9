"""What a group of writes amounts to: one cut, one run of entries, one hard state. Pure; both stores use it.

Everything is validated before anything is changed. Work that a later write of the same group undoes is left out; the
result is what applying the writes one by one would give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from durable_raft.errors import InvariantViolation
from durable_raft.raft.configuration import decode
from durable_raft.raft.ready import Write
from durable_raft.raft.types import (
    CONFIGURATION,
    Base,
    Configuration,
    Entry,
    HardState,
    Index,
    LogPoint,
    Standing,
    chain_crc,
    entry_crc,
    goes_back_in_time,
)
from durable_raft.storage.log.meta import Meta


@dataclass(slots=True)
class Plan:
    """The change that makes a group of writes true; empty fields change nothing."""

    hard_state: HardState | None = None
    standing: Standing | None = None
    mended: dict[Index, Entry] = field(default_factory=dict)
    """Stored entries to be written again in their places, before the cut."""
    new_base: Base | None = None
    """Every stored entry goes, and the log begins behind this one."""
    base_configuration: Configuration | None = None
    """With ``new_base``: the configuration that counts there; None: the fixed one of the first start."""
    cut_from: Index | None = None
    """Every stored entry from here on goes."""
    entries: list[Entry] = field(default_factory=list)
    """Appended after the cut, contiguous."""
    tail: Base | None = None
    """The last entry after the change, with its timestamp; None when the log does not change."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be written."""
        return self.hard_state is None and self.standing is None and not self.mended and self.tail is None

    def kept_of(self, index: Index) -> Index:
        """Return the last of the indexes up to ``index`` whose stored entry is not cut: none behind it may be the base.

        What comes in place of what is cut can be applied, and be compacted, when the writes were in a journal first.
        """
        return index if self.cut_from is None else min(index, Index(self.cut_from - 1))


@dataclass(frozen=True, slots=True)
class Stand:
    """What a store holds when a group of writes arrives."""

    hard_state: HardState
    base: Index
    """Index before the first stored entry."""
    tail: Base
    """The last stored entry; the base when there is none."""
    number: int
    """Number of the last write that was persisted; 0 before the first of this life."""


def plan_writes(writes: Sequence[Write], stand: Stand, point_at: Callable[[Index], Base]) -> Plan:
    """Return the change that ``writes``, in the order of their numbers, make to what ``stand`` says is stored.

    Args:
        writes: the group.
        stand: what is stored.
        point_at: reads the point of a stored entry or of the base.

    Raises:
        InvariantViolation: numbers do not ascend, the term falls or a vote changes, a cut lies outside the log,
            entries do not follow each other, or an entry fails its own checksums.
        CorruptRecord: the entry before a cut cannot be read.
    """
    plan = Plan()
    last, number, hard_state = stand.tail, stand.number, stand.hard_state
    for write in writes:
        if write.number <= number:
            raise InvariantViolation(f"write {write.number} after write {number}")
        number = write.number
        if write.hard_state is not None:
            _check_hard_state(write.hard_state, hard_state)
            plan.hard_state = hard_state = write.hard_state
        if write.standing is not None:
            plan.standing = write.standing
        for entry in write.mended:
            # The prefix is dropped between writes: what was handed over to be mended may be in it by now.
            if entry.index > stand.base:
                _check_mended(entry, stand)
                plan.mended[entry.index] = entry
        if write.new_base is not None:
            last = _begin_behind(plan, write.new_base, write.base_configuration)
        if write.truncate_from is not None:
            base = stand.base if plan.new_base is None else plan.new_base.point.index
            last = _cut(plan, write.truncate_from, base, last, point_at)
        for entry in write.entries:
            _check_follows(entry, last)
            last = point_of(entry)
            plan.entries.append(entry)
    if plan.new_base is not None or plan.cut_from is not None or plan.entries:
        plan.tail = last
    return plan


def point_of(entry: Entry) -> Base:
    """Return point and timestamp of an entry."""
    return Base(LogPoint(entry.index, entry.term, entry.chain), entry.timestamp_ms)


def meta_after(meta: Meta, plan: Plan) -> Meta:
    """Return what ``meta`` says of hard state, standing, base and configurations once ``plan`` is carried out."""
    return replace(
        meta,
        hard_state=meta.hard_state if plan.hard_state is None else plan.hard_state,
        standing=meta.standing if plan.standing is None else plan.standing,
        base=meta.base if plan.new_base is None else plan.new_base,
        configurations=_configurations_after(meta, plan),
    )


def _configurations_after(meta: Meta, plan: Plan) -> tuple[Configuration, ...]:
    """Return those that the log has once ``plan`` is carried out: cut and appended in the same transaction."""
    kept = meta.configurations
    if plan.new_base is not None:
        kept = () if plan.base_configuration is None else (plan.base_configuration,)
    return configurations_with(kept, plan.cut_from, plan.entries)


def configurations_with(
    stored: tuple[Configuration, ...], cut_from: Index | None, entries: Sequence[Entry]
) -> tuple[Configuration, ...]:
    """Return those of a log that had ``stored``, is cut from ``cut_from`` on, and goes on with ``entries``."""
    kept = stored if cut_from is None else tuple([each for each in stored if each.index < cut_from])
    appended = [entry for entry in entries if entry.kind is CONFIGURATION]
    return (*kept, *[decode(entry.index, entry.payload) for entry in appended]) if appended else kept


def _begin_behind(plan: Plan, base: Base, configuration: Configuration | None) -> Base:
    """Drop all that is stored and planned; return the base, which is the last entry then."""
    plan.new_base, plan.base_configuration, plan.cut_from = base, configuration, None
    plan.entries.clear()
    plan.mended.clear()
    return base


def _cut(plan: Plan, cut: Index, base: Index, last: Base, point_at: Callable[[Index], Base]) -> Base:
    """Cut ``plan`` and return its last entry then."""
    if not base < cut <= last.point.index + 1:
        raise InvariantViolation(f"cut from {cut}, but the log holds ({base}, {last.point.index}]")
    if cut == last.point.index + 1:
        return last
    first_planned = last.point.index + 1 - len(plan.entries)
    if cut > first_planned:
        del plan.entries[cut - first_planned :]
        return point_of(plan.entries[-1])
    plan.entries.clear()
    plan.mended = {index: entry for index, entry in plan.mended.items() if index < cut}
    if cut < first_planned:
        # An earlier cut of this plan was at first_planned, so this one is always the lower.
        plan.cut_from = cut
    if plan.new_base is not None:
        return plan.new_base
    # What stands there may be rotten, and be written again by this very plan.
    mended = plan.mended.get(Index(cut - 1))
    return point_at(Index(cut - 1)) if mended is None else point_of(mended)


def _check_hard_state(new: HardState, old: HardState) -> None:
    """Check the invariants of ``HardState``: a forgotten term or a second vote elects two leaders (Raft §5.2)."""
    same_term = new.current_term == old.current_term
    if new.current_term < old.current_term or (same_term and old.voted_for not in (None, new.voted_for)):
        raise InvariantViolation(f"hard state {new} after {old}")


def _check_mended(entry: Entry, stand: Stand) -> None:
    """Check that a stored entry is written again, with its own checksum right."""
    if entry.index > stand.tail.point.index:
        raise InvariantViolation(f"{_named(entry)} mended, but the log holds ({stand.base}, {stand.tail.point}]")
    _check_crc(entry)


def _check_follows(entry: Entry, previous: Base) -> None:
    """Check what a stored log promises of two neighbours, and the entry's own checksums (it may have rotted in memory).

    Raises:
        InvariantViolation: naming the entry, what was expected and what was found.
    """
    point = previous.point
    if (
        entry.index != point.index + 1
        or entry.term < point.term
        or goes_back_in_time(entry.kind, entry.timestamp_ms, previous.timestamp_ms)
        or entry.chain != chain_crc(point.chain, entry.crc)
    ):
        raise InvariantViolation(f"{_named(entry)} does not follow {previous}")
    _check_crc(entry)


def _check_crc(entry: Entry) -> None:
    found = entry_crc(entry.index, entry.term, entry.kind, entry.timestamp_ms, entry.payload)
    if found != entry.crc:
        raise InvariantViolation(f"{_named(entry)}: its bytes give crc {found:#010x}")


def _named(entry: Entry) -> str:
    return (
        f"entry index {entry.index} term {entry.term} timestamp {entry.timestamp_ms} "
        f"crc {entry.crc:#010x} chain {entry.chain:#010x}"
    )
