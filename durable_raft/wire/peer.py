"""Frames between nodes: the messages of raft/messages.py and the handshake of a link, as checked bytes and back.

One frame (big-endian)::

    offset  bytes  field
         0      4  magic           b"DRpf"
         4      1  frame version   5; the first five bytes are the same in every version
         5      1  checksum        algorithm id of checksum.py
         6      1  kind            FrameKind
         7      1  flags           TAGGED (1): a tag follows the body; else 0
         8     16  cluster id
        24      4  body length     bytes
        28      4  body crc        of the body
        32      4  header crc      of the 32 bytes before it
        36         body
                   tag             16 bytes, when TAGGED (proof.py)

The header has a checksum of its own, because a length must be believed before the body is there: were a damaged length
noticed only with the body, a link could wait for bytes that nobody sends, and look alive all the while.

On a link whose ends have proven the cluster's secret to each other every frame behind the Proof is ``TAGGED``, on any
other none is. Neither passes for the other. Whoever has no secret configured never sends or is sent such a frame, nor
the kinds of the proof, so programs of before need not know them.

A message whose body would be longer than one piece travels in several frames (pieces.py). The bodies of AppendEntries
and its answer have a fixed layout (fixed.py). Any other is a msgpack array of the message's fields in the order of its
class; the last field of a RequestVote is there only when it is True, and the last two of a HelloReply only when they
say something. The configuration of a SnapshotChunk is there only when the members were changed, and its version, behind
that, only when it is above 1; then no configuration is ``[]``. A point of the log is ``[index, term, chain]`` in it, an
entry ``[index, term, kind, timestamp_ms, crc, chain, payload]``, and a configuration ``[index, payload]``, as in its
entry.

This is the gateway for what comes from other nodes. What ``FrameParser`` returns has these properties, which all others
may assume: 1. every field is of its type, every number in [0, 2^63), every index at most 2^56, every checksum in
[0, 2^32); 2. entries are contiguous, their crc and chain are those of their content, following ``prev_log_chain``;
3. the terms of entries do not fall, begin at ``prev_log_term`` or above, and end at the message's term or below; 4. the
configuration of a snapshot is lawful, and of no place behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final, cast

import msgpack

from durable_raft.checksum import ALGORITHM_CRC32C, crc32c
from durable_raft.errors import (
    DamagedFrame,
    ForeignCluster,
    ForgedFrame,
    MalformedConfiguration,
    PeerError,
    UnknownFrameVersion,
)
from durable_raft.raft.configuration import decode
from durable_raft.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    FetchEntries,
    FetchEntriesResponse,
    Resume,
)
from durable_raft.raft.types import Configuration, Entry, Index, Life, LogPoint, Term, entry_crc
from durable_raft.wire.fields import (
    ENTRY_KIND,
    ENTRY_KINDS,
    INDEX,
    LIVES_MAX,
    NONCE,
    NUMBER,
    PAYLOAD,
    SUM,
    TIME,
    check_fields,
)
from durable_raft.wire.fixed import pack_answer, pack_append_entries, unpack_answer, unpack_append_entries
from durable_raft.wire.messages import (
    FetchSnapshot,
    FrameKind,
    Hello,
    HelloReply,
    NodeMessage,
    PeerMessage,
    SnapshotChunk,
    StateHash,
)
from durable_raft.wire.pieces import FRAME_BODY_BYTES_MAX, Assembly, Bulk, unpack_head
from durable_raft.wire.proof import TAG_BYTES, Opener, frame_digest
from durable_raft.wire.rows import fields_of
from durable_raft.wire.shapes import SHAPES

__all__ = [
    "FetchSnapshot",
    "FrameEncoder",
    "FrameKind",
    "FrameParser",
    "Hello",
    "HelloReply",
    "NodeMessage",
    "PeerMessage",
    "SnapshotChunk",
    "StateHash",
    "decode_body",
    "encode_frame",
]

MAGIC: Final = b"DRpf"
FRAME_VERSION: Final = 5
PLAIN: Final = 0
TAGGED: Final = 1
HEADER_BYTES: Final = 36
_VERSION_AT: Final = len(MAGIC)
_HEADER: Final = struct.Struct(">4sBBBB16sII")
_CRC: Final = struct.Struct(">I")

# Asked for each frame; to look up the member of an enum takes Python 3.11 as long as a small function.
_PIECE: Final = FrameKind.PIECE
_BULK: Final = FrameKind.BULK
_PROOF: Final = FrameKind.PROOF
_APPEND_ENTRIES: Final = FrameKind.APPEND_ENTRIES
_APPEND_ENTRIES_RESPONSE: Final = FrameKind.APPEND_ENTRIES_RESPONSE


# -- encoding -------------------------------------------------------------------------------------------------------


def encode_frame(cluster_id: bytes, message: PeerMessage, flags: int = PLAIN) -> bytes:
    """Return ``message`` as the frames, mostly one, of the cluster with the 16-byte id ``cluster_id``.

    Behind a frame with the flag ``TAGGED`` whoever sends it puts its tag.

    Raises:
        InvariantViolation: the entries of an AppendEntries do not follow its ``prev_log_index``.
    """
    return b"".join(FrameEncoder(cluster_id, flags).frames(message))


class FrameEncoder:
    """Frames of one cluster. It remembers the newest message's: a leader tells all followers the same."""

    def __init__(self, cluster_id: bytes, flags: int = PLAIN) -> None:
        self._cluster_id = cluster_id
        self._flags = flags
        self._message: PeerMessage | None = None
        self._encoded: bytes | Bulk = b""
        self._digested: bytes = b""
        self._digest = frame_digest(b"")
        """Of the frame before it."""

    def encode(self, message: PeerMessage) -> bytes | Bulk:
        """Return ``message`` as a frame or, when it is too large for one, as a bulk; raises as ``encode_frame``."""
        if type(message) is not type(self._message) or message != self._message:
            self._message, self._encoded = None, self._encode(message)
            self._message = message
        return self._encoded

    def frames(self, message: PeerMessage) -> Iterator[bytes]:
        """Return the frames of ``message``, each made when it is asked for."""
        encoded = self.encode(message)
        if isinstance(encoded, Bulk):
            yield from self.cut(encoded)
        else:
            yield encoded

    def cut(self, bulk: Bulk) -> Iterator[bytes]:
        """Return the frames of ``bulk``, each made when it is asked for."""
        yield self._frame(FrameKind.BULK, bulk.announcement())
        for piece in bulk.pieces():
            yield self._frame(FrameKind.PIECE, piece)

    def digest(self, frame: bytes) -> bytes:
        """Return what the tag of ``frame`` is made over; that, too, is the same on all links."""
        if frame is not self._digested:
            self._digested, self._digest = frame, frame_digest(frame)
        return self._digest

    def _encode(self, message: PeerMessage) -> bytes | Bulk:
        blobs: list[bytes] = []
        kind = _KINDS[type(message)]
        body = _pack(message, blobs)
        if blobs or len(body) > FRAME_BODY_BYTES_MAX:
            return Bulk(kind, body, blobs)
        return self._frame(kind, body)

    def _frame(self, kind: FrameKind, body: bytes) -> bytes:
        header = _HEADER.pack(
            MAGIC, FRAME_VERSION, ALGORITHM_CRC32C, kind, self._flags, self._cluster_id, len(body), crc32c(body)
        )
        return b"".join((header, _CRC.pack(crc32c(header)), body))


