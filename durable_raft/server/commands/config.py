"""CONFIG: what the node was started with, under our names and under the few Redis names that tools ask for.

Settings are fixed at the start (flags, environment, file), so CONFIG SET always refuses.
"""

from __future__ import annotations

from typing import Final

from durable_raft.kv.errors import SYNTAX_ERROR
from durable_raft.kv.glob import glob_matches
from durable_raft.kv.replies import ErrorReply, MapReply, Reply
from durable_raft.server.commands.arguments import Args, echo
from durable_raft.server.commands.cluster import client_address
from durable_raft.server.commands.status import NodeStatus
from durable_raft.server.commands.subcommands import Subcommand, execute_subcommand, table

_REDIS_SETTINGS: Final = {
    "save": "",
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory": "0",
    "maxmemory-policy": "noeviction",
    "databases": "1",
    "timeout": "0",
    "cluster-enabled": "yes",
    "cluster-require-full-coverage": "no",
    "notify-keyspace-events": "",
}
"""What is true of this server in Redis's terms: every write is fsynced before it is answered, nothing is evicted."""

_LENT: Final = {
    "maxclients": "clients-max",
    "proto-max-bulk-len": "request-bytes-max",
}
"""Redis's name of a setting -> our name, where both mean the same."""


def execute_config_command(status: NodeStatus, args: Args) -> Reply:
    """Execute CONFIG with at least one argument."""
    return execute_subcommand(CONFIG_SUBCOMMANDS, status, args)


def settings(status: NodeStatus) -> dict[str, str]:
    """Return every setting CONFIG GET knows, by name, in the order of its reply."""
    own = status.settings
    lent = {name: own[ours] for name, ours in _LENT.items() if ours in own}
    return {**_REDIS_SETTINGS, "port": str(client_address(status.myself).port), **lent, **own}


def _get(status: NodeStatus, args: Args) -> Reply:
    known = settings(status)
    names: dict[str, None] = {}
    for pattern in args[2:]:
        names |= dict.fromkeys(name for name in known if glob_matches(pattern.lower(), name.encode()))
    return MapReply([(name.encode(), known[name].encode()) for name in names])


def _set(status: NodeStatus, args: Args) -> Reply:
    if len(args) % 2:
        return SYNTAX_ERROR
    known = settings(status)
    for name in args[2::2]:
        if name.decode("utf-8", "replace").lower() not in known:
            return ErrorReply(f"ERR Unknown option or number of arguments for CONFIG SET - '{echo(name)}'")
    reason = "can't set immutable config: settings are given at the start, by flag, environment or file"
    return ErrorReply(f"ERR CONFIG SET failed (possibly related to argument '{echo(args[2])}') - {reason}")


def _reset_stat(status: NodeStatus, args: Args) -> Reply:
    del status, args
    return ErrorReply("ERR CONFIG RESETSTAT is not supported: counters count from the start of the process")


def _rewrite(status: NodeStatus, args: Args) -> Reply:
    del status, args
    return ErrorReply("ERR The server is running without a config file that it could rewrite")


CONFIG_SUBCOMMANDS: Final = table(
    Subcommand(b"get", -3, _get, "pattern...", "Return the settings whose names match a pattern"),
    Subcommand(b"resetstat", 2, _reset_stat, "", "Refused: counters count from the start of the process"),
    Subcommand(b"rewrite", 2, _rewrite, "", "Refused: the configuration file belongs to the operator"),
    Subcommand(b"set", -4, _set, "(parameter value)...", "Refused: settings are given at the start"),
)
