"""The request parser: Redis's own answers, the same in every split; limits met before memory is spent.

The fast parser and the strict one are held to each other on random input; ``test_resp_redis.py`` holds both to a real
Redis.
"""

from __future__ import annotations

import sys
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from durable_raft.wire.resp_requests import LARGE_BYTES, ParserLimits, RequestParser, take_canonical
from tests.support.growth import require_linear
from tests.support.letting_go import require_let_go
from tests.wire.resp_inputs import (
    CASES,
    CUTS,
    HTTP_CASES,
    INPUTS,
    REQUESTS,
    Case,
    cut,
    encode_request,
    feed,
    parse,
    parse_strictly,
)

ALL_CASES = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@ALL_CASES
def test_whole(case: Case) -> None:
    """Each known input gives its commands and its error when it comes in one piece."""
    assert parse([case.data])[:2] == (case.commands, case.error)


@ALL_CASES
def test_byte_by_byte(case: Case) -> None:
    """Each known input gives its commands and its error when it comes byte by byte."""
    assert parse([case.data[at : at + 1] for at in range(len(case.data))])[:2] == (case.commands, case.error)


@ALL_CASES
def test_strict_parser(case: Case) -> None:
    """The strict parser alone knows every case: the fast one adds nothing but speed."""
    assert parse_strictly(case.data)[:2] == (case.commands, case.error)


@given(data=INPUTS, cuts=CUTS)
@settings(max_examples=300)
@example(data=b"*1\r\n+foo\r\n*1\r\n=7\r\ntxt:abc\r\n", cuts=[])
@example(data=b"*1\r\n$0\r\nXY*1\r\n$1\r\na\r\n", cuts=[])
@example(data=b"*2\r\n$1\r\na\r\n*1\r\n$1\r\nb\r\n", cuts=[11])
def test_fast_equals_strict_at_every_cut(data: bytes, cuts: list[int]) -> None:
    """However the input is cut, after each chunk the commands and the error are the strict parser's for all so far."""
    parser = RequestParser()
    commands: list[list[bytes]] = []
    seen = b""
    for chunk in cut(data, cuts):
        seen += chunk
        commands += feed(parser, chunk)
        expected = parse_strictly(seen)
        assert commands == expected.commands
        assert (str(parser.error) if parser.error else None) == expected.error
        assert (parser.error is not None and parser.error.close_silently) == expected.close_silently


@given(data=INPUTS, limit=st.integers(1, 60), args_max=st.integers(1, 4), cuts=CUTS)
@settings(max_examples=300)
def test_fast_equals_strict_under_small_limits(data: bytes, limit: int, args_max: int, cuts: list[int]) -> None:
    """Limits smaller than a chunk are kept by the fast parser too."""
    limits = ParserLimits(bulk_bytes_max=limit // 2, request_bytes_max=limit, args_max=args_max)
    assert parse(cut(data, cuts), limits) == parse_strictly(data, limits)


@given(requests=st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=6), max_size=20), cuts=CUTS)
def test_round_trip(requests: list[list[bytes]], cuts: list[int]) -> None:
    """What a client encodes is what the parser returns."""
    assert parse(cut(b"".join(map(encode_request, requests)), cuts)) == (requests, None, False)


@given(data=st.lists(REQUESTS, max_size=6).map(b"".join))
def test_fast_parser_takes_all_that_is_canonical(data: bytes) -> None:
    """Well-formed requests never fall back to the strict parser, whatever their arguments hold."""
    assert take_canonical(data, []) == b""


@pytest.mark.parametrize("data", HTTP_CASES)
def test_http_closes_silently(data: bytes) -> None:
    """A browser that was made to talk to us gets no answer, and nothing after its header is executed."""
    parsed = parse([data, b"\r\nPING\r\n"])
    assert parsed.close_silently
    assert [b"PING"] not in parsed.commands