def _pack(message: PeerMessage, blobs: list[bytes]) -> bytes:
    """Return the body of ``message``; byte strings that are longer than a piece are appended to ``blobs``."""
    if isinstance(message, AppendEntriesResponse):
        return pack_answer(message)
    if isinstance(message, AppendEntries):
        return pack_append_entries(message, blobs)
    body: bytes = msgpack.packb(fields_of(message, blobs))
    return body


# -- frames ---------------------------------------------------------------------------------------------------------


def _like(error: PeerError) -> PeerError:
    """Return the same error without its traceback."""
    return type(error)(*error.args)


class FrameParser:
    """The frames of one direction of one link, fed by hand."""

    def __init__(self, cluster_id: bytes, body_bytes_max: int, bulk_bytes_max: int = 0) -> None:
        """Take frames of ``cluster_id`` (16 bytes).

        Args:
            cluster_id: of 16 bytes.
            body_bytes_max: length of the longest body of a frame.
            bulk_bytes_max: length of the largest message that may come in pieces; 0: none may.
        """
        self._cluster_id = cluster_id
        self._body_bytes_max = body_bytes_max
        self._assembly = Assembly(bulk_bytes_max)
        self._buffer = bytearray()
        """The beginning of a frame, when the bytes so far end inside one."""
        self._wanted = 0
        """Length of the buffer at which there is something new to look at."""
        self._error: PeerError | None = None
        self._opener: Opener | None = None
        """Checks the tag that each frame has; None: none has."""
        self._is_halted = False
        """Whether a Proof was returned, and nothing behind it is read before its keys are here."""

    @property
    def held_bytes(self) -> int:
        """Memory of what has come in and is not complete."""
        return len(self._buffer) + self._assembly.held_bytes

    def widen(self, body_bytes_max: int, bulk_bytes_max: int) -> None:
        """Take larger messages from now on: whoever sends them has said who it is."""
        self._body_bytes_max = body_bytes_max
        self._assembly = Assembly(bulk_bytes_max)

    def secure(self, opener: Opener) -> list[PeerMessage]:
        """Have every frame behind the Proof pass ``opener``; return the messages that have come; raises as ``feed``."""
        self._opener, self._is_halted = opener, False
        return self.feed(b"")

    def feed(self, data: bytes) -> list[PeerMessage]:
        """Take the next bytes and return the messages that are now complete, in order.

        A Proof is the last that is returned until ``secure``: how to read what follows it depends on it.

        Once it raised, it raises the same error for ever. Messages complete before the damage in the same ``data`` are
        dropped with it: the link is, and Raft is made for lost messages.

        Raises:
            DamagedFrame: a checksum, length or shape is wrong; an entry's crc or chain is not that of its content; a
                piece is not the one that was announced; nobody took the Proof before it.
            ForgedFrame: the tag of a frame is missing or wrong.
            UnknownFrameVersion: a frame version or checksum algorithm this build does not know.
            ForeignCluster: a frame of another cluster.
        """
        if self._error is not None:
            raise _like(self._error)
        chunk: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._wanted:
                return []
            chunk, self._buffer = self._buffer, bytearray()
        try:
            if self._is_halted:
                raise DamagedFrame("a frame behind a proof that was not asked for")
            return self._take_frames(chunk)
        except PeerError as error:
            # Its traceback would keep this parser and what it was fed until the garbage collector comes.
            self._error = _like(error)
            self._buffer, self._assembly = bytearray(), Assembly(0)
            raise

    def _take_frames(self, chunk: bytes | bytearray) -> list[PeerMessage]:
        messages: list[PeerMessage] = []
        opener, at = self._opener, 0
        while at < len(chunk):
            body_at = at + HEADER_BYTES
            if body_at > len(chunk):
                self._check_beginning(bytes(chunk[at:]))
                self._wanted = 0  # Every byte may show that this is no frame, so that nobody waits for the rest.
                break
            kind, body_bytes, body_crc = self._read_header(bytes(chunk[at:body_at]))
            body_end = body_at + body_bytes
            end = body_end if opener is None else body_end + TAG_BYTES
            if end > len(chunk):
                self._wanted = end - at
                break
            body = chunk[body_at:body_end] if isinstance(chunk, bytes) else bytes(memoryview(chunk)[body_at:body_end])
            crc = crc32c(body)
            if crc != body_crc:
                raise DamagedFrame(f"body of {body_bytes} bytes: crc {crc:08x}, expected {body_crc:08x}")
            if opener is not None:
                opener.check(frame_digest(memoryview(chunk)[at:body_end]), bytes(chunk[body_end:end]))
            message = self._take_body(kind, body)
            if message is not None:
                messages.append(message)
            at = end
            if kind == _PROOF:
                self._is_halted, self._wanted = True, 0
                break
        if at < len(chunk):
            self._buffer += memoryview(chunk)[at:]
        return messages

    def _take_body(self, kind: int, body: bytes) -> PeerMessage | None:
        """Return the message that is complete with this frame, if one is."""
        if kind == _PIECE:
            bulk = self._assembly.take(body)
            return None if bulk is None else decode_body(*bulk)
        if kind == _BULK:
            self._assembly.begin(body)
            return None
        return decode_body(kind, body)

    def _check_beginning(self, header: bytes) -> None:
        """Check what is the same in every version: the magic and the version, as far as they are there."""
        found = header[:_VERSION_AT]
        if not MAGIC.startswith(found):
            raise DamagedFrame(f"a frame begins with {MAGIC!r}, found {found!r}")
        if len(header) > _VERSION_AT and header[_VERSION_AT] != FRAME_VERSION:
            raise UnknownFrameVersion(f"frame version {header[_VERSION_AT]}, known {FRAME_VERSION}")

    def _refuse_flags(self, flags: int) -> None:
        """Say what is wrong with the flags of a frame."""
        if flags not in (PLAIN, TAGGED):
            raise DamagedFrame(f"flags {flags:#04x}, known {PLAIN:#04x} and {TAGGED:#04x}")
        if flags == PLAIN:
            raise ForgedFrame("a frame without a tag on a link on which the cluster secret was proven")
        raise DamagedFrame("a frame with a tag on a link on which no cluster secret was proven")

    def _read_header(self, header: bytes) -> tuple[int, int, int]:
        """Return kind, body length and body crc."""
        magic, version, algorithm, kind, flags, cluster_id, body_bytes, body_crc = _HEADER.unpack_from(header)
        if magic != MAGIC or version != FRAME_VERSION:
            self._check_beginning(header)
        if algorithm != ALGORITHM_CRC32C:
            raise UnknownFrameVersion(f"checksum algorithm {algorithm}, known {ALGORITHM_CRC32C}")
        crc = crc32c(header[: _HEADER.size])
        (expected,) = _CRC.unpack_from(header, _HEADER.size)
        if crc != expected:
            raise DamagedFrame(f"frame header: crc {crc:08x}, expected {expected:08x}")
        if cluster_id != self._cluster_id:
            raise ForeignCluster(f"a frame of cluster {cluster_id.hex()}, this is cluster {self._cluster_id.hex()}")
        if flags != (PLAIN if self._opener is None else TAGGED):
            self._refuse_flags(flags)
        if body_bytes > self._body_bytes_max:
            raise DamagedFrame(f"body of {body_bytes} bytes, at most {self._body_bytes_max} are taken")
        return kind, body_bytes, body_crc


