"""Bytes for the request parser: known cases with what Redis 7.0 makes of them, and strategies for random ones."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from hypothesis import strategies as st

from durable_raft.errors import ProtocolError
from durable_raft.kv.runs import commands_of
from durable_raft.wire.resp_requests import ParserLimits, RequestParser, StrictParser

LINE_BYTES_MAX = 65536


class Case(NamedTuple):
    """Input, the commands in it, and the error after them (None: it is taken, or more is waited for)."""

    data: bytes
    commands: list[list[bytes]]
    error: str | None = None


MULTIBULK_LENGTH = "ERR Protocol error: invalid multibulk length"
BULK_LENGTH = "ERR Protocol error: invalid bulk length"
QUOTES = "ERR Protocol error: unbalanced quotes in request"
PING = [b"PING"]

CASES: dict[str, Case] = {
    "array": Case(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", [[b"GET", b"k"]]),
    "pipeline": Case(b"*1\r\n$4\r\nPING\r\n" * 3, [PING] * 3),
    "empty_argument": Case(b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n", [[b"ECHO", b""]]),
    "empty_name": Case(b"*1\r\n$0\r\n\r\nPING\r\n", [[b""], PING]),
    "line_end_in_argument": Case(b"*2\r\n$4\r\nECHO\r\n$6\r\na\r\nb\r\n\r\n", [[b"ECHO", b"a\r\nb\r\n"]]),
    "command_in_argument": Case(
        b"*2\r\n$4\r\nECHO\r\n$14\r\n*1\r\n$4\r\nPING\r\n\r\n", [[b"ECHO", b"*1\r\n$4\r\nPING\r\n"]]
    ),
    "array_then_inline_then_array": Case(b"*1\r\n$4\r\nPING\r\nPING\r\n*1\r\n$4\r\nPING\r\n", [PING] * 3),
    "incomplete": Case(b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPIN", [PING]),
    "incomplete_without_line_end": Case(b"*1\r\n$4\r\nPING\r", []),
    "any_byte_after_carriage_return": Case(b"*1\rX$4\rYPINGab*1\r\n$4\r\nPING\r\n", [PING, PING]),
    "any_bytes_after_argument": Case(b"*1\r\n$4\r\nPINGab*1\r\n$4\r\nPING\r\n", [PING, PING]),
    # Nothing is asked.
    "array_of_none": Case(b"*0\r\nPING\r\n", [PING]),
    "null_array": Case(b"*-1\r\nPING\r\n", [PING]),
    "negative_array": Case(b"*-10\r\nPING\r\n", [PING]),
    "blank_lines": Case(b"\r\n\n   \r\n\t\nPING\r\n", [PING]),
    # Array headers.
    "count_too_large": Case(b"*2147483648\r\n", [], MULTIBULK_LENGTH),
    "count_over_64_bits": Case(b"*99999999999999999999\r\n", [], MULTIBULK_LENGTH),
    "count_negative_over_64_bits": Case(b"*-99999999999999999999\r\n", [], MULTIBULK_LENGTH),
    "count_with_plus": Case(b"*+1\r\n", [], MULTIBULK_LENGTH),
    "count_with_leading_zero": Case(b"*01\r\n", [], MULTIBULK_LENGTH),
    "count_minus_zero": Case(b"*-0\r\n", [], MULTIBULK_LENGTH),
    "count_with_blank": Case(b"* 1\r\n", [], MULTIBULK_LENGTH),
    "count_underscored": Case(b"*1_0\r\n", [], MULTIBULK_LENGTH),
    "count_missing": Case(b"*\r\n", [], MULTIBULK_LENGTH),
    "count_no_number": Case(b"*x\r\n", [], MULTIBULK_LENGTH),
    "count_after_commands": Case(b"PING\r\n*1\r\n$4\r\nPING\r\n*x\r\nPING\r\n", [PING, PING], MULTIBULK_LENGTH),
    "count_line_longest": Case(b"*" + b"1" * (LINE_BYTES_MAX - 1), []),
    "count_line_too_long": Case(b"*" + b"1" * LINE_BYTES_MAX, [], "ERR Protocol error: too big mbulk count string"),
    # Argument headers.
    "argument_text": Case(b"*1\r\nfoo\r\n", [], "ERR Protocol error: expected '$', got 'f'"),
    "argument_after_good_one": Case(
        b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\nfooz\r\n", [], "ERR Protocol error: expected '$', got 'f'"
    ),
    "argument_line_not_ended": Case(b"*1\r\nfoo", []),
    "argument_line_end": Case(b"*1\r\n\r\n", [], "ERR Protocol error: expected '$', got ' '"),
    "argument_not_utf8": Case(b"*1\r\n\xff\r\n", [], "ERR Protocol error: expected '$', got '\udcff'"),
    "argument_array": Case(b"*1\r\n*1\r\n$1\r\na\r\n", [], "ERR Protocol error: expected '$', got '*'"),
    "argument_integer": Case(b"*1\r\n:5\r\n", [], "ERR Protocol error: expected '$', got ':'"),
    "argument_status": Case(b"*1\r\n+OK\r\n", [], "ERR Protocol error: expected '$', got '+'"),
    "argument_error": Case(b"*1\r\n-ERR\r\n", [], "ERR Protocol error: expected '$', got '-'"),
    "argument_verbatim": Case(b"*1\r\n=7\r\ntxt:abc\r\n", [], "ERR Protocol error: expected '$', got '='"),
    "argument_map": Case(b"*1\r\n%0\r\n", [], "ERR Protocol error: expected '$', got '%'"),
    "argument_big_number": Case(b"*1\r\n(123\r\n", [], "ERR Protocol error: expected '$', got '('"),
    "argument_null": Case(b"*1\r\n$-1\r\n", [], BULK_LENGTH),
    "length_no_number": Case(b"*1\r\n$x\r\n", [], BULK_LENGTH),
    "length_missing": Case(b"*1\r\n$\r\n", [], BULK_LENGTH),
    "length_leading_zero": Case(b"*1\r\n$04\r\nPING\r\n", [], BULK_LENGTH),
    "length_with_plus": Case(b"*1\r\n$+4\r\nPING\r\n", [], BULK_LENGTH),
    "length_too_large": Case(b"*1\r\n$536870913\r\n", [], BULK_LENGTH),
    "length_too_large_after_command": Case(b"*1\r\n$4\r\nPING\r\n*1\r\n$2000000000\r\n", [PING], BULK_LENGTH),
    "length_largest": Case(b"*1\r\n$536870912\r\n", []),
    "length_over_64_bits": Case(b"*1\r\n$99999999999999999999\r\n", [], BULK_LENGTH),
    "length_line_longest": Case(b"*1\r\n$" + b"1" * (LINE_BYTES_MAX - 1), []),
    "length_line_too_long": Case(
        b"*1\r\n$" + b"1" * LINE_BYTES_MAX, [], "ERR Protocol error: too big bulk count string"
    ),
    # Inline commands.
    "inline": Case(b"SET key value\r\n", [[b"SET", b"key", b"value"]]),
    "inline_line_feed_only": Case(b"PING\nPING\n", [PING, PING]),
    "inline_blanks": Case(b" \t\v\fSET\tkey   value \r\n", [[b"SET", b"key", b"value"]]),
    "inline_carriage_return_inside": Case(b"SET a\rb\r\n", [[b"SET", b"a", b"b"]]),
    "inline_vertical_tab_inside": Case(b"ECHO\va\r\n", [[b"ECHO\va"]]),
    "inline_vertical_tab_after_quotes": Case(b'ECHO "a"\v"b"\r\n', [[b"ECHO", b"a", b"b"]]),
    "inline_double_quotes": Case(
        rb'ECHO "a b\x41\xfF\n\r\t\b\a\"\\\q\x4"' + b"\r\n", [[b"ECHO", b'a bA\xff\n\r\t\b\a"\\qx4']]
    ),
    "inline_single_quotes_open_after_backslash": Case(rb"ECHO 'a\\'" + b"\r\n", [], QUOTES),
    "inline_single_quotes": Case(rb"""ECHO 'a "b\'\n'""" + b"\r\n", [[b"ECHO", rb"""a "b'\n"""]]),
    "inline_quotes_inside": Case(b"ECHO a\"b c\" d'e'\r\n", [[b"ECHO", b"ab c", b"de"]]),
    "inline_empty_quotes": Case(b"\"\" ''\r\n", [[b"", b""]]),
    "inline_quotes_open": Case(b'ECHO "a\r\n', [], QUOTES),
    "inline_single_quotes_open": Case(b"ECHO 'a\r\n", [], QUOTES),
    "inline_quotes_open_after_backslash": Case(b'ECHO "a\\"\r\n', [], QUOTES),
    "inline_backslash_at_end": Case(b'ECHO "a\\\r\n', [], QUOTES),
    "inline_quotes_not_followed_by_blank": Case(b'PING\r\nECHO "a"b\r\n', [PING], QUOTES),
    "inline_longest": Case(b"a" * LINE_BYTES_MAX, []),
    "inline_too_long": Case(b"a" * (LINE_BYTES_MAX + 1), [], "ERR Protocol error: too big inline request"),
    "http_get": Case(b"GET / HTTP/1.1\r\n\r\n", [[b"GET", b"/", b"HTTP/1.1"]]),
}
HTTP_CASES = [b"POST / HTTP/1.1\r\n", b"post\n", b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"hOsT: x\r\nPING\r\n"]


