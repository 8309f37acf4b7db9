"""Replies out: the values of kv/replies.py as RESP2 or RESP3 bytes.

Source: https://redis.io/docs/latest/develop/reference/protocol-spec/. The table of what becomes what stands in
kv/replies.py. An encoder is looked up by the exact type of a value, which is faster than a chain of tests and refuses
what is not a reply (a bool, a float, an IntEnum) instead of guessing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeGuard

from durable_raft.errors import InvariantViolation
from durable_raft.kv.long_values import LongValue
from durable_raft.kv.replies import OK, ErrorReply, MapReply, Reply, SetReply, Simple, Verbatim

RESP2: Final = 2
RESP3: Final = 3

LARGE_BYTES: Final = 1 << 16
"""From here on a value is a piece by itself: copying it costs more than another piece does."""

ELEMENTS_A_PIECE: Final = 256
"""Elements of a list that are encoded together, in less than a tenth of a millisecond unless they are long."""

_OK_LINE: Final = b"+OK\r\n"

_Encode = Callable[[Any], bytes]

_LINE_ENDS_TO_SPACES: Final = bytes.maketrans(b"\r\n", b"  ")
"""A line end inside a line would let a client's own bytes, repeated in an error, forge the next reply."""


def encode_reply(reply: Reply, protocol: int) -> bytes:
    """Return ``reply`` as bytes of RESP ``protocol`` (2 or 3).

    Raises:
        InvariantViolation: a value, at any depth, that is not a reply, or another protocol.
    """
    try:
        return _ENCODERS[protocol][type(reply)](reply)
    except KeyError:
        raise InvariantViolation(f"cannot encode a {type(reply).__name__} as RESP{protocol}: {reply!r:.100}") from None


def encode_replies(replies: Iterable[Reply], protocol: int) -> bytes:
    """Return ``replies``, one after the other, as bytes of RESP ``protocol``; raises as ``encode_reply``."""
    encoders = _ENCODERS[protocol]
    try:
        # Most replies to writes are this one.
        return b"".join([_OK_LINE if reply is OK else encoders[type(reply)](reply) for reply in replies])
    except KeyError:
        return b"".join([encode_reply(reply, protocol) for reply in replies])


def is_large(reply: Reply) -> TypeGuard[bytes | LongValue]:
    """Return whether a reply is one value that is better not copied."""
    return (type(reply) is bytes and len(reply) >= LARGE_BYTES) or type(reply) is LongValue


def encode_in_pieces(reply: Reply, protocol: int) -> Iterator[bytes]:
    """Yield the bytes of ``reply`` in pieces, none of which took long to make: a large value is not copied.

    Raises as ``encode_reply``.
    """
    if is_large(reply):
        yield b"$%d\r\n" % len(reply)
        yield from (reply,) if isinstance(reply, bytes) else reply.pieces()
        yield b"\r\n"
    elif type(reply) is list:
        yield b"*%d\r\n" % len(reply)
        for at in range(0, len(reply), ELEMENTS_A_PIECE):
            yield from _elements(reply[at : at + ELEMENTS_A_PIECE], protocol)
    else:
        yield encode_reply(reply, protocol)


def _elements(elements: list[Reply], protocol: int) -> Iterator[bytes]:
    """Yield elements of a list: small ones together."""
    small: list[Reply] = []
    for element in elements:
        if type(element) is list or is_large(element):
            yield encode_replies(small, protocol)
            small = []
            yield from encode_in_pieces(element, protocol)
        else:
            small.append(element)
    if small:
        yield encode_replies(small, protocol)


def _simple(reply: Simple) -> bytes:
    return b"+%b\r\n" % reply.text.translate(_LINE_ENDS_TO_SPACES)


def _error(reply: ErrorReply) -> bytes:
    # Bytes of a client that are no UTF-8 travel through str as surrogates and leave as they came.
    line = reply.line.encode("utf-8", "surrogateescape")
    return b"-%b\r\n" % line.translate(_LINE_ENDS_TO_SPACES)


def _bulk(reply: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(reply), reply)


def _long(reply: LongValue) -> bytes:
    return _bulk(bytes(reply))


def _integer(reply: int) -> bytes:
    return b":%d\r\n" % reply


def _null_2(reply: None) -> bytes:  # noqa: ARG001 - the one value of its type
    return b"$-1\r\n"


def _null_3(reply: None) -> bytes:  # noqa: ARG001 - the one value of its type
    return b"_\r\n"


def _verbatim_2(reply: Verbatim) -> bytes:
    return _bulk(reply.text)


def _verbatim_3(reply: Verbatim) -> bytes:
    return b"=%d\r\ntxt:%b\r\n" % (len(reply.text) + len(b"txt:"), reply.text)


def _aggregate(marker: bytes, replies: list[Reply], protocol: int) -> bytes:
    return b"%b%d\r\n%b" % (marker, len(replies), encode_replies(replies, protocol))


def _flat(reply: MapReply) -> list[Reply]:
    return [value for pair in reply.pairs for value in pair]


def _array_2(reply: list[Reply]) -> bytes:
    return _aggregate(b"*", reply, RESP2)


def _array_3(reply: list[Reply]) -> bytes:
    return _aggregate(b"*", reply, RESP3)


def _map_2(reply: MapReply) -> bytes:
    return _aggregate(b"*", _flat(reply), RESP2)


def _map_3(reply: MapReply) -> bytes:
    return b"%%%d\r\n%b" % (len(reply.pairs), encode_replies(_flat(reply), RESP3))


def _set_2(reply: SetReply) -> bytes:
    return _aggregate(b"*", reply.members, RESP2)


def _set_3(reply: SetReply) -> bytes:
    return _aggregate(b"~", reply.members, RESP3)


_BOTH: Final[dict[type, _Encode]] = {Simple: _simple, ErrorReply: _error, bytes: _bulk, LongValue: _long, int: _integer}

_ENCODERS: Final[dict[int, dict[type, _Encode]]] = {
    RESP2: {
        **_BOTH,
        type(None): _null_2,
        Verbatim: _verbatim_2,
        list: _array_2,
        MapReply: _map_2,
        SetReply: _set_2,
    },
    RESP3: {
        **_BOTH,
        type(None): _null_3,
        Verbatim: _verbatim_3,
        list: _array_3,
        MapReply: _map_3,
        SetReply: _set_3,
    },
}