# -- bodies ---------------------------------------------------------------------------------------------------------


_KINDS: Final[dict[type, FrameKind]] = {
    AppendEntries: FrameKind.APPEND_ENTRIES,
    AppendEntriesResponse: FrameKind.APPEND_ENTRIES_RESPONSE,
    **{shape.message: FrameKind(kind) for kind, shape in SHAPES.items()},
}

_CONFIGURATION_AT: Final = SnapshotChunk._fields.index("configuration")

_ENTRY_FIELDS: Final = ("term", "kind", "timestamp_ms", "crc", "chain", "payload")
_ENTRY_CHECKS: Final = (NUMBER, ENTRY_KIND, TIME, SUM, SUM, PAYLOAD)


def decode_body(kind: int, body: bytes, blobs: Sequence[bytes] = ()) -> PeerMessage:
    """Return the message whose frame had ``kind`` and ``body``, everything checked (see the module docstring).

    Args:
        kind: of the message.
        body: of its frame; of a bulk the head.
        blobs: of the bulk.

    Raises:
        DamagedFrame: an unknown kind, a body of another shape, a wrong crc, chain or order of an entry.
    """
    if kind == _APPEND_ENTRIES_RESPONSE:
        return unpack_answer(body, blobs)
    if kind == _APPEND_ENTRIES:
        return unpack_append_entries(body, blobs)
    shape = SHAPES.get(kind)
    if shape is None:
        raise DamagedFrame(f"frame kind {kind}, known {min(FrameKind)}..{max(FrameKind)}")
    message, checks, array_max, optional = shape
    try:
        fields = unpack_head(body, blobs, array_max)
    except ValueError as error:
        what = f"{type(error).__name__}: {error}"
        raise DamagedFrame(f"{message.__name__}: the body is no msgpack of this kind: {what}") from error
    if type(fields) is list and len(checks) - optional <= len(fields) < len(checks):
        checks = checks[: len(fields)]
    check_fields(message.__name__, message._fields[: len(checks)], checks, fields)
    if message is Resume:
        fields[1] = _decode_lives(fields[1])
    elif message is FetchEntries:
        fields = [tuple(_decode_point(row) for row in fields[0])]
    elif message is FetchEntriesResponse:
        term, entries, absent, snapshot, base = fields
        points = tuple(_decode_point(row) for row in absent)
        fields = [term, tuple(map(_decode_entry, entries)), points, _decode_point(snapshot), _decode_point(base)]
    elif message is SnapshotChunk and len(fields) > _CONFIGURATION_AT:
        row, is_last = fields[_CONFIGURATION_AT], len(fields) == _CONFIGURATION_AT + 1
        fields[_CONFIGURATION_AT] = _decode_configuration(row, fields[0]) if row or is_last else None
    decoded: PeerMessage = message(*fields)
    if isinstance(decoded, SnapshotChunk):
        _check_records(decoded)
    return decoded


