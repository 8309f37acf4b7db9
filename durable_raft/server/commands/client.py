"""CLIENT: what a connection says about itself, and what it can learn of, or do to, the others.

Another connection that is killed ends at once; one's own ends when it has its reply (``Session.closing``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import quote

from durable_raft.kv.errors import SYNTAX_ERROR
from durable_raft.kv.numbers import parse_int64
from durable_raft.kv.replies import OK, ErrorReply, Reply, Verbatim
from durable_raft.server.commands.arguments import Args, echo, is_printable
from durable_raft.server.commands.session import Session
from durable_raft.server.commands.subcommands import Subcommand, execute_subcommand, table

CLIENT_TYPES: Final = (b"normal", b"master", b"replica", b"slave", b"pubsub")
"""Types that CLIENT LIST and KILL know by name; every connection to this port is ``normal``."""

DEFAULT_USER: Final = b"default"
"""The only user there is; it has no password."""


class Connections(Protocol):
    """All connections of the node, as far as a CLIENT command knows them."""

    @property
    def sessions(self) -> Mapping[int, Session]:
        """Every connection by id, the asking one included."""

    def abort_session(self, session: Session) -> None:
        """End a connection with nothing more said."""


@dataclass(frozen=True, slots=True)
class ClientContext:
    """What a CLIENT command acts on."""

    session: Session
    """The connection that asks."""
    connections: Connections
    now_us: Callable[[], int]
    """Wall clock, microseconds since the Unix epoch."""


def execute_client_command(context: ClientContext, args: Args) -> Reply:
    """Execute CLIENT with at least one argument."""
    return execute_subcommand(CLIENT_SUBCOMMANDS, context, args)


def refuse_name(name: bytes) -> ErrorReply | None:
    """Return why a connection may not be called ``name``; None when it may. An empty name takes the name away."""
    if is_printable(name):
        return None
    return ErrorReply("ERR Client names cannot contain spaces, newlines or special characters.")


# -- one's own connection ---------------------------------------------------------------------------------------------


def _id(context: ClientContext, args: Args) -> Reply:
    del args
    return context.session.id


def _get_name(context: ClientContext, args: Args) -> Reply:
    del args
    return context.session.name or None


def _set_name(context: ClientContext, args: Args) -> Reply:
    problem = refuse_name(args[2])
    if problem is not None:
        return problem
    context.session.name = args[2]
    return OK


def _set_info(context: ClientContext, args: Args) -> Reply:
    attribute, value = args[2].lower(), args[3]
    if attribute not in (b"lib-name", b"lib-ver"):
        return ErrorReply(f"ERR Unrecognized option '{echo(args[2])}'")
    if not is_printable(value):
        name = attribute.decode()
        return ErrorReply(f"ERR {name} cannot contain spaces, newlines or special characters.")
    if attribute == b"lib-name":
        context.session.library_name = value
    else:
        context.session.library_version = value
    return OK


def _reply(context: ClientContext, args: Args) -> Reply:
    """Switch replies on or off, or skip this one and the next; whether this reply is sent, the session says."""
    session, mode = context.session, args[2].lower()
    match mode:
        case b"on":
            session.is_silent, session.silent_commands = False, 0
        case b"off":
            session.is_silent = True
        case b"skip":
            session.silent_commands = 2
        case _:
            return SYNTAX_ERROR
    return OK


def _no_evict(context: ClientContext, args: Args) -> Reply:
    value = _switch(args[2])
    if value is None:
        return SYNTAX_ERROR
    context.session.no_evict = value
    return OK


def _no_touch(context: ClientContext, args: Args) -> Reply:
    value = _switch(args[2])
    if value is None:
        return SYNTAX_ERROR
    context.session.no_touch = value
    return OK


def _switch(word: bytes) -> bool | None:
    return {b"on": True, b"off": False}.get(word.lower())


# -- all connections --------------------------------------------------------------------------------------------------


def _info(context: ClientContext, args: Args) -> Reply:
    del args
    return Verbatim(_line(context.session, context.now_us()))


def _list(context: ClientContext, args: Args) -> Reply:
    sessions = context.connections.sessions
    chosen: Iterable[Session] = sessions.values()
    if len(args) == 4 and args[2].lower() == b"type":
        kind = args[3].lower()
        if kind not in CLIENT_TYPES:
            return ErrorReply(f"ERR Unknown client type '{echo(args[3])}'")
        chosen = chosen if kind == b"normal" else ()
    elif len(args) > 3 and args[2].lower() == b"id":
        ids = [parse_int64(text) for text in args[3:]]
        if None in ids:
            return ErrorReply("ERR Invalid client ID")
        chosen = [sessions[number] for number in ids if number is not None and number in sessions]
    elif len(args) > 2:
        return SYNTAX_ERROR
    now_us = context.now_us()
    return Verbatim(b"".join(_line(session, now_us) for session in chosen))


def _line(session: Session, now_us: int) -> bytes:
    """Return a connection's ``key=value`` line with its line feed (Redis ``catClientInfoString``)."""
    age_s = 0 if session.created_us is None else max(0, now_us - session.created_us) // 1_000_000
    fields: list[tuple[str, object]] = [
        ("id", session.id),
        ("addr", session.address),
        ("laddr", session.local_address),
        ("name", session.name.decode("ascii")),
        ("age", age_s),
        ("flags", ("r" if session.readonly else "") + ("e" if session.no_evict else "") or "N"),
        ("db", 0),
        ("cmd", session.last_command.decode("ascii", "backslashreplace") or "NULL"),
        ("user", DEFAULT_USER.decode()),
        ("resp", session.protocol),
        ("lib-name", session.library_name.decode("ascii")),
        ("lib-ver", session.library_version.decode("ascii")),
        *_tls_fields(session),
    ]
    return " ".join(f"{key}={value}" for key, value in fields).encode() + b"\n"


