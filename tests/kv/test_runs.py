"""Runs: the same commands in columns and one by one, and the same replies and state from both."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_raft.kv.machine import COMMANDS_A_STEP, PLAIN_A_STEP
from durable_raft.kv.replies import OK, Reply, Simple
from durable_raft.kv.runs import WIDTH_MAX, Run, commands_of, joined, may_join
from durable_raft.kv.steps import BYTES_A_STEP, Replies, finish
from tests.kv.machines import NOW_MS, new_machine, run
from tests.support.batches import runs_of

COMMANDS = st.lists(
    st.lists(st.sampled_from([b"", b"a", b"bb"]), min_size=1, max_size=WIDTH_MAX + 3), min_size=1, max_size=30
)


def in_a_list(replies: Replies, count: int) -> list[Reply]:
    """Return one reply for each command."""
    return [replies] * count if isinstance(replies, Simple) else replies


@given(COMMANDS)
def test_runs_are_the_commands_in_order(commands: list[list[bytes]]) -> None:
    """Nothing is lost or moved; those that may be joined are."""
    runs = list(runs_of(commands))
    assert commands_of(runs) == commands
    for one, other in pairwise(runs):
        assert one.name != other.name or not may_join(one, other)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, WIDTH_MAX))
def test_joined_runs_are_one_run(lengths: list[int], width: int) -> None:
    """Whatever their lengths; the name is the one that is given."""
    numbers = iter(range(10_000))
    runs = [Run(b"X", length, [b"%d" % next(numbers) for _ in range(length * width)]) for length in lengths]
    one = joined(b"x", runs)
    assert (one.name, one.length, one.width) == (b"x", sum(lengths), width)
    assert [command[1:] for command in commands_of([one])] == [command[1:] for command in commands_of(runs)]
    assert all(command[0] == b"x" for command in commands_of([one]))


def test_what_may_not_be_joined() -> None:
    """Commands of another number of arguments, without any, or with many."""
    assert may_join(Run(b"x", 2, [b"a"] * 4), Run(b"x", 3, [b"a"] * 6))
    assert not may_join(Run(b"x", 2, [b"a"] * 4), Run(b"x", 3, [b"a"] * 3))
    assert not may_join(Run(b"x", 1, []), Run(b"x", 1, []))
    wide = Run(b"x", 1, [b"a"] * (WIDTH_MAX + 1))
    assert not may_join(wide, wide)


# -- in the machine ----------------------------------------------------------------------------------------------------


def random_commands(rng: random.Random) -> list[list[bytes]]:
    """Return commands of one name and one number of arguments, as many as make several steps."""
    keys = [b"k%d" % number for number in range(20)]
    kinds: list[Callable[[], list[bytes]]] = [
        lambda: [b"set", rng.choice(keys), b"%d" % rng.randrange(100)],
        lambda: [b"set", rng.choice(keys), b"x" * rng.choice((1, 5000, 70_000))],
        lambda: [b"set", rng.choice(keys), b"v", rng.choice((b"nx", b"xx", b"get", b"no"))],
        lambda: [b"setex", rng.choice(keys), rng.choice((b"10", b"0", b"x")), b"v"],
        lambda: [b"get", rng.choice(keys)],
        lambda: [b"incr", rng.choice(keys)],
        lambda: [b"decr", rng.choice(keys)],
        lambda: [b"incrby", rng.choice(keys), rng.choice((b"5", b"x"))],
        lambda: [b"append", rng.choice(keys), b"y" * rng.randrange(3)],
        lambda: [b"del", rng.choice(keys)],
        lambda: [b"unlink", rng.choice(keys)],
        lambda: [b"exists", rng.choice(keys)],
        lambda: [b"del", *rng.sample(keys, 3)],
        lambda: [b"mset", rng.choice(keys), b"1", rng.choice(keys), b"2"],
        lambda: [b"getdel", rng.choice(keys)],
        lambda: [b"pexpire", rng.choice(keys), b"%d" % rng.randrange(1000)],
        lambda: [b"dbsize"],
        lambda: [b"flushall"],
    ]
    make = rng.choice(kinds)
    return [make() for _ in range(rng.choice((1, 2, COMMANDS_A_STEP, 3 * COMMANDS_A_STEP + 1)))]


def test_a_run_answers_and_changes_as_its_commands_do() -> None:
    """Whatever they are, errors among them, whether the run is executed in steps or in pieces."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    one, other, third = new_machine(), new_machine(), new_machine()
    for turn in range(150):
        commands = random_commands(rng)
        expected = [one.execute(command) for command in commands]
        runs = list(runs_of(commands))
        assert [reply for each in runs for reply in in_a_list(finish(other.execute_run(each)), each.length)] == expected
        for each in runs:
            pieces = list(third.pieces(each))
            assert all(isinstance(piece, Simple) or len(piece) <= COMMANDS_A_STEP for piece in pieces)
        if turn % 10 == 0:
            for machine in (one, other, third):
                machine.advance_time(NOW_MS + 100 * turn)
        assert one.summary() == other.summary() == third.summary()
    assert one.digest() == other.digest() == third.digest()


def test_the_same_reply_for_all_is_given_once() -> None:
    """However many steps it takes."""
    count = 3 * PLAIN_A_STEP
    sets = Run(b"set", count, [b"%d" % number for number in range(count)] + [b"v"] * count)
    assert finish(new_machine().execute_run(sets)) is OK


@pytest.mark.parametrize(
    ("each", "steps"),
    [
        (Run(b"set", 10 * PLAIN_A_STEP, [b"k"] * 20 * PLAIN_A_STEP), 10),
        (Run(b"set", 6, [b"k"] * 6 + [b"v" * BYTES_A_STEP] * 6), 6),
        (Run(b"incr", 10 * COMMANDS_A_STEP, [b"k"] * 10 * COMMANDS_A_STEP), 10),
        (Run(b"set", 6, [b"k"] * 6 + [b"v" * BYTES_A_STEP] * 6 + [b"nx"] * 6), 6),
    ],
    ids=range(4),
)
def test_a_long_run_takes_steps(each: Run, steps: int) -> None:
    """By the number of commands, and by the bytes of their values."""
    assert len(list(new_machine().pieces(each))) == steps
    assert sum(1 for _ in new_machine().execute_run(each)) >= steps - 1


def test_the_last_of_a_key_in_a_run_counts() -> None:
    """And each of them is counted once."""
    machine = new_machine()
    finish(machine.execute_run(Run(b"set", 4, [b"a", b"b", b"a", b"a", b"1", b"2", b"3", b"4"])))
    assert (run(machine, "GET a"), run(machine, "GET b"), run(machine, "DBSIZE")) == (b"4", b"2", 2)
