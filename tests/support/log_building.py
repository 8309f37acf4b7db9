"""Entries and writes for the tests of the storage room, and log stores that can be opened again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from durable_raft.raft.configuration import encode
from durable_raft.raft.ready import Write
from durable_raft.raft.types import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Identity,
    Index,
    LogPoint,
    Member,
    Membership,
    NodeId,
    Term,
    make_entry,
)
from durable_raft.storage.log.journal import DiskJournalPlace
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.log_store import LogStore
from tests.support.memory_log_store import MemoryLogStore
from tests.support.raft_nodes import configuration_of

IDENTITY = Identity(b"cluster-id-16-by", NodeId("n1"), b"node-uuid-16-byt")
MEMBERSHIP = Membership(
    (
        Member(NodeId("n1"), "127.0.0.1:7001", "127.0.0.1:17001"),
        Member(NodeId("n2"), "127.0.0.1:7002", "127.0.0.1:17002"),
        Member(NodeId("n3"), "127.0.0.1:7003", "127.0.0.1:17003"),
    )
)
EVERYTHING = 1 << 40
"""A bytes_max that never ends a read."""


def point_of(entry: Entry) -> LogPoint:
    """Return the position of ``entry``."""
    return LogPoint(entry.index, entry.term, entry.chain)


def entries_after(previous: LogPoint, count: int, *, term: int = 1, payload: bytes | None = None) -> list[Entry]:
    """Return ``count`` entries of ``term`` that follow ``previous``; the payload tells index and term by default."""
    entries: list[Entry] = []
    for index in range(previous.index + 1, previous.index + 1 + count):
        data = f"{index}/t{term}".encode() if payload is None else payload
        entry = make_entry(
            previous=previous, term=Term(term), kind=EntryKind.COMMANDS, timestamp_ms=1000 + index, payload=data
        )
        entries.append(entry)
        previous = point_of(entry)
    return entries


def configuration_entry(previous: LogPoint, *voters: str, term: int = 1) -> Entry:
    """Return the entry of a configuration with these voters."""
    payload = encode(configuration_of(voters))
    stamp = 1_000 + previous.index + 1
    return make_entry(
        previous=previous, term=Term(term), kind=EntryKind.CONFIGURATION, timestamp_ms=stamp, payload=payload
    )


def configured(index: int, *voters: str) -> Configuration:
    """Return the configuration that such an entry has."""
    return replace(configuration_of(voters), index=Index(index))


def write(
    number: int, entries: Sequence[Entry] = (), *, cut: int | None = None, hard_state: HardState | None = None
) -> Write:
    """Return a write."""
    return Write(number, hard_state, None if cut is None else Index(cut), tuple(entries))


def vote(term: int, candidate: str | None = None) -> HardState:
    """Return a hard state."""
    return HardState(Term(term), None if candidate is None else NodeId(candidate))


def read_all(store: LogStore, lo: int, hi: int) -> list[Entry]:
    """Return every entry of [lo, hi) at once."""
    return store.entries(Index(lo), Index(hi), EVERYTHING)


class Shelf(Protocol):
    """Where one store lies between its lives."""

    def open(self) -> LogStore:
        """End the last life and open the store again; ``load`` is left to the caller."""


class LmdbShelf:
    """A real directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._store: LmdbLogStore | None = None
        LmdbLogStore.create(directory, IDENTITY, MEMBERSHIP)

    def open(self) -> LmdbLogStore:
        """Close what is open and open the directory again."""
        self.close()
        self._store = LmdbLogStore.open(self.directory)
        return self._store

    def close(self) -> None:
        """Close what is open."""
        if self._store is not None:
            self._store.close()
            self._store = None


class JournalShelf:
    """A real directory whose store has the journal; each life ends without moving what is pending."""

    kind: type[JournaledLogStore] = JournaledLogStore

    def __init__(self, directory: Path, ring_bytes: int = 1 << 20) -> None:
        self.directory = directory
        self._ring_bytes = ring_bytes
        self._store: JournaledLogStore | None = None
        LmdbLogStore.create(directory, IDENTITY, MEMBERSHIP)

    def open(self, *, is_used: bool = True) -> JournaledLogStore:
        """Close what is open and open the directory again."""
        self.close()
        home = LmdbLogStore.open(self.directory)
        place = DiskJournalPlace(home.path)
        self._store = self.kind(home, place, is_used=is_used, ring_bytes=self._ring_bytes)
        return self._store

    def close(self) -> None:
        """Close what is open."""
        if self._store is not None:
            self._store.close()
            self._store = None


class MemoryShelf:
    """Records in memory."""

    def __init__(self) -> None:
        self._store = MemoryLogStore(IDENTITY, MEMBERSHIP)

    def open(self) -> MemoryLogStore:
        """Crash what is open and give its next life."""
        self._store = self._store.crash()
        return self._store