class Parsed(NamedTuple):
    """What a parser made of some input."""

    commands: list[list[bytes]]
    error: str | None
    close_silently: bool


def feed(parser: RequestParser, data: bytes) -> list[list[bytes]]:
    """Return the commands that ``parser`` finds complete with ``data``, one by one."""
    return commands_of(parser.feed(data))


def parse(chunks: list[bytes], limits: ParserLimits | None = None) -> Parsed:
    """Return what a ``RequestParser`` makes of ``chunks``."""
    parser = RequestParser(limits) if limits else RequestParser()
    commands = [command for chunk in chunks for command in feed(parser, chunk)]
    return Parsed(commands, *_error(parser.error))


def parse_strictly(data: bytes, limits: ParserLimits | None = None) -> Parsed:
    """Return what the strict parser alone makes of ``data``."""
    parser = StrictParser(limits or ParserLimits())
    parser.append(data)
    commands: list[list[bytes]] = []
    try:
        while (command := parser.next_command()) is not None:
            commands.append(command)
    except ProtocolError as error:
        return Parsed(commands, *_error(error))
    return Parsed(commands, None, close_silently=False)


def _error(error: ProtocolError | None) -> tuple[str | None, bool]:
    return (None, False) if error is None else (str(error), error.close_silently)


def cut(data: bytes, positions: list[int]) -> list[bytes]:
    """Return ``data`` in chunks that end at ``positions`` (of any order and size)."""
    ends = sorted({0, len(data), *(position % (len(data) + 1) for position in positions)})
    return [data[lo:hi] for lo, hi in pairwise(ends)]


