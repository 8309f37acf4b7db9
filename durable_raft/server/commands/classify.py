"""What a client's requests are: which command each names, whether its arity is right, and which run together.

This is the one place where a request is looked up. Whoever executes it afterwards has its spec, its name in lower case
and the right number of arguments, or the error that it gets instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

from durable_raft.kv.commands import COMMANDS, CommandSpec, has_arity, unknown_command, wrong_arity
from durable_raft.kv.replies import ErrorReply
from durable_raft.server.commands.specs import CONNECTION_COMMANDS

Request: TypeAlias = list[bytes]
"""A whole request, its name first, in any case until it is classified."""

Verdict: TypeAlias = CommandSpec | ErrorReply
"""The command that a request is, or why it is refused."""

RUN_MAX: Final = 32
"""Requests of one run: what a run costs beside its requests is small then, and so is what it holds in replies."""

ALL_COMMANDS: Final[Mapping[bytes, CommandSpec]] = {**COMMANDS, **CONNECTION_COMMANDS}
"""Every command by its name, the machine's first."""

_SPELLINGS: Final[Mapping[bytes, CommandSpec]] = {
    spelling: spec for name, spec in ALL_COMMANDS.items() for spelling in (name, name.upper())
}
"""The same by the two ways in which nearly every client spells a name."""


def classify(request: Request) -> Verdict:
    """Return which command ``request`` is, whose name becomes lower case; or Redis's error."""
    spec = _SPELLINGS.get(request[0]) or ALL_COMMANDS.get(request[0].lower())
    if spec is None:
        return unknown_command(request)
    if len(request) != spec.arity and not has_arity(spec, request):
        return wrong_arity(spec.name)
    request[0] = spec.name
    return spec


def runs(requests: list[Request]) -> Iterable[tuple[Verdict, list[Request]]]:
    """Cut requests into runs, in order: those of one command that follow each other, at most ``RUN_MAX``.

    A request that is refused is a run by itself. A request is looked up when the runs before it have been taken.
    """
    if len(requests) == 1:
        return ((classify(requests[0]), requests),)
    return _runs_of_many(requests)


def _runs_of_many(requests: list[Request]) -> Iterator[tuple[Verdict, list[Request]]]:
    run: list[Request] = []
    current: Verdict | None = None
    for request in requests:
        verdict = classify(request)
        if verdict is current and len(run) < RUN_MAX:
            run.append(request)
            continue
        if current is not None:
            yield current, run
        current, run = verdict, [request]
    if current is not None:
        yield current, run
