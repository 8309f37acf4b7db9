"""Room that a data file owns behind its end, so that a transaction never meets a full disk.

LMDB takes pages that are free inside the file, else new ones behind its end. The blocks behind the end are allocated
here before a transaction begins (fallocate, which leaves size and bytes of the file alone). So what it may take at most
is there, whoever fills the disk meanwhile. When it cannot be had, nothing is begun: the caller tries again later.

That is why a full disk is no failed write (durability contract 6): no write is tried that could fail for want of room.

File systems that copy on write, or know no fallocate, cannot promise this. There an error of the disk stays what it is,
and only the room that is left free on the disk (``disk_reserve_bytes``) stands between a node and a failed write.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from durable_raft.errors import DiskFull
from durable_raft.storage.directory import DATA_FILE, LOCK_FILE, copies_on_write

if TYPE_CHECKING:
    from lmdb import Environment

COMMIT_BYTES: Final = 2 << 20
"""What a transaction may take at worst beside what is put into it: the ways to the leaves in four tables, about two
hundred pages that a piece of a compaction touches, and the list of free pages."""

VOTE_BYTES: Final = 2 * COMMIT_BYTES
"""What a log keeps for its node's terms and votes: no entry is taken in that would need it."""

PIECE_BYTES: Final = 256 << 10
"""Allocated at once where the disk has no room for more."""

_FREE_LIST_SHARE: Final = 128
"""What a transaction may take to write the list of free pages anew, in parts of them: 8 bytes a page of 4096, and that
twice, in pages that may be half full."""

_TOP_UP_BYTES: Final = 1 << 20
"""Allocated at one look: some file systems clear what they allocate."""

_CLOSE_S: Final = 10.0
"""How long a closing file waits for what is being allocated; on a disk that hangs it stays open."""

_KEEP_SIZE: Final = 1
"""FALLOC_FL_KEEP_SIZE of linux/falloc.h."""