def encode_request(args: list[bytes]) -> bytes:
    """Return ``args`` as a client sends them."""
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args)


ARGUMENTS = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"\r\n", b"\r", b"\n", b"*1\r\n$1\r\na\r\n", b"a\r\nb", b"\r\n\r\n", b"$3\r\nabc\r\n"]),
    st.integers(0, 3000).map(lambda size: b"v" * size),
)
REQUESTS = st.lists(ARGUMENTS, min_size=1, max_size=5).map(encode_request)
FRAGMENTS = st.sampled_from([*b"*$\r\n0123-+:% \t\v\"'\\xza\x00\xff"]).map(
    lambda byte: bytes([byte])
) | st.sampled_from(
    [
        *(b"\r\n", b"*1\r\n", b"*2\r\n", b"*0\r\n", b"*-1\r\n", b"$1\r\n", b"$-1\r\n", b"$0\r\n\r\n", b"$1\r\na\r\n"),
        *(
            b"+OK\r\n",
            b":1\r\n",
            b"%1\r\n",
            b"~1\r\n",
            b"=7\r\ntxt:abc\r\n",
            b"(1\r\n",
            b"_\r\n",
            b"#t\r\n",
            b",1.5\r\n",
        ),
        *(b"PING\r\n", b'"a b"', b"'a'", b"\\x41", b"*1025\r\n", b"*2000000000\r\n", b"$600000000\r\n", b"Host: x\r\n"),
    ]
)


@st.composite
def damaged_requests(draw: st.DrawFn) -> bytes:
    """Good requests with one byte replaced, removed or added."""
    data = b"".join(draw(st.lists(REQUESTS, min_size=1, max_size=4)))
    at = draw(st.integers(0, len(data) - 1))
    removed = draw(st.integers(0, 1))
    return data[:at] + draw(st.binary(max_size=1)) + data[at + removed :]


INPUTS = st.lists(
    st.one_of(REQUESTS, FRAGMENTS, damaged_requests(), st.lists(FRAGMENTS, max_size=8).map(b"".join)), max_size=8
).map(b"".join)
CUTS = st.lists(st.integers(0, 1 << 16), max_size=8)
