"""Is a data directory sound enough to be mapped? Looked at in a child process, before anything is written to it.

LMDB's pages carry no checksum: a damaged one can kill the process that maps it, or have a later commit overwrite what
is in use. So the tree of the log is walked without mapping it (``lmdb.verify``) and then read wholly, half a second for
100 MB. Records that are merely rotten are not judged here: whoever loads the log does that.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from durable_raft.errors import DirectoryRefused, StorageError, UnknownFormatVersion
from durable_raft.storage.directory import DATA_FILE, KV, RAFT, environment_path, holds_environment
from durable_raft.storage.isolation import Background, KilledBySignal, told_by_child
from durable_raft.storage.log.meta import Meta
from durable_raft.storage.log.reader import LogReader
from durable_raft.storage.preflight import check_data_file, page_problems
from durable_raft.storage.state.meta import KvMeta
from durable_raft.storage.state.swap import NEW, read_waiting
from durable_raft.storage.state.verify import verify_state
from durable_raft.storage.wounds import WoundedState

QUICK_BYTES: Final = 64 << 20
"""Size of a state's file up to which a start waits until all of it was read: about half a second."""

_BY_DAMAGE: Final = frozenset({signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL})
"""Signals that a damaged page can raise. SIGKILL is the system's, when memory is short, or an operator's: it says
nothing about the data."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose data a directory holds, as far as it can be told."""

    cluster_id: bytes
    node_id: str
    voters: tuple[str, ...]
    """By the newest configuration that is told, committed or not; both halves of a joint one."""


def log_trouble(directory: Path) -> str:
    """Return why the log's environment must not be opened for writing; nothing when it may be."""
    return _told(lambda: _examine_log(directory))


def state_trouble(directory: Path) -> str:
    """Return what is wrong with the KV state in ``DIR/kv``, every record looked at; nothing when it is sound."""
    return _told(lambda: _examine_state(directory))


def is_quickly_read(directory: Path) -> bool:
    """Return whether the state is so small that a start can wait until all of it was read."""
    path = environment_path(directory, KV) / DATA_FILE
    return path.is_file() and path.stat().st_size <= QUICK_BYTES


def is_slowly_read(directory: Path) -> bool:
    """Return whether there is a larger state, and none that waits to take its place."""
    has_state = holds_environment(directory, KV) and not holds_environment(directory, NEW)
    return has_state and not is_quickly_read(directory)


class StateCheck:
    """Reads a large state wholly in a process of its own, while the node works with it."""

    def __init__(self, directory: Path) -> None:
        """Begin; before this process opens the state."""
        self._path = environment_path(directory, KV) / DATA_FILE
        self._file = self._path.stat()
        self._child: Background | None = Background(lambda: _examine_state(directory))

    @property
    def file_bytes(self) -> int:
        """Size of the state's file when it began."""
        return self._file.st_size

    def poll(self) -> str | None:
        """Return what is wrong, or an empty text when nothing is, once; None before and after.

        Nothing is said of a state that another has replaced since: what was wrong is gone with it.
        """
        if self._child is None:
            return None
        try:
            trouble = _told_now(self._child.poll)
        except DirectoryRefused:
            # Killed from outside: nothing is known, and the node goes on. The scrubber reads the state, too.
            self._child = None
            return None
        if trouble is None:
            return None
        self._child = None
        is_present = self._path.is_file() and os.path.samestat(self._path.stat(), self._file)
        return trouble if is_present else None

    def close(self) -> None:
        """End it."""
        if self._child is not None:
            self._child.close()
            self._child = None


def owner_of(directory: Path) -> Owner | None:
    """Return whose data a directory holds that may be damaged; None when nothing tells."""
    try:
        told = told_by_child(lambda: _owner(directory))
    except KilledBySignal:
        return None
    if not told:
        return None
    cluster, node_id, voters = json.loads(told)
    return Owner(bytes.fromhex(cluster), node_id, tuple(voters))


def _told(examine: Callable[[], str]) -> str:
    return _told_now(lambda: told_by_child(examine)) or ""


def _told_now(ask: Callable[[], str | None]) -> str | None:
    try:
        return ask()
    except KilledBySignal as killed:
        name = signal.Signals(killed.signal_number).name
        if killed.signal_number not in _BY_DAMAGE:
            raise DirectoryRefused(f"{name} ended the process that examined the directory: out of memory?") from killed
        return f"reading it ended the process by {name}: a page is damaged or cut off"


def _examine_log(directory: Path) -> str:
    path = environment_path(directory, RAFT)
    try:
        if problems := _structure(path):
            return problems
        with LogReader.open(directory) as reader:
            reader.overview()
            reader.touch()
    except (DirectoryRefused, UnknownFormatVersion):
        return ""  # Not damage: whoever opens it says so.
    except StorageError as error:
        return str(error)
    return ""


def _examine_state(directory: Path) -> str:
    path = environment_path(directory, KV)
    try:
        if problems := _structure(path):
            return problems
        found = verify_state(directory)
        if not found.is_sound:
            return str(WoundedState(found.wounds))
    except (DirectoryRefused, UnknownFormatVersion):
        return ""
    except StorageError as error:
        return str(error)
    return ""


def _structure(path: Path) -> str:
    """Check meta pages and tree without mapping the file; raises as ``check_data_file``."""
    check_data_file(path)
    problems = page_problems(path)
    return f"{path}: {'; '.join(problems[:3])}" if problems else ""


def _owner(directory: Path) -> str:
    meta: Meta | KvMeta | None = None
    with contextlib.suppress(StorageError), LogReader.open(directory) as reader:
        meta = reader.overview().meta
    if meta is None and holds_environment(directory, KV):
        with contextlib.suppress(StorageError):
            meta = read_waiting(directory, KV)
    if meta is None:
        return ""
    identity, configuration = meta.identity, meta.configuration
    voters = sorted({*configuration.voters, *configuration.outgoing})
    return json.dumps([identity.cluster_id.hex(), identity.node_id, voters])
