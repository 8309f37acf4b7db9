"""The flight recorder's file: the last core events of a node, in a ring that survives ``kill -9``.

``DIR/flight`` is ``SLOTS`` slots of 256 bytes; record n lies in slot ``n % SLOTS``::

    number u64 | wall_ms u64 | monotonic_ms u64 | length u16 | body, ``length`` bytes | crc u32 of all before

Integers are big-endian; the body is a msgpack array of the event's name and a map of its fields. Numbers count from 1
over all lives. Nothing is synced and nothing is promised: the page cache survives the process, not the power. A slot
that is torn or rotten is skipped.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgpack

from durable_raft.checksum import crc32c

FLIGHT: Final = "flight"
SLOTS: Final = 8_192
SLOT_BYTES: Final = 256
_HEAD: Final = struct.Struct(">QQQH")
_CRC: Final = struct.Struct(">I")
_BODY_MAX: Final = SLOT_BYTES - _HEAD.size - _CRC.size
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


class FlightWriter:
    """Appends events to the ring of one directory; used by one thread."""

    def __init__(self, directory: Path) -> None:
        """Open the ring, or make it; what is not a ring is overwritten slot by slot.

        Raises:
            OSError: it cannot be opened.
        """
        self._number = max((flown.number for flown in read_flight(directory)), default=0)
        self._fd = os.open(directory / FLIGHT, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, wall_ms: int, monotonic_ms: int, event: str, fields: dict[str, object]) -> None:
        """Write one event over the oldest; fields that do not fit are left out.

        Raises:
            OSError: the system took it not.
        """
        self._number += 1
        body = _body(event, fields)
        record = _HEAD.pack(self._number, wall_ms, monotonic_ms, len(body)) + body
        os.pwrite(self._fd, record + _CRC.pack(crc32c(record)), self._number % SLOTS * SLOT_BYTES)

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _body(event: str, fields: dict[str, object]) -> bytes:
    plain = {name: _plain(value) for name, value in fields.items()}
    while len(body := msgpack.packb([event, plain])) > _BODY_MAX:
        del plain[max(plain, key=lambda name: len(str(plain[name])))]
    return bytes(body)


def _plain(value: object) -> Field:
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return int(value)
    return str(value)[:_TEXT_MAX]


def read_flight(directory: Path) -> list[Flown]:
    """Return the events that the ring of ``directory`` holds, the oldest first; none when there is no ring."""
    try:
        data = (directory / FLIGHT).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(_slots(data))


def _slots(data: bytes) -> Iterator[Flown]:
    for at in range(0, len(data) - _HEAD.size, SLOT_BYTES):
        number, wall_ms, monotonic_ms, length = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + length
        if not number or length > _BODY_MAX or end + _CRC.size > len(data):
            continue
        if crc32c(data[at:end]) != _CRC.unpack_from(data, end)[0]:
            continue
        with contextlib.suppress(ValueError, TypeError):
            event, fields = msgpack.unpackb(data[at + _HEAD.size : end])
            yield Flown(number, wall_ms, monotonic_ms, str(event), dict(fields))
