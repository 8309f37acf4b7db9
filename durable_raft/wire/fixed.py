"""Bodies of fixed layout: those of AppendEntries and its answer, which are most of what nodes say.

The numbers of one entry are unpacked with one call, and checked with one comparison. Only when that fails are they
looked at one by one, to name the field (fields.py). Big-endian::

    AppendEntriesResponse          AppendEntries                  one of its entries
    offset  bytes  field           offset  bytes  field           offset  bytes  field
         0      8  term                 0      8  term                 0      8  term
         8      8  match_index          8      8  prev_log_index       8      8  timestamp_ms
        16      8  conflict_index      16      8  prev_log_term       16      4  crc
        24      8  conflict_term       24      8  leader_commit       20      4  chain
        32      8  rejected_index      32      8  read_round          24      4  payload length
        40      8  read_round          40      4  prev_log_chain      28      1  kind
        48      1  success             44      2  number of entries   29         payload
        49      1  is_voter            46      1  length of admits
        50      1  asks_admission      47         admits
        51      1  room                           the entries

The indexes of entries are ``prev_log_index + 1, + 2, …``, so that no bytes can say "not contiguous". A payload longer
than a piece is no part of the body: it is the next blob of the bulk (pieces.py).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from durable_raft.errors import DamagedFrame, InvariantViolation
from durable_raft.raft.messages import APPEND_ENTRIES_MAX, AppendEntries, AppendEntriesResponse
from durable_raft.raft.types import DiskRoom, Entry, Index, Term, chain_crc, entry_crc
from durable_raft.wire.fields import (
    DISK,
    ENTRY_KIND,
    ENTRY_KINDS,
    INDEX,
    INDEX_MAX,
    NUMBER,
    NUMBER_MAX,
    ROOM,
    SWITCH,
    TIME,
    TIME_MAX,
    check_fields,
)
from durable_raft.wire.pieces import PIECE_BYTES

_ANSWER: Final = struct.Struct(">QQQQQQBBBB")
_ANSWER_FIELDS: Final = (
    *("term", "match_index", "conflict_index", "conflict_term", "rejected_index", "read_round"),
    *("success", "is_voter", "asks_admission", "room"),
)
_ANSWER_CHECKS: Final = (NUMBER, INDEX, INDEX, NUMBER, INDEX, INDEX, SWITCH, SWITCH, SWITCH, ROOM)
_ROOMS: Final = tuple(DiskRoom)

_HEAD: Final = struct.Struct(">QQQQQIHB")
_HEAD_FIELDS: Final = ("term", "prev_log_index", "prev_log_term", "leader_commit", "read_round", "admits")
_HEAD_CHECKS: Final = (NUMBER, INDEX, NUMBER, INDEX, INDEX, DISK)

_ENTRY: Final = struct.Struct(">QQIIIB")
_ENTRY_FIELDS: Final = ("timestamp_ms", "kind")
_ENTRY_CHECKS: Final = (TIME, ENTRY_KIND)


# -- AppendEntriesResponse --------------------------------------------------------------------------------------------


def pack_answer(message: AppendEntriesResponse) -> bytes:
    """Return the body of ``message``."""
    term, success, match, conflict_index, conflict_term, rejected, read_round, is_voter, asks, room = message
    return _ANSWER.pack(term, match, conflict_index, conflict_term, rejected, read_round, success, is_voter, asks, room)


def unpack_answer(body: bytes, blobs: Sequence[bytes]) -> AppendEntriesResponse:
    """Return the message whose body this is; it has no blobs.

    Raises:
        DamagedFrame: it has another length, or a field is out of its range.
    """
    if len(body) != _ANSWER.size or blobs:
        raise DamagedFrame(f"AppendEntriesResponse: {len(body)} bytes and {len(blobs)} blobs, expected {_ANSWER.size}")
    fields = _ANSWER.unpack(body)
    term, match, conflict_index, conflict_term, rejected, read_round, success, is_voter, asks, room = fields
    if (
        max(term, conflict_term) > NUMBER_MAX
        or max(match, conflict_index, rejected, read_round) > INDEX_MAX
        or max(success, is_voter, asks) > 1
        or room >= len(_ROOMS)
    ):
        check_fields("AppendEntriesResponse", _ANSWER_FIELDS, _ANSWER_CHECKS, list(fields))
    return AppendEntriesResponse(
        term,
        success == 1,
        match,
        conflict_index,
        conflict_term,
        rejected,
        read_round,
        is_voter == 1,
        asks == 1,
        _ROOMS[room],
    )


# -- AppendEntries ----------------------------------------------------------------------------------------------------


def pack_append_entries(message: AppendEntries, blobs: list[bytes]) -> bytes:
    """Return the body of ``message``; payloads that are longer than a piece are appended to ``blobs``.

    Raises:
        InvariantViolation: its entries do not follow its ``prev_log_index``.
    """
    term, prev_index, prev_term, prev_chain, entries, commit, read_round, admits = message
    head = _HEAD.pack(term, prev_index, prev_term, commit, read_round, prev_chain, len(entries), len(admits))
    if not entries:
        return head + admits
    first, last = prev_index + 1, prev_index + len(entries)
    if entries[0].index != first or entries[-1].index != last:
        raise InvariantViolation(
            f"AppendEntries after {prev_index}: entries {entries[0].index}..{entries[-1].index}, "
            f"expected {first}..{last}"
        )
    parts = [head, admits]
    for entry in entries:
        payload = entry.payload
        size = len(payload)
        parts.append(_ENTRY.pack(entry.term, entry.timestamp_ms, entry.crc, entry.chain, size, entry.kind))
        (parts if size <= PIECE_BYTES else blobs).append(payload)
    return b"".join(parts)


def unpack_append_entries(body: bytes, blobs: Sequence[bytes]) -> AppendEntries:
    """Return the message of which this is the body.

    Args:
        body: of its frame; of a bulk the head.
        blobs: of the bulk.

    Raises:
        DamagedFrame: a field is out of its range; a crc, chain or order of an entry is wrong; the body, or a blob, is
            shorter or longer than it says.
    """
    if len(body) < _HEAD.size:
        raise DamagedFrame(f"AppendEntries: {len(body)} bytes, expected {_HEAD.size} at least")
    term, prev_index, prev_term, commit, read_round, chain, count, admits_bytes = _HEAD.unpack_from(body)
    at = _HEAD.size + admits_bytes
    if at > len(body):
        raise DamagedFrame(f"AppendEntries: {len(body)} bytes, expected {at} at least")
    admits = body[_HEAD.size : at]
    is_named = DISK.holds(admits)
    if max(term, prev_term) > NUMBER_MAX or max(prev_index, commit, read_round) > INDEX_MAX or not is_named:
        fields = [term, prev_index, prev_term, commit, read_round, admits]
        check_fields("AppendEntries", _HEAD_FIELDS, _HEAD_CHECKS, fields)
    if count > APPEND_ENTRIES_MAX:
        raise DamagedFrame(f"AppendEntries: {count} entries, at most {APPEND_ENTRIES_MAX} are sent at once")
    if prev_index + count > INDEX_MAX:
        raise DamagedFrame(f"AppendEntries: {count} entries after {prev_index} go beyond {INDEX_MAX}")
    entries = _cut_entries(body, at, blobs, range(prev_index + 1, prev_index + count + 1))
    _check_entries(term, prev_term, chain, entries)
    return AppendEntries(term, prev_index, prev_term, chain, tuple(entries), commit, read_round, admits)


def _cut_entries(body: bytes, at: int, blobs: Sequence[bytes], indexes: range) -> list[Entry]:
    """Return the entries that begin at ``at``, each field of its kind; whether they belong there is not looked at."""
    rows: list[Entry] = []
    blobs_left = iter(blobs)
    for index in indexes:
        payload_at = at + _ENTRY.size
        if payload_at > len(body):
            raise DamagedFrame(f"entry {index}: {len(body) - at} bytes, expected {_ENTRY.size} at least")
        term, timestamp_ms, crc, chain, size, kind = _ENTRY.unpack_from(body, at)
        if timestamp_ms > TIME_MAX or kind not in ENTRY_KINDS:
            check_fields(f"entry {index}", _ENTRY_FIELDS, _ENTRY_CHECKS, [timestamp_ms, kind])
        at = payload_at + size if size <= PIECE_BYTES else payload_at
        payload = body[payload_at:at] if size <= PIECE_BYTES else next(blobs_left, b"")
        if len(payload) != size:
            raise DamagedFrame(f"entry {index}: a payload of {len(payload)} bytes, expected {size}")
        rows.append(Entry(Index(index), term, ENTRY_KINDS[kind], timestamp_ms, payload, crc, chain))
    spare = len(body) - at + sum(map(len, blobs_left))
    if spare:
        raise DamagedFrame(f"AppendEntries: {spare} bytes behind the last of {len(indexes)} entries")
    return rows


def _check_entries(term: Term, prev_term: Term, chain: int, entries: Sequence[Entry]) -> None:
    """Check that each entry is what its checksums say, follows the one before, and is no newer than ``term``."""
    for entry in entries:
        index = entry.index
        found = entry_crc(index, entry.term, entry.kind, entry.timestamp_ms, entry.payload)
        if found != entry.crc:
            raise DamagedFrame(f"entry {index}: crc of its content {found:08x}, expected {entry.crc:08x}")
        chain = chain_crc(chain, found)
        if chain != entry.chain:
            raise DamagedFrame(f"entry {index}: chain after the entry before {chain:08x}, expected {entry.chain:08x}")
        if not prev_term <= entry.term <= term:
            raise DamagedFrame(f"entry {index}: term {entry.term}, expected [{prev_term}, {term}]")
        prev_term = entry.term
