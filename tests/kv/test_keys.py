"""The commands on keys whatever their values: DEL, UNLINK, EXISTS, TYPE, KEYS, DBSIZE, FLUSHALL, FLUSHDB."""

from __future__ import annotations

import pytest

from durable_raft.kv.errors import PATTERN_TOO_LONG
from durable_raft.kv.glob import PATTERN_BYTES_MAX
from durable_raft.kv.replies import OK, Reply, Simple
from durable_raft.kv.steps import finish
from tests.kv.machines import error_of, new_machine, run


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("DEL a", 1),
        ("DEL a b nosuch", 2),
        ("DEL a a", 1),
        ("DEL nosuch", 0),
        ("UNLINK a b nosuch a", 2),
        ("EXISTS a", 1),
        ("EXISTS a b nosuch", 2),
        ("EXISTS a a", 2),
        ("TYPE a", Simple(b"string")),
        ("TYPE nosuch", Simple(b"none")),
        ("DBSIZE", 3),
        ("KEYS *", [b"a", b"b", b"empty"]),
        ("KEYS ?", [b"a", b"b"]),
        ("KEYS nosuch", []),
        ("FLUSHALL", OK),
        ("FLUSHALL ASYNC", OK),
        ("FLUSHDB sync", OK),
    ],
)
def test_reply(command: str, expected: Reply) -> None:
    """Each command answers what Redis answers; KEYS in the order of the keys."""
    assert run(new_machine("MSET b 2 a 1 empty ''"), command) == expected


@pytest.mark.parametrize("name", ["DEL", "UNLINK"])
def test_deleting_leaves_the_other_keys(name: str) -> None:
    """Only the keys that were named are gone, an empty value counting as a value."""
    machine = new_machine("MSET a 1 b 2 c 3 empty ''")
    assert run(machine, f"{name} a c empty") == 3
    assert run(machine, "KEYS *") == [b"b"]


def test_keys_are_in_the_order_of_their_bytes() -> None:
    """Order is by unsigned bytes, a prefix before what continues it."""
    machine = new_machine()
    keys = [b"\xff", b"b", b"aa", b"a", b"", b"\x80", b"A", b"a\0"]
    for key in keys:
        machine.execute([b"set", key, b""])
    assert machine.execute([b"keys", b"*"]) == sorted(keys)


@pytest.mark.parametrize("name", ["FLUSHALL", "FLUSHDB"])
def test_flush_empties_the_machine(name: str) -> None:
    """No key and no deadline is left; the time stays; anything but SYNC or ASYNC is a syntax error."""
    machine = new_machine("MSET a 1 b 2", "SET c 3 EX 5")
    for options in ("foo", "ASYNC SYNC", "''"):
        assert error_of(machine, f"{name} {options}") == "ERR syntax error"
    before = machine.time_ms
    assert run(machine, name) == OK
    assert run(machine, "DBSIZE") == machine.summary().expires_count == 0
    assert machine.next_deadline_ms() is None
    assert machine.digest() == new_machine().digest()
    assert machine.time_ms == before


def test_counts() -> None:
    """The machine counts its keys, those with a deadline, and those of a slot."""
    machine = new_machine("MSET foo 1 {foo}bar 2 other 3", "EXPIRE foo 5")
    assert (machine.summary().key_count, machine.summary().expires_count) == (3, 1)
    assert finish(machine.count_keys_in_slot(12182)) == 2
    assert finish(machine.count_keys_in_slot(0)) == 0


def test_pattern_that_would_take_long_to_compile_is_refused() -> None:
    """KEYS and SCAN MATCH take patterns up to a bound that keeps the loop responsive."""
    machine = new_machine("set a 1")
    longest, too_long = b"*" + b"a" * (PATTERN_BYTES_MAX - 1), b"*" + b"a" * PATTERN_BYTES_MAX
    assert machine.execute([b"keys", longest]) == []
    for command in ([b"keys", too_long], [b"scan", b"0", b"match", too_long]):
        assert machine.execute(command) == PATTERN_TOO_LONG
