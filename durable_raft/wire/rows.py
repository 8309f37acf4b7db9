"""A message as the array that its body is (peer.py says which)."""

from __future__ import annotations

from typing import Final

from durable_raft.raft.configuration import encode
from durable_raft.raft.messages import FetchEntries, FetchEntriesResponse, RequestVote
from durable_raft.raft.types import DEFAULT_PRIORITY, Configuration, Entry, LogPoint
from durable_raft.raft.versions import FIRST
from durable_raft.wire.messages import HelloReply, PeerMessage, SnapshotChunk
from durable_raft.wire.pieces import lift

_WITHOUT_TRANSFER: Final = RequestVote._fields.index("is_transfer")
_WITHOUT_REMOVED: Final = HelloReply._fields.index("is_removed")
_WITHOUT_PRIORITY: Final = HelloReply._fields.index("priority")
_AFTER_KEY_AT: Final = SnapshotChunk._fields.index("after_key")
_CONFIGURATION_AT: Final = SnapshotChunk._fields.index("configuration")


def fields_of(message: PeerMessage, blobs: list[bytes]) -> tuple[object, ...]:
    """Return what is packed of ``message``; what is longer than a piece goes into ``blobs``."""
    if isinstance(message, FetchEntries):
        return ([_point_row(point) for point in message.wanted],)
    if isinstance(message, FetchEntriesResponse):
        rows = [_entry_row(entry, blobs) for entry in message.entries]
        absent = [_point_row(point) for point in message.absent]
        return (message.term, rows, absent, _point_row(message.snapshot), _point_row(message.base))
    if isinstance(message, RequestVote) and not message.is_transfer:
        return message[:_WITHOUT_TRANSFER]
    if isinstance(message, HelloReply) and message.priority == DEFAULT_PRIORITY:
        return message[:_WITHOUT_PRIORITY] if message.is_removed else message[:_WITHOUT_REMOVED]
    if isinstance(message, SnapshotChunk):
        keys = [lift(key, blobs) for key in message.keys]
        values = [lift(value, blobs) for value in message.values]
        after_key = lift(message.after_key, blobs)
        rest = message[_AFTER_KEY_AT + 3 : _CONFIGURATION_AT]
        return (*message[:_AFTER_KEY_AT], after_key, keys, values, *rest, *_when_changed(message))
    return message


def _entry_row(entry: Entry, blobs: list[bytes]) -> tuple[object, ...]:
    payload = lift(entry.payload, blobs)
    return (entry.index, entry.term, entry.kind, entry.timestamp_ms, entry.crc, entry.chain, payload)


def _when_changed(chunk: SnapshotChunk) -> tuple[object, ...]:
    """Return the last fields of a piece of a snapshot, which nodes that changed nothing do without."""
    configuration = () if chunk.configuration is None else _configuration_row(chunk.configuration)
    if chunk.version > FIRST:
        return (configuration, chunk.version)
    return (configuration,) if configuration else ()


def _configuration_row(configuration: Configuration) -> tuple[int, bytes]:
    return (configuration.index, encode(configuration))


def _point_row(point: LogPoint) -> tuple[int, int, int]:
    return (point.index, point.term, point.chain)
