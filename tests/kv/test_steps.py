"""Commands in steps make the same state as commands at once."""

from __future__ import annotations

import random

from durable_raft.kv.long_values import LongValue
from durable_raft.kv.machine import Machine
from durable_raft.kv.replies import OK, ErrorReply
from tests.kv.machines import NOW_MS, new_machine
from tests.support.batches import runs_of


def some_writes(seed: int) -> list[list[bytes]]:
    """Return writes of few and of many keys, large and small."""
    rng = random.Random(seed)
    keys = [b"k%d" % number for number in range(300)]
    writes: list[list[bytes]] = []
    for _ in range(400):
        key = rng.choice(keys)
        writes.append([b"set", key, rng.randbytes(rng.choice((1, 100, 300_000)))])
        writes.append([b"append", key, b"x" * rng.randrange(100)])
        writes.append([b"pexpire", rng.choice(keys), b"%d" % rng.randrange(1, 500)])
    writes.append([b"mset", *[part for key in keys for part in (key, b"v")]])
    writes.append([b"del", *keys[:150]])
    return writes


def digest_after(machine: Machine) -> bytes:
    """Return the digest when keys have expired, in steps, and the time was set back."""
    for _ in machine.advance_time_in_steps(NOW_MS + 300):
        pass
    machine.reset_time(NOW_MS + 100)
    return machine.digest()


def test_steps_make_the_same_state() -> None:
    """Whatever is between two steps, nothing else is executed there."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    at_once, in_steps = new_machine(), new_machine()
    writes = some_writes(seed)
    for write in writes:
        at_once.execute(write)
    assert sum(1 for run in runs_of(writes) for _ in in_steps.execute_run(run)) > 1
    assert in_steps.summary() == at_once.summary()
    assert digest_after(in_steps) == digest_after(at_once)


def test_commands_of_many_keys_count_all_of_them() -> None:
    """Whatever is between their steps."""
    machine = new_machine()
    keys = [b"k%d" % number for number in range(5_000)]
    assert machine.execute([b"mset", *[part for key in keys for part in (key, b"v")]]) is OK
    assert machine.execute([b"exists", *keys, b"none"]) == len(keys)
    assert machine.execute([b"mget", *keys, b"none"]) == [b"v"] * len(keys) + [None]
    assert machine.execute([b"del", *keys, b"none"]) == len(keys)


def test_a_reply_that_would_be_too_long_is_refused() -> None:
    """Before it is made: MGET and KEYS add up what they would answer."""
    machine = Machine(random.Random(0), reply_bytes_max=1000)
    machine.execute([b"mset", *[part for number in range(20) for part in (b"%0100d" % number, b"v" * 100)]])
    assert len(machine.execute([b"mget", b"%0100d" % 1])) == 1  # type: ignore[arg-type]
    for command in ([b"mget", *[b"%0100d" % number for number in range(20)]], [b"keys", b"*"]):
        reply = machine.execute(command)
        assert isinstance(reply, ErrorReply)
        assert "reply_bytes_max" in reply.line


def test_long_values_are_compared_by_what_they_are() -> None:
    """Not by their pieces."""
    value = LongValue.of(b"ab").append(b"c")
    assert value == b"abc"
    assert value == LongValue.of(b"abc")
    assert value != b"abd"
    assert (value == 3) is False
