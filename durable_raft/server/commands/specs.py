"""The table of commands that a connection answers itself; arities and flags are Redis 7.0's (COMMAND INFO).

The machine's commands are in kv/commands.py, in the same form; no name is in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from durable_raft.kv.commands import CommandSpec

_ANY_TIME: Final = (b"loading", b"stale")
_SESSION: Final = (b"noscript", *_ANY_TIME, b"fast", b"no_auth", b"allow_busy")

CONNECTION_COMMANDS: Final[Mapping[bytes, CommandSpec]] = {
    spec.name: spec
    for spec in (
        CommandSpec(b"asking", 1, (b"fast",)),
        CommandSpec(b"auth", -2, _SESSION),
        CommandSpec(b"client", -2, (b"noscript", *_ANY_TIME)),
        CommandSpec(b"cluster", -2, _ANY_TIME),
        CommandSpec(b"command", -1, _ANY_TIME),
        CommandSpec(b"config", -2, (b"admin", b"noscript", *_ANY_TIME)),
        CommandSpec(b"echo", 2, (*_ANY_TIME, b"fast")),
        CommandSpec(b"hello", -1, _SESSION),
        CommandSpec(b"info", -1, _ANY_TIME),
        CommandSpec(b"ping", -1, (b"fast",)),
        CommandSpec(b"quit", -1, _SESSION),
        CommandSpec(b"readonly", 1, (*_ANY_TIME, b"fast")),
        CommandSpec(b"readwrite", 1, (*_ANY_TIME, b"fast")),
        CommandSpec(b"reset", 1, _SESSION),
        CommandSpec(b"raft", -2, (b"admin", b"noscript", *_ANY_TIME)),
        CommandSpec(b"role", 1, (b"noscript", *_ANY_TIME, b"fast")),
        CommandSpec(b"select", 2, (*_ANY_TIME, b"fast")),
        CommandSpec(b"time", 1, (*_ANY_TIME, b"fast")),
        CommandSpec(b"wait", 3, (b"noscript",)),
    )
}
