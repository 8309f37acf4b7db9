"""A message as the array that its body is (peer.py says which)."""

from __future__ import annotations

from typing import Final

from durable_raft.errors import InvariantViolation
from durable_raft.raft.messages import AppendEntries, FetchEntries, FetchEntriesResponse
from durable_raft.raft.types import Entry, LogPoint
from durable_raft.wire.messages import PeerMessage, SnapshotChunk
from durable_raft.wire.pieces import lift

ENTRIES_AT: Final = AppendEntries._fields.index("entries")
_AFTER_KEY_AT: Final = SnapshotChunk._fields.index("after_key")


def fields_of(message: PeerMessage, blobs: list[bytes]) -> tuple[object, ...]:
    """Return what is packed of ``message``; what is longer than a piece goes into ``blobs``."""
    if isinstance(message, AppendEntries):
        return _append_entries_fields(message, blobs)
    if isinstance(message, FetchEntries):
        return ([_point_row(point) for point in message.wanted],)
    if isinstance(message, FetchEntriesResponse):
        rows = [(entry.index, *_entry_row(entry, blobs)) for entry in message.entries]
        absent = [_point_row(point) for point in message.absent]
        return (message.term, rows, absent, _point_row(message.snapshot), _point_row(message.base))
    if isinstance(message, SnapshotChunk):
        keys = [lift(key, blobs) for key in message.keys]
        values = [lift(value, blobs) for value in message.values]
        after_key = lift(message.after_key, blobs)
        return (*message[:_AFTER_KEY_AT], after_key, keys, values, *message[_AFTER_KEY_AT + 3 :])
    return message


def _append_entries_fields(message: AppendEntries, blobs: list[bytes]) -> tuple[object, ...]:
    entries = message.entries
    if not entries:
        return message
    first, last = message.prev_log_index + 1, message.prev_log_index + len(entries)
    if entries[0].index != first or entries[-1].index != last:
        raise InvariantViolation(
            f"AppendEntries after {message.prev_log_index}: entries {entries[0].index}..{entries[-1].index}, "
            f"expected {first}..{last}"
        )
    return (*message[:ENTRIES_AT], [_entry_row(entry, blobs) for entry in entries], *message[ENTRIES_AT + 1 :])


def _entry_row(entry: Entry, blobs: list[bytes]) -> tuple[object, ...]:
    return (entry.term, entry.kind, entry.timestamp_ms, entry.crc, entry.chain, lift(entry.payload, blobs))


def _point_row(point: LogPoint) -> tuple[int, int, int]:
    return (point.index, point.term, point.chain)
