"""What ``DIR/kv`` holds: the KV state at a checkpoint, format version 1 (the version is in state/meta.py's record).

::

    table keys        0x00 | order key  ->  crc u32 | deadline_ms u64 | [key length u32 | key] | value
    table deadlines   deadline_ms u64 | order key  ->  proof u32 | [key]
    table meta, meta_copy                          ->  state/meta.py

Integers are big-endian. ``order key`` is the key itself, or what stands for it when it is longer than LMDB's keys may
be (kv/records.py): the parts in brackets are there only then. The byte before it is there because a Redis key may be
empty and LMDB's may not. ``crc`` is the record's own (kv/records.py ``record_crc``): the machine computed it, the disk
keeps it, and every read checks it. ``proof`` is the CRC-32C of LMDB's key and the key after it: a deadline with a
flipped bit would let one replica drop a key that the others keep.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from durable_raft.checksum import extend
from durable_raft.kv.records import NO_DEADLINE, SHORT_KEY_BYTES_MAX, Record, make_record, order_key, record_crc
from durable_raft.storage.environment import open_handles
from durable_raft.storage.proven import META, META_COPY
from durable_raft.storage.wounds import Wound, WoundedState, WoundKind

if TYPE_CHECKING:
    from lmdb import Environment, _Database

KEYS: Final = "keys"
DEADLINES: Final = "deadlines"
KV_TABLES: Final = (META, META_COPY, KEYS, DEADLINES)

HEADER: Final = struct.Struct(">IQ")
"""crc, deadline_ms: how every record begins."""

_PREFIX: Final = b"\x00"
_LONG: Final = struct.Struct(">I")
_DEADLINE: Final = struct.Struct(">Q")
_PROOF: Final = struct.Struct(">I")
_STORED_SHORT_MAX: Final = len(_PREFIX) + SHORT_KEY_BYTES_MAX
_DUE_SHORT_MAX: Final = _DEADLINE.size + SHORT_KEY_BYTES_MAX

Bytes = bytes | memoryview


@dataclass(frozen=True, slots=True)
class KvTables:
    """Handles of the four tables."""

    meta: _Database
    meta_copy: _Database
    keys: _Database
    deadlines: _Database

    def named(self) -> dict[str, _Database]:
        """Return the handles by the names of the tables."""
        return {META: self.meta, META_COPY: self.meta_copy, KEYS: self.keys, DEADLINES: self.deadlines}


def open_kv_tables(environment: Environment, *, create: bool = False) -> KvTables:
    """Open the four tables.

    Raises:
        CorruptRecord: one is missing, or LMDB cannot walk to it.
    """
    return KvTables(*open_handles(environment, KV_TABLES, create=create))


def stored_key(key: bytes) -> bytes:
    """Return LMDB's key of ``key`` in table ``keys``: at most 497 bytes, in the order of ``order_key``."""
    return _PREFIX + order_key(key)


_JOINED_BYTES_MIN: Final = 1 << 20
"""From here on CPython joins byte strings without holding the interpreter."""


def pack_record(key: bytes, record: Record) -> bytes:
    """Return the value of table ``keys``."""
    head = HEADER.pack(record.crc, record.deadline_ms)
    if len(key) > SHORT_KEY_BYTES_MAX:
        head += _LONG.pack(len(key)) + key
    value = record.value
    if not isinstance(value, bytes):
        return b"".join((head, *value.pieces()))
    if len(value) < _JOINED_BYTES_MIN:
        return head + value
    # The event loop runs meanwhile: ``join`` lets go of the interpreter, ``+`` does not.
    return b"".join((head, value))


def record_of(key: bytes, value: Bytes) -> Record:
    """Return the record in the value that table ``keys`` holds for ``key``, verified.

    Raises:
        WoundedState: it is damaged.
    """
    start = HEADER.size
    if len(key) > SHORT_KEY_BYTES_MAX:
        start += _LONG.size + len(key)
        if value[HEADER.size : start] != _LONG.pack(len(key)) + key:
            raise WoundedState([wound(KEYS, key, "the whole key", "other bytes", WoundKind.CHECKSUM)])
    if len(value) < start:
        raise WoundedState([wound(KEYS, key, f"{start} bytes or more", f"{len(value)}", WoundKind.SHAPE)])
    crc, deadline_ms = HEADER.unpack_from(value)
    content = bytes(value[start:])
    record = make_record(key, content, deadline_ms)
    if record.crc != crc:
        raise WoundedState([wound(KEYS, key, f"crc {crc:#010x}", f"{record.crc:#010x}", WoundKind.CHECKSUM)])
    return record


