"""The table of commands and the errors for requests that fit none of it, held against redis-server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from durable_raft.kv.commands import COMMANDS, check_arity, first_key, unknown_command, wrong_arity
from durable_raft.kv.replies import ErrorReply
from durable_raft.wire.resp import encode_reply
from tests.kv.redis_side import SideBySide
from tests.support.redis_oracle import RedisOracle, running_redis


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisOracle]:
    """Yield a connection to a redis-server that the tests of this file share."""
    with running_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def both(oracle: RedisOracle) -> Iterator[SideBySide]:
    """Yield an empty machine and an empty redis-server."""
    sides = SideBySide(oracle)
    yield sides
    sides.close()


@pytest.mark.parametrize("name", sorted(COMMANDS), ids=bytes.decode)
def test_table_says_what_redis_says(oracle: RedisOracle, name: bytes) -> None:
    """Arity, flags and the places of the keys are those of COMMAND INFO."""
    info = oracle.ask(b"COMMAND", b"INFO", name)
    assert isinstance(info, list)
    assert info[0] is not None, f"redis-server does not know {name!r}"
    shown_name, arity, flags, *places = info[0][:6]
    spec = COMMANDS[name]
    assert (spec.name, spec.arity, [spec.first_key, spec.last_key, spec.key_step]) == (shown_name, arity, places)
    assert set(spec.flags) == set(flags)
    assert spec.is_write == (b"write" in flags)
    assert spec.needs_memory == (b"denyoom" in flags)


@pytest.mark.parametrize("name", sorted(COMMANDS), ids=bytes.decode)
def test_wrong_number_of_arguments(both: SideBySide, name: bytes) -> None:
    """One argument too few, and one too many where there is a most, get Redis's error."""
    spec = COMMANDS[name]
    wrong = [abs(spec.arity) - 1] if abs(spec.arity) > 1 else []
    wrong += [spec.arity + 1] if spec.arity > 0 else []
    for count in wrong:
        args = [name.upper(), *[b"1"] * (count - 1)]
        assert check_arity(spec, args) == wrong_arity(name)
        assert both.of_redis(args) == encode_reply(wrong_arity(name), 2)
    right = [name, *[b"1"] * (abs(spec.arity) - 1)]
    assert check_arity(spec, right) is None
    assert (check_arity(spec, [*right, b"1"]) is None) == (spec.arity < 0)


@pytest.mark.parametrize(
    "args",
    [
        [b"nosuch"],
        [b"NoSuch", b"a", b"b"],
        [b"", b""],
        [b"x" * 127],
        [b"x" * 128, b"y"],
        [b"x" * 129, b"y" * 200],
        [b"nosuch", b"y" * 124, b"z"],
        [b"nosuch", b"y" * 125, b"z"],
        [b"nosuch", b"y" * 126, b"z"],
        [b"nosuch", b"y" * 128, b"z"],
        [b"nosuch", *[b"ab"] * 60],
        [b"nosuch", b"a\r\nb"],
        [b"no\r\nsuch"],
        [b"nosuch", "é".encode() * 62, b"z" * 9],
        [b"nosuch", "é".encode() * 100, b"z"],
        [b"nosuch", b"x" + "é".encode() * 100],
        ["é".encode() * 100],
        [b"\xff\xfe", b"\x80" * 200],
    ],
)
def test_unknown_command(both: SideBySide, args: list[bytes]) -> None:
    """The error shows the name and the first arguments, cut after 128 bytes just where Redis cuts them."""
    assert encode_reply(unknown_command(args), 2) == both.of_redis(args)


def test_errors_are_replies() -> None:
    """A client's mistake is a reply with the code ERR, not an exception."""
    assert wrong_arity(b"get") == ErrorReply("ERR wrong number of arguments for 'get' command")
    assert unknown_command([b"x"]).line.startswith("ERR unknown command 'x'")


@pytest.mark.parametrize(
    ("args", "key"),
    [
        ([b"get", b"k"], b"k"),
        ([b"mset", b"a", b"1", b"b", b"2"], b"a"),
        ([b"del", b"", b"b"], b""),
        ([b"keys", b"*"], None),
        ([b"scan", b"0"], None),
        ([b"dbsize"], None),
        ([b"flushall"], None),
    ],
)
def test_first_key(args: list[bytes], key: bytes | None) -> None:
    """The key that decides where a request belongs is its first; a command without keys has none."""
    assert first_key(COMMANDS[args[0]], args) == key


def test_table_is_by_its_commands_names() -> None:
    """Names are lower case and stand for themselves; a command either reads or writes."""
    for name, spec in COMMANDS.items():
        assert name == spec.name == name.lower()
        assert (b"readonly" in spec.flags) != spec.is_write
