"""The commands on string values: each reply, each error, and the limits of numbers and lengths."""

from __future__ import annotations

import random

import pytest

from durable_raft.kv.commands import COMMANDS, has_arity
from durable_raft.kv.keyspace import Keyspace
from durable_raft.kv.keyspace_commands import handlers as keyspace_handlers
from durable_raft.kv.machine import Machine
from durable_raft.kv.numbers import INT64_MAX, INT64_MIN, parse_int64
from durable_raft.kv.replies import OK, ErrorReply, Reply
from durable_raft.kv.runs import WIDTH_MAX
from durable_raft.kv.scan import ScanCursors
from durable_raft.kv.string_commands import handlers as string_handlers
from tests.kv.machines import NOW_MS, error_of, new_machine, run

NOT_AN_INTEGER = "ERR value is not an integer or out of range"


def test_every_command_of_the_table_has_one_handler() -> None:
    """The table and the machine agree on which commands there are, and none is answered by two modules."""
    keyspace = Keyspace()
    strings = string_handlers(keyspace, 1)
    keys = keyspace_handlers(keyspace, ScanCursors(random.Random(1)))
    of_strings, of_keys = ({*each.short, *each.in_steps} for each in (strings, keys))
    assert of_strings | of_keys == COMMANDS.keys()
    assert not of_strings & of_keys
    for of_module, handlers in ((of_strings, strings), (of_keys, keys)):
        for name, width in handlers.in_columns:
            assert name in of_module
            assert 1 <= width <= WIDTH_MAX
            assert has_arity(COMMANDS[name], 1 + width)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("GET city", b"Paris"),
        ("GET nosuch", None),
        ("GET empty", b""),
        ("MGET city nosuch n city", [b"Paris", None, b"10", b"Paris"]),
        ("STRLEN city", 5),
        ("STRLEN empty", 0),
        ("STRLEN nosuch", 0),
        ("SETNX city Rome", 0),
        ("SETNX empty x", 0),
        ("SETNX new Rome", 1),
        ("GETSET city Rome", b"Paris"),
        ("GETSET new Rome", None),
        ("GETDEL city", b"Paris"),
        ("GETDEL nosuch", None),
        ("APPEND city !", 6),
        ("APPEND new abc", 3),
        ("APPEND new ''", 0),
        ("INCR n", 11),
        ("INCR new", 1),
        ("DECR n", 9),
        ("DECR new", -1),
        ("INCRBY n -20", -10),
        ("DECRBY n -20", 30),
        ("DECRBY n 20", -10),
        ("MSET a 1 b 2", OK),
        ("SETEX k 1 v", OK),
        ("PSETEX k 1 v", OK),
    ],
)
def test_reply(command: str, expected: Reply) -> None:
    """Each command answers what Redis answers."""
    assert run(new_machine("SET city Paris", "SET n 10", "SET empty ''"), command) == expected


@pytest.mark.parametrize(
    ("command", "key", "value"),
    [
        ("SET k new", "k", b"new"),
        ("SETNX k new", "k", b"old"),
        ("SETNX other new", "other", b"new"),
        ("GETSET k new", "k", b"new"),
        ("GETDEL k", "k", None),
        ("APPEND k er", "k", b"older"),
        ("APPEND other er", "other", b"er"),
        ("MSET k 1 k 2", "k", b"2"),
        ("INCRBY other -5", "other", b"-5"),
        ("SETEX k 1 new", "k", b"new"),
        ("PSETEX k 1 new", "k", b"new"),
        ("GET k", "k", b"old"),
    ],
)
def test_value_afterwards(command: str, key: str, value: bytes | None) -> None:
    """Each command leaves the value that it says."""
    machine = new_machine("SET k old")
    run(machine, command)
    assert run(machine, f"GET {key}") == value


@pytest.mark.parametrize(
    ("options", "of_old", "of_none", "sets_old", "sets_none"),
    [
        ("", OK, OK, True, True),
        ("NX", None, OK, False, True),
        ("XX", OK, None, True, False),
        ("nx Nx", None, OK, False, True),
        ("GET", b"old", None, True, True),
        ("NX GET", b"old", None, False, True),
        ("GET XX", b"old", None, True, False),
        ("KEEPTTL", OK, OK, True, True),
        ("EX 5 NX", None, OK, False, True),
        ("XX PX 5 GET", b"old", None, True, False),
    ],
)
def test_set_options(options: str, of_old: Reply, of_none: Reply, sets_old: bool, sets_none: bool) -> None:
    """NX and XX decide whether SET sets; GET makes it answer the old value, set or not."""
    machine = new_machine("SET there old")
    assert run(machine, f"SET there new {options}") == of_old
    assert run(machine, "GET there") == (b"new" if sets_old else b"old")
    assert run(machine, f"SET absent new {options}") == of_none
    assert run(machine, "EXISTS absent") == sets_none


@pytest.mark.parametrize(
    "options",
    [
        "NX XX",
        "XX NX",
        "EX",
        "PX",
        "EX 5 PX 5",
        "EX 5 EXAT 5",
        "KEEPTTL EX 5",
        "EX 5 KEEPTTL",
        "PXAT 5 KEEPTTL",
        "FOO",
        "5",
        "GET EX",
        "PERSIST",
        "NX ''",
    ],
)
def test_set_syntax_error(options: str) -> None:
    """Options that exclude each other, lack their argument or are unknown are one syntax error, and nothing is set."""
    assert error_of(new_machine("SET k old EX 100"), f"SET k new {options}") == "ERR syntax error"


