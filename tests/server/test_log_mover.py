"""server/log_mover.py: when what is in the log's journal goes to LMDB, and that nobody waits for it."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_raft.errors import StoragePoisoned
from durable_raft.raft.types import ORIGIN, Index, LogPoint
from durable_raft.server.clock import SystemClock
from durable_raft.server.crash_points import CrashPoints
from durable_raft.server.log_mover import LATEST_S, LogMover
from durable_raft.server.log_writer import LogWriter
from durable_raft.storage import headroom
from durable_raft.storage.log.journaled_store import PENDING_ENTRIES_MAX, JournaledLogStore
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from tests.support.log_building import JournalShelf, entries_after, point_of, write
from tests.support.waiting import wait_until


class PlayedClock(SystemClock):
    """A monotonic clock that stands still until it is moved."""

    now_s = 100.0

    def monotonic(self) -> float:
        """Return the time it shows (s)."""
        return self.now_s


class Desk:
    """A mover that is called by hand, and its store."""

    def __init__(self, directory: Path) -> None:
        self.shelf = JournalShelf(directory)
        self.store: JournaledLogStore = self.shelf.open()
        self.store.load()
        self.clock = PlayedClock()
        self.failures: list[BaseException] = []
        self.mover = LogMover(self.store, self.clock, CrashPoints(), self.failures.append)
        self.last: LogPoint = ORIGIN
        self._number = 0

    def persist(self, count: int = 1, payload: bytes = b"x") -> None:
        """Persist a group of entries and say so."""
        entries = entries_after(self.last, count, payload=payload)
        self._number += 1
        self.store.persist([write(self._number, entries)])
        self.last = point_of(entries[-1])
        self.mover.note()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A mover of a new log, its thread not started."""
    made = Desk(tmp_path / "node")
    yield made
    made.shelf.close()


def test_it_moves_when_no_group_came_since_the_last_look(desk: Desk) -> None:
    """Not while they come."""
    for _ in range(3):
        desk.persist()
        desk.mover.work()
        assert desk.store.has_pending
    desk.mover.work()
    assert not desk.store.has_pending


def test_it_moves_at_the_latest_a_second_after_the_first(desk: Desk) -> None:
    """However steadily groups come."""
    desk.persist()
    desk.mover.work()
    desk.clock.now_s += LATEST_S / 2
    desk.persist()
    desk.mover.work()
    assert desk.store.has_pending
    desk.clock.now_s += LATEST_S / 2
    desk.persist()
    desk.mover.work()
    assert not desk.store.has_pending
    desk.persist()
    desk.mover.work()
    assert desk.store.has_pending


def test_it_moves_at_once_when_much_is_pending(desk: Desk) -> None:
    """Without waiting for a pause."""
    desk.persist(PENDING_ENTRIES_MAX)
    desk.mover.work()
    assert not desk.store.has_pending


