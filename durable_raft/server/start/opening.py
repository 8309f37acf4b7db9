"""From a data directory, whatever became of it, to what a node starts with (ARCHITECTURE "Wounds").

What can be mended in place is (recovery.py). A log that cannot be believed is set aside with the state beside it, never
deleted, and the node begins on a new disk: it is no voter until it holds all that may have been promised under its id
(raft/admission.py). A cluster of one has nobody to ask, so its node refuses.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import secrets
from pathlib import Path
from typing import Final

from durable_raft.errors import CorruptRecord, DirectoryRefused, NodeUnreachable
from durable_raft.raft.configuration import describe
from durable_raft.raft.types import Identity, Standing, StoredLog
from durable_raft.server.logs import event
from durable_raft.server.settings.cluster_id import derive_cluster_id
from durable_raft.server.settings.config import NodeConfig
from durable_raft.server.start.cluster_name import expect_name
from durable_raft.server.start.recovery import NodeData, open_state, set_state_aside
from durable_raft.storage.directory import KV, DirectoryLock, holds_environment, set_directory_aside
from durable_raft.storage.log.journal import DiskJournalPlace
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.log_store import DirectoryLogStore
from durable_raft.storage.place import place_of
from durable_raft.storage.soundness import (
    Owner,
    StateCheck,
    is_quickly_read,
    is_slowly_read,
    log_trouble,
    owner_of,
    state_trouble,
)

_logger = logging.getLogger(__name__)

FATAL_SIGNAL: Final = "fatal-signal"
"""In the data directory: where the traceback of a signal goes that ends the node, such as a damaged page raises."""


OWNED_BYTES_MIN: Final = 8 << 20
OWNED_BYTES_MAX: Final = 64 << 20
"""What each of the two files is allocated behind its end, at least and at most."""


def open_node(config: NodeConfig) -> NodeData:
    """Open the node's directory, creating it at the first start, and make what is in it fit to start with.

    Raises:
        DirectoryRefused: it belongs to another cluster or node, is in use, or lacks what only a backup can give.
        CorruptRecord: it is damaged, and there is no other node to heal it from.
        UnknownFormatVersion: it is of a newer format.
        NodeUnreachable: it is of a node that joins, and knows nobody yet.
    """
    cluster_id = _examine(config) if LmdbLogStore.exists(config.directory) else None
    # LMDB opens an environment once in a process and its children, so the child comes first.
    check = StateCheck(config.directory) if is_slowly_read(config.directory) else None
    try:
        try:
            data = _open(config, cluster_id)
        except CorruptRecord as error:
            data = _open(config, _begin_anew(config, str(error)))
    except BaseException:
        if check is not None:
            check.close()
        raise
    data.check = check
    data.place = place_of(data.log_store.path)
    return data


def watch_signals(directory: Path) -> None:
    """Have a signal that ends this process leave a note in ``directory``, if that is there.

    Whoever creates a directory makes it durable in the one above it, so this must not.
    """
    if not directory.is_dir():
        return
    file = os.fdopen(os.open(directory / FATAL_SIGNAL, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644), "w")
    faulthandler.enable(file, all_threads=False)


def _open(config: NodeConfig, cluster_id: bytes | None) -> NodeData:
    store = open_store(config, cluster_id)
    try:
        return open_state(
            config.directory,
            store,
            map_bytes=config.map_bytes,
            reserve_bytes=_owned(config, 2),
            expect=lambda stored: _expect_membership(config, store, stored),
        )
    except BaseException:
        store.close()
        raise


def _examine(config: NodeConfig) -> bytes | None:
    """Look at a directory before it is mapped; return the cluster's id when it was set aside."""
    directory = config.directory
    note = directory / FATAL_SIGNAL
    lock = DirectoryLock(directory)
    try:
        trouble = log_trouble(directory)
        died = note.is_file() and note.stat().st_size > 0
        if died:
            # The last life died as damage makes one die: nothing is believed before all of it was read.
            reason = note.read_text(errors="replace").partition("\n")[0]
            event(_logger, logging.ERROR, "died_by_signal", reason=reason)
            note.write_bytes(b"")
        if not trouble and (died or is_quickly_read(directory)) and holds_environment(directory, KV):
            found = state_trouble(directory)
            if found:
                _require_others(config, owner_of(directory), found)
                set_state_aside(directory, found)
    finally:
        lock.release()
    return _begin_anew(config, trouble) if trouble else None


def _begin_anew(config: NodeConfig, trouble: str) -> bytes | None:
    """Set a directory aside whose log cannot be believed; return its cluster's id, if anything tells it.

    Raises:
        CorruptRecord: there is no other node, or nobody can tell this one who they are.
        DirectoryRefused: it is another node's.
    """
    directory = config.directory
    owner = owner_of(directory)
    if owner is not None and owner.node_id != config.node_id:
        raise DirectoryRefused(f"{directory} belongs to node {owner.node_id!r}, expected {config.node_id!r}: {trouble}")
    _require_others(config, owner, trouble)
    if owner is not None and owner.voters != config.first_members.ids():
        # An empty log goes by --cluster. If that names this node alone, it would elect itself with nothing.
        raise CorruptRecord(
            f"{trouble}; the members were changed since the first start: {', '.join(owner.voters)} vote, and --cluster"
            f" names {', '.join(config.first_members.ids())}. So this node cannot begin anew: see raftlog repair, or"
            " replace it by a node with an id of its own"
        )
    lock = DirectoryLock(directory)
    try:
        aside = set_directory_aside(directory, "wounded")
    finally:
        lock.release()
    event(_logger, logging.ERROR, "directory_set_aside", name=aside.name, reason=trouble)
    return None if owner is None else owner.cluster_id


