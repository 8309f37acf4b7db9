"""Nodes that keep their whole log, and logs that are as long as asked, with one write in each entry.

A node of ours puts everything that waits into one entry, and writes an entry at a time at the pace of its disk. So a
million entries are put into its directory while it does not run, by the store that the node itself uses: the bytes are
those that a million writes one after the other would have left.
"""

from __future__ import annotations

import contextlib
from itertools import count
from pathlib import Path

from benchmarks.clusters import Node, Ours
from benchmarks.etcd import Etcd, run_h2load
from benchmarks.recovery.preload import VALUE_BYTES
from durable_raft.kv.batch import encode_batch
from durable_raft.kv.runs import Run
from durable_raft.raft.ready import Write
from durable_raft.raft.types import Entry, EntryKind, LogPoint, make_entry
from durable_raft.storage.log.lmdb_store import LmdbLogStore

NEVER = 1 << 40
NO_CHECKPOINTS: dict[str, object] = {
    "checkpoint_changes": NEVER,
    "checkpoint_bytes": NEVER,
    "checkpoint_pages": NEVER,
    "checkpoint_log_bytes": NEVER,
    "checkpoint_entries": NEVER,
    "checkpoint_interval_ms": NEVER,
    "overlay_bytes_max": 2 * NEVER,
}
"""Settings of ours with which nothing is ever checkpointed by itself."""

DISTINCT_KEYS = 1_000
"""Keys that the writes go to in turn: a long log over little data."""
ENTRIES_PER_TRANSACTION = 5_000
H2LOAD_CLIENTS = 50
H2LOAD_IN_FLIGHT = 10


class LongLogEtcd(Etcd):
    """etcd that replays its whole log at a start: it takes no snapshot."""

    def command(self, node: Node) -> list[str]:
        """Return etcd's command with one setting more."""
        return [*super().command(node), "--snapshot-count", "1000000000"]


def lengthen_ours(cluster: Ours, entries: int) -> None:
    """Append ``entries`` entries to the log of a cluster of one, which is stopped and started for it."""
    cluster.stop()
    with contextlib.closing(LmdbLogStore.open(cluster.nodes[0].directory)) as store:
        stored = store.load()
        previous, term = stored.last, stored.hard_state.current_term
        made: list[Entry] = []
        numbers = count(1)
        for number in range(entries):
            payload = encode_batch([Run(b"set", 1, [b"key:%08d" % (number % DISTINCT_KEYS), b"x" * VALUE_BYTES])])
            entry = make_entry(
                previous=previous,
                term=term,
                kind=EntryKind.COMMANDS,
                timestamp_ms=stored.last_timestamp_ms,
                payload=payload,
            )
            previous = LogPoint(entry.index, entry.term, entry.chain)
            made.append(entry)
            if len(made) == ENTRIES_PER_TRANSACTION or number == entries - 1:
                store.persist([Write(next(numbers), None, None, tuple(made))])
                made = []
    cluster.start(cluster.nodes)
    cluster.wait_ready()


def lengthen_etcd(cluster: Etcd, entries: int, directory: Path) -> None:
    """Have a cluster of one append ``entries`` entries to its log, one put in each."""
    clients = min(H2LOAD_CLIENTS, entries)
    run_h2load(
        cluster.nodes[0],
        directory,
        "set",
        clients=clients,
        in_flight=H2LOAD_IN_FLIGHT,
        requests=entries,
        value_bytes=VALUE_BYTES,
    )