_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors that say so."""


class Headroom:
    """Of the data file of one open environment."""

    def __init__(self, environment: Environment, path: Path, keep_bytes: int = 0) -> None:
        """Allocate ``keep_bytes`` behind the end, as far as there is room, and every hole before it.

        Args:
            environment: open for writing.
            path: its directory.
            keep_bytes: what is kept allocated while the disk has room.
        """
        self._environment = environment
        self._path = path
        self._keep_bytes = keep_bytes
        self._page_bytes = int(environment.stat()["psize"])
        self._map_bytes = int(environment.info()["map_size"])
        self._fd = os.open(path / DATA_FILE, os.O_RDWR | os.O_CLOEXEC)
        self._allocated = 0
        """Up to here every byte of the file has its block."""
        self._known_end = self._end()
        """Of the file, at the last look."""
        self.is_kept = not copies_on_write(path)
        """Whether the file system keeps what it allocates for this file."""
        self._readers_fd = _open_filled(path / LOCK_FILE)
        self._taking: threading.Thread | None = None
        """Allocates a piece beside whoever looks."""
        self._trouble: OSError | None = None
        """What it met."""
        self._extend(min(self._end() + keep_bytes, self._map_bytes))

    @property
    def owned_bytes(self) -> int:
        """What can certainly be written behind the end of the file."""
        return max(0, self._allocated - self._end()) if self.is_kept else 0

    def require(self, needed_bytes: int, *, may_free_all: bool = False) -> None:
        """Go on only if a transaction that takes so much at most will find room.

        Args:
            needed_bytes: beside the list of free pages, unless the caller has counted that.
            may_free_all: whether every page may be a free one afterwards; then their list is counted here.

        Raises:
            DiskFull: it might not; nothing was done.
        """
        # Asked of LMDB once: this is done for each write.
        self._known_end = end = self._end()
        if may_free_all:
            needed_bytes += free_list_bytes(end)
        target = min(end + needed_bytes, self._map_bytes)
        if self._allocated >= target or not self.is_kept:
            return
        self._extend(max(target, min(end + self._keep_bytes, self._map_bytes)))
        if self._allocated < target and self.is_kept:
            raise DiskFull(
                f"{self._path}: the disk is full: {needed_bytes} bytes may be needed and {self.owned_bytes} can be had"
            )

    def is_in_map(self, needed_bytes: int) -> bool:
        """Return whether so much more stays below the map's bound, seen from the file's end at the last ``require``.

        It is so without any page that is free inside the file. The list of free pages is counted here.
        """
        return self._known_end + needed_bytes + free_list_bytes(self._known_end) <= self._map_bytes

    def top_up(self, disk_free_bytes: int) -> None:
        """Begin to take back what was used of the room behind the end, if the disk has plenty; a piece at a time.

        Allocating may wait for the file system's own journal, a second and more on a busy disk. So a thread does it:
        whoever looks at the room is an event loop.

        Raises:
            OSError: the piece before met an error of the disk.
        """
        if self._trouble is not None:
            raise self._trouble
        target = min(self._end() + self._keep_bytes, self._map_bytes)
        is_needed = self._allocated < target and disk_free_bytes > 2 * self._keep_bytes
        if is_needed and self.is_kept and (self._taking is None or not self._taking.is_alive()):
            length = min(target - self._allocated, _TOP_UP_BYTES)
            self._taking = threading.Thread(target=self._take, args=(length,), name="headroom", daemon=True)
            self._taking.start()

    def _take(self, length: int) -> None:
        try:
            self._allocate(self._allocated, length)
        except OSError as error:
            self._trouble = error

    def close(self) -> None:
        """Release the files; what is allocated stays. To be called when the environment is closed, not before.

        LMDB holds record locks (fcntl) on its table of readers. Whoever closes any descriptor of that file gives up all
        that the process holds on it: other processes would take this one's readers for dead.
        """
        if self._taking is not None:
            self._taking.join(_CLOSE_S)
            if self._taking.is_alive():
                return
        for fd in (self._fd, self._readers_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._readers_fd = -1

    def _end(self) -> int:
        return (int(self._environment.info()["last_pgno"]) + 1) * self._page_bytes

    def _extend(self, target: int) -> None:
        """Allocate up to ``target``, or as far as there is room."""
        if self._allocate(self._allocated, target - self._allocated):
            return
        while self._allocated < target and self.is_kept:
            if not self._allocate(self._allocated, min(PIECE_BYTES, target - self._allocated)):
                return

    def _allocate(self, offset: int, length: int) -> bool:
        """Have a range of the file allocated; return whether it is."""
        if length <= 0 or not self.is_kept:
            return True
        error = _fallocate(self._fd, offset, length)
        if error in _UNSUPPORTED:
            self.is_kept = False
        elif not error:
            self._allocated = max(self._allocated, offset + length)
        elif error not in NO_ROOM:
            raise OSError(error, os.strerror(error), str(self._path))
        return not error


def free_list_bytes(free_bytes: int) -> int:
    """Return what a transaction may take at worst to write the list of so many bytes of free pages."""
    return free_bytes // _FREE_LIST_SHARE


def _fallocate(fd: int, offset: int, length: int) -> int:
    """Allocate a range without changing size or bytes of the file (fallocate(2)); return 0 or the error's number."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if function is None:
        return errno.ENOSYS
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while True:
        if function(fd, _KEEP_SIZE, offset, length) == 0:
            return 0
        if (error := ctypes.get_errno()) != errno.EINTR:
            return error


def _open_filled(path: Path) -> int:
    """Open a file and give every byte its block; return the descriptor, which stays open, or -1.

    LMDB writes its table of readers through a map, where a hole on a full disk ends the process (SIGBUS).
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return -1
    _fallocate(fd, 0, os.fstat(fd).st_size)
    return fd


def fill_holes(fd: int) -> int:
    """Give every byte of a file its block; return 0, or the number of the error that says there is no room for them.

    Some tools copy zeros as holes. Where the file system cannot allocate, nothing can be done.
    """
    size = os.fstat(fd).st_size
    with contextlib.suppress(OSError):
        if os.lseek(fd, 0, os.SEEK_HOLE) == size:
            return 0
    error = _fallocate(fd, 0, size)
    return error if error in NO_ROOM else 0
