"""The commit journal's file: a ring that takes each group of writes with one sequential write and one flush.

What is in it, and what counts, is in journal_format.py; what it is for, in journaled_store.py. Space is used again only
when its owner says that LMDB holds what was there (``release``). Blocks that hold anything else are never written.

The file is written with zeros once, so that its blocks have their places and a flush needs no metadata. It cannot meet
a full disk afterwards, unless the file system copies on write: there it is asked not to for this file. Holes, which a
copy of the file may have, are filled before it is used.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import struct
from collections import deque
from pathlib import Path
from typing import Final, Protocol

from durable_raft.errors import DirectoryRefused, DiskFull, StoragePoisoned
from durable_raft.raft.ready import Write
from durable_raft.storage.directory import copies_on_write, sync_path
from durable_raft.storage.environment import disk_free_bytes
from durable_raft.storage.headroom import NO_ROOM, fill_holes
from durable_raft.storage.log.journal_body import unpack_write
from durable_raft.storage.log.journal_format import (
    BLOCK_BYTES,
    JOURNAL,
    RING_AT,
    Group,
    Header,
    copy_bytes,
    newest_header_at,
    pack_group,
    pack_header,
    read_groups,
    read_header,
)
from durable_raft.storage.log.meta import JournalMark
from durable_raft.storage.presence import Presence
from durable_raft.storage.wounds import Wound, WoundedLog, WoundKind, raise_wounds

RING_BYTES: Final = 16 << 20
"""Of a new journal."""

_FILL_BYTES: Final = 1 << 20
_CREATING: Final = ".creating"
_GET_FLAGS: Final = 0x80086601
"""FS_IOC_GETFLAGS and FS_IOC_SETFLAGS of linux/fs.h, on 64-bit machines."""
_SET_FLAGS: Final = 0x40086602
_NO_COPY_ON_WRITE: Final = 0x00800000
"""FS_NOCOW_FL."""


class JournalFile(Protocol):
    """The bytes of a journal; every error of ``write`` and ``flush`` is final for whoever asked."""

    def read(self) -> bytes:
        """Return the whole file."""

    def allocate(self) -> None:
        """Give every byte its place on the disk, so that no write meets a full one.

        Raises:
            DiskFull: there is no room for some.
        """

    def write(self, offset: int, data: bytes) -> None:
        """Put ``data`` there; it may be lost until ``flush`` returns."""

    def flush(self) -> None:
        """Make what was written durable, and look whether the file can still be found.

        Raises:
            DirectoryLost: its path does not name it any more.
        """

    def close(self) -> None:
        """Release the file."""

    @property
    def is_written_in_place(self) -> bool:
        """Whether a flush has nothing else to write, as far as that can be told."""


class JournalPlace(Protocol):
    """Where a log's journal is, or may be made."""

    def create(self, header: Header) -> None:
        """Make a journal with an empty ring, whole and durable, in place of one that nothing names.

        Raises:
            DiskFull: there is no room; nothing is left of it.
            DirectoryRefused: this user may not make a file there.
        """

    def open(self) -> JournalFile:
        """Open the journal.

        Raises:
            FileNotFoundError: there is none.
        """

    def remove(self) -> None:
        """Remove a journal that nothing names any more, if there is one."""


class DiskJournalPlace:
    """A ``JournalPlace`` beside an environment of LMDB."""

    def __init__(self, environment: Path, reserve_bytes: int = 0) -> None:
        """The journal is in the directory ``environment``; where it is made so much has to be left on the disk."""
        self.path = journal_path(environment)
        self._reserve_bytes = reserve_bytes

    def create(self, header: Header) -> None:
        """See ``create_journal_file``; nothing is tried that would take of the reserve.

        Raises:
            DiskFull: there is no room.
            DirectoryRefused: this user may not make a file there.
            StoragePoisoned: the disk did not take it.
        """
        self.remove()
        needed, free = RING_AT + header.ring_bytes + self._reserve_bytes, disk_free_bytes(self.path.parent)
        if self._reserve_bytes and free < needed:
            raise DiskFull(f"{self.path} cannot be made: {free} bytes are free, and {needed} needed with the reserve")
        try:
            create_journal_file(self.path, header)
        except PermissionError as error:
            raise DirectoryRefused(f"{self.path} cannot be made: {error}") from error
        except OSError as error:
            if error.errno in NO_ROOM:
                raise DiskFull(f"{self.path} cannot be made: {error}") from error
            raise StoragePoisoned(f"{self.path} cannot be made: {error}") from error

    def open(self) -> JournalFile:
        """Open the journal."""
        return DiskJournalFile(self.path)

    def remove(self) -> None:
        """Remove it, and what a crash left of making one; the disk may leave them there, where nothing names them."""
        for path in (self.path, _creating(self.path)):
            with contextlib.suppress(OSError):
                path.unlink()


