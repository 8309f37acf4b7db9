"""What is fed to the parsers: sound bytes that were damaged, with checksums made right again to get further."""

from __future__ import annotations

import random
import struct
from typing import Any, Final

import msgpack

from durable_raft.checksum import crc32c
from durable_raft.kv.batch import encode_batch
from durable_raft.kv.runs import Run
from durable_raft.wire.peer import HEADER_BYTES, FrameEncoder, FrameKind, encode_frame
from durable_raft.wire.pieces import Bulk
from tests.wire.peer_messages import CLUSTER, EXAMPLES

_SMALL: Final = [encode_frame(CLUSTER, message) for message in EXAMPLES.values()]
BULKS: Final = [list(FrameEncoder(CLUSTER).cut(Bulk(each[6], each[HEADER_BYTES:], ()))) for each in _SMALL]
"""The same messages as large ones come: an announcement and a piece."""

FRAMES: Final = [*_SMALL, *BULKS[4], *BULKS[5]]
"""At least one of each kind."""

_CLUSTER_AT: Final = 8
"""Where the id of the cluster stands in a frame's header."""

_FIXED: Final = (FrameKind.APPEND_ENTRIES, FrameKind.APPEND_ENTRIES_RESPONSE)

REQUESTS: Final = (
    b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n",
    b"GET key\r\n",
    b"SET \"a b\" 'c d'\r\n",
    b"*4\r\n$4\r\nMSET\r\n$1\r\na\r\n$1\r\nb\r\n$2\r\n\r\n\r\n",
)

PAYLOADS: Final = (
    encode_batch([]),
    encode_batch(
        [Run(b"set", 3, [b"a", b"b", b"c", b"1", b"2", b"3"]), Run(b"flushall", 1, []), Run(b"get", 1, [b"a"])]
    ),
    encode_batch([Run(b"incr", 200, [b"key"] * 200)]),
    encode_batch([Run(b"set", 1, [b"key", b"v" * 70_000])]),
    b"\x01" + msgpack.packb([[b"set", b"a", b"1"], [b"flushall"], [b"get", b"a"]]),
)

NUMBERS: Final = (0, 1, 2, 127, 255, 2**16, 2**31, 2**32, 2**56, 2**56 + 1, 2**63 - 1, 2**63, 2**64 - 1, -1)


def damaged(rng: random.Random, data: bytes, most: int = 4) -> bytes:
    """Return ``data`` with bits flipped, and pieces removed, doubled or put in, up to ``most`` times."""
    found = bytearray(data)
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(len(found) + 1)
        match rng.randrange(5):
            case 0 if at < len(found):
                found[at] ^= 1 << rng.randrange(8)
            case 1:
                del found[at : at + rng.randint(1, 8)]
            case 2:
                found[at:at] = rng.randbytes(rng.randint(1, 8))
            case 3:
                found[at:at] = found[at : at + rng.randint(1, 16)]
            case _:
                found[at : at + 4] = struct.pack(">I", rng.choice(NUMBERS) & 0xFFFFFFFF)
    return bytes(found)


def _value(rng: random.Random, depth: int = 0) -> Any:
    match rng.randrange(8 if depth < 3 else 5):
        case 0:
            return rng.choice(NUMBERS)
        case 1:
            return rng.randbytes(rng.choice((0, 1, 8, 15, 16, 17, 24)))
        case 2:
            return rng.choice((None, True, False, 1.5, "", "n1", "n2"))
        case 3 | 4:
            return rng.randrange(300)
        case 5:
            return {"a": _value(rng, depth + 1)}
        case _:
            return [_value(rng, depth + 1) for _ in range(rng.randrange(5))]


def frame_of(kind: int, body: bytes, flags: int = 0) -> bytes:
    """Return a frame whose checksums are right."""
    header = FRAMES[0][:6] + bytes((kind, flags)) + CLUSTER + struct.pack(">II", len(body), crc32c(body))
    return header + struct.pack(">I", crc32c(header)) + body


