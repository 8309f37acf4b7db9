"""Times to live: every command that gives, shows, keeps or takes one, and the moment at which a key is gone."""

from __future__ import annotations

import pytest

from durable_raft.kv.keyspace import TIDY_PIECE
from durable_raft.kv.numbers import INT64_MAX, INT64_MIN
from durable_raft.kv.replies import OK, Reply
from tests.kv.machines import NOW_MS, error_of, new_machine, run, run_at

NOW_S = NOW_MS // 1000


@pytest.mark.parametrize(
    ("command", "left_ms"),
    [
        ("SET k v EX 100", 100_000),
        ("SET k v PX 100", 100),
        (f"SET k v EXAT {NOW_S + 7}", 7000),
        (f"SET k v PXAT {NOW_MS + 7}", 7),
        ("SET k v ex 3", 3000),
        ("SETEX k 100 v", 100_000),
        ("PSETEX k 100 v", 100),
        ("EXPIRE k 100", 100_000),
        ("PEXPIRE k 100", 100),
        (f"EXPIREAT k {NOW_S + 7}", 7000),
        (f"PEXPIREAT k {NOW_MS + 7}", 7),
        ("SET k v KEEPTTL", 50_000),
        ("APPEND k 1", 50_000),
        ("INCR k", 50_000),
        ("DECRBY k 5", 50_000),
        ("SETNX k 5", 50_000),
        ("SET k v NX", 50_000),
        ("SET k v NX EX 9", 50_000),
        ("GET k", 50_000),
        ("SET k v", -1),
        ("SET k v GET", -1),
        ("GETSET k v", -1),
        ("MSET k v", -1),
        ("PERSIST k", -1),
        ("GETDEL k", -2),
        ("DEL k", -2),
        ("FLUSHALL", -2),
    ],
)
def test_time_to_live_afterwards(command: str, left_ms: int) -> None:
    """Each command gives, keeps or takes the deadline of a key that had 50 s left."""
    machine = new_machine("SET k 1 EX 50")
    run(machine, command)
    assert run(machine, "PTTL k") == left_ms
    assert machine.summary().expires_count == (left_ms > 0)


def test_a_key_made_again_has_no_deadline_left_from_before() -> None:
    """A deleted key's deadline does not come back to the next key of that name."""
    for command in ("DEL k", "GETDEL k", "UNLINK k", "FLUSHDB", "EXPIRE k 0"):
        machine = new_machine("SET k v EX 50", command, "APPEND k v")
        assert run(machine, "TTL k") == -1
        assert run_at(machine, 60_000, "GET k") == b"v"


def test_key_is_gone_when_the_time_reaches_the_deadline() -> None:
    """A key lives while the time is before its deadline, not at it; every command then takes it for absent."""
    cases: list[tuple[str, Reply, Reply]] = [
        ("GET k", b"v", None),
        ("EXISTS k", 1, 0),
        ("PTTL k", 1, -2),
        ("STRLEN k", 1, 0),
        ("KEYS *", [b"k"], []),
        ("DBSIZE", 1, 0),
        ("SETNX k new", 0, 1),
        ("PERSIST k", 1, 0),
        ("DEL k", 1, 0),
        ("GETDEL k", b"v", None),
        ("APPEND k v", 2, 1),
        ("EXPIRE k 100", 1, 0),
    ]
    for command, there, gone in cases:
        assert run_at(new_machine("SET k v PX 1000"), 999, command) == there, command
        assert run_at(new_machine("SET k v PX 1000"), 1000, command) == gone, command


def test_only_the_present_deadline_counts() -> None:
    """A deadline that was moved or taken away does not end the key at the old time."""
    machine = new_machine("SET later v PX 10", "PEXPIRE later 1000", "SET never v PX 10", "PERSIST never")
    run(machine, "SET sooner v PX 1000")
    run(machine, "PEXPIRE sooner 10")
    assert run_at(machine, 10, "KEYS *") == [b"later", b"never"]
    assert run_at(machine, 999, "EXISTS later never") == 2
    assert run_at(machine, 1000, "KEYS *") == [b"never"]


