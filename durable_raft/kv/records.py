"""What is kept of one key, the order of keys, and the state as something that can be read: the words that the machine
and the disk share.

A record's checksum is computed once, when the record is made: for the disk at the latest (layer.py). It travels with
the record to the disk, into snapshots and backups, and is checked wherever the record is read. The sum of all of them
is the *state hash*.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from functools import reduce
from typing import Final, NamedTuple, Protocol

from durable_raft.checksum import extend
from durable_raft.kv.long_values import LongValue, Value

SHORT_KEY_BYTES_MAX: Final = 480
"""Longer keys are ordered by their first so many bytes and a hash: LMDB's keys end at 511 bytes."""

_HASH_BYTES: Final = 16
_CRC_HEADER: Final = struct.Struct(">IQ")
_JOINED_BYTES_MAX: Final = 4096
"""Up to here one checksum over a copy is cheaper than two over the parts."""

NO_DEADLINE: Final = 0

_new_tuple: Final = tuple.__new__


class Record(NamedTuple):
    """What is kept of a key."""

    value: Value
    deadline_ms: int
    """When it expires, ms since the Unix epoch; ``NO_DEADLINE``: never."""
    crc: int
    """``record_crc`` of the key and the two above."""


Kept = bytes | Record
"""What is kept of a key: the bare value if that is in one piece and has no deadline, else its record."""


class StateSummary(NamedTuple):
    """A state in numbers; equal states have equal summaries."""

    key_count: int = 0
    expires_count: int = 0
    """How many of them have a deadline."""
    state_hash: int = 0
    """Sum of the checksums of all records, under 2**64."""


def record_crc(key: bytes, deadline_ms: int, value: Value) -> int:
    """Return CRC-32C over ``key length u32 | deadline_ms u64 | key | value`` (big-endian)."""
    head = _CRC_HEADER.pack(len(key), deadline_ms) + key
    if isinstance(value, LongValue):
        return reduce(extend, value.pieces(), extend(0, head))
    if len(value) <= _JOINED_BYTES_MAX:
        return extend(0, head + value)
    return extend(extend(0, head), value)


def make_record(key: bytes, value: Value, deadline_ms: int = NO_DEADLINE) -> Record:
    """Return the record of ``key``, its checksum computed."""
    if isinstance(value, LongValue) or len(value) > _JOINED_BYTES_MAX:
        return Record(value, deadline_ms, record_crc(key, deadline_ms, value))
    # What ``record_crc`` and ``Record`` say, without two calls: this is done for each write on each node.
    crc = extend(0, _CRC_HEADER.pack(len(key), deadline_ms) + key + value)
    return _new_tuple(Record, (value, deadline_ms, crc))


def record_of(key: bytes, kept: Kept) -> Record:
    """Return the record of ``key``; of a bare value it is made now."""
    return make_record(key, kept) if type(kept) is bytes else kept  # type: ignore[return-value]


def value_of(kept: Kept) -> Value:
    """Return the value."""
    return kept if type(kept) is bytes else kept[0]  # type: ignore[return-value]


def deadline_of(kept: Kept) -> int:
    """Return the deadline, or ``NO_DEADLINE``."""
    return NO_DEADLINE if type(kept) is bytes else kept[1]


class Place(bytes):
    """An order key in the place of the key that has it: where a scan goes on, without the key, which may be long."""

    __slots__ = ()


def extended(record: Record, suffix: bytes) -> Record:
    """Return a record with ``suffix`` behind its value, without a look at the value: the checksum goes on, too."""
    value = record.value if isinstance(record.value, LongValue) else LongValue.of(record.value)
    return Record(value.append(suffix), record.deadline_ms, extend(record.crc, suffix))


def order_key(key: bytes) -> bytes:
    """Return what ``key`` is ordered by: itself, or for a long one its beginning and 16 bytes of its SHA-256.

    Different keys have different order keys: those of long keys are longer than any short key.
    """
    if len(key) <= SHORT_KEY_BYTES_MAX:
        return key
    if type(key) is Place:
        return bytes(key)
    return key[:SHORT_KEY_BYTES_MAX] + hashlib.sha256(key).digest()[:_HASH_BYTES]


class StateView(Protocol):
    """The state at one index; it does not change."""

    @property
    def summary(self) -> StateSummary:
        """The state in numbers."""

    def get(self, key: bytes) -> Record | None:
        """Return the record of ``key``, or None.

        Raises:
            CorruptRecord: it is damaged.
        """

    def head(self, key: bytes) -> tuple[int, int] | None:
        """Return checksum and deadline_ms of the record of ``key``, or None; the checksum is not compared."""

    def after(self, key: bytes | None, count: int, bytes_max: int) -> Sequence[tuple[bytes, Record]]:
        """Return the next keys and records behind ``key``, by ``order_key``; None begins at the first.

        Args:
            key: need not be there.
            count: how many at most.
            bytes_max: of keys and values together, about; at least one is returned while there is any.

        Raises:
            CorruptRecord: one of them is damaged.
        """

    def due(self, after: tuple[int, bytes] | None, count: int) -> Sequence[tuple[int, bytes]]:
        """Return the next ``count`` (deadline_ms, key), by deadline and ``order_key``, behind ``after``."""


class _EmptyView:
    """The state before the first entry."""

    summary = StateSummary()

    def get(self, key: bytes) -> Record | None:
        del key
        return None

    def head(self, key: bytes) -> tuple[int, int] | None:
        del key
        return None

    def after(self, key: bytes | None, count: int, bytes_max: int) -> Sequence[tuple[bytes, Record]]:
        del key, count, bytes_max
        return ()

    def due(self, after: tuple[int, bytes] | None, count: int) -> Sequence[tuple[int, bytes]]:
        del after, count
        return ()


EMPTY_STATE: Final[StateView] = _EmptyView()
