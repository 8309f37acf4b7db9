"""Data directories that are made by hand and opened as a node opens them, and backups that are restored into others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from durable_raft.raft.types import (
    ORIGIN,
    Base,
    Configuration,
    Entry,
    Member,
    Membership,
    NodeId,
    Term,
)
from durable_raft.server.settings.config import NodeConfig
from durable_raft.server.start.opening import open_node
from durable_raft.server.start.recovery import NodeData
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.state.backup import BackupWriter, Progress
from durable_raft.storage.state.install import KvInstaller
from durable_raft.storage.state.meta import KvMeta
from durable_raft.storage.state.store import LmdbKvStore
from tests.support.log_building import (
    IDENTITY,
    MEMBERSHIP,
    configuration_entry,
    configured,
    entries_after,
    point_of,
    write,
)
from tests.support.state_building import (
    State,
    items_of,
    sample,
    summary_of,
    target_of,
)

ALONE = Membership(MEMBERSHIP.voters[:1])

COMMIT = ["lmdb"]
"""What makes the node's writes durable (the fixture ``both_commits``)."""


def config(directory: Path, membership: Membership = MEMBERSHIP) -> NodeConfig:
    """Return what node n1 of the test's cluster is told."""
    return NodeConfig(
        node_id=NodeId("n1"),
        directory=directory,
        client_host="127.0.0.1",
        client_port=7001,
        peer_host="127.0.0.1",
        peer_port=17001,
        membership=membership,
        cluster_id=IDENTITY.cluster_id,
        log_commit=COMMIT[0],
    )


def made(
    directory: Path,
    membership: Membership = MEMBERSHIP,
    *,
    last: int = 9,
    state_at: int = 7,
    compact_to: int = 0,
    members: tuple[int, tuple[str, ...]] | None = None,
) -> list[Entry]:
    """Make a directory whose log ends at ``last``, with a state at ``state_at`` (0: none).

    Where ``members`` says, there is a configuration with these voters; the state has the one that counts there.
    """
    entries = entries_after(ORIGIN, last if members is None else members[0] - 1)
    if members is not None:
        entries.append(configuration_entry(point_of(entries[-1]), *members[1]))
        entries += entries_after(point_of(entries[-1]), last - members[0])
    LmdbLogStore.create(directory, IDENTITY, membership)
    log = LmdbLogStore.open(directory)
    log.load()
    log.persist([write(1, entries)])
    if compact_to:
        log.compact(entries[compact_to - 1].index, last)
    log.close()
    if state_at:
        counts = None if members is None or members[0] > state_at else configured(members[0], *members[1])
        put_state(directory, entries[state_at - 1], membership, counts)
    return entries


def put_state(
    directory: Path, at: Entry, membership: Membership = MEMBERSHIP, configuration: Configuration | None = None
) -> None:
    """Put a state of this node's own checkpoint at an entry beside the log."""
    LmdbKvStore.create(directory, IDENTITY, membership)
    kv = LmdbKvStore.open(directory)
    kv.write_checkpoint(
        items_of(sample()),
        is_cleared=False,
        applied=Base(point_of(at), at.timestamp_ms),
        summary=summary_of(sample()),
        membership=membership,
        configuration=configuration,
    )
    kv.close()


def opened(directory: Path, membership: Membership = MEMBERSHIP) -> tuple[int, int | None]:
    """Open the directory as a node does; return the last index of its log and the index of its state."""
    data = open_node(config(directory, membership))
    try:
        return int(data.stored.last.index), None if data.kv is None else int(data.kv.checkpoint.applied.point.index)
    finally:
        close(data)


def close(data: NodeData) -> None:
    """Close what was opened."""
    if data.check is not None:
        data.check.close()
    if data.kv is not None:
        data.kv.close()
    data.log_store.close()


def aside(directory: Path) -> set[str]:
    """Return what was set aside, without the date."""
    return {path.name.rpartition("-")[0] for path in directory.iterdir() if "-2" in path.name}


def installed(directory: Path, at: int, term: int = 1, configuration: Configuration | None = None) -> None:
    """Put a snapshot that was received in the place of the state."""
    target = replace(target_of(sample(), at), stored_configuration=configuration)
    point = replace(target.applied.point, term=Term(term))
    installer = KvInstaller.open(directory, replace(target, applied=Base(point, target.applied.timestamp_ms)))
    installer.store_records(items_of(sample()))
    installer.complete()


def backup(path: Path, state: State, meta: KvMeta | None = None) -> KvMeta:
    """Write a backup of ``state``."""
    meta = meta or target_of(state)
    with BackupWriter(path, meta) as writer:
        writer.write_items(items_of(state))
        writer.complete()
    return meta


def moved_to(directory: Path, number: int) -> NodeConfig:
    """Return the configuration of a node of the new cluster."""
    voters = tuple(Member(NodeId(f"r{n}"), f"127.0.0.1:800{n}", f"127.0.0.1:1800{n}") for n in (1, 2))
    return NodeConfig(
        node_id=NodeId(f"r{number}"),
        directory=directory,
        client_host="127.0.0.1",
        client_port=8000 + number,
        peer_host="127.0.0.1",
        peer_port=18000 + number,
        membership=Membership(voters),
    )


def told_to_nobody(done: Progress, size: int) -> None:
    """Take no note of how far a restore is."""
    del done, size