def test_a_deadline_that_is_not_in_the_future_removes_the_key() -> None:
    """SET and EXPIRE with a deadline at or before now answer success, and the key is gone at once."""
    for command in (f"SET k new EXAT {NOW_S}", "SET k new PXAT 1", "SET k new EXAT 1"):
        machine = new_machine("SET k v EX 50")
        assert run(machine, command) == OK
        assert run(machine, "EXISTS k") == 0
        assert machine.summary().key_count == machine.summary().expires_count == 0
    for command in (f"EXPIREAT k {NOW_S}", "PEXPIREAT k -5", "EXPIRE k 0", "PEXPIRE k -1", f"PEXPIRE k {INT64_MIN}"):
        machine = new_machine("SET k v EX 50")
        assert run(machine, command) == 1
        assert run(machine, "EXISTS k") == 0
        assert machine.summary().key_count == machine.summary().expires_count == 0


def test_set_with_a_past_deadline_and_get_answers_the_old_value() -> None:
    """GET is about what was there before, even when the new value is gone at once."""
    machine = new_machine("SET k old")
    assert run(machine, "SET k new GET PXAT 1") == b"old"
    assert run(machine, "GET k") is None


@pytest.mark.parametrize(
    ("condition", "none", "same", "later", "earlier"),
    [
        ("", 1, 1, 1, 1),
        ("NX", 1, 0, 0, 0),
        ("XX", 0, 1, 1, 1),
        ("GT", 0, 0, 1, 0),
        ("LT", 1, 0, 0, 1),
        ("XX GT", 0, 0, 1, 0),
        ("xx lt", 0, 0, 0, 1),
        ("GT GT", 0, 0, 1, 0),
    ],
)
def test_expire_conditions(condition: str, none: int, same: int, later: int, earlier: int) -> None:
    """NX, XX, GT and LT compare with the present deadline; no deadline counts as one infinitely far away."""
    for unit, name in ((1, "EXPIRE"), (1000, "PEXPIRE")):
        machine = new_machine("SET never v")
        assert run(machine, f"{name} never {50 * unit} {condition}") == none
        assert run(machine, "TTL never") == (50 if none else -1)
        for seconds, expected in ((50, same), (51, later), (49, earlier)):
            machine = new_machine("SET k v EX 50")
            assert run(machine, f"{name} k {seconds * unit} {condition}") == expected
            assert run(machine, "TTL k") == (seconds if expected else 50)


def test_condition_that_fails_keeps_a_key_from_a_past_deadline() -> None:
    """A refused EXPIRE does not remove the key, though the deadline has passed."""
    machine = new_machine("SET k v EX 50", "SET never v")
    assert run(machine, "EXPIRE k -1 NX") == run(machine, "EXPIRE k -1 GT") == run(machine, "EXPIRE never -1 XX") == 0
    assert run(machine, "EXISTS k never") == 2
    assert run(machine, "EXPIRE k -1 LT") == run(machine, "EXPIRE never -1 LT") == 1
    assert run(machine, "EXISTS k never") == 0


