"""RAFT: what tools and operators ask a node for, beside INFO: a checkpoint now, the state piece by piece (a backup),
to set the cluster time, and to raise the version of the cluster.

A piece is an array: ``index, meta, key, value, deadline_ms, crc, key, ...``; meta is the record that says
which state it is (storage/state/meta.py), the others are as in kv/records.py. No key at all: the state ends before.
"""

from __future__ import annotations

from typing import Final

from durable_raft.kv.errors import NOT_AN_INTEGER, SYNTAX_ERROR
from durable_raft.kv.numbers import parse_int64
from durable_raft.kv.replies import OK, ErrorReply, Reply
from durable_raft.raft.types import Index
from durable_raft.raft.versions import VERSION_MAX
from durable_raft.server.cluster_time import TIME_MS_MAX
from durable_raft.server.commands.actions import NodeActions
from durable_raft.server.commands.arguments import Args
from durable_raft.server.commands.subcommands import Subcommand, execute_subcommand, table
from durable_raft.storage.state.meta import pack_kv_meta

NO_STATE: Final = ErrorReply("ERR this node has no state; it is being fetched from another")


def execute_raft_command(node: NodeActions, args: Args) -> Reply:
    """Execute RAFT with at least one argument."""
    return execute_subcommand(RAFT_SUBCOMMANDS, node, args)


def _checkpoint(node: NodeActions, args: Args) -> Reply:
    del args
    node.request_checkpoint()
    return OK


def _reset_time(node: NodeActions, args: Args) -> Reply:
    """Answer when the reset is proposed; what the same connection sends behind it is executed after it."""
    if len(args) > 3:
        return SYNTAX_ERROR
    time_ms = parse_int64(args[2]) if len(args) > 2 else None
    if len(args) > 2 and (time_ms is None or not 0 < time_ms <= TIME_MS_MAX):
        return NOT_AN_INTEGER
    return node.reset_time(time_ms)


def _raise_version(node: NodeActions, args: Args) -> Reply:
    """Answer when it is proposed, or may be: INFO tells when it is applied."""
    options = [each.lower() for each in args[2:]]
    is_dry = b"dryrun" in options
    numbers = [each for each in options if each != b"dryrun"]
    if len(options) - len(numbers) > 1 or len(numbers) > 1:
        return SYNTAX_ERROR
    version = parse_int64(numbers[0]) if numbers else None
    if numbers and (version is None or not 0 < version <= VERSION_MAX):
        return NOT_AN_INTEGER
    return node.raise_version(version, is_dry=is_dry)


def _snapshot(node: NodeActions, args: Args) -> Reply:
    index = parse_int64(args[2])
    if index is None or index < 0:
        return NOT_AN_INTEGER
    piece = node.read_state(Index(index), args[3] if len(args) > 3 else None)
    if piece is None:
        return NO_STATE
    meta, items = piece
    reply: list[Reply] = [meta.applied.point.index, pack_kv_meta(meta)]
    for key, record in items:
        reply += (key, record.value, record.deadline_ms, record.crc)
    return reply


RAFT_SUBCOMMANDS: Final = table(
    Subcommand(b"checkpoint", 2, _checkpoint, "", "Have all that is applied written to the checkpoint soon"),
    Subcommand(
        b"raiseversion",
        -2,
        _raise_version,
        "[version] [DRYRUN]",
        "Raise the version of the cluster as far as all nodes can, or to a given one; no downgrade is possible then",
    ),
    Subcommand(
        b"resettime",
        -2,
        _reset_time,
        "[unix-time-milliseconds]",
        "Set the cluster time to the clock that a majority of nodes agrees on, or to a given time",
    ),
    Subcommand(
        b"snapshot",
        -3,
        _snapshot,
        "index [after-key]",
        "Return the next records of the checkpoint taken at an index, 0 for the newest",
    ),
)
