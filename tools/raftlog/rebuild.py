"""Writing what was merged into a new data directory; nothing that is there is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from durable_raft.errors import DirectoryRefused
from durable_raft.raft.ready import Write
from durable_raft.raft.types import Entry, HardState, Identity, LogPoint, Membership, Standing, StoredLog
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.state.install import KvInstaller
from durable_raft.storage.state.meta import KvMeta
from durable_raft.storage.state.swap import complete_swap
from raftlog.merging import Merged
from raftlog.survivors import Survivor, pieces_of

_GROUP_BYTES: Final = 4 << 20


def rebuild(
    directory: Path,
    merged: Merged,
    identity: Identity,
    membership: Membership,
    hard_state: HardState,
    standing: Standing,
) -> None:
    """Make ``directory`` a node's: the state first, the log last, because the log makes it a node.

    Raises:
        DirectoryRefused: there is something already.
        StorageError: it cannot be written, or what is read is not what was verified.
    """
    make_directory(directory)
    source = merged.state_of
    if source is not None and source.state is not None:
        install(directory, source, replace(source.state, sequence=1, identity=identity, membership=membership))
    LmdbLogStore.create(
        directory,
        identity,
        membership,
        base=merged.base,
        standing=standing,
        configuration=merged.base_configuration,
    )
    stored = write_log(directory, merged.entries, hard_state, merged.last)
    counting = stored.newest_configuration(merged.first_members)
    if counting != merged.configuration:
        raise DirectoryRefused(f"{directory}: written with {counting}, expected {merged.configuration}")


def make_directory(directory: Path) -> None:
    """Make a directory that is not there.

    Raises:
        DirectoryRefused: it is.
    """
    if directory.exists():
        raise DirectoryRefused(f"{directory} exists already")
    directory.mkdir(parents=True)


def install(directory: Path, source: Survivor, target: KvMeta) -> None:
    """Put the state of ``source`` into a directory without a log, as what ``target`` says it is there."""
    installer = KvInstaller.open(directory, target)
    for piece in pieces_of(source.directory):
        installer.store_records(piece)
    installer.complete()
    complete_swap(directory)


def write_log(directory: Path, entries: Sequence[Entry], hard_state: HardState, last: LogPoint) -> StoredLog:
    """Append ``entries`` to an empty log; return what is found there afterwards.

    Raises:
        DirectoryRefused: it does not end at ``last``.
    """
    store = LmdbLogStore.open(directory, allow_network_file_system=True)
    try:
        store.load()
        store.persist([Write(1, hard_state, None, ())])
        for number, group in enumerate(_groups(entries), start=2):
            store.persist([Write(number, None, None, group)])
        stored = store.load()
    finally:
        store.close()
    if stored.last != last:
        raise DirectoryRefused(f"{directory}: written up to {stored.last}, expected {last}")
    return stored


def _groups(entries: Sequence[Entry]) -> list[tuple[Entry, ...]]:
    """Cut entries into groups, one transaction each."""
    groups: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if groups[-1] and size + len(entry.payload) > _GROUP_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += len(entry.payload)
    return [tuple(group) for group in groups if group]
