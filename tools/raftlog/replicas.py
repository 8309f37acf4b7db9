"""One replica's log as ``raftlog diff`` compares it, and how two of them differ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from durable_raft.raft.types import LogPoint, chain_crc
from durable_raft.storage.directory import running_node
from durable_raft.storage.log.reader import LogReader
from durable_raft.storage.wounds import WoundedLog
from raftlog.gather import Progress, clear_progress

_LOOKS: Final = 5
"""Readings of a running node's log, until it was not cut during one."""


class Held(NamedTuple):
    """Which entry a log holds at an index."""

    term: int
    crc: int | None
    """None where the log begins: of the entry before the first one only term and chain are kept."""
    chain: int


class Range(NamedTuple):
    """Indexes, both ends included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}" if self.first == self.last else f"{self.first}..{self.last}"


@dataclass(slots=True)
class Replica:
    """What a directory holds, in numbers."""

    directory: str
    cluster_id: str
    node_id: str
    voters: tuple[str, ...]
    """Node ids."""
    is_voter: bool
    """Whether what this disk holds counts towards a majority."""
    current_term: int
    base: LogPoint
    entries: dict[int, Held]
    """By index, ascending; an entry of which neither record tells who it is has no place in it."""
    is_running: bool
    wounds: int
    checkpoint: LogPoint | None = None
    """The last entry in the KV state; None when there is no state, or it cannot be read."""
    notes: list[str] = field(default_factory=list)
    is_joint: bool = False
    """Whether its members are being changed: then ``voters`` alone commit nothing."""

    @property
    def first(self) -> int:
        """First index that the log may hold."""
        return self.base.index + 1

    @property
    def last(self) -> int:
        """Last index held, or that of the base when there is none."""
        return next(reversed(self.entries), self.base.index)

    @property
    def last_term(self) -> int:
        """Term of the last entry."""
        return self.entries[self.last].term if self.entries else self.base.term

    def at(self, index: int) -> Held | None:
        """Return what is held at ``index``, the base included."""
        if index == self.base.index:
            return Held(self.base.term, None, self.base.chain)
        return self.entries.get(index)

    def holds(self, point: LogPoint) -> bool:
        """Return whether the log holds, or begins behind, that entry."""
        held = self.at(point.index)
        return held is not None and (held.term, held.chain) == (point.term, point.chain)


def read_replica(directory: Path) -> Replica:
    """Read the log of ``directory``; to be run in a child process.

    The state's checkpoint is left to the caller.

    Raises:
        CorruptRecord: no copy of meta is valid, or LMDB cannot read the log.
        DirectoryRefused: not a data directory.
        UnknownFormatVersion: of a newer format.
    """
    progress = Progress(str(directory))
    with LogReader.open(directory) as reader:
        for look in range(1, _LOOKS + 1):
            replica = _read(directory, reader, progress)
            if look == _LOOKS or not replica.is_running or _is_one_log(replica):
                break
    clear_progress()
    if replica.wounds:
        replica.notes.append(f"{replica.wounds} wounds: see raftlog verify")
    return replica


def _read(directory: Path, reader: LogReader, progress: Progress) -> Replica:
    entries: dict[int, Held] = {}
    wounds = 0
    for walked in reader.walk():
        wounds += len(walked.wounds)
        if walked.ident is not None:
            entries[walked.index] = Held(walked.ident.term, walked.ident.crc, walked.ident.chain)
        progress(walked.index)
    # Meta is read last. Terms never fall: an entry read above was accepted in this term or before (commitment.py). And
    # what was compacted during the walk is then known to be.
    overview = reader.overview()
    if (meta := overview.meta) is None:
        raise WoundedLog(overview.wounds)
    base = meta.base.point
    for index in [index for index in entries if index <= base.index]:
        del entries[index]
    identity = meta.identity
    return Replica(
        str(directory),
        identity.cluster_id.hex(),
        identity.node_id,
        meta.configuration.voters,
        meta.standing.is_voter,
        meta.hard_state.current_term,
        base,
        entries,
        is_running=running_node(directory) is not None,
        wounds=wounds + len(overview.wounds),
        is_joint=bool(meta.configuration.outgoing),
    )


def _is_one_log(replica: Replica) -> bool:
    """Return whether each chain value follows the one before: not so when the node cut its log during the walk."""
    chain = replica.base.chain
    expected = replica.first
    for index, held in replica.entries.items():
        if index != expected or held.crc is None or chain_crc(chain, held.crc) != held.chain:
            return False
        expected, chain = index + 1, held.chain
    return True


# -- two of them ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """The first index where two logs hold different entries."""

    index: int
    how: tuple[str, ...]
    """Of ``term``, ``crc`` and ``chain``, what is not the same; ``chain`` alone: they differ before their first common
    index already."""
    held: tuple[Held, Held]


@dataclass(frozen=True, slots=True)
class Pair:
    """How two logs compare."""

    one: Replica
    other: Replica
    common: Range | None
    """The indexes at which both can be asked what they hold, their bases included; None: there is none."""
    difference: Difference | None
    not_compared: tuple[Range, ...]
    """Those of ``common`` where one of them does not know what it holds."""


def compare(one: Replica, other: Replica) -> Pair:
    """Compare two logs by term, crc and chain at every index in common."""
    lo, hi = max(one.base.index, other.base.index), min(one.last, other.last)
    if hi < lo:
        return Pair(one, other, None, None, ())
    unknown: list[int] = []
    for index in range(lo, hi + 1):
        here, there = one.at(index), other.at(index)
        if here is None or there is None:
            unknown.append(index)
            continue
        how = [name for name, is_same in _compared(here, there) if not is_same]
        if how:
            difference = Difference(index, tuple(how), (here, there))
            return Pair(one, other, Range(lo, hi), difference, tuple(ranges(unknown)))
    return Pair(one, other, Range(lo, hi), None, tuple(ranges(unknown)))


def _compared(here: Held, there: Held) -> tuple[tuple[str, bool], ...]:
    is_same_crc = here.crc == there.crc or here.crc is None or there.crc is None
    return (("term", here.term == there.term), ("crc", is_same_crc), ("chain", here.chain == there.chain))


def ranges(indexes: Iterable[int]) -> list[Range]:
    """Return ascending indexes as ranges."""
    found: list[Range] = []
    for index in indexes:
        if found and found[-1].last == index - 1:
            found[-1] = Range(found[-1].first, index)
        else:
            found.append(Range(index, index))
    return found


@dataclass(frozen=True, slots=True)
class Missing:
    """What one log lacks of what there is in any."""

    compacted: Range | None
    """Before its base; its state covers it."""
    unknown: tuple[Range, ...]
    """Between its entries: the records are lost or do not tell."""
    behind: Range | None
    """After its last entry."""


def missing(replica: Replica, span: Range) -> Missing:
    """Return what ``replica`` lacks of ``span``, the indexes held by any."""
    holes = ranges(index for index in range(replica.first, replica.last + 1) if index not in replica.entries)
    return Missing(
        Range(span.first, replica.base.index) if span.first <= replica.base.index else None,
        tuple(holes),
        Range(replica.last + 1, span.last) if replica.last < span.last else None,
    )