def _tls_fields(session: Session) -> list[tuple[str, object]]:
    """Return what is said of a connection that speaks TLS, behind what Redis says; nothing of any other."""
    if not session.tls:
        return []
    named = [("tls-name", quote(session.certificate.common_name, safe=""))] if session.certificate else []
    return [("tls", session.tls), *named]


# -- KILL -------------------------------------------------------------------------------------------------------------

Filter = Callable[[Session], bool]


def _kill(context: ClientContext, args: Args) -> Reply:
    """CLIENT KILL addr, or CLIENT KILL filter value ...: the first answers OK, the second how many."""
    if len(args) == 3:
        address = args[2].decode("utf-8", "replace")
        victims = [session for session in context.connections.sessions.values() if session.address == address]
        _end(context, victims)
        return OK if victims else ErrorReply("ERR No such client")
    if len(args) % 2:
        return SYNTAX_ERROR
    filters: list[Filter] = []
    skips_asker = True
    for option, value in zip(args[2::2], args[3::2], strict=True):
        if option.lower() == b"skipme":
            if value.lower() not in (b"yes", b"no"):
                return SYNTAX_ERROR
            skips_asker = value.lower() == b"yes"
            continue
        chosen = _filter(option.lower(), value)
        if isinstance(chosen, ErrorReply):
            return chosen
        filters.append(chosen)
    sessions = context.connections.sessions.values()
    victims = [session for session in sessions if all(matches(session) for matches in filters)]
    if skips_asker:
        victims = [session for session in victims if session is not context.session]
    _end(context, victims)
    return len(victims)


def _filter(option: bytes, value: bytes) -> Filter | ErrorReply:
    """Return what decides whether a session is meant, or why the filter is refused."""
    text = value.decode("utf-8", "replace")
    match option:
        case b"id":
            number = parse_int64(value)
            if number is None or number < 1:
                return ErrorReply("ERR client-id should be greater than 0")
            return lambda session: session.id == number
        case b"addr":
            return lambda session: session.address == text
        case b"laddr":
            return lambda session: session.local_address == text
        case b"type":
            if value.lower() not in CLIENT_TYPES:
                return ErrorReply(f"ERR Unknown client type '{echo(value)}'")
            return lambda _: value.lower() == b"normal"
        case b"user":
            if value != DEFAULT_USER:
                return ErrorReply(f"ERR No such user '{echo(value)}'")
            return lambda _: True
        case _:
            return SYNTAX_ERROR


def _end(context: ClientContext, victims: Iterable[Session]) -> None:
    for session in victims:
        if session is context.session:
            session.closing = True
        else:
            context.connections.abort_session(session)


CLIENT_SUBCOMMANDS: Final = table(
    Subcommand(b"getname", 2, _get_name, "", "Return the name of the current connection"),
    Subcommand(b"id", 2, _id, "", "Return the id of the current connection"),
    Subcommand(b"info", 2, _info, "", "Return information about the current connection"),
    Subcommand(b"kill", -3, _kill, "address|(option value)...", "Close connections"),
    Subcommand(b"list", -2, _list, "[TYPE client-type|ID client-id...]", "Return information about connections"),
    Subcommand(b"no-evict", 3, _no_evict, "ON|OFF", "Accepted; connections are not evicted here"),
    Subcommand(b"no-touch", 3, _no_touch, "ON|OFF", "Accepted; reads never alter a key's age here"),
    Subcommand(b"reply", 3, _reply, "ON|OFF|SKIP", "Control the replies sent to the current connection"),
    Subcommand(b"setinfo", 4, _set_info, "(LIB-NAME|LIB-VER) value", "Say which client library is used"),
    Subcommand(b"setname", 3, _set_name, "connection-name", "Name the current connection"),
)