class DiskJournalFile:
    """A ``JournalFile`` of this machine."""

    def __init__(self, path: Path) -> None:
        """Open what ``create_journal_file`` made.

        Raises:
            OSError: it cannot be opened.
        """
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._presence = Presence(path)
        self._path = path

    def read(self) -> bytes:
        """Return the whole file, with zeros for blocks that the disk does not give."""
        return read_blocks(self._fd)

    def allocate(self) -> None:
        """Fill the holes that a copy has where there were zeros.

        Raises:
            DiskFull: there is no room.
        """
        if error := fill_holes(self._fd):
            raise DiskFull(f"{self._path} has holes that cannot be filled: {os.strerror(error)}")

    def write(self, offset: int, data: bytes) -> None:
        """Put ``data`` there with one pwrite.

        Raises:
            OSError: the system refused it, or took less.
        """
        written = os.pwrite(self._fd, data, offset)
        if written != len(data):
            raise OSError(f"{written} of {len(data)} bytes written at {offset}")

    def flush(self) -> None:
        """Flush with one fdatasync."""
        os.fdatasync(self._fd)
        self._presence.require()

    def close(self) -> None:
        """Release the file; what counts was flushed before, so an error of the disk says nothing any more."""
        with contextlib.suppress(OSError):
            os.close(self._fd)

    @property
    def is_written_in_place(self) -> bool:
        """Whether the file system does not copy on write, or not this file."""
        return not copies_on_write(self._path) or bool(_flags_of(self._fd) & _NO_COPY_ON_WRITE)


def read_blocks(fd: int) -> bytes:
    """Return a whole file, with zeros for blocks that the disk does not give: each group is there twice."""
    size = os.fstat(fd).st_size
    with contextlib.suppress(OSError):
        return read_fully(fd, 0, size)
    return b"".join(_block(fd, at) for at in range(0, size, BLOCK_BYTES))


def _block(fd: int, at: int) -> bytes:
    with contextlib.suppress(OSError):
        return read_fully(fd, at, BLOCK_BYTES)
    return bytes(BLOCK_BYTES)


def read_fully(fd: int, offset: int, length: int) -> bytes:
    """Return so many bytes from there, fewer at the end of the file; one pread may give less than was asked."""
    parts = []
    while length > 0 and (part := os.pread(fd, length, offset)):
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)


def write_fully(fd: int, offset: int, data: bytes) -> None:
    """Write all of ``data`` there. Where the room ends one pwrite takes less, and only the next one says why.

    Raises:
        OSError: the system refused it.
    """
    while data:
        if not (written := os.pwrite(fd, data, offset)):
            raise OSError(f"nothing written of {len(data)} bytes at {offset}")
        offset, data = offset + written, data[written:]


def journal_path(environment: Path) -> Path:
    """Return where the journal of an environment lies."""
    return environment / JOURNAL


def _creating(path: Path) -> Path:
    """Return where a journal is made that will lie at ``path``."""
    return path.with_name(path.name + _CREATING)


