"""server/commands/connection.py: what a connection answers itself, and what its session remembers."""

from __future__ import annotations

import pytest

from durable_raft.kv.commands import COMMANDS
from durable_raft.kv.replies import OK, PONG, ErrorReply, Reply, Simple
from durable_raft.server.commands.session import Session
from durable_raft.server.commands.specs import CONNECTION_COMMANDS
from durable_raft.server.commands.status import NodeStatus
from tests.support.node_status import FOLLOWER, LEADER, answered, seen_by_client


def run(session: Session, *args: bytes, status: NodeStatus = LEADER) -> Reply:
    """Execute one command on a session that is alone on its node."""
    return answered(session, list(args), status)


def error(session: Session, *args: bytes, status: NodeStatus = LEADER) -> str:
    """Return the error line that ``args`` gets."""
    reply = run(session, *args, status=status)
    assert isinstance(reply, ErrorReply), reply
    return reply.line


@pytest.fixture
def session() -> Session:
    """A new connection."""
    return Session(id=5, address="10.9.8.7:6543")


def test_tables_do_not_overlap() -> None:
    """A command is either the machine's or the connection's."""
    assert not CONNECTION_COMMANDS.keys() & COMMANDS.keys()


def test_every_command_of_the_table_is_executed(session: Session) -> None:
    """No command of the table lacks its handler: each gives a reply to a request of its least arity."""
    for name, spec in CONNECTION_COMMANDS.items():
        reply = run(session, name, *[b"0"] * (abs(spec.arity) - 1))
        assert reply is not None, name


def test_names_are_found_in_any_case(session: Session) -> None:
    """Command names are case-insensitive."""
    assert run(session, b"PiNg") == PONG


def test_ping_and_echo(session: Session) -> None:
    """PING answers PONG or its argument; ECHO its argument."""
    assert run(session, b"PING", b"hi") == b"hi"
    assert run(session, b"ECHO", b"\x00\xff") == b"\x00\xff"
    assert error(session, b"PING", b"a", b"b") == "ERR wrong number of arguments for 'ping' command"


@pytest.mark.parametrize(
    "request_line", ["ECHO", "TIME x", "CLIENT", "CLUSTER", "CONFIG", "SELECT", "WAIT 1", "READONLY x"]
)
def test_wrong_arity_is_refused(session: Session, request_line: str) -> None:
    """Too few or too many arguments get Redis's error with the command's name in lower case."""
    words = request_line.encode().split()
    assert error(session, *words) == f"ERR wrong number of arguments for '{words[0].decode().lower()}' command"


def test_quit_closes_after_its_reply(session: Session) -> None:
    """QUIT answers OK and marks the session as closing."""
    assert run(session, b"QUIT") == OK
    assert session.closing


def test_select_knows_database_zero_only(session: Session) -> None:
    """SELECT 0 is accepted, any other number is not allowed in a cluster."""
    assert run(session, b"SELECT", b"0") == OK
    assert error(session, b"SELECT", b"1") == "ERR SELECT is not allowed in cluster mode"
    assert error(session, b"SELECT", b"x") == "ERR value is not an integer or out of range"


def test_readonly_and_readwrite_switch_stale_reads(session: Session) -> None:
    """READONLY is remembered until READWRITE; ASKING changes nothing."""
    assert run(session, b"READONLY") == OK
    assert session.readonly
    assert run(session, b"ASKING") == OK
    assert session.readonly
    assert run(session, b"READWRITE") == OK
    assert not session.readonly


def test_time_is_the_time_by_which_keys_expire(session: Session) -> None:
    """TIME gives seconds and microseconds of the cluster time as bulk strings, not of the node's clock."""
    assert run(session, b"TIME") == [b"1700000001", b"7000"]


def test_wait_counts_on_the_leader_only(session: Session) -> None:
    """WAIT answers at once with the followers that have the whole log; a follower refuses it."""
    assert run(session, b"WAIT", b"2", b"100") == 1
    assert error(session, b"WAIT", b"2", b"100", status=FOLLOWER).startswith("ERR WAIT cannot be used with replica")
    assert error(session, b"WAIT", b"2", b"-1") == "ERR timeout is negative"


# -- HELLO and AUTH ---------------------------------------------------------------------------------------------------


