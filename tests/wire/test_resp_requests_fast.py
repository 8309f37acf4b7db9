"""The way of a request through the parsers: which one takes it, and what is left for the other."""

from __future__ import annotations

import pytest

from durable_raft.errors import ProtocolError
from durable_raft.kv.runs import WIDTH_MAX, Run, commands_of
from durable_raft.wire import resp_requests
from durable_raft.wire.resp_requests import RUN_MAX, ParserLimits, RequestParser, StrictParser, take_canonical
from tests.wire.resp_inputs import feed


def command(*args: bytes) -> bytes:
    """Return a command in canonical form."""
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args)


COMMANDS = [
    [b"PING"],
    [b""],
    [b"GET", b"k"],
    [b"SET", b"key", b""],
    [b"SET", b"key", b"v" * 1024],
    [b"SET", b"key", b"v" * 3000],
    [b"MSET", *[b"%d" % number for number in range(12)]],
    [b"x"] * 1024,
    [b"*1", b"$1"],
]
WHOLE = b"".join(command(*args) for args in COMMANDS)


@pytest.fixture
def no_joining(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the slow half of the fast parser fail: arguments without a line end must not need it."""

    def refuse(*_: object) -> None:
        raise AssertionError("arguments without a line end are joined from pieces")

    monkeypatch.setattr(resp_requests, "_join_arguments", refuse)


@pytest.mark.usefixtures("no_joining")
def test_canonical_commands_are_taken_as_they_are_split() -> None:
    """One alone, and all at once; nothing is left."""
    for args in COMMANDS:
        taken: list[Run] = []
        assert take_canonical(command(*args), taken) == b""
        assert commands_of(taken) == [args]
    taken = []
    assert take_canonical(WHOLE, taken) == b""
    assert commands_of(taken) == COMMANDS


@pytest.mark.usefixtures("no_joining")
@pytest.mark.parametrize(
    "rest", [b"*", b"PING\r\n", b"*0\r\n", b"*1025\r\n", b"*-1\r\n", b"*01\r\n$1\r\nx\r\n", b"\r\n"]
)
def test_what_is_not_canonical_is_left(rest: bytes) -> None:
    """From its first byte on, with all that follows it."""
    taken: list[Run] = []
    assert take_canonical(WHOLE + rest + WHOLE, taken) == rest + WHOLE
    assert commands_of(taken) == COMMANDS


@pytest.mark.parametrize("args", [[b"a\r\nb"], [b"\r\n"], [b"SET", b"k", b"\r\n\r\n"], [b"SET", b"a\r\n$1\r\nb", b"v"]])
def test_arguments_with_line_ends_are_joined(args: list[bytes]) -> None:
    """Whatever stands around them; incomplete ones are left."""
    data = command(*args)
    taken: list[Run] = []
    assert take_canonical(WHOLE + data + WHOLE, taken) == b""
    assert commands_of(taken) == [*COMMANDS, args, *COMMANDS]
    for length in range(1, len(data)):
        taken = []
        assert take_canonical(data[:length], taken) == data[:length]
        assert taken == []


@pytest.mark.parametrize("header", [b"$03", b"$+3", b"#3", b"3", b"$", b"$-3", b"$4", b"$2"])
def test_a_header_that_is_not_canonical_is_left(header: bytes) -> None:
    """The strict parser knows what to say of it."""
    data = b"*2\r\n$1\r\nx\r\n" + header + b"\r\nabc\r\n"
    taken: list[Run] = []
    assert take_canonical(data, taken) == data
    assert taken == []


# -- runs --------------------------------------------------------------------------------------------------------------


def runs_in(data: bytes) -> list[Run]:
    """Return what the fast parser takes, which must be all."""
    taken: list[Run] = []
    assert take_canonical(data, taken) == b""
    return taken


def pipeline(name: bytes, count: int, width: int) -> list[list[bytes]]:
    """Return commands of one name with so many arguments each."""
    return [[name, *(b"%d.%d" % (number, place) for place in range(width))] for number in range(count)]


@pytest.mark.usefixtures("no_joining")
@pytest.mark.parametrize("width", range(1, WIDTH_MAX + 1))
def test_commands_of_one_name_are_one_run(width: int) -> None:
    """As they are sent, column by column; at most ``RUN_MAX`` of them."""
    commands = pipeline(b"Set", 2 * RUN_MAX + 5, width)
    runs = runs_in(b"".join(command(*args) for args in commands))
    assert [run.length for run in runs] == [RUN_MAX, RUN_MAX, 5]
    assert commands_of(runs) == commands
    assert runs[2] == Run(b"Set", 5, [b"%d.%d" % (2 * RUN_MAX + n, place) for place in range(width) for n in range(5)])


@pytest.mark.usefixtures("no_joining")
@pytest.mark.parametrize("width", [0, WIDTH_MAX + 1])
def test_commands_without_arguments_or_with_many_are_runs_by_themselves(width: int) -> None:
    """A column of each costs more than it saves."""
    runs = runs_in(b"".join(command(*args) for args in pipeline(b"x", 5, width)))
    assert [run.length for run in runs] == [1] * 5


@pytest.mark.usefixtures("no_joining")
@pytest.mark.parametrize("other", [[b"set", b"k", b"v"], [b"SET", b"k"], [b"GET", b"k"], [b"SETEX", b"k", b"v"]])
def test_a_run_ends_where_another_name_or_number_begins(other: list[bytes]) -> None:
    """Wherever that is, and goes on behind it."""
    for at in range(12):
        commands = [*pipeline(b"SET", at, 2), other, *pipeline(b"SET", 12 - at, 2)]
        runs = runs_in(b"".join(command(*args) for args in commands))
        assert commands_of(runs) == commands
        lengths = [run.length for run in runs if (run.name, len(run.args)) != (other[0], len(other) - 1)]
        # Up to two that are alike are not worth it.
        assert sum(lengths) == 12 or other[:1] == [b"SET"]
        assert max(lengths) == max(at, 12 - at)


@pytest.mark.parametrize("value", [b"a\r\nb", b"\r\n", b"\r\n$1\r\nb"])
@pytest.mark.parametrize("at", range(6))
def test_a_run_with_a_line_end_in_it_is_taken_one_by_one(value: bytes, at: int) -> None:
    """The columns are not what they seem, wherever in the run it is."""
    commands = pipeline(b"SET", 6, 2)
    commands[at][2] = value
    assert commands_of(runs_in(b"".join(command(*args) for args in commands))) == commands


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize(("old", "new"), [(b"$3\r\nSET", b"$03\r\nSET"), (b"$3\r\nkey", b"$2\r\nkey"), (b"*3", b"*03")])
def test_a_run_with_a_wrong_header_is_left_from_there(at: int, old: bytes, new: bytes) -> None:
    """All before it are taken."""
    whole = [command(b"SET", b"key", b"%d" % number) for number in range(6)]
    whole[at] = whole[at].replace(old, new)
    taken: list[Run] = []
    assert take_canonical(b"".join(whole), taken) == b"".join(whole[at:])
    assert commands_of(taken) == [[b"SET", b"key", b"%d" % number] for number in range(at)]


@pytest.mark.parametrize("missing", [1, 2, 3, 10])
def test_a_run_ends_before_a_command_that_is_not_complete(missing: int) -> None:
    """Which is left, with nothing else."""
    commands = pipeline(b"SET", 8, 2)
    data = b"".join(command(*args) for args in commands)[:-missing]
    taken: list[Run] = []
    rest = take_canonical(data, taken)
    assert commands_of(taken) == commands[:7]
    assert rest == command(*commands[7])[:-missing]


# -- which parser ------------------------------------------------------------------------------------------------------


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Note what is given to the fast parser."""
    given: list[bytes] = []

    def take(data: bytes, runs: list[Run]) -> bytes:
        given.append(data)
        return take_canonical(data, runs)

    monkeypatch.setattr(resp_requests, "take_canonical", take)
    return given


def test_a_chunk_within_every_limit_goes_the_fast_way(fast: list[bytes]) -> None:
    """One that is longer than one of them does not: it may hold a command beyond that limit."""
    data = command(b"PING")
    for limits in (
        ParserLimits(bulk_bytes_max=len(data)),
        ParserLimits(request_bytes_max=len(data)),
        ParserLimits(args_max=len(data)),
    ):
        parser = RequestParser(limits)
        assert feed(parser, data) == [[b"PING"]]
        assert fast == [data]
        assert feed(parser, data + b"*") == [[b"PING"]]
        assert fast == [data]
        fast.clear()


@pytest.mark.parametrize(
    ("length", "line_end_at", "is_fast"),
    [
        (6144, None, True),
        (6145, None, False),
        (6145, 1024, True),
        (6145, 6143, True),
        (6145, 1023, False),
        (7000, 6144, False),
    ],
)
def test_a_chunk_of_large_arguments_goes_the_strict_way(
    fast: list[bytes], length: int, line_end_at: int | None, is_fast: bool
) -> None:
    """It is known by a stretch without a line end, in which small arguments would end."""
    body = bytearray(b"x" * length)
    body[:10] = b"*1\r\n$9000\r"
    body[10:11] = b"\n"
    if line_end_at is not None:
        body[line_end_at] = ord("\r")
    assert feed(RequestParser(), bytes(body)) == []
    assert bool(fast) is is_fast


def test_a_request_that_has_begun_is_ended_by_the_strict_parser(fast: list[bytes]) -> None:
    """What follows it goes the fast way again, though it stands in the same chunk."""
    data = command(b"SET", b"k", WHOLE)
    for cut in (1, 4, 12, len(data) - 1):
        fast.clear()
        parser = RequestParser()
        assert feed(parser, data[:cut]) == []
        assert feed(parser, data[cut:] + WHOLE) == [[b"SET", b"k", WHOLE], *COMMANDS]
        assert fast[1:] == [WHOLE]


def test_nothing_is_kept_of_what_was_parsed() -> None:
    """Neither between requests nor while one has begun."""
    strict = StrictParser(ParserLimits())
    strict.append(command(b"PING") + b"*2\r\n$4\r\nLLEN\r\n$1\r\n")
    assert strict.next_command() == [b"PING"]
    assert strict.next_command() is None
    assert strict.is_waiting
    strict.trim()
    assert (bytes(strict._buffer), strict._at) == (b"", 0)
    assert strict.is_waiting
    strict.append(b"k\r\nPI")
    assert strict.next_command() == [b"LLEN", b"k"]
    strict.trim()
    assert (bytes(strict._buffer), strict._at) == (b"PI", 0)
    assert strict.is_waiting
    assert strict.take_rest() == b"PI"
    assert not strict.is_waiting


def test_a_request_is_counted_from_its_first_byte() -> None:
    """Each anew: what was counted for the last one does not count for this one."""
    data = command(b"SET", b"key", b"value")
    strict = StrictParser(ParserLimits(request_bytes_max=len(data)))
    for _ in range(3):
        strict.append(data)
        assert strict.next_command() == [b"SET", b"key", b"value"]
    short = StrictParser(ParserLimits(request_bytes_max=len(data) - 1))
    short.append(data)
    with pytest.raises(ProtocolError, match=f"request of {len(data)} bytes or more, at most"):
        short.next_command()


def test_limits_are_what_they_were() -> None:
    """Redis's, and ours: one that changes is changed on purpose."""
    assert resp_requests.LINE_BYTES_MAX == 65_536
    assert resp_requests.ARGS_MAX == 1_048_576
    assert resp_requests.BULK_BYTES_MAX == 536_870_912
    assert ParserLimits() == ParserLimits(536_870_912, 1_073_741_824, 1_048_576)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_an_inline_line_is_as_long_as_it_may_be(line_end: bytes) -> None:
    """Its end apart, of which CR counts as a byte of the line; a blank line before it changes nothing."""
    longest = b"y" * (resp_requests.LINE_BYTES_MAX - len(line_end) + 1)
    parser = RequestParser()
    assert feed(parser, b"\n" + longest + line_end + longest + line_end) == [[longest], [longest]]
    assert feed(parser, longest + b"y" + line_end) == []
    assert "too big inline request" in str(parser.error)


def test_only_blanks_before_an_inline_command_are_left_out() -> None:
    """Any other byte belongs to its name."""
    assert feed(RequestParser(), b" \t\v\f\r?PING ?\r\n") == [[b"?PING", b"?"]]
