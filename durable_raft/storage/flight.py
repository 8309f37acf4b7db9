"""The flight recorder's file: the last events of a node, in a ring that survives ``kill -9``.

``DIR/flight`` is 4 MiB, preallocated, unless made with other sizes: a head, then two rings of slots. What the indexes
do, many times a second, has a ring of its own: it must not push out the elections of last week. All integers are
big-endian::

    0          head    magic 8 bytes | event slots u32 | progress slots u32 | length u16 | node id | crc u32
    256        events  8,191 slots of 256 bytes
    2 MiB      progress  16,384 slots of 128 bytes: the events named ``progress``

    a record   number u64 | wall_ms u64 | monotonic_ms u64 | length u16 | body, ``length`` bytes | crc u32

``crc`` is the CRC-32C of all before it in the head or record. The body is a msgpack array of the event's name and a map
of its fields. Numbers count from 1 over both rings and all lives: they are the order, the time of day is not.

Nothing is synced and nothing is promised: the page cache survives the process, not the power. So a slot may be torn or
rotten; it is skipped and counted. A file whose head is not this node's is replaced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgpack

from durable_raft.checksum import crc32c

FLIGHT: Final = "flight"
PROGRESS: Final = "progress"
"""Name of the events that go into the second ring."""

EVENT_SLOTS: Final = 8_191
PROGRESS_SLOTS: Final = 16_384
HEAD_BYTES: Final = 256
EVENT_BYTES: Final = 256
PROGRESS_BYTES: Final = 128

_MAGIC: Final = b"drflght1"
_HEAD: Final = struct.Struct(">8sIIH")
_RECORD: Final = struct.Struct(">QQQH")
_CRC: Final = struct.Struct(">I")
_NODE_ID_MAX: Final = HEAD_BYTES - _HEAD.size - _CRC.size
_SLOTS_MAX: Final = 1 << 22
_NUMBER_MAX: Final = 1 << 62
_WALL_MS_MAX: Final = 253_402_300_799_999
"""The end of the year 9999; no clock is there, and no date behind it can be shown."""
_NAME_MAX: Final = 60
_TEXT_MAX: Final = 120

Field = str | int | float | bool | None


class Flown(NamedTuple):
    """One event."""

    number: int
    wall_ms: int
    """Time of day, ms since the Unix epoch."""
    monotonic_ms: int
    event: str
    fields: dict[str, Field]


@dataclass(frozen=True, slots=True)
class Flight:
    """What a ring holds."""

    node_id: str | None
    """Whose it is; None when its head is damaged."""
    events: list[Flown]
    """In the order of their numbers."""
    skipped: int
    """Slots that hold something that is no valid record: torn, rotten, or being written."""


class _Ring(NamedTuple):
    """Where the slots of one ring lie."""

    begin: int
    slots: int
    slot_bytes: int

    def offsets(self) -> range:
        """Return where each slot begins."""
        return range(self.begin, self.begin + self.slots * self.slot_bytes, self.slot_bytes)


class _Layout(NamedTuple):
    """The two rings of one file."""

    events: _Ring
    progress: _Ring

    @classmethod
    def of(cls, event_slots: int, progress_slots: int) -> _Layout:
        """Return the layout with these numbers of slots."""
        events = _Ring(HEAD_BYTES, event_slots, EVENT_BYTES)
        return cls(events, _Ring(HEAD_BYTES + event_slots * EVENT_BYTES, progress_slots, PROGRESS_BYTES))

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return self.progress.begin + self.progress.slots * self.progress.slot_bytes


class FlightWriter:
    """Appends events to the rings of one directory; used by one thread."""

    def __init__(
        self,
        directory: Path,
        node_id: str,
        *,
        event_slots: int = EVENT_SLOTS,
        progress_slots: int = PROGRESS_SLOTS,
    ) -> None:
        """Open the file and go on behind its newest record; make it when it is missing, damaged or another node's.

        Args:
            directory: the data directory.
            node_id: goes into the head.
            event_slots: of a file that is made, at least 1; one that is there keeps its own.
            progress_slots: the same of the second ring.

        Raises:
            OSError: it cannot be opened, is no regular file, or there is no room for it.
        """
        self._fd = os.open(directory / FLIGHT, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
        try:
            data = _read_all(self._fd)
            head = _unpack_head(data)
            name = node_id.encode(errors="backslashreplace")[:_NODE_ID_MAX]
            if head is None or head[0] != name:
                self._make(name, event_slots, progress_slots)
                layout, data = _Layout.of(event_slots, progress_slots), b""
            else:
                layout = head[1]
        except BaseException:
            self.close()
            raise
        self._rings = layout
        newest = [_newest(data, ring) for ring in layout]
        self._number = max(number for number, _ in newest)
        self._next = [slot for _, slot in newest]
        """Of each ring, the slot that is written next."""

    def _make(self, name: bytes, event_slots: int, progress_slots: int) -> None:
        os.ftruncate(self._fd, 0)
        try:
            _allocate(self._fd, _Layout.of(event_slots, progress_slots).file_bytes)
            head = _HEAD.pack(_MAGIC, event_slots, progress_slots, len(name)) + name
            # Not pwrite: what LMDB writes can be told from this in a trace of system calls, and be made to fail alone.
            os.pwritev(self._fd, [head + _CRC.pack(crc32c(head))], 0)
        except OSError:
            # What is left of the room on the disk is the log's.
            os.ftruncate(self._fd, 0)
            raise

    def write(self, wall_ms: int, monotonic_ms: int, event: str, fields: dict[str, object]) -> None:
        """Write one event over the oldest of its ring; fields that do not fit are left out, long texts are cut.

        Raises:
            OSError: the system took it not.
        """
        which = 1 if event == PROGRESS else 0
        ring, slot = self._rings[which], self._next[which]
        body = _body(event, fields, ring.slot_bytes - _RECORD.size - _CRC.size)
        self._number += 1
        record = _RECORD.pack(self._number, max(wall_ms, 0), max(monotonic_ms, 0), len(body)) + body
        os.pwritev(self._fd, [record + _CRC.pack(crc32c(record))], ring.begin + slot * ring.slot_bytes)
        self._next[which] = (slot + 1) % ring.slots

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_flight(directory: Path) -> list[Flown]:
    """Return the events that the rings of ``directory`` hold, the oldest first; none when there is no such file.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    flight = load_flight(directory)
    return [] if flight is None else flight.events


