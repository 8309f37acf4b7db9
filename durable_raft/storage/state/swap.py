"""How one KV state takes the place of another: only whole directories are renamed.

::

    DIR/kv/          the state
    DIR/kv.partial/  a snapshot that is being received (state/install.py); never opened as a state
    DIR/kv.new/      a whole state that waits for its turn: it came here by one rename, when it was durable
    DIR/kv.old/      the state that was replaced; deleted, never opened

``swap`` makes ``kv`` into ``kv.old`` and ``kv.new`` into ``kv``. A crash leaves the old state, or the new one, or
neither under the name ``kv`` while the new one waits: ``complete_swap`` ends what was begun before anything is opened.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from durable_raft.errors import DirectoryRefused, InvariantViolation
from durable_raft.raft.types import Index
from durable_raft.storage.directory import DATA_FILE, KV, environment_path, holds_environment, sync_path
from durable_raft.storage.environment import open_environment, readable_map_bytes
from durable_raft.storage.preflight import check_data_file
from durable_raft.storage.state.meta import KvMeta, read_kv_meta
from durable_raft.storage.state.records import open_kv_tables

PARTIAL: Final = "kv.partial"
NEW: Final = "kv.new"
OLD: Final = "kv.old"


def state_exists(directory: Path) -> bool:
    """Return whether ``directory`` holds a state, in use, waiting, or replaced."""
    return any(holds_environment(directory, name) for name in (KV, NEW, OLD))


def swap(directory: Path, over: Index | None) -> None:
    """Put the waiting state in the place of the present one, durably.

    An environment that is open stays open on the old files, so that reads may go on; it must not be written any more.
    ``discard_old`` frees the disk afterwards, which may take a while.

    Args:
        directory: the node's data directory.
        over: the applied index of the present state; None when any state may be replaced, an equal one too.

    Raises:
        InvariantViolation: the waiting state is not newer than ``over``.
        DirectoryRefused: no state waits.
        CorruptRecord: its data file or its meta is damaged.
    """
    if not holds_environment(directory, NEW):
        raise DirectoryRefused(f"{directory}: no {NEW} to put in the place of {KV}")
    waiting = read_waiting(directory, NEW).applied.point.index
    if over is not None and waiting <= over:
        raise InvariantViolation(f"{directory}: the state at {waiting} would replace the one at {over}")
    _swap(directory)


def complete_swap(directory: Path) -> None:
    """End what an interrupted swap began, and remove what is not needed any more; before anything is opened.

    A waiting state takes its place unless the present one is as new: the log went on without it.

    Raises:
        CorruptRecord: the data file or the meta of one of the states is damaged. A damaged present state has to be set
            aside before a waiting one can follow it.
    """
    if holds_environment(directory, NEW):
        if holds_environment(directory, KV) and not _is_newer(directory):
            discard(directory, NEW)
        else:
            _swap(directory)
    if holds_environment(directory, KV):
        discard_old(directory)


def discard_old(directory: Path) -> None:
    """Delete the state that was replaced, if any; takes time when it is large."""
    discard(directory, OLD)


def set_aside(directory: Path, name: str) -> None:
    """Rename a damaged state, durably; its store is closed. Nothing is deleted.

    Args:
        directory: the node's data directory.
        name: to become, under ``directory``; nothing has this name yet.

    Raises:
        DirectoryRefused: there is no state, or the name is taken.
    """
    path, target = environment_path(directory, KV), directory / name
    if not path.is_dir() or target.exists():
        raise DirectoryRefused(f"{path} cannot be set aside as {target}: there is no state, or the name is taken")
    path.rename(target)
    sync_path(directory)


def read_waiting(directory: Path, name: str) -> KvMeta:
    """Return the meta of a state that is not open in this process; raises as ``LmdbKvStore.open``."""
    path = environment_path(directory, name)
    check_data_file(path)
    with open_environment(path, map_bytes=readable_map_bytes(path), readahead=False) as environment:
        tables = open_kv_tables(environment)
        with environment.begin() as transaction:
            return read_kv_meta(transaction, tables)[0]


def discard(directory: Path, name: str) -> None:
    """Delete an environment, if it is there: first the file without which it is none."""
    path = environment_path(directory, name)
    if path.exists():
        (path / DATA_FILE).unlink(missing_ok=True)
        shutil.rmtree(path)


def _is_newer(directory: Path) -> bool:
    waiting, present = read_waiting(directory, NEW), read_waiting(directory, KV)
    return waiting.applied.point.index > present.applied.point.index


def _swap(directory: Path) -> None:
    path = environment_path(directory, KV)
    if path.exists():
        discard_old(directory)
        path.rename(environment_path(directory, OLD))
        sync_path(directory)
    environment_path(directory, NEW).rename(path)
    sync_path(directory)
