"""A log store in memory that holds what was flushed and nothing else, and logs to start from.

It keeps the part of ``storage.log.log_store.LogStore`` that the core uses (load, persist, the ``LogView`` reads), and
refuses what a real store would refuse: a gap, a hole, a read beyond the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from durable_raft.errors import EntryUnavailable, EntryUnread, InvariantViolation
from durable_raft.raft.configuration import decode
from durable_raft.raft.log import EntriesLost
from durable_raft.raft.ready import Write
from durable_raft.raft.types import (
    ORIGIN,
    Base,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Index,
    LogPoint,
    LostEntry,
    NodeId,
    Standing,
    StoredLog,
    Term,
    make_entry,
)
from durable_raft.storage.log.meta import pack_standing, read_standing
from durable_raft.storage.proven import ProvenReader


def entries_of(terms: str | Sequence[int]) -> tuple[Entry, ...]:
    """Return the log whose entries have these terms, such as ``"1 1 4"``; one (index, term) is always one entry."""
    numbers = [int(term) for term in terms.split()] if isinstance(terms, str) else list(terms)
    log: list[Entry] = []
    previous = ORIGIN
    for index, term in enumerate(numbers, start=1):
        payload = f"{index}/t{term}".encode()
        entry = make_entry(
            previous=previous, term=Term(term), kind=EntryKind.COMMANDS, timestamp_ms=index, payload=payload
        )
        log.append(entry)
        previous = LogPoint(entry.index, entry.term, entry.chain)
    return tuple(log)


class Disk:
    """What one node finds when it starts again. Lists are by position: ``_entries[0]`` follows ``base``."""

    def __init__(
        self,
        terms: str | Sequence[int] = "",
        *,
        term: int | None = None,
        vote: str | None = None,
        node_uuid: bytes = bytes(16),
        is_voter: bool = True,
        place: bytes = b"",
    ) -> None:
        self.node_uuid = node_uuid
        """Tells this disk from another under the same node id."""
        self.place = place
        """Which file it is in; empty: its lives are not counted."""
        self.starts = 0
        self._entries: list[Entry] = list(entries_of(terms))
        self.base: LogPoint = ORIGIN
        self.base_timestamp_ms = 0
        last_term = self._entries[-1].term if self._entries else 0
        self.hard_state = HardState(Term(last_term if term is None else term), NodeId(vote) if vote else None)
        self.standing = Standing(is_voter)
        self.rotten: set[int] = set()
        """Indexes whose payload is rotten."""
        self.configurations: tuple[Configuration, ...] = ()
        """The one that counts at ``base`` and those behind it, kept apart from the entries, as in ``meta``."""
        self.unread: set[int] = set()
        """Indexes of entries that another thread is reading, so that they cannot be had yet."""

    @property
    def last(self) -> LogPoint:
        """The last flushed entry's point."""
        if not self._entries:
            return self.base
        entry = self._entries[-1]
        return LogPoint(entry.index, entry.term, entry.chain)

    def load(self) -> StoredLog:
        """Return all that a core starts from."""
        starts: list[tuple[Index, Term]] = []
        for entry in self._entries:
            if not starts or starts[-1][1] != entry.term:
                starts.append((entry.index, entry.term))
        timestamp = self._entries[-1].timestamp_ms if self._entries else self.base_timestamp_ms
        lost = tuple(self.lost(index) for index in sorted(self.rotten))
        return StoredLog(
            self.hard_state,
            self.base,
            self.last,
            timestamp,
            tuple(starts),
            self.base_timestamp_ms,
            standing=read_standing(ProvenReader(pack_standing(self.standing), 0)),
            lost=lost,
            configurations=self.configurations,
        )

    def lost(self, index: int) -> LostEntry:
        """Return who the entry at ``index`` is."""
        entry = self._entries[index - self.base.index - 1]
        return LostEntry(entry.index, entry.term, entry.crc, entry.chain)

    def persist(self, write: Write) -> None:
        """Make ``write`` durable, all of it at once."""
        if write.hard_state is not None:
            self.hard_state = write.hard_state
        if write.standing is not None:
            self.standing = write.standing
        for entry in write.mended:
            self._entries[entry.index - self.base.index - 1] = entry
            self.rotten.discard(entry.index)
        if write.new_base is not None:
            self._entries.clear()
            self.base = write.new_base.point
            self.base_timestamp_ms = write.new_base.timestamp_ms
            base_configuration = write.base_configuration
            self.configurations = () if base_configuration is None else (base_configuration,)
        if write.truncate_from is not None:
            del self._entries[write.truncate_from - self.base.index - 1 :]
            self.rotten = {index for index in self.rotten if index < write.truncate_from}
            self.configurations = tuple(each for each in self.configurations if each.index < write.truncate_from)
        for entry in write.entries:
            if entry.index != self.last.index + 1:
                raise InvariantViolation(f"write {write.number} puts {entry.index} after {self.last.index}")
            self._entries.append(entry)
            if entry.kind is EntryKind.CONFIGURATION:
                self.configurations = (*self.configurations, decode(entry.index, entry.payload))

    def entries(self, lo: Index, hi: Index, bytes_max: int) -> list[Entry]:
        """Return flushed entries of [lo, hi), at least one, about ``bytes_max`` bytes of payload at most."""
        self._require(lo)
        if lo in self.unread:
            raise EntryUnread(f"index {lo} is being read")
        found: list[Entry] = []
        size = 0
        for entry in self._entries[lo - self.base.index - 1 : hi - self.base.index - 1]:
            if found and entry.index in self.unread:
                break
            if entry.index in self.rotten:
                if found:
                    break
                raise EntriesLost([self.lost(entry.index)])
            size += len(entry.payload)
            if found and size > bytes_max:
                break
            found.append(entry)
        return found

    def chain_at(self, index: Index) -> int:
        """Return the chain value of the flushed entry at ``index``, or of the base."""
        if index == self.base.index:
            return self.base.chain
        self._require(index)
        return self._entries[index - self.base.index - 1].chain

    def base_at(self, index: Index) -> Base:
        """Return point and timestamp of the flushed entry at ``index``."""
        self._require(index)
        entry = self._entries[index - self.base.index - 1]
        return Base(LogPoint(entry.index, entry.term, entry.chain), entry.timestamp_ms)

    def holds(self, index: int, chain: int) -> bool:
        """Return whether the entry at ``index`` is flushed with this chain value (so that all before it agree)."""
        return self.base.index < index <= self.last.index and self.chain_at(Index(index)) == chain

    def all_entries(self) -> tuple[Entry, ...]:
        """Return every flushed entry."""
        return tuple(self._entries)

    def terms(self) -> list[int]:
        """Return the terms of the flushed entries, the oldest first."""
        return [entry.term for entry in self._entries]

    def compact(self, upto: int) -> None:
        """Drop everything up to and including ``upto``."""
        entry = self._entries[upto - self.base.index - 1]
        passed = [each for each in self.configurations if each.index <= upto]
        self.configurations = (*passed[-1:], *(each for each in self.configurations if each.index > upto))
        del self._entries[: upto - self.base.index]
        self.base, self.base_timestamp_ms = LogPoint(entry.index, entry.term, entry.chain), entry.timestamp_ms

    def _require(self, index: int) -> None:
        if not self.base.index < index <= self.last.index:
            raise EntryUnavailable(f"index {index} is not on the disk ({self.base.index}, {self.last.index}]")
