"""Bytes of the log on disk, format version 1: what an ``ident`` and a ``log`` record are (meta.py has the third).

All integers are big-endian, so that LMDB's byte order of keys is the order of indexes.

``ident``: who an entry is. Key: index u64. Value, 36 bytes::

    0        1          2     3     4        12            20       24   28     32
    +--------+----------+-----+-----+--------+-------------+--------+----+------+---------+
    |version |algorithm |kind |  0  |  term  |timestamp_ms | length |crc |chain |  proof  |
    |u8      |u8        |u8   |u8   |  u64   |u64          | u32    |u32 |u32   |  u32    |
    +--------+----------+-----+-----+--------+-------------+--------+----+------+---------+
    |<------------------------- head, 28 bytes ------------------------->|

``log``: what it says. Key: index u64, piece number u32. The value of the pieces 0, 1, ... joined::

    +--------------------+--------------+---------------------+
    | head (as above)    |  head proof  | payload             |
    | 28 bytes           |  u32         | ``length`` bytes    |
    +--------------------+--------------+---------------------+

``crc`` and ``chain`` are the entry's own (raft/types.py), by the checksum that ``algorithm`` names. ``head proof`` is
the CRC-32C of the key's index and the head; ``proof`` continues it over ``chain``. So ident proves itself without the
payload, the log record proves itself without ident, and each can rebuild the other (``chain`` from the entry before).

In every version to come the first byte is the version, and the proof stays CRC-32C at the end of ident (offset 28 of
the joined log record): a record with an unknown version and a right proof is of a newer format, one with a wrong proof
is damaged.

Pieces are at most 2018 bytes. LMDB 0.9 keeps a node (8 bytes, key, value) of at most 2038 bytes in a 4 KiB leaf page:
two pieces fill one exactly and no value ever needs an overflow page, for which a commit would have to hunt for a run of
free pages (erigon #1213: minutes).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple, NoReturn

from durable_raft.checksum import ALGORITHM_CRC32C, extend
from durable_raft.raft.types import Entry, EntryKind, Index, Term, entry_crc, stored_bytes
from durable_raft.storage.wounds import Wound, WoundKind, raise_wounds

FORMAT_VERSION: Final = 1
"""Written into every record; a newer build raises it whenever a byte changes its meaning."""

PIECE_BYTES_MAX: Final = 2018
"""Value bytes of one ``log`` record; see the module docstring."""

IDENT: Final = "ident"
LOG: Final = "log"

IDENT_KEY: Final = struct.Struct(">Q")
LOG_KEY: Final = struct.Struct(">QI")

_HEAD: Final = struct.Struct(">BBBBQQII")
_U32: Final = struct.Struct(">I")
_IDENT_VALUE: Final = struct.Struct(">BBBBQQIIII")
IDENT_BYTES: Final = _IDENT_VALUE.size
_HEAD_BYTES: Final = _HEAD.size
HEAD_PROOF_END: Final = _HEAD_BYTES + _U32.size
_KNOWN_START: Final = bytes((FORMAT_VERSION, ALGORITHM_CRC32C))
_KINDS: Final = {int(kind): kind for kind in EntryKind}

Items = list[tuple[bytes, "bytes | memoryview"]]
"""Keys and values in ascending order of the keys, ready for LMDB."""


class IdentRecord(NamedTuple):
    """A verified ident record. Properties: proof right, version, algorithm and kind known, padding zero."""

    kind: int
    term: int
    timestamp_ms: int
    length: int
    crc: int
    chain: int


class LogRecord(NamedTuple):
    """A verified log record. Properties: as ``IdentRecord``; ``crc`` is the checksum of the payload and the rest."""

    kind: int
    term: int
    timestamp_ms: int
    crc: int
    payload: bytes


def pack_idents(entries: Sequence[Entry]) -> list[tuple[bytes, bytes]]:
    """Return keys and values of the ``ident`` records of ``entries``, ascending as the entries are."""
    return [(key, value) for key, value, _ in map(_pack_ident, entries)]


def _pack_ident(entry: Entry) -> tuple[bytes, bytes, bytes]:
    """Return key and value of an ident record, and how the log record beside it begins."""
    key = IDENT_KEY.pack(entry.index)
    length = len(entry.payload)
    head = _HEAD.pack(
        FORMAT_VERSION, ALGORITHM_CRC32C, entry.kind, 0, entry.term, entry.timestamp_ms, length, entry.crc
    )
    head_proof = extend(0, key + head)
    chain = _U32.pack(entry.chain)
    return key, head + chain + _U32.pack(extend(head_proof, chain)), head + _U32.pack(head_proof)


def pack_entries(entries: Sequence[Entry]) -> tuple[Items, Items]:
    """Return the items of the ``ident`` and of the ``log`` table for ``entries``, ascending as the entries are."""
    ident_items: Items = []
    log_items: Items = []
    for entry in entries:
        key, ident, start = _pack_ident(entry)
        ident_items.append((key, ident))
        if len(start) + len(entry.payload) <= PIECE_BYTES_MAX:
            log_items.append((LOG_KEY.pack(entry.index, 0), start + entry.payload))
        else:
            _append_pieces(log_items, entry.index, start, entry.payload)
    return ident_items, log_items


def _append_pieces(items: Items, index: int, start: bytes, payload: bytes) -> None:
    """Append the pieces of a record; nothing of a large payload is copied, which no other thread could interrupt."""
    first = PIECE_BYTES_MAX - len(start)
    items.append((LOG_KEY.pack(index, 0), start + payload[:first]))
    with memoryview(payload) as view:
        for number, at in enumerate(range(first, len(payload), PIECE_BYTES_MAX), 1):
            items.append((LOG_KEY.pack(index, number), view[at : at + PIECE_BYTES_MAX]))


def piece_count(payload_bytes: int) -> int:
    """Return in how many pieces a payload of that length is stored, at least one."""
    return -(-(HEAD_PROOF_END + payload_bytes) // PIECE_BYTES_MAX)


def records_bytes(entries: Sequence[Entry]) -> int:
    """Return a bound of what the pages of new records of ``entries`` take."""
    return sum(stored_bytes(len(entry.payload)) for entry in entries)


def unpack_ident(key: bytes, value: bytes) -> IdentRecord:
    """Verify an ident record.

    Raises:
        WoundedLog: it is damaged.
        NewerFormat: its proof is right and its version, algorithm or kind unknown.
    """
    index = int.from_bytes(key, "big")
    if len(key) != IDENT_KEY.size or len(value) < _U32.size:
        _raise(IDENT, index, WoundKind.SHAPE, "8-byte key, 36-byte value", f"{len(key)} and {len(value)} bytes")
    proof = extend(0, key + value[: -_U32.size])
    if proof != int.from_bytes(value[-_U32.size :], "big"):
        _raise(IDENT, index, WoundKind.CHECKSUM, f"proof {proof:#010x}", f"0x{value[-_U32.size :].hex()}")
    if value[:2] != _KNOWN_START:
        _raise_newer(IDENT, index, value)
    if len(value) != _IDENT_VALUE.size:
        _raise(IDENT, index, WoundKind.SHAPE, f"{_IDENT_VALUE.size} bytes", f"{len(value)} bytes")
    _, _, kind, pad, term, timestamp_ms, length, crc, chain, _ = _IDENT_VALUE.unpack(value)
    if kind not in _KINDS or pad:
        _raise_kind(IDENT, index, kind, pad)
    return IdentRecord(kind, term, timestamp_ms, length, crc, chain)


def unpack_log(index: int, record: bytes) -> LogRecord:
    """Verify a log record, its pieces joined; raises as ``unpack_log_parts``."""
    return unpack_log_parts(index, record[:HEAD_PROOF_END], record[HEAD_PROOF_END:])


def unpack_log_parts(index: int, start: bytes, payload: bytes) -> LogRecord:
    """Verify a log record of which the first ``HEAD_PROOF_END`` bytes and the rest are given apart.

    Raises:
        WoundedLog: it is damaged.
        NewerFormat: the proof of its head is right and its version, algorithm or kind unknown.
    """
    head = start[:_HEAD_BYTES]
    if len(start) < HEAD_PROOF_END:
        _raise(LOG, index, WoundKind.SHAPE, f"at least {HEAD_PROOF_END} bytes", f"{len(start)} bytes")
    proof = extend(0, IDENT_KEY.pack(index) + head)
    if proof != int.from_bytes(start[_HEAD_BYTES:], "big"):
        found = start[_HEAD_BYTES:].hex()
        _raise(LOG, index, WoundKind.CHECKSUM, f"head proof {proof:#010x}", f"0x{found}")
    if start[:2] != _KNOWN_START:
        _raise_newer(LOG, index, start)
    _, _, kind, pad, term, timestamp_ms, length, crc = _HEAD.unpack(head)
    if kind not in _KINDS or pad:
        _raise_kind(LOG, index, kind, pad)
    if len(payload) != length:
        _raise(LOG, index, WoundKind.SHAPE, f"{length} bytes of payload", f"{len(payload)} bytes", term)
    found_crc = entry_crc(index, term, kind, timestamp_ms, payload)
    if found_crc != crc:
        _raise(LOG, index, WoundKind.CHECKSUM, f"crc {crc:#010x}", f"{found_crc:#010x}", term)
    return LogRecord(kind, term, timestamp_ms, crc, payload)


def disagreement(index: int, ident: IdentRecord, log: LogRecord) -> Wound | None:
    """Return how two valid records of one index contradict each other, or None."""
    if ident[:3] == log[:3] and ident.crc == log.crc:
        return None
    expected = f"kind {ident.kind} term {ident.term} timestamp {ident.timestamp_ms} crc {ident.crc:#010x} as in ident"
    found = f"kind {log.kind} term {log.term} timestamp {log.timestamp_ms} crc {log.crc:#010x}"
    return Wound(LOG, index, ident.term, expected, found, WoundKind.DISAGREES)


def entry_of(index: int, ident: IdentRecord, payload: bytes) -> Entry:
    """Return the entry that a verified pair of records holds."""
    return Entry(
        Index(index), Term(ident.term), _KINDS[ident.kind], ident.timestamp_ms, payload, ident.crc, ident.chain
    )


def _raise(table: str, index: int, what: WoundKind, expected: str, found: str, term: int | None = None) -> NoReturn:
    raise_wounds([Wound(table, index, term, expected, found, what)])


def _raise_newer(table: str, index: int, value: bytes) -> NoReturn:
    expected = f"version {FORMAT_VERSION} algorithm {ALGORITHM_CRC32C}"
    _raise(table, index, WoundKind.NEWER_FORMAT, expected, f"version {value[0]} algorithm {value[1]}")


def _raise_kind(table: str, index: int, kind: int, pad: int) -> NoReturn:
    """A kind or a use of the padding that came later without a new version: not damage, the proof is right."""
    known = ", ".join(str(kind) for kind in sorted(_KINDS))
    _raise(table, index, WoundKind.NEWER_FORMAT, f"kind {known} and padding 0", f"kind {kind} and padding {pad}")