def create_journal_file(path: Path, header: Header) -> None:
    """Make a journal with an empty ring, whole and durable, in place of one that nothing names.

    Raises:
        OSError: the system could not make, write or sync it.
    """
    creating = _creating(path)
    creating.unlink(missing_ok=True)
    fd = os.open(creating, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        _ask_not_to_copy_on_write(fd)
        write_fully(fd, 0, pack_header(header))
        for at in range(RING_AT, RING_AT + header.ring_bytes, _FILL_BYTES):
            write_fully(fd, at, bytes(min(_FILL_BYTES, RING_AT + header.ring_bytes - at)))
        os.fsync(fd)
    except OSError:
        # A full disk gets back what was taken.
        creating.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    creating.rename(path)
    sync_path(path.parent)


def _ask_not_to_copy_on_write(fd: int) -> None:
    """Have an empty file written in its place; where the file system does not know that, nothing changes."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, _SET_FLAGS, struct.pack("=iI", _flags_of(fd) | _NO_COPY_ON_WRITE, 0))


def _flags_of(fd: int) -> int:
    """Return the flags of a file; none where the file system has none."""
    flags = bytearray(8)
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, _GET_FLAGS, flags)
    return int(struct.unpack_from("=i", flags)[0])


class Journal:
    """Appends groups of one generation. ``release`` may be called by another thread than the rest."""

    def __init__(self, file: JournalFile, mark: JournalMark, ring_bytes: int) -> None:
        """Append behind ``mark``, whose generation has no group yet."""
        self._file = file
        self._uuid, self._generation, self._held, self._sum = mark.uuid, mark.generation, mark.number, mark.sum
        self._ring_bytes = ring_bytes
        self._live: deque[tuple[int, int, int]] = deque()
        """(number, offset, end) of the groups whose space was not used again, oldest first."""
        self._next = 0
        """Where the last group ended."""

    @property
    def ring_bytes(self) -> int:
        """Size of the ring."""
        return self._ring_bytes

    @property
    def is_written_in_place(self) -> bool:
        """See ``JournalFile``."""
        return self._file.is_written_in_place

    def mark(self, number: int, total: int | None = None) -> JournalMark:
        """Return what LMDB has to say when it holds all groups up to ``number``, whose sum is ``total``.

        Without a ``total`` it is that of the last group written.
        """
        return JournalMark(self._uuid, self._generation, number, self._sum if total is None else total)

    def has_room(self, body_bytes: int) -> bool:
        """Return whether a group with such a body can be appended now."""
        return self._place(2 * copy_bytes(body_bytes)) is not None

    def append(self, number: int, body: bytes) -> int:
        """Write a group and flush it; return its sum. When this returns the group is durable.

        Raises:
            StoragePoisoned: the write or the flush failed, or there is no room: final.
            DirectoryLost: it was flushed into a file that nobody finds again.
        """
        size = copy_bytes(len(body))
        offset = self._place(2 * size)
        if offset is None:
            raise StoragePoisoned(f"no room in the journal for group {number}")
        head = JournalMark(self._uuid, self._generation, self._held, self._sum)
        copy, self._sum = pack_group(head, number, offset, body)
        try:
            self._file.write(RING_AT + offset, copy * 2)
            self._file.flush()
        except OSError as error:
            raise StoragePoisoned(f"the journal cannot be written: {error}") from error
        self._next = offset + 2 * size
        self._live.append((number, offset, self._next))
        return self._sum

    def release(self, number: int) -> None:
        """Let the space of the groups up to ``number`` be used again: a durable transaction of LMDB holds them."""
        self._held = number

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _place(self, size: int) -> int | None:
        """Return where so many bytes can go in one piece, or None."""
        while self._live and self._live[0][0] <= self._held:
            self._live.popleft()
        if not self._live:
            at = self._next if self._next + size <= self._ring_bytes else 0
            return at if size <= self._ring_bytes else None
        first, last = self._live[0][1], self._live[-1][2]
        if last > first:
            if last + size <= self._ring_bytes:
                return last
            last = 0
        return last if last + size <= first else None


class FoundJournal:
    """The journal that LMDB names, as a start finds it."""

    def __init__(self, file: JournalFile, mark: JournalMark) -> None:
        """Read ``file``, which this owns from now on.

        Raises:
            WoundedLog: the journal is damaged, or is not the one that LMDB names.
            NewerFormat: it is of a newer format.
        """
        self._file = file
        self._mark = mark
        try:
            image = file.read()
            self._ring_bytes, self.writes = writes_in(image, mark)
            self._newest_at = newest_header_at(image)
        except BaseException:
            file.close()
            raise

    @classmethod
    def open(cls, place: JournalPlace, mark: JournalMark) -> FoundJournal:
        """Open and read the journal.

        Raises:
            WoundedLog: there is none, or as above.
            StoragePoisoned: the system does not open it.
        """
        try:
            file = place.open()
        except FileNotFoundError as error:
            expected = f"journal {mark.uuid.hex()}, as LMDB names it"
            raise WoundedLog([Wound(JOURNAL, None, None, expected, "none", WoundKind.MISSING)]) from error
        except OSError as error:
            raise StoragePoisoned(f"the journal cannot be opened: {error}") from error
        return cls(file, mark)

    @property
    def number(self) -> int:
        """Of the last group."""
        return self.writes[-1].number if self.writes else self._mark.number

    def begin(self) -> Journal:
        """Have the header say that another generation begins, and return the journal for it, behind the last group.

        The header is first: LMDB must not name a generation that the journal does not know. Each copy has a flush of
        its own, so that a torn one leaves the other; the one that is believed is the last.

        Raises:
            DiskFull: parts of the file have no place on the disk; nothing was done.
            StoragePoisoned: the header could not be written.
        """
        self._file.allocate()
        begun = JournalMark(self._mark.uuid, self._mark.generation + 1, self.number, 0)
        try:
            copy = pack_header(Header(begun.uuid, begun.generation, self._ring_bytes))[:BLOCK_BYTES]
            for at in (BLOCK_BYTES - self._newest_at, self._newest_at):
                self._file.write(at, copy)
                self._file.flush()
        except OSError as error:
            raise StoragePoisoned(f"the journal cannot be written: {error}") from error
        return Journal(self._file, begun, self._ring_bytes)

    def flush(self) -> None:
        """Make durable what was read: a process that was killed may have written it and not flushed it.

        Raises:
            StoragePoisoned: it may not be.
        """
        try:
            self._file.flush()
        except OSError as error:
            raise StoragePoisoned(f"the journal cannot be flushed: {error}") from error

    def close(self) -> None:
        """Release the file."""
        self._file.close()


def new_journal(place: JournalPlace, ring_bytes: int) -> Journal:
    """Make a journal whose first group will be number 1.

    Raises:
        DiskFull: there is no room for it.
        DirectoryRefused: this user may not make a file there.
        StoragePoisoned: the disk did not take it.
    """
    begun = JournalMark(secrets.token_bytes(16), 1, 0, 0)
    place.create(Header(begun.uuid, begun.generation, ring_bytes))
    try:
        return Journal(place.open(), begun, ring_bytes)
    except OSError as error:
        raise StoragePoisoned(f"the journal cannot be opened: {error}") from error


def writes_in(image: bytes, mark: JournalMark) -> tuple[int, list[Write]]:
    """Return the size of the ring, and the writes of a journal's file that LMDB does not hold, in order.

    Raises:
        WoundedLog: the journal is damaged, or is not the one that LMDB names.
        NewerFormat: it is of a newer format.
    """
    ring_bytes = ring_of(image, mark)
    return ring_bytes, [write_of(group) for group in read_groups(image[RING_AT:], mark)]


def ring_of(image: bytes, mark: JournalMark) -> int:
    """Return the size of the ring in a journal's file.

    Raises:
        WoundedLog: the header is damaged, or the journal is not the one that LMDB names.
        NewerFormat: it is of a newer format.
    """
    header = read_header(image)
    is_named = header.uuid == mark.uuid and header.generation in (mark.generation, mark.generation + 1)
    if not is_named or len(image) != RING_AT + header.ring_bytes:
        expected = f"journal {mark.uuid.hex()} of generation {mark.generation}"
        found = f"{header.uuid.hex()} of {header.generation}, {len(image)} bytes, ring of {header.ring_bytes}"
        raise_wounds([Wound(JOURNAL, None, None, expected, found, WoundKind.DISAGREES)])
    return header.ring_bytes


def write_of(group: Group) -> Write:
    """Return the write in a group.

    Raises:
        WoundedLog: its body has no layout that is known.
    """
    try:
        return unpack_write(group.number, group.body)
    except (ValueError, struct.error) as error:
        expected = f"the layout of group {group.number}"
        raise WoundedLog([Wound(JOURNAL, None, None, expected, str(error), WoundKind.SHAPE)]) from error
