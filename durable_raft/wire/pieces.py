"""A message that is too large for one frame, cut into pieces, and the pieces put together again.

A link carries no frame longer than one piece, so that between two pieces of a large message a heartbeat can pass. Such
a message is a *bulk*. It consists of parts: its *head*, which is the body that a small message has, and its *blobs*,
the byte strings of it that are longer than a piece. In a head of msgpack a blob is replaced by an extension of type
``BLOB`` with its length (u32, big-endian); a head of fixed layout says the length only (fixed.py). The blobs follow in
the order of their places. So nobody copies a blob to encode it, and who receives it lays the pieces one behind the
other and has it.

On the link a bulk is one frame that announces it, a msgpack array ``[kind of the message, [length of each part]]``, and
the frames of its pieces: ``number u32``, counted from 0 over all parts, and up to ``PIECE_BYTES`` bytes of one part,
fewer only at the part's end. Frames of small messages may come between them, another bulk may not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any, Final, NamedTuple

import msgpack

from durable_raft.errors import DamagedFrame
from durable_raft.wire.messages import SNAPSHOT_RECORDS_MAX

FRAME_BODY_BYTES_MAX: Final = 256 << 10
"""Body of the longest frame of a link."""

_NUMBER: Final = struct.Struct(">I")
PIECE_BYTES: Final = FRAME_BODY_BYTES_MAX - _NUMBER.size
"""Bytes of a part in one piece, and in a message's head the longest byte string that is no blob."""

BLOB: Final = 1
"""Type of the msgpack extension that stands for a blob."""

_LENGTH_MAX: Final = 2**32 - 1
_PARTS_MAX: Final = 2 + 2 * SNAPSHOT_RECORDS_MAX
"""A head, a key to go on behind, and the keys and values of a snapshot's piece."""


class Announcement(NamedTuple):
    """What is said of a bulk before its pieces."""

    kind: int
    """Of the message."""
    lengths: list[int]
    """Of its parts, in bytes."""


class Bulk:
    """A large message that is to be sent: its parts, not copied. Several links may send it at their own paces."""

    __slots__ = ("_kind", "_parts", "_size_bytes")

    def __init__(self, kind: int, head: bytes, blobs: Sequence[bytes]) -> None:
        self._kind = kind
        self._parts = (head, *blobs)
        self._size_bytes = sum(map(len, self._parts))

    def __len__(self) -> int:
        """Return how many bytes its parts have."""
        return self._size_bytes

    def announcement(self) -> bytes:
        """Return the body of the frame that announces it."""
        body: bytes = msgpack.packb((self._kind, [len(part) for part in self._parts]))
        return body

    def pieces(self) -> Iterator[bytes]:
        """Return the bodies of the frames of its pieces, each made when it is asked for."""
        number = 0
        for part in self._parts:
            for start in range(0, len(part), PIECE_BYTES):
                yield _NUMBER.pack(number) + part[start : start + PIECE_BYTES]
                number += 1


def lift(value: bytes, blobs: list[bytes]) -> bytes | msgpack.ExtType:
    """Return what stands for ``value`` in a head; a blob is appended to ``blobs``."""
    if len(value) <= PIECE_BYTES:
        return value
    blobs.append(value)
    return msgpack.ExtType(BLOB, _NUMBER.pack(len(value)))


class Assembly:
    """The bulk that is being received on one link. The bytes of its pieces are kept, and nothing that is only said."""

    def __init__(self, bytes_max: int) -> None:
        """Take bulks of at most ``bytes_max`` bytes; 0: none."""
        self._bytes_max = bytes_max
        self._announced: Announcement | None = None
        self._number = 0
        """Of the next piece."""
        self._parts: list[bytes] = []
        """Parts that are complete."""
        self._part = BytesIO()
        self._missing = 0
        """Bytes that the part is short of."""

    @property
    def held_bytes(self) -> int:
        """Memory of the pieces that are here."""
        return sum(map(len, self._parts)) + self._part.tell()

    def begin(self, body: bytes) -> None:
        """Take the announcement of a bulk.

        Raises:
            DamagedFrame: it is none, the bulk is too large, or the bulk before it is not complete.
        """
        if self._announced is not None:
            raise DamagedFrame(f"another bulk before piece {self._number} of one of kind {self._announced.kind}")
        announced = _announcement_of(body)
        size = sum(announced.lengths)
        if size > self._bytes_max:
            raise DamagedFrame(f"a bulk of {size} bytes, at most {self._bytes_max} are taken")
        self._announced, self._number, self._parts = announced, 0, []
        self._begin_part()

    def take(self, body: bytes) -> tuple[int, bytes, list[bytes]] | None:
        """Take a piece.

        Returns:
            The kind, head and blobs of the bulk when this was its last piece.

        Raises:
            DamagedFrame: no such piece is expected.
        """
        if self._announced is None:
            raise DamagedFrame("a piece of a bulk that was not announced")
        number = int.from_bytes(body[: _NUMBER.size], "big")
        size, expected = len(body) - _NUMBER.size, min(PIECE_BYTES, self._missing)
        if number != self._number or size != expected:
            raise DamagedFrame(f"piece {number} of {size} bytes, expected piece {self._number} of {expected}")
        self._part.write(memoryview(body)[_NUMBER.size :])
        self._number += 1
        self._missing -= size
        if self._missing:
            return None
        # The bytes are handed over, not copied: the buffer is let go of.
        self._parts.append(self._part.getvalue())
        if len(self._parts) < len(self._announced.lengths):
            self._begin_part()
            return None
        (head, *blobs), self._parts, self._part = self._parts, [], BytesIO()
        kind, self._announced = self._announced.kind, None
        return kind, head, blobs

    def _begin_part(self) -> None:
        assert self._announced is not None  # noqa: S101 - both callers have seen it
        self._part = BytesIO()
        self._missing = self._announced.lengths[len(self._parts)]


def unpack_head(head: bytes, blobs: Sequence[bytes], array_max: int) -> Any:
    """Return what is packed in ``head``, the blobs in their places; no array has more than ``array_max`` elements.

    Raises:
        ValueError: it is no msgpack, or the blobs are not those that it names.
    """
    at = 0

    def blob_of(code: int, data: bytes) -> bytes:
        nonlocal at
        if code != BLOB or at >= len(blobs) or data != _NUMBER.pack(len(blobs[at])):
            raise ValueError(f"extension {code} {data.hex()} where {len(blobs) - at} of {len(blobs)} blobs are left")
        at += 1
        return blobs[at - 1]

    fields = msgpack.unpackb(head, ext_hook=blob_of, max_array_len=array_max, max_map_len=0, max_ext_len=_NUMBER.size)
    if at != len(blobs):
        raise ValueError(f"{at} of {len(blobs)} blobs have a place")
    return fields


def _announcement_of(body: bytes) -> Announcement:
    try:
        fields = msgpack.unpackb(body, max_array_len=_PARTS_MAX, max_map_len=0, max_ext_len=0)
    except ValueError as error:
        raise DamagedFrame(f"announcement: the body is no msgpack: {type(error).__name__}: {error}") from error
    if type(fields) is not list or len(fields) != 2 or type(fields[0]) is not int or type(fields[1]) is not list:
        raise DamagedFrame(f"announcement: {fields!r:.60}, expected a kind and an array of lengths")
    kind, lengths = fields
    if not lengths or not all(type(length) is int and 0 < length <= _LENGTH_MAX for length in lengths):
        raise DamagedFrame(f"announcement: lengths {lengths!r:.60}, expected integers in [1, 2^32)")
    return Announcement(kind, lengths)
