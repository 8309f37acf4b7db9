"""The data directory: where things are in it, who holds it, and how an environment comes into being.

::

    DIR/LOCK            exclusively flocked while a node runs; holds its process id and node id
    DIR/raft/           the LMDB environment of the log (log/lmdb_store.py)
    DIR/kv/             the LMDB environment of the KV state at a checkpoint (state/store.py)
    DIR/kv.*/           a KV state on its way in or out (state/install.py)
    DIR/flight          the last core events, for ``raftlog timeline`` (flight.py)
    DIR/*.creating/     an interrupted creation; removed by the next one, never opened
    DIR/wounded-DATE/   raft and kv that could not be believed any more; never opened, never deleted
    DIR/kv.*-DATE/      a KV state that could not be believed any more; never opened, never deleted

LMDB lets a second process open and write the same environment, and never syncs a directory: both are made good here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import lmdb

from durable_raft.errors import DirectoryRefused, StorageError, StoragePoisoned

DATA_FILE: Final = "data.mdb"
"""LMDB's file in the directory of an environment."""

RAFT: Final = "raft"
KV: Final = "kv"
LOCK: Final = "LOCK"
_CREATING: Final = ".creating"

_NETWORK_TYPES: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4"}
    | {"ocfs2", "orangefs", "smb3", "smbfs", "virtiofs"}
)


class DirectoryLock:
    """Holds a data directory for this process until ``release``, or until the process ends however it ends."""

    def __init__(self, directory: Path) -> None:
        """Take the lock.

        Raises:
            DirectoryRefused: another process (or another store of this one) holds it; says which.
        """
        path = directory / LOCK
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(self._fd, 1024).decode(errors="replace").strip() or "an unknown process"
            os.close(self._fd)
            raise DirectoryRefused(f"{directory} is in use by {holder} ({path} is locked)") from error
        self.describe("")

    def describe(self, node_id: str) -> None:
        """Write who holds the lock, for the message that another process gets."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"pid {os.getpid()} node {node_id or '(not yet known)'}\n".encode(), 0)

    def close(self) -> None:
        """Release it."""
        self.release()

    def release(self) -> None:
        """Give the directory back; the file stays, as unlinking it would race with the next holder."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1


def sync_path(path: Path) -> None:
    """Flush a file or a directory to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def environment_path(directory: Path, name: str = RAFT) -> Path:
    """Return where the environment ``name`` of a data directory lies."""
    return directory / name


def holds_environment(directory: Path, name: str = RAFT) -> bool:
    """Return whether ``directory`` holds a whole environment ``name``."""
    return (environment_path(directory, name) / DATA_FILE).is_file()


def require_environment(directory: Path, name: str = RAFT) -> Path:
    """Return the path of the environment.

    Raises:
        DirectoryRefused: there is none.
    """
    if not holds_environment(directory, name):
        raise DirectoryRefused(
            f"{directory} is not a data directory: no {environment_path(directory, name)}/{DATA_FILE}"
        )
    return environment_path(directory, name)


def create_environment(directory: Path, name: str, build: Callable[[Path], None], *, is_locked: bool = False) -> None:
    """Create ``directory/name`` whole or not at all: whatever interrupts this, nothing that opens is left behind.

    ``build`` makes the environment in the empty directory it is given, commits and closes it. When this returns, the
    environment, its directory entry and every directory made for it are durable. ``is_locked``: the caller holds the
    directory's lock.

    Raises:
        DirectoryRefused: the environment is there already, or the directory is in use.
        StoragePoisoned: LMDB could not write it.
        OSError: the system could not make or sync a directory or a file of it.
    """
    made = _make_directories(directory)
    with contextlib.nullcontext() if is_locked else contextlib.closing(DirectoryLock(directory)):
        final = environment_path(directory, name)
        if final.exists():
            raise DirectoryRefused(f"{final} exists already")
        creating = final.with_name(name + _CREATING)
        if creating.exists():
            shutil.rmtree(creating)
        creating.mkdir()
        try:
            build(creating)
        except (lmdb.Error, StorageError) as error:
            # Nothing was there that could be damaged or refused: the disk did not take what was written.
            raise StoragePoisoned(f"{final} cannot be made: {error}") from error
        for file in creating.iterdir():
            sync_path(file)
        sync_path(creating)
        creating.rename(final)
        sync_path(directory)
        for parent in made:
            sync_path(parent)


def _make_directories(directory: Path) -> list[Path]:
    """Create ``directory`` and the directories above it; return those whose new entries have to be synced."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    return [path.parent for path in missing]


def set_directory_aside(directory: Path, prefix: str) -> Path:
    """Move everything in ``directory`` but the lock and what was set aside before into a dated directory inside it.

    Nothing is deleted; the caller holds the directory's lock.

    Returns:
        Where it lies now: ``directory/PREFIX-DATE``.
    """
    target = unused_name(directory, prefix)
    target.mkdir()
    for path in sorted(directory.iterdir()):
        if path.name == RAFT or path.name == KV or path.name.startswith((KV + ".", RAFT + ".")):
            path.rename(target / path.name)
    sync_path(target)
    sync_path(directory)
    return target


def unused_name(directory: Path, prefix: str) -> Path:
    """Return ``directory/PREFIX-DATE``, with a number behind it when that is taken."""
    dated = directory / time.strftime(f"{prefix}-%Y%m%dT%H%M%SZ", time.gmtime())
    candidates = (dated.with_name(f"{dated.name}-{number}") for number in range(2, 1000))
    return next((path for path in (dated, *candidates) if not path.exists()), dated)


def refuse_network_file_system(directory: Path, mountinfo: str | None = None) -> None:
    """Refuse a directory on a network or user-space file system, by its type in /proc/self/mountinfo.

    Args:
        directory: must exist.
        mountinfo: text of the table; None reads the process's own. Where the system has none, nothing is refused.

    Raises:
        DirectoryRefused: with the type and the mount point.
    """
    if mountinfo is None:
        with contextlib.suppress(FileNotFoundError):
            mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    found = _mount_of(directory.resolve(), mountinfo or "")
    if found is None:
        return
    mount_point, kind = found
    if kind in _NETWORK_TYPES or kind == "fuse" or kind.startswith("fuse."):
        raise DirectoryRefused(
            f"{directory} lies on {kind} (mounted at {mount_point}): LMDB needs a local file system, because locks and"
            " memory maps are not kept coherent over a network"
        )


def _mount_of(path: Path, mountinfo: str) -> tuple[Path, str] | None:
    """Return (mount point, type) of the mount that holds ``path``; of two on one point the later one covers."""
    best: tuple[Path, str] | None = None
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        if not separator:
            continue
        mount_point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), left.split()[4]))
        if path.is_relative_to(mount_point) and (best is None or len(mount_point.parts) >= len(best[0].parts)):
            best = (mount_point, right.split()[0])
    return best
