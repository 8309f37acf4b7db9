"""A process that appends, cuts and compacts without end: ``python -m tests.storage.churn DIR SEED [journal]``; kill it.

With ``journal`` that stands in front of LMDB, and what is pending is moved now and then; it is loaded anew, too.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from durable_raft.raft.types import Index
from durable_raft.storage.log.journal import DiskJournalPlace
from durable_raft.storage.log.journal_format import BLOCK_BYTES
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from tests.support.log_building import entries_after, point_of, write

RING_BYTES = 64 * BLOCK_BYTES


def main(directory: Path, seed: int, *, is_journaled: bool) -> None:
    """Write for ever; one line of output per hundred rounds."""
    rng = random.Random(seed)
    home = LmdbLogStore.open(directory)
    store: LmdbLogStore | JournaledLogStore = home
    if is_journaled:
        store = JournaledLogStore(home, DiskJournalPlace(home.path), ring_bytes=RING_BYTES)
    stored = store.load()
    base, points = int(stored.base.index), {int(stored.last.index): stored.last}
    term = stored.hard_state.current_term + 1
    number = rounds = 0
    while True:
        number, rounds = number + 1, rounds + 1
        last = max(points)
        cut = None
        if rng.random() < 0.3:
            low = max(min(points), last - 40)
            cut = rng.randint(low, last) + 1
            term += 1
            points = {index: point for index, point in points.items() if index < cut}
        entries = entries_after(points[max(points)], rng.randint(1, 30), term=term)
        points.update((entry.index, point_of(entry)) for entry in entries)
        store.persist([write(number, entries, cut=cut)])
        if max(points) - base > 400:
            base = store.compact(Index(max(points) - 300), 50)
            points = {index: point for index, point in points.items() if index >= base}
        if rounds % 100 == 0:
            print(f"round {rounds}", flush=True)
        if isinstance(store, JournaledLogStore) and rng.random() < 0.1:
            store.move()
            if rng.random() < 0.05:
                store.load()
                number = 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), is_journaled=sys.argv[3:] == ["journal"])