def head_of(key: bytes, value: Bytes) -> tuple[int, int]:
    """Return crc and deadline_ms in the value that table ``keys`` holds for ``key``, not verified.

    Raises:
        WoundedState: it is too short to have them.
    """
    if len(value) < HEADER.size:
        raise WoundedState([wound(KEYS, key, f"{HEADER.size} bytes or more", f"{len(value)}", WoundKind.SHAPE)])
    crc, deadline_ms = HEADER.unpack_from(value)
    return crc, deadline_ms


def plain_crc(stored: bytes, value: bytes) -> int | None:
    """Return the checksum of an item of table ``keys`` that is sound, and whose key is short and without a deadline.

    None: it is not so, or damaged; ``unpack_record`` tells which. Starts wait for this, and it takes half the time.
    """
    if len(stored) > _STORED_SHORT_MAX or stored[: len(_PREFIX)] != _PREFIX:
        return None
    crc = record_crc(stored[len(_PREFIX) :], NO_DEADLINE, value[HEADER.size :])
    return crc if value[: HEADER.size] == HEADER.pack(crc, NO_DEADLINE) else None


def unpack_record(stored: Bytes, value: Bytes) -> tuple[bytes, Record]:
    """Return the key and the record of one item of table ``keys``, verified.

    Raises:
        WoundedState: it is damaged.
    """
    key = bytes(stored[len(_PREFIX) :])
    if len(stored) > _STORED_SHORT_MAX:
        order, begin = key, HEADER.size + _LONG.size
        key = bytes(value[begin : begin + int.from_bytes(value[HEADER.size : begin], "big")])
        if len(key) <= SHORT_KEY_BYTES_MAX or order_key(key) != order:
            found = f"{len(key)} other bytes"
            raise WoundedState([wound(KEYS, order, "the key that is ordered so", found, WoundKind.CHECKSUM)])
    elif stored[: len(_PREFIX)] != _PREFIX:
        found = f"0x{stored[: len(_PREFIX)].hex()}"
        raise WoundedState([wound(KEYS, key, f"0x{_PREFIX.hex()} before the key", found, WoundKind.SHAPE)])
    return key, record_of(key, value)


def due_key(deadline_ms: int, key: bytes) -> bytes:
    """Return LMDB's key in table ``deadlines``: at most 504 bytes, ascending by deadline and ``order_key``."""
    return _DEADLINE.pack(deadline_ms) + order_key(key)


def pack_due(deadline_ms: int, key: bytes) -> tuple[bytes, bytes]:
    """Return the item of table ``deadlines``."""
    stored = due_key(deadline_ms, key)
    if len(key) <= SHORT_KEY_BYTES_MAX:
        return stored, _PROOF.pack(extend(0, stored))
    return stored, _PROOF.pack(extend(0, stored + key)) + key


def unpack_due(stored: bytes, value: bytes) -> tuple[int, bytes]:
    """Return (deadline_ms, key) of one item of table ``deadlines``, verified.

    Raises:
        WoundedState: it is damaged.
    """
    rest = value[_PROOF.size :]
    proof = _PROOF.pack(extend(0, stored + rest))
    key = rest or stored[_DEADLINE.size :]
    if proof != value[: _PROOF.size] or bool(rest) != (len(stored) > _DUE_SHORT_MAX):
        found = f"0x{value[: _PROOF.size].hex()} and {len(rest)} bytes"
        raise WoundedState([wound(DEADLINES, key, f"proof 0x{proof.hex()}", found, WoundKind.CHECKSUM)])
    (deadline_ms,) = _DEADLINE.unpack_from(stored)
    return deadline_ms, key


def wound(table: str, key: bytes | None, expected: str, found: str, what: WoundKind) -> Wound:
    """Return a wound of the KV state."""
    return Wound(table, None, None, expected, found, what, key)