def test_hello_describes_the_node(session: Session) -> None:
    """HELLO without arguments changes nothing and tells server, version, protocol, id, mode and role."""
    assert seen_by_client(run(session, b"HELLO", status=FOLLOWER), 3) == {
        b"server": b"redis",
        b"version": b"7.0.15",
        b"proto": 2,
        b"id": 5,
        b"mode": b"cluster",
        b"role": b"replica",
        b"modules": [],
    }
    assert session.protocol == 2


def test_hello_switches_the_protocol_and_takes_name_and_user(session: Session) -> None:
    """HELLO 3 AUTH default any SETNAME name: the protocol and the name are the session's from then on."""
    reply = run(session, b"hello", b"3", b"auth", b"default", b"secret", b"setname", b"me")
    assert seen_by_client(reply, 2) == [
        *(b"server", b"redis", b"version", b"7.0.15", b"proto", 3, b"id", 5),
        *(b"mode", b"cluster", b"role", b"master", b"modules", []),
    ]
    assert (session.protocol, session.name) == (3, b"me")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((b"4",), "NOPROTO unsupported protocol version"),
        ((b"1",), "NOPROTO unsupported protocol version"),
        ((b"x",), "ERR Protocol version is not an integer or out of range"),
        ((b"3", b"SETNAME"), "ERR Syntax error in HELLO option 'SETNAME'"),
        ((b"3", b"AUTH", b"default"), "ERR Syntax error in HELLO option 'AUTH'"),
        ((b"3", b"NOPE"), "ERR Syntax error in HELLO option 'NOPE'"),
        (
            (b"3", b"SETNAME", b"me", b"AUTH", b"bob", b"pw"),
            "WRONGPASS invalid username-password pair or user is disabled.",
        ),
        (
            (b"3", b"SETNAME", b"a b"),
            "ERR Client names cannot contain spaces, newlines or special characters.",
        ),
    ],
)
def test_hello_that_is_refused_changes_nothing(session: Session, words: tuple[bytes, ...], line: str) -> None:
    """A refused HELLO leaves protocol and name as they were, whichever option was wrong."""
    session.name = b"before"
    assert error(session, b"HELLO", *words) == line
    assert (session.protocol, session.name) == (2, b"before")


def test_auth_knows_one_user_without_password(session: Session) -> None:
    """AUTH answers as Redis does when no password is configured."""
    assert run(session, b"AUTH", b"default", b"anything") == OK
    assert error(session, b"AUTH", b"bob", b"x").startswith("WRONGPASS ")
    assert error(session, b"AUTH", b"x").startswith("ERR AUTH <password> called without any password configured")
    assert error(session, b"AUTH", b"a", b"b", b"c") == "ERR syntax error"


def test_reset_makes_a_new_connection_of_it(session: Session) -> None:
    """RESET returns to RESP2, no name, no READONLY, replies on; the id and the library stay."""
    for line in ("HELLO 3 SETNAME me", "READONLY", "CLIENT SETINFO LIB-NAME lib", "CLIENT REPLY OFF"):
        run(session, *line.encode().split())
    assert run(session, b"RESET") == Simple(b"RESET")
    assert (session.protocol, session.name, session.readonly, session.drops_reply) == (2, b"", False, False)
    assert (session.id, session.library_name) == (5, b"lib")


# -- which replies are sent -------------------------------------------------------------------------------------------


def sent(session: Session, *lines: str) -> list[bool]:
    """Return, for each command, whether its reply is sent: what a connection asks its session."""
    answers = []
    for line in lines:
        session.begin_command()
        run(session, *line.encode().split())
        answers.append(not session.drops_reply)
    return answers


def test_reply_off_silences_until_on(session: Session) -> None:
    """CLIENT REPLY OFF has no reply, nor has anything after it, errors included; CLIENT REPLY ON has."""
    lines = (
        "PING",
        "CLIENT REPLY OFF",
        "PING",
        "CLIENT REPLY nonsense",
        "CLIENT REPLY SKIP",
        "CLIENT REPLY ON",
        "PING",
    )
    assert sent(session, *lines) == [True, False, False, False, False, True, True]


def test_reply_skip_silences_itself_and_one_more(session: Session) -> None:
    """CLIENT REPLY SKIP has no reply, nor has the next command; the one after it has."""
    assert sent(session, "CLIENT REPLY SKIP", "PING", "PING") == [False, False, True]
    assert sent(session, "CLIENT REPLY SKIP", "CLIENT REPLY SKIP", "PING", "PING") == [False, False, False, True]
