"""Histories to try the checker on: written by hand, and made of what one machine answered."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

from durable_raft.kv.machine import Machine
from durable_raft.kv.replies import ErrorReply, Reply, Simple
from tests.simulation.sequential import NEVER, Operation, Output, kind_and_input

LINE = re.compile(r"(\d+)-(\d+|\?) (.*?)(?: -> (.*))?")


def history(*lines: str) -> list[Operation]:
    """Read operations, ``CALL-RETURN COMMAND -> ANSWER``; ``?`` returned never; answers in Python, ``OK`` apart."""
    operations = []
    for client, line in enumerate(lines):
        match = LINE.fullmatch(line)
        assert match, line
        invoked, returned, command, answer = match.groups()
        key, kind, given = kind_and_input([word.encode() for word in command.split()])
        output = b"OK" if answer == "OK" else eval(answer or "None")
        ended = NEVER if returned == "?" else int(returned)
        operations.append(Operation(client, key, kind, given, output, int(invoked), ended))
    return operations


COMMANDS_OF_ONE_KEY = (
    "get",
    "get",
    "set",
    "set nx",
    "set xx",
    "set xx get",
    "getset",
    "getdel",
    "del",
    "append",
    "incr",
    "incr",
)
COMMANDS_OF_KEYS = (*COMMANDS_OF_ONE_KEY, "mset", "mget", "del 2", "exists", "dbsize")


def random_command(rng: random.Random, names: Sequence[str], keys: Sequence[bytes], number: int) -> list[bytes]:
    """Return a command; numbers are written often enough that INCR mostly has something to count."""
    name, *more = rng.choice(names).encode().split()
    value = b"%d" % (1000 * number) if rng.random() < 0.7 else rng.choice((b"", b"word", b"007", b"%d" % (2**63 - 1)))
    chosen = [rng.choice(keys) for _ in range(2)]
    if name == b"dbsize":
        return [name]
    if name == b"mset":
        return [name, chosen[0], value, chosen[1], value + b"'"]
    if name in (b"mget", b"exists") or more == [b"2"]:
        return [name, *chosen]
    return [name, chosen[0], *([value] if name in (b"set", b"getset", b"append") else []), *more]


def as_output(reply: Reply) -> Output:
    """Return what a machine answered as a history has it."""
    if isinstance(reply, Simple):
        return reply.text
    if isinstance(reply, ErrorReply):
        return reply.line
    assert isinstance(reply, bytes | int | list | None)
    return tuple(map(as_output, reply)) if isinstance(reply, list) else reply


def random_history(
    rng: random.Random, machine: Machine, names: Sequence[str], count: int, keys: int = 2
) -> Iterator[Operation]:
    """Yield what ``machine`` answered in turn, as clients saw it who asked earlier and heard later, or never."""
    width = rng.choice((0.4, 2, 5))
    for number in range(count):
        args = random_command(rng, names, [b"k%d" % key for key in range(keys)], number)
        key, kind, given = kind_and_input(args)
        is_unknown, is_lost = rng.random() < 0.1, rng.random() < 0.5
        output = None if is_unknown and is_lost else as_output(machine.execute(args))
        invoked, returned = number - rng.random() * width, NEVER if is_unknown else number + rng.random() * width
        yield Operation(number, key, kind, given, output, invoked, returned)
