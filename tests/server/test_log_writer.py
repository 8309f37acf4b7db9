"""The log writer's thread, on a real store: what it says when it cannot go on."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_raft.errors import InvariantViolation
from durable_raft.raft.types import ORIGIN
from durable_raft.server.clock import SystemClock
from durable_raft.server.crash_points import CrashPoints
from durable_raft.server.log_writer import Flushed, LogWriter
from durable_raft.storage import headroom
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from tests.support.log_building import JournalShelf, LmdbShelf, entries_after, point_of, write
from tests.support.waiting import wait_until

AnyShelf = LmdbShelf | JournalShelf


@pytest.fixture(params=[LmdbShelf, JournalShelf], ids=["lmdb", "journal"])
def shelf(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[AnyShelf]:
    """A fresh data directory with an empty log."""
    shelf = request.param(tmp_path / "node")
    yield shelf
    shelf.close()


def _headroom(store: LmdbLogStore | JournaledLogStore) -> object:
    home = store.home if isinstance(store, JournaledLogStore) else store
    assert isinstance(home, LmdbLogStore)
    return home._headroom


def test_a_failure_in_the_last_moments_is_not_lost(shelf: AnyShelf) -> None:
    """Nobody is told any more when the loop has ended: whoever stops the thread finds it."""
    store = shelf.open()
    store.load()
    flushed: list[Flushed] = []
    writer = LogWriter(store, SystemClock(), CrashPoints.from_environment({}), flushed.append, lambda _: None)
    writer.start()
    writer.submit(write(1, entries_after(ORIGIN, 2)))
    writer.submit(write(1, entries_after(ORIGIN, 2)))
    assert writer.stop(10.0)
    assert isinstance(writer.failure, InvariantViolation)
    assert sum(len(each.numbers) for each in flushed) <= 1


def test_a_writer_that_worked_has_no_failure(shelf: AnyShelf) -> None:
    """All that was submitted before the stop is flushed."""
    store = shelf.open()
    store.load()
    flushed: list[Flushed] = []
    writer = LogWriter(store, SystemClock(), CrashPoints.from_environment({}), flushed.append, lambda _: None)
    writer.start()
    writer.submit(write(1, entries_after(ORIGIN, 2)))
    assert writer.stop(10.0)
    assert writer.failure is None
    assert [each.numbers for each in flushed] == [(1,)]


def test_a_write_without_room_waits_and_is_no_failure(shelf: AnyShelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again until there is room; a lone write is not taken on the loop meanwhile; a stop waits for none."""
    store = shelf.open()
    store.load()
    flushed: list[Flushed] = []
    writer = LogWriter(store, SystemClock(), CrashPoints.from_environment({}), flushed.append, lambda _: None)
    with monkeypatch.context() as patch:
        patch.setattr(headroom, "_fallocate", lambda *_: errno.ENOSPC)
        patch.setattr(_headroom(store), "_allocated", 0)
        entries = entries_after(ORIGIN, 2)
        assert writer.persist_now(write(1, entries)) is None
        writer.start()
        writer.submit(write(1, entries))
        wait_until(lambda: writer.is_waiting_for_room, "the write to wait")
        assert flushed == []
    wait_until(lambda: len(flushed) == 1, "the write to be flushed")
    assert flushed[0].numbers == (1,)
    assert not writer.is_waiting_for_room
    monkeypatch.setattr(headroom, "_fallocate", lambda *_: errno.ENOSPC)
    monkeypatch.setattr(_headroom(store), "_allocated", 0)
    writer.submit(write(2, entries_after(point_of(entries[-1]), 1)))
    wait_until(lambda: writer.is_waiting_for_room, "the second write to wait")
    assert writer.stop(10.0)
    assert writer.failure is None
    assert len(flushed) == 1
