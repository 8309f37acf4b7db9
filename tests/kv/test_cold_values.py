"""Large values on the disk are read once for a command, and in one step only as much of them as a step may take."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final

import pytest

from durable_raft.kv.keyspace import DROP_MAX, DROPS_A_STEP, PAGE_KEYS, SETTLED_A_STEP, Keyspace
from durable_raft.kv.machine import Machine
from durable_raft.kv.records import make_record, value_of
from durable_raft.kv.runs import Run
from durable_raft.kv.steps import BYTES_A_STEP, KEYS_A_STEP, finish
from tests.kv.state_views import CountedView

LARGE: Final = bytes(BYTES_A_STEP // 2 + 1)
"""Two of them are more than a step may read."""
KEYS: Final = [b"large%02d" % number for number in range(40)]


def view_of_large(deadline_ms: int = 0) -> CountedView:
    """Return a state of a page of small values and, behind them, large ones."""
    small = {b"a%04d" % number: make_record(b"a%04d" % number, b"v") for number in range(2 * PAGE_KEYS)}
    return CountedView(small | {key: make_record(key, LARGE, deadline_ms) for key in KEYS})


def machine_of(view: CountedView, time_ms: int = 0) -> Machine:
    """Return a machine whose state is all on the disk."""
    return Machine(random.Random(0), base=view, time_ms=time_ms)


def bytes_in_steps(view: CountedView, steps: Iterable[object]) -> list[int]:
    """Take steps; return how many bytes of values each read."""
    found, before = [], view.bytes_read
    for _ in steps:
        found.append(view.bytes_read - before)
        before = view.bytes_read
    return [*found, view.bytes_read - before]


COMMANDS: Final[tuple[list[bytes], ...]] = (
    [b"keys", b"*"],
    [b"scan", b"0", b"count", b"1000"],
    [b"exists", *KEYS],
    [b"del", *KEYS],
    [b"mget", *KEYS],
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0].decode())
def test_a_step_reads_little_of_large_values(command: list[bytes]) -> None:
    """However many keys are looked at or named: what a step reads is what one value is more than a step may."""
    view = view_of_large()
    machine = machine_of(view)
    read = bytes_in_steps(view, machine.in_steps[command[0]](command))
    assert sum(read) >= len(KEYS) * len(LARGE)
    assert max(read) <= BYTES_A_STEP + len(LARGE)


def test_a_page_is_not_read_again() -> None:
    """What is read for a page is in it, and a scan reads everything once."""
    view = view_of_large()
    machine = machine_of(view)
    found = machine.execute([b"keys", b"*"])
    assert isinstance(found, list)
    assert len(found) == 2 * PAGE_KEYS + len(KEYS)
    assert view.bytes_read == 2 * PAGE_KEYS + len(KEYS) * len(LARGE)


def test_keys_of_all_layers_are_found_once_and_in_order() -> None:
    """Before, between, behind and in place of large ones of the base, whatever the size of a page."""
    keyspace = Keyspace(view_of_large())
    keyspace.remove(b"large05")
    keyspace.put(b"large04x", b"1", None)
    keyspace.freeze()
    keyspace.put(b"large07", b"2", None)
    keyspace.put(b"", b"3", None)
    keyspace.put(b"z", b"4", None)
    expected = {b"a%04d" % number: b"v" for number in range(2 * PAGE_KEYS)} | dict.fromkeys(KEYS, LARGE)
    del expected[b"large05"]
    expected |= {b"large04x": b"1", b"large07": b"2", b"": b"3", b"z": b"4"}
    for size in (1, 2, 7, PAGE_KEYS, 10 * PAGE_KEYS):
        found = [(key, value_of(kept)) for page in keyspace.pages(None, size) for key, kept in page]
        assert found == sorted(expected.items()), size


RUNS: Final = (
    Run(b"set", len(KEYS), [*KEYS, *[b"v"] * len(KEYS)]),
    Run(b"del", len(KEYS), KEYS),
    Run(b"exists", len(KEYS), KEYS),
    Run(b"get", len(KEYS), KEYS),
    Run(b"strlen", len(KEYS), KEYS),
    Run(b"pexpire", len(KEYS), [*KEYS, *[b"100"] * len(KEYS)]),
)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name.decode())
def test_a_run_of_commands_ends_its_step_when_much_was_read(run: Run) -> None:
    """Its replies are those of the commands one by one, and so is the state."""
    view = view_of_large()
    machine = machine_of(view)
    assert max(bytes_in_steps(view, machine.execute_run(run))) <= BYTES_A_STEP + len(LARGE)
    again, one_by_one = machine_of(view), machine_of(view)
    replies = finish(again.execute_run(run))
    expected = [one_by_one.execute(command) for command in run.rows()]
    assert (replies if isinstance(replies, list) else [replies] * run.length) == expected
    assert machine.summary() == again.summary() == one_by_one.summary()


@pytest.mark.parametrize(
    "command",
    [
        [b"set", b"large00", b"x"],
        [b"set", b"large00", b"x", b"px", b"100"],
        [b"setex", b"large00", b"100", b"x"],
        [b"psetex", b"large00", b"100", b"x"],
        [b"mset", *[part for key in KEYS for part in (key, b"v")]],
    ],
    ids=lambda command: b" ".join((command[0], *command[3:4])).decode(),
)
def test_what_is_replaced_is_not_read(command: list[bytes]) -> None:
    """Not even when keys are counted: a look at the heads tells how many there are, one look at each."""
    view = view_of_large(deadline_ms=1_000)
    machine = machine_of(view, time_ms=10)
    machine.execute(command)
    machine.execute([b"set", b"another", b"x"])
    assert view.reads == []
    for _ in range(2):
        assert machine.execute([b"dbsize"]) == 2 * PAGE_KEYS + len(KEYS) + 1
    changed = {b"another", *(KEYS if command[0] == b"mset" else KEYS[:1])}
    assert sorted(view.reads) == [("head", key) for key in sorted(changed)]


def test_keys_are_counted_in_steps() -> None:
    """However many of them were set since somebody counted."""
    machine = machine_of(view_of_large())
    keys = [b"k%05d" % number for number in range(3 * SETTLED_A_STEP)]
    machine.execute([b"mset", *[part for key in keys for part in (key, b"v")]])
    assert not machine.is_settled
    assert machine.counts == (2 * PAGE_KEYS + len(KEYS) + len(keys), 0)
    assert sum(1 for _ in machine.in_steps[b"dbsize"]([b"dbsize"])) == 2
    assert machine.is_settled


def test_expired_values_are_dropped_without_a_look_at_them() -> None:
    """Their deadlines say all that is to be known."""
    view = view_of_large(deadline_ms=100)
    machine = machine_of(view)
    machine.advance_time(100)
    assert {read[0] for read in view.reads} == {"due"}
    assert machine.summary().key_count == 2 * PAGE_KEYS


def test_they_are_dropped_by_their_number() -> None:
    """``DROPS_A_STEP`` in a step, ``DROP_MAX`` with an entry."""
    keys = [b"%d" % number for number in range(DROP_MAX + 10)]
    machine = machine_of(CountedView({key: make_record(key, b"v", 100) for key in keys}))
    assert sum(1 for _ in machine.advance_time_in_steps(100)) == DROP_MAX // DROPS_A_STEP - 1
    assert machine.summary().key_count == 10


@pytest.mark.parametrize(
    "command",
    [
        [b"append", b"large00", b"x"],
        [b"del", b"large00"],
        [b"exists", b"large00"],
        [b"expire", b"large00", b"100"],
        [b"get", b"large00"],
        [b"getdel", b"large00"],
        [b"getset", b"large00", b"x"],
        [b"persist", b"large00"],
        [b"pexpireat", b"large00", b"1"],
        [b"set", b"large00", b"x", b"get"],
        [b"set", b"large00", b"x", b"keepttl"],
        [b"set", b"large00", b"x", b"xx"],
        [b"strlen", b"large00"],
        [b"ttl", b"large00"],
        [b"type", b"large00"],
    ],
    ids=lambda command: b" ".join((command[0], *command[3:])).decode(),
)
def test_a_command_reads_a_value_once(command: list[bytes]) -> None:
    """To read it is to copy and verify many megabytes."""
    view = view_of_large(deadline_ms=1_000)
    machine_of(view, time_ms=10).execute(command)
    assert view.reads == [("get", b"large00")]


def test_a_step_names_few_keys() -> None:
    """Where nothing is read, too."""
    machine = machine_of(CountedView({}))
    keys = [b"%d" % number for number in range(3 * KEYS_A_STEP)]
    for name in (b"exists", b"del", b"mget"):
        assert sum(1 for _ in machine.in_steps[name]([name, *keys])) == 2