@pytest.mark.parametrize("name", ["expire", "pexpire", "expireat", "pexpireat"])
def test_expire_errors(name: str) -> None:
    """Options come first, then the number, then its range; whether the key is there is not looked at."""
    machine = new_machine("SET k v EX 50")
    for key in ("k", "nosuch"):
        assert error_of(machine, f"{name} {key} 5 FOO") == "ERR Unsupported option FOO"
        assert error_of(machine, f"{name} {key} x NX Foo") == "ERR Unsupported option Foo"
        for options in ("NX XX", "NX GT", "lt nx"):
            line = error_of(machine, f"{name} {key} 5 {options}")
            assert line == "ERR NX and XX, GT or LT options at the same time are not compatible"
        line = error_of(machine, f"{name} {key} x GT LT")
        assert line == "ERR GT and LT options at the same time are not compatible"
        for number in ("x", "''", "1.5", str(INT64_MAX + 1)):
            assert error_of(machine, f"{name} {key} {number}") == "ERR value is not an integer or out of range"


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("expire", -(-INT64_MIN // 1000), (INT64_MAX - NOW_MS) // 1000),
        ("expireat", -(-INT64_MIN // 1000), INT64_MAX // 1000),
        ("pexpire", None, INT64_MAX - NOW_MS),
        ("pexpireat", None, None),
    ],
)
def test_expire_range(name: str, least: int | None, most: int | None) -> None:
    """The first and last number whose deadline int64 holds are taken; a step further is an error."""
    invalid = f"ERR invalid expire time in '{name}' command"
    machine = new_machine("SET k v")
    if most is not None:
        assert error_of(machine, f"{name} k {most + 1}") == invalid
    assert run(machine, f"{name} k {INT64_MAX if most is None else most}") == 1
    if least is not None:
        assert error_of(machine, f"{name} k {least - 1}") == invalid
    assert run(machine, f"{name} k {INT64_MIN if least is None else least}") == 1
    assert run(machine, "EXISTS k") == 0


def test_ttl_is_rounded_to_the_nearest_second_and_pttl_is_exact() -> None:
    """TTL rounds halves up, so a fresh EX 1 shows 1; no deadline is -1 and no key -2."""
    machine = new_machine("SET k v PX 1500", "SET never v")
    assert (run(machine, "TTL k"), run(machine, "PTTL k")) == (2, 1500)
    assert (run_at(machine, 1, "TTL k"), run(machine, "PTTL k")) == (1, 1499)
    assert run_at(machine, 1000, "TTL k") == 1
    assert run_at(machine, 1001, "TTL k") == 0
    assert run(machine, "TTL never") == run(machine, "PTTL never") == -1
    assert run(machine, "TTL nosuch") == run(machine, "PTTL nosuch") == -2


def test_persist_answers_whether_there_was_a_deadline() -> None:
    """PERSIST answers 1 only for a key that had one."""
    machine = new_machine("SET k v EX 5", "SET never v")
    assert [run(machine, f"PERSIST {key}") for key in ("k", "k", "never", "nosuch")] == [1, 0, 0, 0]


def test_next_deadline_is_the_earliest_that_counts() -> None:
    """What the machine reports as its next deadline ignores deadlines that were moved, removed or have passed."""
    machine = new_machine()
    assert machine.next_deadline_ms() is None
    for command, expected in [
        ("SET a v PX 300", 300),
        ("SET b v PX 200", 200),
        ("PEXPIRE b 400", 300),
        ("PERSIST a", 400),
        ("SET c v PX 100", 100),
        ("DEL c", 400),
        ("SET c v PX 100", 100),
    ]:
        run(machine, command)
        assert machine.next_deadline_ms() == NOW_MS + expected, command
    machine.advance_time(NOW_MS + 100)
    assert machine.next_deadline_ms() == NOW_MS + 400
    machine.advance_time(NOW_MS + 400)
    assert machine.next_deadline_ms() is None


def test_a_long_row_of_deadlines_that_count_no_more_holds_nobody_up() -> None:
    """It is dropped in pieces: by whoever asks for the next deadline, and by an entry in steps."""
    machine = new_machine()
    keys = 3 * TIDY_PIECE
    for number in range(keys):
        run(machine, f"SET k{number} v PX {number + 1}")
    for number in reversed(range(keys)):
        run(machine, f"PEXPIRE k{number} 100000")
    soon = machine.next_deadline_ms()
    assert soon is not None
    assert soon < NOW_MS + keys, "earlier than any key expires, and no later"
    steps = sum(1 for _ in machine._keyspace.advance_time_in_steps(NOW_MS + keys))
    assert steps >= 1
    assert machine.next_deadline_ms() == NOW_MS + 100_000
    assert run(machine, "DBSIZE") == keys