def _require_others(config: NodeConfig, owner: Owner | None, trouble: str) -> None:
    """Go on only if there is another node that has to hold what this one has lost.

    Args:
        config: of the node; it names the members of the first start.
        owner: whose the directory is, by the members that it knows of; None: nothing in it tells.
        trouble: what is wrong with it.

    Raises:
        CorruptRecord: there is none, with ``trouble``.
    """
    if (config.first_members.ids() if owner is None else owner.voters) == (config.node_id,):
        raise CorruptRecord(f"{trouble}; there is no other node to heal from: see raftlog repair, or restore a backup")


def open_store(config: NodeConfig, cluster_id: bytes | None = None) -> DirectoryLogStore:
    """Open the log in the node's directory, creating it when there is none, and check whose it is.

    Args:
        config: of the node.
        cluster_id: of a new log; None: what the configuration says.

    Raises:
        DirectoryRefused: it belongs to another cluster or node, or is in use.
        StorageError: it is damaged or of a newer format.
        NodeUnreachable: there is none, and nobody told a node that joins of which cluster it is.
    """
    directory = config.directory
    if not LmdbLogStore.exists(directory):
        cluster_id = cluster_id or _cluster_id(config)
        identity = Identity(cluster_id, config.node_id, secrets.token_bytes(16))
        newcomer = Standing(is_voter=False)
        LmdbLogStore.create(directory, identity, config.first_members, map_bytes=config.map_bytes, standing=newcomer)
        event(_logger, logging.INFO, "directory_created", directory=directory, cluster=cluster_id.hex())
    store = LmdbLogStore.open(
        directory,
        map_bytes=config.map_bytes,
        allow_network_file_system=config.allow_network_fs,
        reserve_bytes=_owned(config, 4),
    )
    try:
        store.expect(config.cluster_id, config.node_id)
        expect_name(directory, config.cluster_name)
    except BaseException:
        store.close()
        raise
    is_journaled = config.log_commit == "journal"
    place = DiskJournalPlace(store.path, config.disk_reserve_bytes)
    if is_journaled or store.mark is not None:
        return JournaledLogStore(store, place, is_used=is_journaled)
    # One that a crash left, when it was made or when it was given up, would take its room for ever.
    place.remove()
    return store


def _expect_way(config: NodeConfig, store: DirectoryLogStore, log: StoredLog) -> None:
    """Check that a node that joins knows anybody: else it would hear nobody, for nobody that it knows can be asked.

    Raises:
        NodeUnreachable: its log is empty yet, and it was told of nobody.
        DirectoryRefused: its log is empty yet, and it was told of another cluster.
    """
    told, own = config.seeds.cluster_id, store.identity.cluster_id
    is_foreign = told not in (b"", own)
    if is_foreign:
        event(_logger, logging.WARNING, "join_passed", reason=f"{config.join} is of the cluster {told.hex()} by now")
    if log.configurations or store.membership.voters:
        return
    if is_foreign:
        raise DirectoryRefused(
            f"{config.directory} belongs to the cluster {own.hex()}, but {config.join} is of {told.hex()}"
        )
    if not told:
        raise NodeUnreachable(f"join={config.join}: this node has not heard from its cluster yet, and has to ask it")


def _cluster_id(config: NodeConfig) -> bytes:
    """Return the cluster's id for a new directory."""
    if config.join is None or config.cluster_id is not None:
        return derive_cluster_id(config, secrets.token_bytes)
    if not config.seeds.cluster_id:
        raise NodeUnreachable(f"join={config.join}: a new directory has to be told which cluster it is of")
    return config.seeds.cluster_id


def _owned(config: NodeConfig, share: int) -> int:
    """Return what of the reserve a file owns: the log takes a quarter, the state, which is written at once, a half."""
    return min(max(config.disk_reserve_bytes // share, OWNED_BYTES_MIN), OWNED_BYTES_MAX)


def _expect_membership(config: NodeConfig, store: DirectoryLogStore, log: StoredLog) -> None:
    """Check the configured nodes against those the directory was made for (PySyncObj #133: never let them differ).

    Once members have changed, the log says who they are, and nobody goes by --cluster: it may be that of any moment.
    """
    configured, stored = config.first_members, store.membership
    if config.join is not None:
        _expect_way(config, store, log)
    if log.configurations:
        present = log.newest_configuration(stored)
        if config.join is None and configured.ids() != present.ids():
            event(_logger, logging.INFO, "cluster_setting_passed", members=describe(present))
        return
    if configured.ids() != stored.ids():
        raise DirectoryRefused(
            f"{config.directory} belongs to a cluster of {', '.join(stored.ids()) or 'nobody yet, made by --join'}, "
            f"but --cluster names {', '.join(configured.ids()) or 'nobody, with --join'}"
        )
    if configured != stored and not config.accept_new_addresses:
        moved = [f"{old.node_id} {old.client_address}@{old.peer_address}" for old in stored.voters]
        raise DirectoryRefused(
            f"{config.directory} belongs to a cluster at {', '.join(moved)}, but --cluster names other addresses:"
            " another cluster's directory? If the nodes have moved, say so with --accept-new-addresses"
        )
