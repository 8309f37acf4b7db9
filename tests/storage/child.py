"""A process that persists in a loop, for tests that kill it or make its disk fail.

``python -m tests.storage.child DIR COUNT [FSIZE]`` opens the log in DIR and appends COUNT entries, one at a time,
with a new hard state each tenth write; it prints ``acked INDEX`` after each. With FSIZE no file may grow beyond that
many bytes. After ``StoragePoisoned`` it tries three more writes and a compaction, prints ``poisoned N`` with the number
of them that were refused, and exits with status 3.
"""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from durable_raft.errors import StoragePoisoned
from durable_raft.raft.types import Index
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from tests.support.log_building import entries_after, point_of, vote, write


def main(directory: Path, count: int, file_bytes_max: int | None) -> int:
    """Run the loop; return the exit status."""
    store = LmdbLogStore.open(directory)
    stored = store.load()
    last = stored.last
    print(f"loaded {last.index}", flush=True)
    if file_bytes_max is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))
    for number in range(1, count + 1):
        entries = entries_after(last, 1, payload=b"%d " % (last.index + 1) * 300)
        hard_state = vote(stored.hard_state.current_term + number) if number % 10 == 0 else None
        try:
            store.persist([write(number, entries, hard_state=hard_state)])
        except StoragePoisoned as error:
            print(f"failed {error} {type(error.__cause__).__name__}", flush=True)
            print(f"poisoned {_refusals(store, number)}", flush=True)
            return 3
        last = point_of(entries[-1])
        print(f"acked {last.index}", flush=True)
    store.close()
    return 0


def _refusals(store: LmdbLogStore, number: int) -> int:
    """Try to go on as if nothing had happened; return how often that was refused."""
    attempts: list[Callable[[], object]] = [
        lambda: store.persist([write(number + 1, hard_state=vote(1000))]),
        lambda: store.persist([write(number + 2)]),
        lambda: store.persist([]),
        lambda: store.compact(Index(1), 1),
    ]
    refused = 0
    for attempt in attempts:
        try:
            attempt()
        except StoragePoisoned:
            refused += 1
    return refused


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None))