def load_flight(directory: Path) -> Flight | None:
    """Return what the file of ``directory`` holds, also while a node writes it; None when there is none.

    With a damaged head the usual sizes are assumed.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    try:
        fd = os.open(directory / FLIGHT, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        data = _read_all(fd)
    finally:
        os.close(fd)
    head = _unpack_head(data)
    name, layout = head or (None, _Layout.of(EVENT_SLOTS, PROGRESS_SLOTS))
    events: dict[int, Flown] = {}
    skipped = 0
    for ring in layout:
        for at in ring.offsets():
            slot = data[at : at + ring.slot_bytes]
            flown = _unpack(slot)
            if flown is not None:
                events.setdefault(flown.number, flown)
            elif slot.strip(b"\0"):
                skipped += 1
    node_id = None if name is None else name.decode(errors="replace")
    return Flight(node_id, [events[number] for number in sorted(events)], skipped)


# -- bytes ------------------------------------------------------------------------------------------------------------


def _read_all(fd: int) -> bytes:
    """Return the file's bytes; no more than the largest file can have.

    Raises:
        OSError: no regular file, or it cannot be read.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{FLIGHT} is no regular file")
    return b"".join(_chunks(fd, min(status.st_size, _Layout.of(_SLOTS_MAX, _SLOTS_MAX).file_bytes)))


def _chunks(fd: int, size: int) -> Iterator[bytes]:
    at = 0
    while at < size and (chunk := os.pread(fd, min(size - at, 1 << 20), at)):
        yield chunk
        at += len(chunk)


def _allocate(fd: int, size: int) -> None:
    """Give an empty file ``size`` zero bytes, with room on the disk where the file system can promise it.

    Raises:
        OSError: there is no room.
    """
    if not hasattr(os, "posix_fallocate"):
        os.ftruncate(fd, size)
        return
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.ftruncate(fd, size)


def _unpack_head(data: bytes) -> tuple[bytes, _Layout] | None:
    """Return node id and layout; None when the head is not valid."""
    if len(data) < HEAD_BYTES:
        return None
    magic, event_slots, progress_slots, length = _HEAD.unpack_from(data)
    end = _HEAD.size + length
    if magic != _MAGIC or length > _NODE_ID_MAX or crc32c(data[:end]) != _CRC.unpack_from(data, end)[0]:
        return None
    if not (0 < event_slots <= _SLOTS_MAX and 0 < progress_slots <= _SLOTS_MAX):
        return None
    return data[_HEAD.size : end], _Layout.of(event_slots, progress_slots)


def _newest(data: bytes, ring: _Ring) -> tuple[int, int]:
    """Return the highest number in a ring and the slot behind it; (0, 0) when it is empty."""
    told = [(_RECORD.unpack_from(data, at)[0], at) for at in ring.offsets() if at + ring.slot_bytes <= len(data)]
    # The first valid one counts: only damaged ones before it are unpacked.
    for number, at in sorted(told, reverse=True):
        if number and _unpack(data[at : at + ring.slot_bytes]) is not None:
            return number, ((at - ring.begin) // ring.slot_bytes + 1) % ring.slots
    return 0, 0


def _unpack(slot: bytes) -> Flown | None:
    """Return the record of a slot; None when there is no valid one."""
    if len(slot) < _RECORD.size + _CRC.size:
        return None
    number, wall_ms, monotonic_ms, length = _RECORD.unpack_from(slot)
    end = _RECORD.size + length
    if not 0 < number < _NUMBER_MAX or wall_ms > _WALL_MS_MAX or end + _CRC.size > len(slot):
        return None
    if crc32c(slot[:end]) != _CRC.unpack_from(slot, end)[0]:
        return None
    with contextlib.suppress(ValueError, TypeError):
        event, fields = msgpack.unpackb(slot[_RECORD.size : end])
        return Flown(number, wall_ms, monotonic_ms, str(event), {str(name): _plain(fields[name]) for name in fields})
    return None


def _body(event: str, fields: dict[str, object], bytes_max: int) -> bytes:
    plain = {_text(name, _NAME_MAX): _plain(value) for name, value in fields.items()}
    name = _text(event, _NAME_MAX)
    while len(body := msgpack.packb([name, plain])) > bytes_max:
        if plain:
            del plain[max(plain, key=lambda name: len(str(plain[name])))]
        else:
            name = name[: len(name) // 2]
    return bytes(body)


def _plain(value: object) -> Field:
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return int(value)
    return _text(str(value), _TEXT_MAX)


def _text(text: str, length_max: int) -> str:
    """Return a text that UTF-8 can hold: a path may have bytes that are none."""
    return text[:length_max].encode(errors="backslashreplace").decode()
