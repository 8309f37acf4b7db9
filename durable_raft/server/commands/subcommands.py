"""Commands whose first argument names what is to be done (CLIENT, CLUSTER, COMMAND, CONFIG): finding it, or refusing.

A container is a table from lower-case name to ``Subcommand``; the wording of the refusals is that of Redis 7.0
(its ``processCommand`` and ``addReplySubcommandSyntaxError``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from durable_raft.kv.commands import wrong_arity
from durable_raft.kv.replies import ErrorReply, Reply, Simple
from durable_raft.server.commands.arguments import Args, echo

Target = TypeVar("Target")


@dataclass(frozen=True, slots=True)
class Subcommand(Generic[Target]):
    """One subcommand and how it is executed on a ``Target``."""

    name: bytes
    """Lower case."""
    arity: int
    """Arguments with both names counted; negative: at least so many."""
    execute: Callable[[Target, Args], Reply]
    usage: str
    """Syntax of what follows the name (server/commands/syntax.py); empty when nothing does."""
    help: str
    """One sentence without its full stop."""


def table(*subcommands: Subcommand[Target]) -> Mapping[bytes, Subcommand[Target]]:
    """Return the subcommands by name."""
    return {subcommand.name: subcommand for subcommand in subcommands}


def execute_subcommand(subcommands: Mapping[bytes, Subcommand[Target]], target: Target, args: Args) -> Reply:
    """Execute ``args`` on ``target``; an unknown subcommand or a wrong number of arguments is an ErrorReply."""
    name = args[1].lower()
    container = args[0].decode("ascii", "backslashreplace")
    if name == b"help":
        return _help(subcommands, container.upper()) if len(args) == 2 else wrong_arity(b"%b|help" % args[0].lower())
    found = subcommands.get(name)
    if found is None:
        return ErrorReply(f"ERR unknown subcommand '{echo(args[1])}'. Try {container.upper()} HELP.")
    if len(args) < abs(found.arity) or 0 <= found.arity < len(args):
        return wrong_arity(b"%b|%b" % (args[0].lower(), found.name))
    return found.execute(target, args)


def _help(subcommands: Mapping[bytes, Subcommand[Target]], container: str) -> Reply:
    lines = [f"{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"]
    for subcommand in subcommands.values():
        lines.append(f"{subcommand.name.decode().upper()} {subcommand.usage}".rstrip())
        lines.append(f"    {subcommand.help}.")
    lines += ["HELP", "    Print this help."]
    return [Simple(line.encode()) for line in lines]
