"""The reply encoder: the table of kv/replies.py, byte for byte, and read back by an independent parser (hiredis)."""

from __future__ import annotations

import enum
from typing import Any

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_raft.errors import InvariantViolation
from durable_raft.kv.replies import OK, PONG, ErrorReply, MapReply, Reply, SetReply, Simple, Verbatim
from durable_raft.wire.resp import encode_in_pieces, encode_replies, encode_reply
from durable_raft.wire.resp_replies import LARGE_BYTES

TABLE: list[tuple[Reply, bytes, bytes]] = [
    (OK, b"+OK\r\n", b"+OK\r\n"),
    (PONG, b"+PONG\r\n", b"+PONG\r\n"),
    (b"", b"$0\r\n\r\n", b"$0\r\n\r\n"),
    (b"a\r\nb", b"$4\r\na\r\nb\r\n", b"$4\r\na\r\nb\r\n"),
    (0, b":0\r\n", b":0\r\n"),
    (-(2**63), b":-9223372036854775808\r\n", b":-9223372036854775808\r\n"),
    (None, b"$-1\r\n", b"_\r\n"),
    ([], b"*0\r\n", b"*0\r\n"),
    (
        [b"a", 1, None, [OK]],
        b"*4\r\n$1\r\na\r\n:1\r\n$-1\r\n*1\r\n+OK\r\n",
        b"*4\r\n$1\r\na\r\n:1\r\n_\r\n*1\r\n+OK\r\n",
    ),
    (ErrorReply("ERR syntax error"), b"-ERR syntax error\r\n", b"-ERR syntax error\r\n"),
    (
        MapReply([(b"k", 1), (b"n", None)]),
        b"*4\r\n$1\r\nk\r\n:1\r\n$1\r\nn\r\n$-1\r\n",
        b"%2\r\n$1\r\nk\r\n:1\r\n$1\r\nn\r\n_\r\n",
    ),
    (MapReply([]), b"*0\r\n", b"%0\r\n"),
    (SetReply([b"a", None]), b"*2\r\n$1\r\na\r\n$-1\r\n", b"~2\r\n$1\r\na\r\n_\r\n"),
    (Verbatim(b"a:1\r\n"), b"$5\r\na:1\r\n\r\n", b"=9\r\ntxt:a:1\r\n\r\n"),
]


@pytest.mark.parametrize(("reply", "resp2", "resp3"), TABLE)
def test_table(reply: Reply, resp2: bytes, resp3: bytes) -> None:
    """Each kind of reply has its own bytes in RESP2 and in RESP3, inside other replies too."""
    assert encode_reply(reply, 2) == resp2
    assert encode_reply(reply, 3) == resp3
    assert encode_reply([reply, reply], 2) == b"*2\r\n" + resp2 * 2
    assert encode_reply(MapReply([(1, reply)]), 3) == b"%1\r\n:1\r\n" + resp3


def test_encode_replies_joins() -> None:
    """Several replies are their bytes, one after the other."""
    assert encode_replies([OK, 1, None], 2) == b"+OK\r\n:1\r\n$-1\r\n"
    assert encode_replies([], 3) == b""


def test_lines_stay_one_line() -> None:
    """A line end in an error or a status line becomes a blank: a client cannot forge a reply through it."""
    assert encode_reply(ErrorReply("ERR unknown command 'a\r\n+OK\r\n'"), 2) == b"-ERR unknown command 'a  +OK  '\r\n"
    assert encode_reply(Simple(b"a\r\nb"), 3) == b"+a  b\r\n"


def test_error_repeats_bytes_that_are_no_utf8() -> None:
    """Text that was decoded with surrogateescape leaves as the bytes that came; other text as UTF-8."""
    line = "ERR got " + b"\xff\xc3\xa9".decode("utf-8", "surrogateescape")
    assert encode_reply(ErrorReply(line), 2) == b"-ERR got \xff\xc3\xa9\r\n"


class _Number(enum.IntEnum):
    ONE = 1


@pytest.mark.parametrize("value", [True, 1.5, "text", bytearray(b"x"), (b"x",), _Number.ONE, [b"a", "text"]])
def test_what_is_no_reply_is_refused(value: Any) -> None:
    """A value of another type, at any depth, is our bug and not guessed at."""
    with pytest.raises(InvariantViolation, match="cannot encode a"):
        encode_reply(value, 2)


def test_unknown_protocol_is_refused() -> None:
    """There is no RESP4."""
    with pytest.raises(InvariantViolation, match="RESP4"):
        encode_reply(OK, 4)


REPLIES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(), st.binary(max_size=20), st.integers(-(2**63), 2**63 - 1), st.binary(max_size=20).map(Verbatim)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(st.binary(max_size=8), max_size=4, unique=True).map(lambda members: SetReply(list(members))),
        st.dictionaries(st.binary(max_size=8), inner, max_size=4).map(lambda pairs: MapReply(list(pairs.items()))),
    ),
    max_leaves=12,
)


def plain(reply: Any, protocol: int) -> Any:
    """Return what hiredis makes of an encoded ``reply``."""
    match reply:
        case Verbatim(text):
            return text
        case list():
            return [plain(value, protocol) for value in reply]
        case SetReply(members):
            return members if protocol == 2 else [plain(member, protocol) for member in members]
        case MapReply(pairs) if protocol == 2:
            return [value for key, inner in pairs for value in (key, plain(inner, protocol))]
        case MapReply(pairs):
            return {key: plain(value, protocol) for key, value in pairs}
    return reply


@given(reply=REPLIES, protocol=st.sampled_from([2, 3]))
@settings(max_examples=200)
def test_independent_parser_reads_it_back(reply: Reply, protocol: int) -> None:
    """Whatever is encoded, hiredis reads the same values and nothing is left over."""
    reader = hiredis.Reader()
    reader.feed(encode_reply(reply, protocol) + b"+END\r\n")
    found = reader.gets()
    assert found == plain(reply, protocol)
    assert reader.gets() == b"END"


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    "reply",
    [
        *[reply for reply, _, _ in TABLE],
        b"v" * LARGE_BYTES,
        [b"v" * LARGE_BYTES, b"small", [b"w" * LARGE_BYTES, 1, None], OK],
        [b"%d" % number for number in range(10_000)],
        [],
    ],
    ids=lambda reply: f"{type(reply).__name__}",
)
def test_pieces_are_the_whole(reply: Reply, protocol: int) -> None:
    """A reply in pieces is the same reply."""
    pieces = list(encode_in_pieces(reply, protocol))
    assert b"".join(pieces) == encode_reply(reply, protocol)
    if isinstance(reply, bytes) and len(reply) >= LARGE_BYTES:
        assert any(piece is reply for piece in pieces), "the value is copied"