def frame(rng: random.Random) -> bytes:
    """Return something that may be a frame of a peer."""
    if rng.random() < 0.05:
        announcement, piece = rng.choice(BULKS)
        return announcement + piece if rng.random() < 0.2 else _altered(rng, announcement) + _altered(rng, piece)
    return _altered(rng, rng.choice(FRAMES))


def _altered(rng: random.Random, sound: bytes) -> bytes:
    choice = rng.random()
    if choice < 0.2:
        return damaged(rng, sound)
    body = sound[HEADER_BYTES:]
    kind = sound[6] if rng.random() < 0.9 else rng.randrange(256)
    if choice < 0.5:
        return frame_of(kind, damaged(rng, body))
    if sound[6] in _FIXED and choice < 0.9:
        return frame_of(kind, _renumbered(rng, body))
    try:
        fields = msgpack.unpackb(body)
    except ValueError:
        fields = body
    if choice < 0.9 and isinstance(fields, list) and fields:
        for _ in range(rng.randint(1, 3)):
            fields[rng.randrange(len(fields))] = _value(rng)
        return frame_of(kind, msgpack.packb(fields))
    if choice < 0.95:
        # Arrays in arrays that announce more than there is.
        return frame_of(kind, rng.choice((b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff", b"\x9f")) * rng.randint(1, 600))
    return frame_of(kind, msgpack.packb(_value(rng)))


def of_cluster(data: bytes, cluster: bytes) -> bytes:
    """Return frames as another cluster's nodes would say them: the checksum of each header is right where it was."""
    at = data.find(CLUSTER)
    while at >= 0:
        begin, end = at - _CLUSTER_AT, at - _CLUSTER_AT + HEADER_BYTES - 4
        header, check = data[max(0, begin) : end], data[end : end + 4]
        new_header = header.replace(CLUSTER, cluster)
        if check == struct.pack(">I", crc32c(header)):
            check = struct.pack(">I", crc32c(new_header))
        data = data[: max(0, begin)] + new_header + check + data[end + 4 :]
        at = data.find(CLUSTER, at + len(cluster))
    return data


def _renumbered(rng: random.Random, body: bytes) -> bytes:
    """Return a body of fixed layout in which some numbers are others, wherever they stand in it."""
    found = bytearray(body)
    for _ in range(rng.randint(1, 3)):
        size = rng.choice((1, 2, 4, 8))
        at = rng.randrange(len(found) - size + 1)
        found[at : at + size] = (rng.choice(NUMBERS) % (1 << 8 * size)).to_bytes(size, "big")
    return bytes(found)


def request(rng: random.Random) -> bytes:
    """Return something that may be requests of a client."""
    sound = b"".join(rng.choice(REQUESTS) for _ in range(rng.randint(1, 3)))
    if rng.random() < 0.1:
        return rng.randbytes(rng.randint(1, 40))
    if rng.random() < 0.2:
        number = str(rng.choice(NUMBERS)).encode()
        return rng.choice((b"*" + number, b"*1\r\n$" + number, b"*" + number + b"\r\n$1")) + b"\r\n" + sound
    return damaged(rng, sound)


def payload(rng: random.Random) -> bytes:
    """Return something that may be the payload of an entry."""
    choice = rng.random()
    if choice < 0.6:
        return damaged(rng, rng.choice(PAYLOADS))
    version = rng.choice((b"", b"\x01", b"\x02", b"\x02", b"\x03"))
    if choice < 0.9:
        runs = [[rng.choice((b"set", _value(rng))), _value(rng), *(_value(rng) for _ in range(rng.randrange(4)))]]
        return version + bytes(msgpack.packb(runs * rng.randrange(3)))
    return version + bytes(msgpack.packb(_value(rng)))


def pieces(rng: random.Random, data: bytes) -> list[bytes]:
    """Cut ``data`` as a network may."""
    if len(data) < 2 or rng.random() < 0.7:
        return [data]
    at = rng.randrange(1, len(data))
    return [data[:at], data[at:]]
