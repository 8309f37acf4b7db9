"""What is journaled finds room in LMDB: nothing is acknowledged that no start could move."""

from __future__ import annotations

import errno
from contextlib import closing
from pathlib import Path

import pytest

from durable_raft.errors import StoragePoisoned
from durable_raft.raft.types import ORIGIN
from durable_raft.storage import headroom
from durable_raft.storage.log.journal import DiskJournalPlace
from durable_raft.storage.log.journal_format import BLOCK_BYTES
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from tests.support.journal_files import MemoryJournalPlace
from tests.support.log_building import IDENTITY, MEMBERSHIP, entries_after, point_of, vote, write


def test_nothing_is_journaled_that_the_map_may_have_no_room_for(tmp_path: Path) -> None:
    """Near its end groups go to LMDB directly: one that fits no more was not acknowledged, and a start goes well."""
    LmdbLogStore.create(tmp_path, IDENTITY, MEMBERSHIP, map_bytes=16 << 20)

    def opened() -> JournaledLogStore:
        home = LmdbLogStore.open(tmp_path, map_bytes=16 << 20)
        return JournaledLogStore(home, DiskJournalPlace(home.path), ring_bytes=1 << 20)

    store, last, number = opened(), ORIGIN, 0
    store.load()
    was_journaled = set()
    while True:
        number += 1
        entries = entries_after(last, 1, payload=bytes(60_000))
        was_quick = store.is_quick(write(number, entries))
        try:
            store.persist([write(number, entries)])
        except StoragePoisoned:
            break
        was_journaled.add((was_quick, store.has_pending))
        last = point_of(entries[0])
        if number % 4 == 0:
            store.move()
    assert was_journaled >= {(True, True), (False, False)}
    assert not store.has_pending
    store.close()
    store = opened()
    assert store.load().last == last
    store.persist([write(1, hard_state=vote(2))])
    store.close()


@pytest.mark.parametrize("is_used", [True, False])
def test_what_stays_pending_is_flushed_before_it_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_used: bool
) -> None:
    """A process was killed between the write of a group and its flush, and the next one has no room to move it."""
    place = MemoryJournalPlace()
    LmdbLogStore.create(tmp_path, IDENTITY, MEMBERSHIP)

    def opened(*, is_used: bool = True) -> JournaledLogStore:
        return JournaledLogStore(LmdbLogStore.open(tmp_path), place, is_used=is_used, ring_bytes=16 * BLOCK_BYTES)

    entries = entries_after(ORIGIN, 2)
    with closing(opened()) as store:
        store.load()
        file = place.open()
        file.fails = OSError(errno.EIO, "killed")
        with pytest.raises(StoragePoisoned):
            store.persist([write(1, entries)])
    file.fails = None
    with monkeypatch.context() as patch, closing(opened(is_used=is_used)) as store:
        patch.setattr(headroom, "_fallocate", lambda *_: errno.ENOSPC)
        assert store.load().last == point_of(entries[1])
        assert store.has_pending
    file.cut_power(())
    with closing(opened()) as store:
        assert store.load().last == point_of(entries[1])


def test_a_move_is_due_by_the_ring_that_is_there(tmp_path: Path) -> None:
    """A version with larger rings goes on with a smaller one, and does not wait until that is full."""
    place = MemoryJournalPlace()
    LmdbLogStore.create(tmp_path, IDENTITY, MEMBERSHIP)
    with closing(JournaledLogStore(LmdbLogStore.open(tmp_path), place, ring_bytes=16 * BLOCK_BYTES)) as store:
        store.load()
    with closing(JournaledLogStore(LmdbLogStore.open(tmp_path), place)) as store:
        store.load()
        store.persist([write(1, entries_after(ORIGIN, 1))])
        assert not store.is_move_due
        store.persist([write(2, hard_state=vote(2))])
        assert store.is_move_due