def test_it_moves_what_the_start_had_no_room_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a write that would tell it to; while there is no room it tries again."""
    desk.persist()
    with monkeypatch.context() as patch:
        patch.setattr(headroom, "_fallocate", lambda *_: errno.ENOSPC)
        store = desk.shelf.open()
        store.load()
        mover = LogMover(store, desk.clock, CrashPoints(), desk.failures.append)
        for _ in range(2):
            assert mover.has_work
            mover.work()
            assert store.has_pending
    mover.work()
    assert (store.has_pending, mover.has_work, desk.failures) == (False, False, [])


def test_the_prefix_goes_while_nobody_writes(desk: Desk) -> None:
    """Piece by piece; what is pending goes before it."""
    desk.persist(40)
    desk.mover.compact(Index(20))
    desk.mover.work()
    assert desk.store.has_pending
    desk.mover.work()
    assert desk.store.home.base_index == 20
    assert not desk.mover._has_work.is_set()


def test_the_prefix_goes_faster_than_writes_come_that_never_pause(desk: Desk) -> None:
    """A log that is compacted more slowly than it grows fills the disk."""
    desk.persist(3000)
    desk.mover.work()
    desk.mover.compact(Index(2900))
    base = desk.store.home.base_index
    for _ in range(3):
        desk.persist(PENDING_ENTRIES_MAX - 1)
        desk.persist()
        desk.mover.work()
        assert desk.store.home.base_index >= min(base + 2 * PENDING_ENTRIES_MAX, 2900)
        base = desk.store.home.base_index


def test_the_prefix_goes_along_with_groups_that_go_to_lmdb_directly(desk: Desk) -> None:
    """Nothing of theirs is moved, and while they come nobody is idle: the log would grow for as long as they do."""
    writer = LogWriter(desk.store, desk.clock, CrashPoints(), lambda _: None, desk.failures.append)
    last = ORIGIN
    for number in range(1, 41):
        entries = entries_after(last, 1, payload=bytes(100_000))
        last = point_of(entries[0])
        if number > 5:
            writer.compact(Index(number - 5))
        writer.submit(write(number, entries))
        assert writer._flush_next_group()
    assert not desk.store.has_pending
    assert desk.store.home.base_index >= 34
    assert desk.failures == []


def test_without_a_journal_the_writer_drops_the_prefix_itself(tmp_path: Path) -> None:
    """A directory that has gone back to LMDB: nothing is moved, so nothing would be dropped behind a move."""
    shelf = JournalShelf(tmp_path / "node")
    shelf.open().load()
    store = shelf.open(is_used=False)
    store.load()
    assert LogWriter(store, SystemClock(), CrashPoints(), lambda _: None, lambda _: None)._mover is None
    shelf.close()


def test_a_stop_moves_all_at_once(tmp_path: Path) -> None:
    """After a clean stop LMDB holds the whole log."""
    shelf = JournalShelf(tmp_path / "node")
    store = shelf.open()
    store.load()
    writer = LogWriter(store, SystemClock(), CrashPoints(), lambda _: None, lambda _: None)
    writer.start()
    writer.submit(write(1, entries_after(ORIGIN, 3)))
    assert writer.stop(60)
    assert (store.has_pending, store.home.last_index, writer.failure) == (False, 3, None)
    shelf.close()


def test_writes_are_acknowledged_while_lmdb_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the thread and on the calling one; only a group for LMDB itself waits."""
    shelf = JournalShelf(tmp_path / "node")
    store = shelf.open()
    store.load()
    go_on, commit = threading.Event(), LmdbLogStore.commit

    def waits(self: LmdbLogStore, *arguments: object) -> None:
        assert go_on.wait(60)
        commit(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(LmdbLogStore, "commit", waits)
    flushed: list[int] = []
    writer = LogWriter(store, SystemClock(), CrashPoints(), lambda each: flushed.extend(each.numbers), lambda _: None)
    writer.start()
    entries = entries_after(ORIGIN, 3)
    writer.submit(write(1, entries[:1]))
    wait_until(lambda: flushed == [1], "the first write to be flushed")
    wait_until(store._moving.locked, "the move to begin")
    wait_until(lambda: writer.persist_now(write(2, entries[1:2])) is not None, "the second to be flushed here")
    large = entries_after(point_of(entries[1]), 1, payload=bytes(100_000))
    assert writer.persist_now(write(3, large)) is None
    writer.submit(write(3, entries[2:]))
    wait_until(lambda: flushed == [1, 3], "the third write to be flushed")
    assert store.home.last_index == 0
    go_on.set()
    assert writer.stop(60)
    assert store.home.last_index == 3
    shelf.close()


def test_a_failed_move_ends_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told once, as a failed write is; nothing is taken after it."""
    shelf = JournalShelf(tmp_path / "node")
    store = shelf.open()
    store.load()
    monkeypatch.setattr(LmdbLogStore, "_apply", lambda *_: 1 / 0)
    failures: list[BaseException] = []
    writer = LogWriter(store, SystemClock(), CrashPoints(), lambda _: None, failures.append)
    writer.start()
    entries = entries_after(ORIGIN, 2)
    writer.submit(write(1, entries[:1]))
    wait_until(lambda: len(failures) == 1, "the failure to be told")
    assert isinstance(writer.failure, StoragePoisoned)
    with pytest.raises(StoragePoisoned):
        writer.persist_now(write(2, entries[1:]))
    assert writer.stop(60)
    assert len(failures) == 1
    shelf.close()
