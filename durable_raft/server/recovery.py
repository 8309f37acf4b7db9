"""Opening a data directory: the log, the state beside it, and whether the two fit together (design §5).

The state may lie anywhere in the log, from its base to its last entry. It lies beyond the log, or at another entry than
the log has there, when the node died while a snapshot was being installed: the state was swapped in, the log not yet
replaced. What the state covers is committed, so the log gives way, and the installation is finished. A state that lies
before the log's base leaves a gap that nothing here can fill.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

from durable_raft.errors import CorruptRecord, DirectoryRefused
from durable_raft.raft.ready import Write
from durable_raft.raft.types import Index, StoredLog, Term
from durable_raft.server.logs import event
from durable_raft.storage.kv_store import LmdbKvStore
from durable_raft.storage.lmdb_store import LmdbLogStore

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class NodeData:
    """What a node starts with; closed by whoever opened it."""

    log_store: LmdbLogStore
    stored: StoredLog
    kv: LmdbKvStore | None
    """None: the state is lost, and a snapshot is needed."""


def open_state(directory: Path, store: LmdbLogStore, *, map_bytes: int) -> NodeData:
    """Load the log of ``store``, open the state beside it, and make the two fit.

    Args:
        directory: the data directory, whose lock ``store`` holds.
        store: the open log store; nothing was loaded yet.
        map_bytes: bound of the state's file.

    Raises:
        DirectoryRefused: there is a gap between state and log, or one belongs to another node.
        StorageError: one of them is damaged or of a newer format.
    """
    stored = store.load()
    if not LmdbKvStore.exists(directory):
        if stored.base.index:
            return _without_state(directory, store, stored)
        LmdbKvStore.create(directory, store.identity, store.membership, map_bytes=map_bytes, is_locked=True)
    kv = LmdbKvStore.open(directory, map_bytes=map_bytes)
    try:
        kv.expect(store.identity)
        return NodeData(store, fit(directory, store, stored, kv), kv)
    except BaseException:
        kv.close()
        raise


def _without_state(directory: Path, store: LmdbLogStore, stored: StoredLog) -> NodeData:
    """Go on without a state, if other nodes can give one."""
    where = f"{directory} holds no state, and its log begins behind index {stored.base.index}"
    if len(store.membership.voters) == 1:
        raise DirectoryRefused(f"{where}: restore a backup; there is no other node to fetch the state from")
    event(_logger, logging.ERROR, "state_missing", reason=f"{where}: it is fetched from the leader")
    return NodeData(store, stored, None)


def fit(directory: Path, store: LmdbLogStore, stored: StoredLog, kv: LmdbKvStore) -> StoredLog:
    """Return the log as it is once it fits the state; raises as ``open_state``."""
    applied = kv.checkpoint.applied
    point = applied.point
    if point.index < stored.base.index:
        raise DirectoryRefused(
            f"{directory}: the state ends at index {point.index}, but the log begins behind {stored.base.index}:"
            " the entries between are missing. Was the state copied back from elsewhere?"
        )
    if point.index > stored.last.index or point.term != _term_at(stored, point.index):
        event(_logger, logging.WARNING, "log_replaced", index=point.index, last_log_index=stored.last.index)
        store.persist([Write(1, None, None, (), applied)])
        return store.load()
    if (chain := store.chain_at(point.index)) != point.chain:
        raise CorruptRecord(
            f"{directory}: at index {point.index} the log has chain {chain:#010x}, the state {point.chain:#010x}:"
            " one of the two is another history's"
        )
    return stored


def _term_at(stored: StoredLog, index: Index) -> Term:
    """Return the term of an entry from the base to the last one."""
    position = bisect_right(stored.term_starts, index, key=lambda start: start[0]) - 1
    return stored.base.term if position < 0 else stored.term_starts[position][1]