def _check_records(chunk: SnapshotChunk) -> None:
    """Check that a piece of a snapshot has as many of each part; whoever stores a record checks its own checksum."""
    counts = {len(chunk.keys), len(chunk.values), len(chunk.deadlines_ms), len(chunk.checksums)}
    if len(counts) != 1:
        raise DamagedFrame(f"SnapshotChunk: {counts} keys, values, deadlines and checksums, expected as many of each")


def _decode_lives(rows: list[Any]) -> tuple[Life, ...]:
    if not 1 <= len(rows) <= LIVES_MAX:
        raise DamagedFrame(f"Resume: {len(rows)} lives, expected 1 to {LIVES_MAX}")
    for row in rows:
        check_fields("life", Life._fields, (INDEX, NONCE), row)
    return tuple(Life(*row) for row in rows)


def _decode_point(row: object) -> LogPoint:
    check_fields("point of the log", ("index", "term", "chain"), (INDEX, NUMBER, SUM), row)
    return LogPoint(*cast("tuple[Index, Term, int]", row))


def _decode_configuration(row: object, last_included_index: Index) -> Configuration:
    """Decode the configuration of a snapshot; whether it is the one that counts there, the log has to tell."""
    check_fields("configuration", ("index", "payload"), (INDEX, PAYLOAD), row)
    index, payload = cast("tuple[Index, bytes]", row)
    if not 0 < index <= last_included_index:
        raise DamagedFrame(f"SnapshotChunk: the configuration at {index} in a snapshot at {last_included_index}")
    try:
        return decode(index, payload)
    except MalformedConfiguration as error:
        raise DamagedFrame(f"SnapshotChunk: {error}") from error


def _decode_entry(row: Any) -> Entry:
    """Decode an entry that stands alone: its crc is checked, its chain value by whoever asked for it."""
    check_fields("entry", ("index", *_ENTRY_FIELDS), (INDEX, *_ENTRY_CHECKS), row)
    index, term, kind, timestamp_ms, crc, chain, payload = row
    found = entry_crc(index, term, kind, timestamp_ms, payload)
    if found != crc:
        raise DamagedFrame(f"entry {index}: crc of its content {found:08x}, expected {crc:08x}")
    return Entry(Index(index), Term(term), ENTRY_KINDS[kind], timestamp_ms, payload, crc=crc, chain=chain)