def test_tls_ends_a_connection_at_its_first_byte() -> None:
    """Where a command would begin: Redis waits for the end of a line, and the client waits for Redis."""
    error = "ERR TLS is not spoken here (tls_clients): connect without it"
    assert parse([b"\x16"]) == ([], error, False)
    assert parse([b"PING\r\n\x16\x03\x01\r\nPING\r\n"]) == ([[b"PING"]], error, False)
    assert parse([b"GET \x16\r\n"]) == ([[b"GET", b"\x16"]], None, False)


def test_ordinary_errors_do_not_close_silently() -> None:
    """A malformed request is answered before the connection closes."""
    assert parse([b"*x\r\n"]) == ([], "ERR Protocol error: invalid multibulk length", False)


def test_nothing_is_parsed_after_an_error() -> None:
    """After malformed input everything is ignored, and the error stays the first one."""
    parser = RequestParser()
    assert feed(parser, b"PING\r\n*1\r\n$4\r\nPING\r\n*x\r\nPING\r\n") == [[b"PING"], [b"PING"]]
    first = parser.error
    assert feed(parser, b"PING\r\n*1\r\nfoo\r\n") == []
    assert parser.error is first


def test_nul_is_a_byte_like_any_other_in_an_inline_command() -> None:
    """Unlike Redis, which waits for ever, a line with a NUL byte is answered."""
    assert parse([b"PING\x00 a\r\n"]).commands == [[b"PING\x00", b"a"]]


# -- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (b"*5\r\n", "invalid multibulk length"),
        (b"*1\r\n$101\r\n", "invalid bulk length"),
        (b"*4\r\n$100\r\n" + b"x" * 102 + b"$90\r\n", "request of 209 bytes or more, at most 200 are taken"),
    ],
)
def test_announced_length_over_a_limit_is_refused_with_its_header(header: bytes, error: str) -> None:
    """The header alone is enough for the refusal: no byte of the body is waited for."""
    limits = ParserLimits(bulk_bytes_max=100, request_bytes_max=200, args_max=4)
    assert parse([header[:-1]], limits).error is None
    assert parse([header], limits).error == f"ERR Protocol error: {error}"


def test_count_that_cannot_fit_is_refused_with_its_header() -> None:
    """Even empty arguments take six bytes each, so a count alone can be too much."""
    limits = ParserLimits(request_bytes_max=200)
    assert parse([b"*32\r\n"], limits).error is None
    error = "ERR Protocol error: request of 203 bytes or more, at most 200 are taken"
    assert parse([b"*33\r\n"], limits).error == error


def test_requests_within_the_limits_are_taken() -> None:
    """Each limit is the largest that is taken, and they hold for each request by itself."""
    request = encode_request([b"x" * 50, b"y" * 36])
    assert len(request) == 104
    limits = ParserLimits(bulk_bytes_max=50, request_bytes_max=104, args_max=2)
    assert parse([request * 20], limits) == ([[b"x" * 50, b"y" * 36]] * 20, None, False)


def test_default_limits_are_those_of_redis() -> None:
    """512 MiB for an argument; 1,048,576 arguments, Redis's limit until 6.2."""
    assert parse([b"*1\r\n$536870912\r\n"]).error is None
    assert parse([b"*1\r\n$536870913\r\n"]).error is not None
    assert parse([b"*1048576\r\n"]).error is None
    assert parse([b"*1048577\r\n"]).error is not None


# -- memory and time ------------------------------------------------------------------------------------------------


def _held_bytes(parser: RequestParser) -> int:
    strict = parser._strict
    large_bytes = 0 if strict._large is None else sys.getsizeof(strict._large)
    return sys.getsizeof(strict._buffer) + large_bytes + sum(map(len, strict._args))


def test_large_argument_is_not_copied_when_it_is_whole() -> None:
    """With the last byte of 16 MiB hardly any memory is taken: what is handed out is what they were laid into."""
    parser = RequestParser()
    request = encode_request([b"SET", b"k", b"v" * (16 << 20)])
    tracemalloc.start()
    try:
        for chunk in cut(request[:-1], list(range(0, len(request), 16384))):
            assert parser.feed(chunk) == []
        assert parser.held_bytes >= 16 << 20
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        [run] = parser.feed(request[-1:])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(run.args[1]) == 16 << 20
    assert peak - before < 1 << 20
    assert parser.held_bytes == 0


