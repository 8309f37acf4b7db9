"""The commands that a connection answers itself, from its session and the node's status, without log or machine.

They are answered at once even while no leader is known, so that clients can connect, look around and wait. Replies and
errors are those of Redis 7.0 in cluster mode, with one user who has no password.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from durable_raft.kv.commands import wrong_arity
from durable_raft.kv.errors import NOT_AN_INTEGER, SYNTAX_ERROR
from durable_raft.kv.numbers import parse_int64
from durable_raft.kv.replies import OK, PONG, ErrorReply, MapReply, Reply, Simple
from durable_raft.server.commands.actions import NodeActions
from durable_raft.server.commands.arguments import Args, echo
from durable_raft.server.commands.client import (
    DEFAULT_USER,
    ClientContext,
    Connections,
    execute_client_command,
    refuse_name,
)
from durable_raft.server.commands.cluster import execute_cluster_command
from durable_raft.server.commands.config import execute_config_command
from durable_raft.server.commands.info import REDIS_VERSION, info, replicas_caught_up, role
from durable_raft.server.commands.member import execute_member_command, transfer
from durable_raft.server.commands.raft import execute_raft_command
from durable_raft.server.commands.session import RESP2, RESP3, Session
from durable_raft.server.commands.status import NodeStatus
from durable_raft.server.commands.table import CONTAINERS, execute_command_command

WRONG_PASSWORD: Final = ErrorReply("WRONGPASS invalid username-password pair or user is disabled.")
NO_PASSWORD_SET: Final = ErrorReply(
    "ERR AUTH <password> called without any password configured for the default user. "
    "Are you sure your configuration is correct?"
)
WAIT_ON_FOLLOWER: Final = ErrorReply(
    "ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica is configured "
    "to be writable (which is not the default) writes to replicas are just local and are not propagated."
)


class _Call(NamedTuple):
    """One command on its way."""

    session: Session
    args: Args
    status: Callable[[], NodeStatus]
    node: NodeActions
    connections: Connections


def execute_connection_command(
    session: Session, args: Args, status: Callable[[], NodeStatus], node: NodeActions, connections: Connections
) -> Reply:
    """Execute one command of ``CONNECTION_COMMANDS`` and return its reply; the session is changed as it asks.

    Args:
        session: of the connection that asks.
        args: the request as classify.py leaves it: a name in the table, in lower case, and its right arity.
        status: gathers the node's status; called only by commands that need it, once.
        node: is asked for what is more than status.
        connections: all of the node's, the asking one included.
    """
    name = args[0]
    session.last_command = name
    if len(args) > 1 and args[1].lower() in CONTAINERS.get(name, {}):
        session.last_command += b"|" + args[1].lower()
    return _HANDLERS[name](_Call(session, args, status, node, connections))


# -- the connection itself --------------------------------------------------------------------------------------------


def _ping(call: _Call) -> Reply:
    if len(call.args) > 2:
        return wrong_arity(b"ping")
    return call.args[1] if len(call.args) == 2 else PONG


def _echo(call: _Call) -> Reply:
    return call.args[1]


def _quit(call: _Call) -> Reply:
    call.session.closing = True
    return OK


def _reset(call: _Call) -> Reply:
    call.session.reset()
    return Simple(b"RESET")


def _select(call: _Call) -> Reply:
    number = parse_int64(call.args[1])
    if number is None:
        return NOT_AN_INTEGER
    return OK if number == 0 else ErrorReply("ERR SELECT is not allowed in cluster mode")


def _readonly(call: _Call) -> Reply:
    call.session.readonly = True
    return OK


def _readwrite(call: _Call) -> Reply:
    call.session.readonly = False
    return OK


def _asking(call: _Call) -> Reply:
    """Accept ASKING: no slot ever moves here, so nothing follows from it."""
    del call
    return OK


def _client(call: _Call) -> Reply:
    context = ClientContext(call.session, call.connections, lambda: call.status().monotonic_us)
    return execute_client_command(context, call.args)


# -- HELLO and AUTH ---------------------------------------------------------------------------------------------------


class _HelloOptions(NamedTuple):
    user: bytes | None
    name: bytes | None


def _auth(call: _Call) -> Reply:
    if len(call.args) > 3:
        return SYNTAX_ERROR
    if len(call.args) == 2:
        return NO_PASSWORD_SET
    return OK if call.args[1] == DEFAULT_USER else WRONG_PASSWORD


def _hello(call: _Call) -> Reply:
    """Switch the protocol, all options checked before anything is changed; without arguments only tell about us."""
    session, protocol = call.session, call.session.protocol
    if len(call.args) > 1:
        asked = parse_int64(call.args[1])
        if asked is None:
            return ErrorReply("ERR Protocol version is not an integer or out of range")
        if asked not in (RESP2, RESP3):
            return ErrorReply("NOPROTO unsupported protocol version")
        protocol = asked
    options = _hello_options(call.args[2:])
    if isinstance(options, ErrorReply):
        return options
    if options.user is not None and options.user != DEFAULT_USER:
        return WRONG_PASSWORD
    if options.name is not None:
        session.name = options.name
    session.protocol = protocol
    return _about(session, call.status())


def _hello_options(words: Args) -> _HelloOptions | ErrorReply:
    user: bytes | None = None
    name: bytes | None = None
    at = 0
    while at < len(words):
        option, following = words[at].lower(), len(words) - at - 1
        if option == b"auth" and following >= 2:
            user = words[at + 1]
            at += 3
        elif option == b"setname" and following:
            name = words[at + 1]
            problem = refuse_name(name)
            if problem is not None:
                return problem
            at += 2
        else:
            return ErrorReply(f"ERR Syntax error in HELLO option '{echo(words[at])}'")
    return _HelloOptions(user, name)


def _about(session: Session, status: NodeStatus) -> Reply:
    return MapReply(
        [
            (b"server", b"redis"),
            (b"version", REDIS_VERSION.encode()),
            (b"proto", session.protocol),
            (b"id", session.id),
            (b"mode", b"cluster"),
            (b"role", b"master" if status.is_leader else b"replica"),
            (b"modules", []),
        ]
    )


# -- the node ---------------------------------------------------------------------------------------------------------


def _time(call: _Call) -> Reply:
    """Answer the cluster time, by which keys expire, so that a deadline made from it means what it says."""
    status = call.status()
    seconds, microseconds = divmod(status.cluster_time_ms * 1000 or status.time_of_day_us, 1_000_000)
    return [str(seconds).encode(), str(microseconds).encode()]


def _wait(call: _Call) -> Reply:
    """Answer at once with how many followers have the whole log: to wait adds nothing to what OK already promised."""
    if parse_int64(call.args[1]) is None:
        return NOT_AN_INTEGER
    timeout_ms = parse_int64(call.args[2])
    if timeout_ms is None:
        return ErrorReply("ERR timeout is not an integer or out of range")
    if timeout_ms < 0:
        return ErrorReply("ERR timeout is negative")
    status = call.status()
    if not status.is_leader:
        return WAIT_ON_FOLLOWER
    return replicas_caught_up(status)


_HANDLERS: Final[Mapping[bytes, Callable[[_Call], Reply]]] = {
    b"asking": _asking,
    b"auth": _auth,
    b"client": _client,
    b"cluster": lambda call: execute_cluster_command(call.status(), call.node, call.args),
    b"command": lambda call: execute_command_command(call.args),
    b"config": lambda call: execute_config_command(call.status(), call.args),
    b"echo": _echo,
    b"hello": _hello,
    b"info": lambda call: info(call.status(), call.args),
    b"ping": _ping,
    b"quit": _quit,
    b"raft": lambda call: execute_raft_command(call.node, call.args),
    b"raft.member": lambda call: execute_member_command(call.status(), call.node, call.args),
    b"raft.transfer": lambda call: transfer(call.status(), call.node, call.args),
    b"readonly": _readonly,
    b"readwrite": _readwrite,
    b"reset": _reset,
    b"role": lambda call: role(call.status()),
    b"select": _select,
    b"time": _time,
    b"wait": _wait,
}
