"""Making a node of a new cluster from a backup: the state first, the log last, because the log makes it a node."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from durable_raft.errors import DirectoryRefused
from durable_raft.raft.types import Identity, Standing
from durable_raft.raft.versions import OURS, require
from durable_raft.server.settings.cluster_id import derive_cluster_id
from durable_raft.server.settings.config import CLUSTER_ID_BYTES, NodeConfig
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.state.backup import BackupReader, Progress
from durable_raft.storage.state.install import KvInstaller
from durable_raft.storage.state.meta import KvMeta
from durable_raft.storage.state.swap import complete_swap


def restore_node(file: Path, config: NodeConfig, progress: Callable[[Progress, int], None]) -> KvMeta:
    """Make ``config.directory`` the directory of ``config.node_id`` with the state in ``file``.

    Args:
        file: a backup.
        config: the node; its cluster id, when given, is the new cluster's.
        progress: told how much of the file was read, and its size in bytes.

    Returns:
        What the backup says of itself.

    Raises:
        DirectoryRefused: there is something in the directory.
        CorruptRecord: the backup is damaged; the directory is left as it was.
        UnknownFormatVersion: the backup is of a newer version, or of a cluster of one that this program cannot.
        StoragePoisoned: the disk failed.
    """
    directory = config.directory
    is_new = not directory.exists()
    if not is_new and (not directory.is_dir() or any(directory.iterdir())):
        raise DirectoryRefused(f"{directory} is not empty: expected a new directory, or an empty one")
    with BackupReader(file) as reader:
        meta = reader.meta
        require(OURS, meta.version, f"{file}")
        identity = Identity(new_cluster_id(config, meta), config.node_id, secrets.token_bytes(16))
        directory.mkdir(parents=True, exist_ok=True)
        try:
            # Whatever members the old cluster had by then, these nodes have those that are named now.
            target = replace(
                meta, sequence=1, identity=identity, membership=config.membership, stored_configuration=None
            )
            installer = KvInstaller.open(directory, target, map_bytes=config.map_bytes)
            for items in reader.pieces(lambda done: progress(done, reader.size_bytes)):
                installer.store_records(items)
            installer.complete()
            complete_swap(directory)
            LmdbLogStore.create(
                directory,
                identity,
                config.membership,
                map_bytes=config.map_bytes,
                base=meta.applied,
                standing=Standing(is_voter=False),
            )
        except BaseException:
            for path in directory.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if is_new:
                directory.rmdir()
            raise
    return meta


def new_cluster_id(config: NodeConfig, meta: KvMeta) -> bytes:
    """Return the id of the cluster that begins with a backup: the same for all nodes that are restored alike.

    It is never the id of the cluster that was backed up, nor of one that was first started with the same nodes.
    """
    if config.cluster_id is not None:
        return config.cluster_id
    derived = derive_cluster_id(replace(config, cluster_id=None), lambda count: bytes(count))
    point, summary = meta.applied.point, meta.summary
    lines = f"restored {meta.identity.cluster_id.hex()} {point.index} {point.term} {point.chain} {summary.state_hash}"
    return hashlib.sha256(derived + lines.encode()).digest()[:CLUSTER_ID_BYTES]
