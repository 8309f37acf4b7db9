"""The table of commands that a connection answers itself; arities and flags are Redis 7.0's (COMMAND INFO).

The machine's commands are in kv/commands.py, in the same form; no name is in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from durable_raft.kv.commands import CommandSpec

_ANY_TIME: Final = (b"loading", b"stale")
_SESSION: Final = (b"noscript", *_ANY_TIME, b"fast", b"no_auth", b"allow_busy")


def _connections(name: bytes, arity: int, flags: tuple[bytes, ...]) -> CommandSpec:
    return CommandSpec(name, arity, flags, is_connections=True)


CONNECTION_COMMANDS: Final[Mapping[bytes, CommandSpec]] = {
    spec.name: spec
    for spec in (
        _connections(b"asking", 1, (b"fast",)),
        _connections(b"auth", -2, _SESSION),
        _connections(b"client", -2, (b"noscript", *_ANY_TIME)),
        _connections(b"cluster", -2, _ANY_TIME),
        _connections(b"command", -1, _ANY_TIME),
        _connections(b"config", -2, (b"admin", b"noscript", *_ANY_TIME)),
        _connections(b"echo", 2, (*_ANY_TIME, b"fast")),
        _connections(b"hello", -1, _SESSION),
        _connections(b"info", -1, _ANY_TIME),
        _connections(b"ping", -1, (b"fast",)),
        _connections(b"quit", -1, _SESSION),
        _connections(b"readonly", 1, (*_ANY_TIME, b"fast")),
        _connections(b"readwrite", 1, (*_ANY_TIME, b"fast")),
        _connections(b"reset", 1, _SESSION),
        _connections(b"raft", -2, (b"admin", b"noscript", *_ANY_TIME)),
        _connections(b"raft.member", -2, (b"admin", b"noscript", *_ANY_TIME)),
        _connections(b"raft.transfer", -1, (b"admin", b"noscript", *_ANY_TIME)),
        _connections(b"role", 1, (b"noscript", *_ANY_TIME, b"fast")),
        _connections(b"select", 2, (*_ANY_TIME, b"fast")),
        _connections(b"time", 1, (*_ANY_TIME, b"fast")),
        _connections(b"wait", 3, (b"noscript",)),
    )
}
