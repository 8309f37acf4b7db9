"""The table of the machine's commands: name, arity, flags and where the keys are (COMMAND INFO of Redis 7.0)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from durable_raft.kv.replies import ErrorReply

SHOWN_BYTES_MAX: Final = 128
"""Bytes of a name, and of all arguments together, that the error for an unknown command shows (Redis 7.0)."""


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """One command."""

    name: bytes
    """Lower case."""
    arity: int
    """Number of arguments, the name included; negative: at least that many."""
    flags: tuple[bytes, ...] = ()
    """As COMMAND shows them. ``write``: goes through the log. ``denyoom``: needs memory, refused when none is left."""
    first_key: int = 0
    """Position of the first key; 0: the command has no keys."""
    last_key: int = 0
    """Position of the last key; negative: counted from the end."""
    key_step: int = 0
    is_connections: bool = False
    """Whether a connection answers it itself, without log and machine."""
    is_write: bool = field(init=False, default=False)
    needs_memory: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_write", b"write" in self.flags)
        object.__setattr__(self, "needs_memory", b"denyoom" in self.flags)


_READ: Final = (b"readonly", b"fast")
_READ_SLOWLY: Final = (b"readonly",)
_WRITE: Final = (b"write", b"fast")
_GROW: Final = (b"write", b"denyoom", b"fast")
_GROW_SLOWLY: Final = (b"write", b"denyoom")

COMMANDS: Final[Mapping[bytes, CommandSpec]] = {
    spec.name: spec
    for spec in (
        CommandSpec(b"append", 3, _GROW, 1, 1, 1),
        CommandSpec(b"dbsize", 1, _READ),
        CommandSpec(b"decr", 2, _GROW, 1, 1, 1),
        CommandSpec(b"decrby", 3, _GROW, 1, 1, 1),
        CommandSpec(b"del", -2, (b"write",), 1, -1, 1),
        CommandSpec(b"exists", -2, _READ, 1, -1, 1),
        CommandSpec(b"expire", -3, _WRITE, 1, 1, 1),
        CommandSpec(b"expireat", -3, _WRITE, 1, 1, 1),
        CommandSpec(b"flushall", -1, (b"write",)),
        CommandSpec(b"flushdb", -1, (b"write",)),
        CommandSpec(b"get", 2, _READ, 1, 1, 1),
        CommandSpec(b"getdel", 2, _WRITE, 1, 1, 1),
        CommandSpec(b"getset", 3, _GROW, 1, 1, 1),
        CommandSpec(b"incr", 2, _GROW, 1, 1, 1),
        CommandSpec(b"incrby", 3, _GROW, 1, 1, 1),
        CommandSpec(b"keys", 2, _READ_SLOWLY),
        CommandSpec(b"mget", -2, _READ, 1, -1, 1),
        CommandSpec(b"mset", -3, _GROW_SLOWLY, 1, -1, 2),
        CommandSpec(b"persist", 2, _WRITE, 1, 1, 1),
        CommandSpec(b"pexpire", -3, _WRITE, 1, 1, 1),
        CommandSpec(b"pexpireat", -3, _WRITE, 1, 1, 1),
        CommandSpec(b"psetex", 4, _GROW_SLOWLY, 1, 1, 1),
        CommandSpec(b"pttl", 2, _READ, 1, 1, 1),
        CommandSpec(b"scan", -2, _READ_SLOWLY),
        CommandSpec(b"set", -3, _GROW_SLOWLY, 1, 1, 1),
        CommandSpec(b"setex", 4, _GROW_SLOWLY, 1, 1, 1),
        CommandSpec(b"setnx", 3, _GROW, 1, 1, 1),
        CommandSpec(b"strlen", 2, _READ, 1, 1, 1),
        CommandSpec(b"ttl", 2, _READ, 1, 1, 1),
        CommandSpec(b"type", 2, _READ, 1, 1, 1),
        CommandSpec(b"unlink", -2, _WRITE, 1, -1, 1),
    )
}


def has_arity(spec: CommandSpec, count: int) -> bool:
    """Return whether ``spec`` takes so many arguments, the name included."""
    arity = spec.arity
    return count == arity or (arity < 0 and count >= -arity)


def check_arity(spec: CommandSpec, args: Sequence[bytes]) -> ErrorReply | None:
    """Return Redis's error when ``args`` have another arity than ``spec``; None when they have not."""
    return None if has_arity(spec, len(args)) else wrong_arity(spec.name)


def wrong_arity(name: bytes) -> ErrorReply:
    """Return the error for a command with the wrong number of arguments."""
    return ErrorReply(f"ERR wrong number of arguments for '{_shown(name)}' command")


def unknown_command(args: Sequence[bytes]) -> ErrorReply:
    """Return the error for a request whose name is no command; arguments are shown up to 128 bytes in all."""
    shown = b""
    for arg in args[1:]:
        if len(shown) >= SHOWN_BYTES_MAX:
            break
        shown += b"'%b' " % arg[: SHOWN_BYTES_MAX - len(shown)]
    name = _shown(args[0][:SHOWN_BYTES_MAX])
    return ErrorReply(f"ERR unknown command '{name}', with args beginning with: {_shown(shown)}")


def first_key(spec: CommandSpec, args: Sequence[bytes]) -> bytes | None:
    """Return the first key of a request of the right arity, or None when the command has none."""
    return args[spec.first_key] if spec.first_key else None


def _shown(text: bytes) -> str:
    """Return ``text`` for an error line, bytes that are no UTF-8 travelling as surrogates."""
    return text.decode("utf-8", "surrogateescape")
