"""What a client's requests are: which command each names, and whether its arity is right.

This is the one place where a request is looked up. Whoever executes it afterwards has its spec and the right number of
arguments, or the error that it gets instead. The commands of a run have one name and one number of arguments, so a run
is looked up once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from durable_raft.kv.commands import COMMANDS, CommandSpec, has_arity, unknown_command, wrong_arity
from durable_raft.kv.replies import ErrorReply
from durable_raft.kv.runs import Run
from durable_raft.server.commands.specs import CONNECTION_COMMANDS

Request: TypeAlias = Sequence[bytes]
"""A whole request, its name first."""

ALL_COMMANDS: Final[Mapping[bytes, CommandSpec]] = {**COMMANDS, **CONNECTION_COMMANDS}
"""Every command by its name, the machine's first."""

_SPELLINGS: Final[Mapping[bytes, CommandSpec]] = {
    spelling: spec for name, spec in ALL_COMMANDS.items() for spelling in (name, name.upper())
}
"""The same by the two ways in which nearly every client spells a name."""


def classify(run: Run) -> CommandSpec | None:
    """Return which command those of ``run`` are; None when they are refused, each with its own ``refusal``."""
    spec = _SPELLINGS.get(run.name) or ALL_COMMANDS.get(run.name.lower())
    if spec is None:
        return None
    count = 1 + len(run.args) // run.length
    return spec if count == spec.arity or has_arity(spec, count) else None


def refusal(request: Request) -> ErrorReply:
    """Return Redis's error for a request that ``classify`` refuses."""
    spec = ALL_COMMANDS.get(request[0].lower())
    return unknown_command(request) if spec is None else wrong_arity(spec.name)
