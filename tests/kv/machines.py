"""A machine to try commands on, written as a user writes them."""

from __future__ import annotations

import random
import shlex

from durable_raft.kv.machine import Machine
from durable_raft.kv.replies import ErrorReply, Reply

NOW_MS = 1_700_000_000_000
"""The cluster time at which the machines of these tests begin."""


def new_machine(*commands: str) -> Machine:
    """Return a machine at ``NOW_MS`` that has executed ``commands``, none of which may fail."""
    machine = Machine(random.Random(1))
    machine.advance_time(NOW_MS)
    for command in commands:
        reply = run(machine, command)
        assert not isinstance(reply, ErrorReply), f"{command}: {reply.line}"
    return machine


def run(machine: Machine, command: str) -> Reply:
    """Execute a command line: the name in any case, arguments separated by spaces, quoted as in a shell."""
    name, *args = (word.encode() for word in shlex.split(command))
    return machine.execute([name.lower(), *args])


def run_at(machine: Machine, passed_ms: int, command: str) -> Reply:
    """Execute a command line when ``passed_ms`` have passed since ``NOW_MS``."""
    machine.advance_time(NOW_MS + passed_ms)
    return run(machine, command)


def error_of(machine: Machine, command: str) -> str:
    """Execute a command line that must fail and must leave the state as it was; return the error line."""
    before = machine.digest()
    reply = run(machine, command)
    assert isinstance(reply, ErrorReply), f"{command} answered {reply!r}, expected an error"
    assert machine.digest() == before, f"{command} failed and changed the state"
    return reply.line
