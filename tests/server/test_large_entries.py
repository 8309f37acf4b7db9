"""Large entries are read on a worker: whoever asks is told to ask again, and never given another entry's bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from durable_raft.errors import CorruptRecord, EntryUnread
from durable_raft.raft.types import ORIGIN, Entry, Index
from durable_raft.server.large_entries import KEPT_MAX, LargeEntries
from tests.support.log_building import IDENTITY, MEMBERSHIP, entries_after, point_of, write
from tests.support.memory_log_store import MemoryLogStore

T = TypeVar("T")

LARGE_BYTES = 50
SIZES = (10, 20, 60, 10, 70, 80, 90, 100, 110)


class LateWorker:
    """Does its work when it is told to."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def start(self) -> None:
        """There is no thread."""

    def submit(self, work: Callable[[], T], done: Callable[[T], None]) -> None:
        """Keep it."""
        self.jobs.append(lambda: done(work()))

    def settle(self) -> None:
        """Nothing is under way."""

    def stop(self, timeout_s: float) -> bool:
        """Nothing is under way."""
        del timeout_s
        return True

    def work(self) -> None:
        """Do all of it."""
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job()


class Bench:
    """A log with some large entries, and what reads it."""

    def __init__(self) -> None:
        self.store = MemoryLogStore(IDENTITY, MEMBERSHIP)
        self.store.load()
        self.entries: list[Entry] = []
        for size in SIZES:
            previous = point_of(self.entries[-1]) if self.entries else ORIGIN
            self.entries += entries_after(previous, 1, payload=b"x" * size)
        self.store.persist([write(1, self.entries)])
        self.worker = LateWorker()
        self.told = 0
        self.view = LargeEntries(self.store, self.worker, LARGE_BYTES, self._tell)

    def _tell(self) -> None:
        self.told += 1

    def read(self, index: int) -> list[Entry]:
        """Ask for all from ``index`` on."""
        return self.view.entries(Index(index), Index(len(SIZES) + 1), 1 << 20)

    def read_later(self, index: int) -> list[Entry]:
        """Ask for a large one, and again when it is there."""
        with pytest.raises(EntryUnread):
            self.read(index)
        self.worker.work()
        return self.read(index)


def test_small_entries_are_read_at_once_up_to_a_large_one() -> None:
    """Whatever was asked for."""
    bench = Bench()
    assert bench.read(1) == bench.entries[:2]
    assert bench.read(4) == [bench.entries[3]]
    assert not bench.worker.jobs


def test_a_large_entry_is_read_once_however_often_it_is_asked_for() -> None:
    """It is given to the first who asks then; the next has it read anew."""
    bench = Bench()
    for _ in range(3):
        with pytest.raises(EntryUnread, match="index 3 "):
            bench.read(3)
    assert (len(bench.worker.jobs), bench.told) == (1, 0)
    bench.worker.work()
    assert bench.told == 1
    assert bench.read(3) == [bench.entries[2]]
    assert bench.read_later(3) == [bench.entries[2]]


def test_an_entry_that_was_replaced_meanwhile_is_not_given() -> None:
    """Another leader's took its place after it was read."""
    bench = Bench()
    with pytest.raises(EntryUnread):
        bench.read(3)
    bench.worker.work()
    successor = entries_after(point_of(bench.entries[1]), 1, term=7)
    bench.store.persist([write(2, successor, cut=3)])
    assert bench.read(3) == successor


def test_what_cannot_be_read_is_said_to_whoever_asks_for_it() -> None:
    """Not to the worker, which a failure would end."""
    bench = Bench()
    with pytest.raises(EntryUnread):
        bench.read(3)
    key = next(key for key in bench.store.log_records if key[:8] == (3).to_bytes(8, "big"))
    bench.store.log_records[key] = bench.store.log_records[key][:-1] + b"?"
    bench.worker.work()
    assert bench.told == 1
    with pytest.raises(CorruptRecord):
        bench.read(3)


def test_few_are_kept_that_nobody_asks_for() -> None:
    """The oldest is forgotten, and read anew when it is asked for."""
    bench = Bench()
    for index in range(5, 5 + KEPT_MAX + 1):
        with pytest.raises(EntryUnread):
            bench.read(index)
    bench.worker.work()
    for index in range(6, 5 + KEPT_MAX + 1):
        assert bench.read(index) == [bench.entries[index - 1]]
    assert bench.read_later(5) == [bench.entries[4]]