EX_MAX = (INT64_MAX - NOW_MS) // 1000
PX_MAX = INT64_MAX - NOW_MS


@pytest.mark.parametrize(
    ("command", "pattern"),
    [("set", "SET k new EX {}"), ("set", "SET k new EXAT {}"), ("setex", "SETEX k {} new")],
)
def test_seconds_out_of_range(command: str, pattern: str) -> None:
    """Seconds that are no positive int64, or would not be as milliseconds, are refused, and nothing is set."""
    machine = new_machine("SET k old EX 100")
    for seconds in (0, -1, INT64_MIN, INT64_MAX, INT64_MAX // 1000 + 1):
        assert error_of(machine, pattern.format(seconds)) == f"ERR invalid expire time in '{command}' command"
    for text in ("x", "1.5", "''", "' 1'", "+1", "01", str(INT64_MAX + 1)):
        assert error_of(machine, pattern.format(text)) == NOT_AN_INTEGER


@pytest.mark.parametrize(
    ("command", "pattern", "most"),
    [
        ("set", "SET k new EX {}", EX_MAX),
        ("set", "SET k new PX {}", PX_MAX),
        ("set", "SET k new EXAT {}", INT64_MAX // 1000),
        ("setex", "SETEX k {} new", EX_MAX),
        ("psetex", "PSETEX k {} new", PX_MAX),
    ],
)
def test_longest_time_to_live(command: str, pattern: str, most: int) -> None:
    """The last deadline that int64 holds is taken; one more is an error that names the command."""
    machine = new_machine("SET k old")
    assert error_of(machine, pattern.format(most + 1)) == f"ERR invalid expire time in '{command}' command"
    assert run(machine, pattern.format(most)) == OK
    assert run(machine, "GET k") == b"new"
    assert run(machine, "PTTL k") in (INT64_MAX - NOW_MS, (INT64_MAX // 1000) * 1000 - NOW_MS)


@pytest.mark.parametrize("value", ["x", "''", "1.0", "' 1'", "'1 '", "+1", "01", "-0", "1e3", str(INT64_MAX + 1)])
def test_value_that_is_no_integer_is_not_counted(value: str) -> None:
    """INCR and its kin refuse a value, and an amount, that is not a signed 64-bit integer in its one plain form."""
    machine = new_machine(f"SET k {value}", "SET n 1")
    for command in ("INCR k", "DECR k", "INCRBY k 1", "DECRBY k 1", f"INCRBY n {value}", f"DECRBY n {value}"):
        assert error_of(machine, command) == NOT_AN_INTEGER


def test_counting_reaches_the_ends_of_int64_and_stops() -> None:
    """The first and last 64-bit integers are reached; a step further is an error and changes nothing."""
    overflow = "ERR increment or decrement would overflow"
    machine = new_machine(f"SET high {INT64_MAX - 1}", f"SET low {INT64_MIN + 1}")
    assert run(machine, "INCR high") == INT64_MAX
    assert run(machine, "DECR low") == INT64_MIN
    for command in ("INCR high", "INCRBY high 1", f"INCRBY high {INT64_MAX}", "DECRBY high -1"):
        assert error_of(machine, command) == overflow
    for command in ("DECR low", "DECRBY low 1", f"INCRBY low {INT64_MIN}", f"DECRBY low {INT64_MAX}"):
        assert error_of(machine, command) == overflow
    assert run(machine, f"INCRBY high {INT64_MIN}") == -1
    assert run(machine, f"INCRBY new {INT64_MIN}") == INT64_MIN
    assert error_of(machine, f"DECRBY other {INT64_MIN}") == "ERR decrement would overflow"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"0", 0),
        (b"-1", -1),
        (b"%d" % INT64_MAX, INT64_MAX),
        (b"%d" % INT64_MIN, INT64_MIN),
        (b"%d" % (INT64_MAX + 1), None),
        (b"%d" % (INT64_MIN - 1), None),
        (b"1" * 10_000, None),
        (b"1\n", None),
        (b"-", None),
        (b"1_0", None),
        ("٣".encode(), None),
    ],
)
def test_parse_int64(text: bytes, value: int | None) -> None:
    """Exactly the decimal forms that Redis writes itself are integers."""
    assert parse_int64(text) == value


def test_mset_with_a_key_that_lacks_its_value() -> None:
    """MSET of an odd number of words is an arity error, and sets none of them."""
    assert error_of(new_machine(), "MSET a 1 b") == "ERR wrong number of arguments for 'mset' command"


def test_append_stops_at_the_longest_value() -> None:
    """A value grows to the limit exactly; a byte more is an error and changes nothing."""
    machine = Machine(random.Random(1), value_bytes_max=5)
    assert run(machine, "APPEND k abc") == 3
    assert run(machine, "APPEND k de") == 5
    assert error_of(machine, "APPEND k f") == "ERR string exceeds maximum allowed size (proto-max-bulk-len)"
    assert run(machine, "APPEND k ''") == 5


def test_keys_and_values_are_any_bytes() -> None:
    """Zero bytes, line ends and bytes that are no UTF-8 come back as they went in."""
    machine = new_machine()
    odd = bytes(range(256))
    assert machine.execute([b"set", odd, odd[::-1]]) == OK
    assert machine.execute([b"get", odd]) == odd[::-1]
    assert not isinstance(machine.execute([b"append", odd, b"\0"]), ErrorReply)
    assert machine.execute([b"mget", odd, b""]) == [odd[::-1] + b"\0", None]
