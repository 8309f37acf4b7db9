"""A process that appends, cuts and compacts without end: ``python -m tests.storage.churn DIR SEED``; kill it."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from durable_raft.raft.types import Index
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from tests.support.log_building import entries_after, point_of, write


def main(directory: Path, seed: int) -> None:
    """Write for ever; one line of output per hundred rounds."""
    rng = random.Random(seed)
    store = LmdbLogStore.open(directory)
    stored = store.load()
    base, points = int(stored.base.index), {int(stored.last.index): stored.last}
    term = stored.hard_state.current_term + 1
    number = 0
    while True:
        number += 1
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
        if number % 100 == 0:
            print(f"round {number}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