@pytest.mark.parametrize("size", [LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, 2 * LARGE_BYTES])
def test_large_argument_cut_anywhere_is_the_same(size: int) -> None:
    """In its header, in it, at its end, in the line end behind it: it and what follows are what was sent."""
    value = b"\r\n" + b"v" * (size - 4) + b"\r\n"
    requests = [[b"SET", b"k", value], [b"MSET", b"a", value, b"b", b"2"], [b"PING"]]
    data = b"".join(map(encode_request, requests))
    end = len(encode_request(requests[0]))
    for edge in (end - size - 2, end):
        for at in range(edge - 10, edge + 6):
            assert parse(cut(data, [at])).commands == requests
            assert parse(cut(data, [at, at + 1, end + 2000, end + size])).commands == requests


def test_large_request_leaves_no_buffer_behind() -> None:
    """Once a large request is handed out, the parser holds nothing of it."""
    parser = RequestParser()
    request = encode_request([b"SET", b"k", b"v" * (8 << 20)])
    got = [command for chunk in cut(request, list(range(0, len(request), 65536))) for command in feed(parser, chunk)]
    assert len(got[0][2]) == 8 << 20
    assert _held_bytes(parser) < 200
    feed(parser, b"*1\r\n$4\r\nPI")
    assert _held_bytes(parser) < 200


def test_request_is_not_held_twice() -> None:
    """While a request is incomplete, its arguments are held once: as arguments or as bytes to come, never both."""
    parser = RequestParser()
    request = encode_request([b"SET", b"k", b"v" * 1_000_000])
    feed(parser, request[:50])
    feed(parser, request[50:-2])
    assert _held_bytes(parser) < 1_000_000 * 1.2
    parser = RequestParser()
    request = encode_request([b"MSET", b"k", b"v" * 1_000_000, b"k2", b"v2"])
    feed(parser, request[:50])
    feed(parser, request[50:-3])
    assert parser._strict._args[2] == b"v" * 1_000_000
    assert _held_bytes(parser) < 1_000_000 * 1.2


def test_error_leaves_no_buffer_behind() -> None:
    """What was buffered before an error is let go, and nothing is buffered after it."""
    parser = RequestParser()
    feed(parser, b"*2\r\n$1000000\r\n" + b"x" * 1_000_002 + b"fo")
    feed(parser, b"o\r\n" + b"x" * 1_000_000)
    feed(parser, b"x" * 1_000_000)
    assert parser.error is not None
    assert _held_bytes(parser) < 200


@pytest.mark.parametrize("value", [b"v" * (8 << 20), b"\r\n" * (4 << 20)], ids=["plain", "line ends"])
def test_large_argument_in_small_chunks_is_linear(value: bytes) -> None:
    """8 MiB in chunks of 512 bytes take some 16 times as long as half a MiB; copied anew with each chunk, 256 times."""

    def work(size: int) -> None:
        part = value[:size]
        request = encode_request([b"SET", b"k", part])
        assert parse([request[at : at + 512] for at in range(0, len(request), 512)]).commands == [[b"SET", b"k", part]]

    require_linear(work, len(value))


def test_longest_line_byte_by_byte() -> None:
    """The longest inline command that is taken is taken byte by byte too, in a time that grows with its length."""

    def work(size: int) -> None:
        assert parse([b"a"] * size + [b"\n"]).commands == [[b"a" * size]]

    require_linear(work, 65536)


def test_a_refused_parser_is_let_go_of_at_once() -> None:
    """The error it keeps holds nothing of it: a flood of bad requests would wait for the garbage collector."""

    def refused() -> RequestParser:
        parser = RequestParser()
        feed(parser, b"*1\r\nfoo\r\n")
        assert parser.error is not None
        return parser

    require_let_go(refused)
