"""The machine as a whole: deterministic, bounded, and its digest is a faithful stand-in for its state."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from durable_raft.kv.commands import COMMANDS
from durable_raft.kv.machine import Machine
from durable_raft.kv.replies import ErrorReply, Reply
from tests.kv.machines import NOW_MS, new_machine, run

WRITES = sorted(name for name, spec in COMMANDS.items() if spec.is_write)


def execute_random_writes(machine: Machine, seed: int, count: int) -> list[Reply]:
    """Execute random writes of every kind while the time moves; return the replies."""
    rng = random.Random(seed)
    replies: list[Reply] = []
    for _ in range(count):
        machine.advance_time(machine.time_ms + rng.randint(-5, 20))
        name = rng.choice(
            (b"set", b"psetex", b"pexpire", *(write for write in WRITES if not write.startswith(b"flush")))
        )
        key, other = b"k%d" % rng.randint(0, 200), b"k%d" % rng.randint(0, 200)
        amount = b"%d" % rng.randint(1, 3000)
        rest = {
            b"set": rng.choice(([b"v"], [b"v", b"PX", amount], [amount, b"KEEPTTL"], [amount, b"XX", b"GET"])),
            b"mset": [amount, other, b"v"],
            b"psetex": [amount, b"v"],
            b"setex": [amount, b"v"],
            b"expireat": [b"%d" % (machine.time_ms // 1000 + 1)],
            b"pexpireat": [b"%d" % (machine.time_ms + rng.randint(-50, 500))],
        }.get(name, [amount][: abs(COMMANDS[name].arity) - 2])
        replies.append(machine.execute([name, key, *rest]))
    return replies


def story(seed: int) -> str:
    """Return the digest of replies and state after the random writes of ``seed``."""
    machine = Machine(random.Random(seed))
    machine.advance_time(NOW_MS)
    replies = execute_random_writes(machine, seed, 2000)
    return hashlib.sha256(repr(replies).encode() + machine.digest()).hexdigest()


def test_same_commands_give_the_same_state_in_every_process() -> None:
    """Replies and state do not depend on the process, nor on the order in which it hashes."""
    root = str(Path(__file__).resolve().parents[2])
    told = set()
    for hash_seed in ("0", "1", "12345"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": root}
        program = "from tests.kv.test_machine import story; print(story(5))"
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        told.add(done.stdout.strip())
    assert told == {story(5)}
    assert story(5) != story(6)


@pytest.mark.parametrize("seed", range(5))
def test_machines_with_other_random_numbers_have_the_same_state(seed: int) -> None:
    """The random numbers a machine is given reach SCAN's cursors only; reads in between change nothing."""
    one, other = Machine(random.Random(1)), Machine(random.Random(2))
    replies = []
    for machine in (one, other):
        machine.advance_time(NOW_MS)
        replies.append(execute_random_writes(machine, seed, 1000))
        if machine is other:
            for command in ("SCAN 0 COUNT 1", "KEYS *", "GET k1", "TTL k1", "DBSIZE", "EXISTS k1 k2"):
                run(machine, command)
            assert machine.next_deadline_ms() is not None
    assert replies[0] == replies[1]
    assert one.digest() == other.digest()


def test_time_never_goes_back() -> None:
    """An entry with an earlier time leaves the time, and every deadline, where it is."""
    machine = new_machine("SET k v PX 100")
    for time_ms in (NOW_MS - 1, 0, -5, NOW_MS):
        machine.advance_time(time_ms)
        assert machine.time_ms == NOW_MS
        assert run(machine, "PTTL k") == 100
    machine.advance_time(NOW_MS + 100)
    machine.advance_time(NOW_MS)
    assert machine.time_ms == NOW_MS + 100
    assert run(machine, "EXISTS k") == 0


def test_new_machine_is_empty() -> None:
    """A machine begins without keys, at time 0."""
    machine = Machine(random.Random(1))
    assert (machine.time_ms, machine.summary().key_count, machine.summary().expires_count) == (0, 0, 0)
    assert machine.next_deadline_ms() is None


@pytest.mark.parametrize("name", [b"nosuch", b"ping", b"GET", b""])
def test_command_that_is_not_in_the_table_stops_the_machine(name: bytes) -> None:
    """It comes from a newer version; to skip it would part this replica's state from the others'."""
    with pytest.raises(KeyError):
        new_machine().execute([name, b"k"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["SET a 1"], ["SET a 2"]),
        (["SET a 1"], ["SET b 1"]),
        (["SET a 1"], ["SET a 1", "SET b ''"]),
        (["SET a 1"], ["SET a 1 EX 5"]),
        (["SET a 1 PX 5"], ["SET a 1 PX 6"]),
        (["MSET a bc d ''"], ["MSET ab c d ''"]),
        (["MSET a '' b ''"], ["SET a b"]),
    ],
)
def test_digest_tells_states_apart(one: list[str], other: list[str]) -> None:
    """A key, a value, a deadline or a border between them that differs makes another digest."""
    assert new_machine(*one).digest() != new_machine(*other).digest()


def test_digest_tells_the_time_from_the_keys() -> None:
    """Time 1 and a key of 11 bytes are not taken for time 11 and a key of 1 byte, whatever the bytes behind them."""
    one, other = Machine(random.Random(1)), Machine(random.Random(1))
    one.advance_time(1)
    one.execute([b"set", b"a1:3:0:zxyz", b""])
    other.advance_time(11)
    other.execute([b"mset", b"a", b"", b"z", b"xyz"])
    assert one.digest() != other.digest()


def test_digest_tells_times_apart() -> None:
    """Replicas with the same keys at different cluster times are not in the same state."""
    one, other = new_machine("SET a 1"), new_machine("SET a 1")
    other.advance_time(NOW_MS + 1)
    assert one.digest() != other.digest()


def test_digest_does_not_depend_on_how_the_state_came_about() -> None:
    """The same keys, values, deadlines and time give the same digest whatever happened before."""
    direct = new_machine("SET a 1", "SET b 2 EX 10")
    winding = new_machine("SET c x PX 5", "SET b 1", "INCR b", "EXPIRE b 99", "SET a 1 EX 4", "DEL c", "PERSIST a")
    run(winding, "EXPIRE b 10")
    assert direct.digest() == winding.digest()


def test_error_never_changes_the_state() -> None:
    """Whatever the arguments, a command that answers an error leaves the digest as it was."""
    rng = random.Random(11)
    words = (b"k", b"n", b"5", b"-1", b"x", b"", b"EX", b"NX", b"GT", b"LT", b"9223372036854775807", b"GET", b"0")
    machine = new_machine("SET k v EX 50", "SET n 9223372036854775807")
    errors = 0
    for _ in range(5000):
        name = rng.choice(sorted(COMMANDS))
        spec = COMMANDS[name]
        count = spec.arity if spec.arity > 0 else rng.randint(-spec.arity, -spec.arity + 4)
        args = [name, *rng.choices(words, k=count - 1)]
        before = machine.digest()
        if isinstance(machine.execute(args), ErrorReply):
            errors += 1
            assert machine.digest() == before, args
    assert errors > 500


def test_cursors_come_from_the_generator_that_was_handed_in() -> None:
    """Two machines with generators of one seed give out the same cursors, and with another seed others."""
    replies = []
    for seed in (1, 1, 2):
        machine = Machine(random.Random(seed))
        run(machine, "MSET a 1 b 2")
        replies.append(run(machine, "SCAN 0 COUNT 1"))
    assert replies[0] == replies[1] != replies[2]
