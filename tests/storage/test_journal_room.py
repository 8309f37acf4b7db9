"""What is journaled finds room in LMDB: nothing is acknowledged that no start could move."""

from __future__ import annotations

from pathlib import Path

from durable_raft.errors import StoragePoisoned
from durable_raft.raft.types import ORIGIN
from durable_raft.storage.log.journal import DiskJournalPlace
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.lmdb_store import LmdbLogStore
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
