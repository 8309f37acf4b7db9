"""The data directory: where things are in it, who holds it, and how an environment comes into being.

::

    DIR                 exclusively flocked itself while a node runs: it cannot be replaced without being missed
    DIR/LOCK            the same, for older versions; holds the process id and node id
    DIR/raft/           the LMDB environment of the log (log/lmdb_store.py), and its journal (log/journal.py)
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

LOCK_FILE: Final = "lock.mdb"
"""LMDB's table of readers beside it."""

RAFT: Final = "raft"
KV: Final = "kv"
LOCK: Final = "LOCK"
_CREATING: Final = ".creating"

_NETWORK_TYPES: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4"}
    | {"ocfs2", "orangefs", "smb3", "smbfs", "virtiofs"}
)
_COPY_ON_WRITE: Final = frozenset({"bcachefs", "btrfs", "nilfs2", "zfs"})


class DirectoryLock:
    """Holds a data directory for this process until ``release``, or until the process ends however it ends.

    A file that is locked can be removed, and another one locked in its place. So the lock is on the directory itself,
    and on the data file of the log once that is opened (``hold``): whoever replaces those has another directory, or
    other data. That is noticed too (presence.py).
    """

    def __init__(self, directory: Path) -> None:
        """Take the lock.

        Raises:
            DirectoryRefused: another process (or another store of this one) holds it; says which.
        """
        self._directory = directory
        self._fds: list[int] = []
        try:
            self.hold(directory, os.O_RDONLY | os.O_DIRECTORY)
            self.hold(directory / LOCK, os.O_RDWR | os.O_CREAT)
        except BaseException:
            self._close()
            raise
        self.describe("")

    def hold(self, path: Path, flags: int = os.O_RDONLY) -> None:
        """Lock ``path`` too, until ``release``.

        Raises:
            DirectoryRefused: another process (or another store of this one) holds it.
        """
        fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
        self._fds.append(fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _named_in(self._directory / LOCK) or "an unknown process"
            raise DirectoryRefused(f"{self._directory} is in use by {holder} ({path} is locked)") from error

    def describe(self, node_id: str) -> None:
        """Write who holds the lock, for the message that another process gets."""
        self._write(f"pid {os.getpid()} node {node_id or '(not yet known)'}\n".encode())

    def close(self) -> None:
        """Release it."""
        self.release()

    def release(self) -> None:
        """Give the directory back; the file stays, as unlinking it would race with the next holder."""
        if self._fds:
            self._write(b"\n")
            self._close()

    def _write(self, line: bytes) -> None:
        """Put ``line`` into the lock file; never less than a byte, so that it keeps its room on a full disk."""
        with contextlib.suppress(OSError):
            os.pwrite(self._fds[1], line, 0)
            os.ftruncate(self._fds[1], len(line))

    def _close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())


def running_node(directory: Path) -> str | None:
    """Return who holds ``directory``, as its lock file says ("pid 12 node n1"); None when no node runs on it."""
    named = _named_in(directory / LOCK)
    # A holder says at once who it is and wipes that when it goes. So the lock is tried, for an instant, only where
    # somebody runs or was killed, or where the file was removed: a node that starts meanwhile is not turned away.
    if named == "":
        return None
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return named or "an unknown process"
        finally:
            os.close(fd)
    return None


def _named_in(lock_file: Path) -> str | None:
    """Return what a lock file says; None when there is none."""
    try:
        return lock_file.read_bytes()[:1024].decode(errors="replace").strip()
    except OSError:
        return None


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
    found = _mount_of(directory.resolve(), _mounts() if mountinfo is None else mountinfo)
    if found is None:
        return
    mount_point, kind = found
    if kind in _NETWORK_TYPES or kind == "fuse" or kind.startswith("fuse."):
        raise DirectoryRefused(
            f"{directory} lies on {kind} (mounted at {mount_point}): LMDB needs a local file system, because locks and"
            " memory maps are not kept coherent over a network"
        )


def file_system_of(path: Path) -> str | None:
    """Return the type of the file system that holds ``path``, which must exist; None where the system does not tell."""
    found = _mount_of(path.resolve(), _mounts())
    return None if found is None else found[1]


def copies_on_write(path: Path) -> bool:
    """Return whether the file system that holds ``path`` writes a changed block to another place."""
    return file_system_of(path) in _COPY_ON_WRITE


def _mounts() -> str:
    with contextlib.suppress(FileNotFoundError):
        return Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    return ""


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
