"""Opening a data directory: the log, the state beside it, and whether the two fit together (durability contract 5).

The state may lie anywhere in the log, from its base to its last entry. It lies beyond the log, or at another entry than
the log has there, when the node died while a snapshot was being installed: the state was swapped in, the log not yet
replaced. What the state covers is committed, so the log gives way, and the installation is finished. A state that the
node wrote itself never lies beyond the log, so such a log went back: it cannot be believed.

A state that is damaged, or lies before the log's base, is set aside; it is rebuilt from the log, or fetched. So is one
that names another configuration than the log has at its place: with it, a log that is replaced would count other
majorities than the rest of the cluster.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from durable_raft.errors import CorruptRecord, DirectoryRefused
from durable_raft.raft.configuration import describe_stored, stored_at
from durable_raft.raft.ready import Write
from durable_raft.raft.types import Configuration, Index, StoredLog, Term
from durable_raft.raft.versions import OURS, require
from durable_raft.server.logs import event
from durable_raft.storage.directory import KV, environment_path, unused_name
from durable_raft.storage.log.log_store import DirectoryLogStore
from durable_raft.storage.log.pages import place_of
from durable_raft.storage.soundness import StateCheck
from durable_raft.storage.state.lmdb_directory import LmdbStateDirectory
from durable_raft.storage.state.state_store import StateDirectory, StateStore
from durable_raft.storage.state.store import LmdbKvStore
from durable_raft.storage.state.swap import NEW, discard, set_aside
from durable_raft.storage.wounds import Wound, WoundedLog

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class NodeData:
    """What a node starts with; closed by whoever opened it."""

    log_store: DirectoryLogStore
    stored: StoredLog
    states: StateDirectory
    """Where the state is, and where a snapshot comes in."""
    kv: StateStore | None
    """None: the state is lost, and a snapshot is needed."""
    place: bytes = b""
    """Names the file that the log is in, so that a copy of the directory is told from it; empty: not known."""
    check: StateCheck | None = None
    """Reads the state wholly while the node works with it; None when that was done before."""


class StateBehindLog(CorruptRecord):
    """The state ends before the log begins: the entries between are missing."""


def open_state(
    directory: Path,
    store: DirectoryLogStore,
    *,
    map_bytes: int,
    reserve_bytes: int = 0,
    expect: Callable[[StoredLog], None] | None = None,
) -> NodeData:
    """Load the log of ``store``, open the state beside it, and make the two fit.

    Args:
        directory: the data directory, whose lock ``store`` holds.
        store: the open log store; nothing was loaded yet.
        map_bytes: bound of the state's file.
        reserve_bytes: kept allocated behind its end (storage/headroom.py).
        expect: looks at the log before the state is; raises what it does not like.

    Raises:
        DirectoryRefused: there is a gap between state and log, or one belongs to another node.
        CorruptRecord: the log cannot be believed; or anything is damaged and there is no other node.
        StorageError: one of them is of a newer format, or of a version of the cluster that this program cannot.
    """
    stored = mended(store)
    if expect is not None:
        expect(stored)
    is_alone = _is_alone(store, stored)
    for _ in range(2):
        if not LmdbKvStore.exists(directory):
            break
        try:
            return _healable(_with_state(directory, store, stored, map_bytes=map_bytes, reserve_bytes=reserve_bytes))
        except (LogWentBack, WoundedLog):
            raise
        except CorruptRecord as error:
            if is_alone and (stored.base.index or stored.lost):
                raise
            set_state_aside(directory, str(error))
    if stored.base.index:
        return _without_state(directory, store, stored, map_bytes=map_bytes, reserve_bytes=reserve_bytes)
    LmdbKvStore.create(directory, store.identity, store.membership, map_bytes=map_bytes, is_locked=True)
    return _healable(_with_state(directory, store, stored, map_bytes=map_bytes, reserve_bytes=reserve_bytes))


def _with_state(
    directory: Path, store: DirectoryLogStore, stored: StoredLog, *, map_bytes: int, reserve_bytes: int = 0
) -> NodeData:
    kv = LmdbKvStore.open(directory, map_bytes=map_bytes, reserve_bytes=reserve_bytes)
    try:
        kv.expect(store.identity)
        require(OURS, kv.checkpoint.version, f"{directory}")
        return NodeData(
            store,
            fit(directory, store, stored, kv),
            LmdbStateDirectory(directory, map_bytes=map_bytes, reserve_bytes=reserve_bytes),
            kv,
        )
    except BaseException:
        kv.close()
        raise


def _is_alone(store: DirectoryLogStore, stored: StoredLog) -> bool:
    """Return whether no other node has to hold what is committed here: it would be in vain to wait for one."""
    return stored.newest_configuration(store.membership).is_alone(store.identity.node_id)


def mended(store: DirectoryLogStore) -> StoredLog:
    """Load the log; write again what one of two records, or one copy of meta, still tells.

    Raises:
        CorruptRecord: the log is damaged in a way that needs more than that.
    """
    stored = store.load()
    say_wounds(store.path, (*store.tolerated, *store.healable))
    if not stored.rebuilt and not store.tolerated:
        return stored
    event(_logger, logging.WARNING, "records_rebuilt", entries=len(stored.rebuilt), meta=len(store.tolerated))
    store.persist([Write(1, None, None, (), standing=stored.standing, mended=stored.rebuilt)])
    return store.load()


def say_wounds(environment: Path, wounds: Iterable[Wound]) -> None:
    """Log every wound, and where in the data file of ``environment`` it lies."""
    for wound in wounds:
        place = place_of(environment, wound)
        where = {} if place is None else {"page": place.page, "offset": place.offset}
        event(_logger, logging.ERROR, "wound_found", wound=wound, **where)


def _healable(data: NodeData) -> NodeData:
    """Return ``data``; in a cluster of one nobody has another copy of an entry that is not in the state yet.

    Raises:
        WoundedLog: so it is.
    """
    applied = Index(0) if data.kv is None else data.kv.checkpoint.applied.point.index
    store = data.log_store
    if _is_alone(store, data.stored) and any(lost.index > applied for lost in data.stored.lost):
        if data.kv is not None:
            data.kv.close()
        raise WoundedLog(store.healable)
    return data


def set_state_aside(directory: Path, trouble: str) -> None:
    """Rename a state that cannot be believed, or drop one that waited for its turn."""
    if environment_path(directory, KV).is_dir():
        name = unused_name(directory, "kv.wounded").name
        set_aside(directory, name)
        event(_logger, logging.ERROR, "state_set_aside", name=name, reason=trouble)
    else:
        discard(directory, NEW)
        event(_logger, logging.ERROR, "snapshot_discarded", reason=trouble)


def _without_state(
    directory: Path, store: DirectoryLogStore, stored: StoredLog, *, map_bytes: int, reserve_bytes: int = 0
) -> NodeData:
    """Go on without a state, if other nodes can give one."""
    where = f"{directory} holds no state, and its log begins behind index {stored.base.index}"
    if _is_alone(store, stored):
        raise DirectoryRefused(f"{where}: restore a backup; there is no other node to fetch the state from")
    event(_logger, logging.ERROR, "state_missing", reason=f"{where}: it is fetched from the leader")
    return NodeData(
        store, stored, LmdbStateDirectory(directory, map_bytes=map_bytes, reserve_bytes=reserve_bytes), None
    )


class LogWentBack(CorruptRecord):
    """The log ends before what its own node has moved into the state: the file is an older one."""


def fit(directory: Path, store: DirectoryLogStore, stored: StoredLog, kv: StateStore) -> StoredLog:
    """Return the log as it is once it fits the state.

    Raises:
        StateBehindLog: entries between the two are missing.
        LogWentBack: the log is an older one than the state was made from.
        CorruptRecord: the two are of different histories, or name different configurations.
    """
    point, configuration = kv.checkpoint.applied.point, kv.checkpoint.stored_configuration
    if point.index < stored.base.index:
        raise StateBehindLog(
            f"{directory}: the state ends at index {point.index}, but the log begins behind {stored.base.index}:"
            " the entries between are missing. Was the state copied back from elsewhere?"
        )
    if point.index > stored.last.index or point.term != _term_at(stored, point.index):
        if kv.checkpoint.sequence > 1:
            raise LogWentBack(
                f"{directory}: the state is this node's own checkpoint at index {point.index} of term {point.term}, but"
                f" the log ends at {stored.last.index} of term {stored.last.term}: the log is an older one"
            )
        committed = stored_at(stored.configurations, stored.standing.committed.index)
        if kv.checkpoint.configuration.index < (0 if committed is None else committed.index):
            raise _other_members(directory, configuration, committed)
        event(_logger, logging.WARNING, "log_replaced", index=point.index, last_log_index=stored.last.index)
        # What was acknowledged may be gone with it, as in a life that goes on (raft/snapshots.py).
        standing = replace(stored.standing, cut_in=stored.hard_state.current_term)
        store.persist([Write(1, None, None, (), kv.checkpoint.applied, standing, base_configuration=configuration)])
        return store.load()
    if (chain := store.chain_at(point.index)) != point.chain:
        raise CorruptRecord(
            f"{directory}: at index {point.index} the log has chain {chain:#010x}, the state {point.chain:#010x}:"
            " one of the two is another history's"
        )
    if (there := stored_at(stored.configurations, point.index)) != configuration:
        raise _other_members(directory, configuration, there)
    return stored


def _other_members(directory: Path, state: Configuration | None, log: Configuration | None) -> CorruptRecord:
    said, known = describe_stored(state), describe_stored(log)
    return CorruptRecord(f"{directory}: the state names another configuration than the log: {said}, and not {known}")


def _term_at(stored: StoredLog, index: Index) -> Term:
    """Return the term of an entry from the base to the last one."""
    position = bisect_right(stored.term_starts, index, key=lambda start: start[0]) - 1
    return stored.base.term if position < 0 else stored.term_starts[position][1]
