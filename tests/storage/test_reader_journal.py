"""Looking at a log part of which is in its journal: what is seen is what a node would have after moving it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_raft.raft.types import ORIGIN, Index
from durable_raft.storage.log.journal import journal_path
from durable_raft.storage.log.journal_format import BLOCK_BYTES, RING_AT
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.reader import LogReader
from durable_raft.storage.log.walk import Walked
from durable_raft.storage.wounds import WoundKind
from tests.support.log_building import JournalShelf, configuration_entry, entries_after, point_of, vote, write


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[JournalShelf]:
    """A fresh data directory with an empty log."""
    shelf = JournalShelf(tmp_path / "node")
    yield shelf
    shelf.close()


def seen(store: JournaledLogStore) -> tuple[tuple[object, ...], list[Walked], list[object]]:
    """Return all that a reader says of the log but what depends on LMDB's pages."""
    home = store.home
    assert isinstance(home, LmdbLogStore)
    reader = LogReader(home._environment, home._tables)
    overview = reader.overview()
    assert overview.meta is not None
    told = (
        overview.meta.hard_state,
        overview.meta.standing,
        overview.meta.base,
        overview.meta.configurations,
        overview.wounds,
        overview.first_index,
        overview.last_index,
        overview.entries,
    )
    walked = list(reader.walk())
    middle = overview.last_index // 2
    part = [each for each in walked if middle <= each.index < middle + 3]
    assert list(reader.walk(middle, middle + 3)) == part
    return told, walked, [reader.point_at(index) for index in range(overview.last_index + 2)]


@pytest.mark.parametrize("seed", range(6))
def test_pending_entries_are_seen_as_if_they_were_moved(shelf: JournalShelf, seed: int) -> None:
    """Beside a store that holds the log, with cuts of what LMDB holds, votes, configurations and a dropped prefix."""
    rng = random.Random(seed)
    store = shelf.open()
    store.load()
    points, term, has_seen_pending = [ORIGIN], 1, 0
    for number in range(1, 40):
        base = store.home.base_index
        cut = rng.randint(max(base + 1, len(points) - 5), len(points)) if rng.random() < 0.3 else None
        if cut is not None:
            term += 1
            del points[cut:]
        entries = entries_after(points[-1], rng.randint(0, 4), term=term, payload=b"x" * rng.choice((1, 3000)))
        if rng.random() < 0.3:
            previous = point_of(entries[-1]) if entries else points[-1]
            entries.append(configuration_entry(previous, "n1", rng.choice(("n2", "n3", "n4")), term=term))
        store.persist([write(number, entries, cut=cut, hard_state=vote(term, "n1"))])
        points += map(point_of, entries)
        has_seen_pending += store.has_pending
        if rng.random() < 0.3:
            before = seen(store)
            store.move()
            assert seen(store) == before, f"seed {seed}"
            assert before[0][6] == (points[-1].index if points[-1].index > base else 0)
        if rng.random() < 0.1 and len(points) > base + 5:
            store.compact(Index(len(points) - 4), 100)
    assert has_seen_pending > 20


def test_a_damaged_journal_is_a_wound_and_what_is_before_it_is_seen(shelf: JournalShelf) -> None:
    """The log is told up to there; a journal that is gone is one, too."""
    store = shelf.open()
    store.load()
    entries = entries_after(ORIGIN, 3)
    for number, entry in enumerate(entries, 1):
        store.persist([write(number, [entry])])
    shelf.close()
    path = journal_path(shelf.directory / "raft")
    image = bytearray(path.read_bytes())
    image[RING_AT + 2 * BLOCK_BYTES : RING_AT + 4 * BLOCK_BYTES] = bytes(2 * BLOCK_BYTES)
    path.write_bytes(image)
    with LogReader.open(shelf.directory) as reader:
        walked = list(reader.walk())
        overview = reader.overview()
    assert [each.index for each in walked] == [1, 1]
    assert (overview.last_index, overview.wounds) == (1, ())
    assert [wound.table for wound in walked[-1].wounds] == ["journal"]
    path.unlink()
    with LogReader.open(shelf.directory) as reader:
        (last,) = reader.walk()
        assert [wound.what for wound in last.wounds] == [WoundKind.MISSING]
