"""server/commands/client.py: CLIENT on one's own connection and on all of them."""

from __future__ import annotations

import pytest

from durable_raft.kv.replies import OK, ErrorReply, Reply, Verbatim
from durable_raft.server.commands.client import ClientContext, execute_client_command
from durable_raft.server.commands.session import Session
from tests.support.node_status import Connections
from tests.support.redis_py import parse_client_list

NOW_US = 1_700_000_000_000_000


class Three(Connections):
    """Three connections, of which the first asks."""

    def __init__(self) -> None:
        super().__init__(
            *(Session(id=number, address=f"10.0.0.9:{number}", local_address="10.0.0.1:7001") for number in (1, 2, 3))
        )
        self.asker = self.sessions[1]

    def run(self, *words: bytes) -> Reply:
        """Execute CLIENT ``words`` for the asking connection."""
        return execute_client_command(ClientContext(self.asker, self, lambda: NOW_US), [b"client", *words])

    def error(self, *words: bytes) -> str:
        """Return the error line of CLIENT ``words``."""
        reply = self.run(*words)
        assert isinstance(reply, ErrorReply), reply
        return reply.line

    def listed(self, *words: bytes) -> list[dict[str, str]]:
        """Return CLIENT ``words`` as redis-py reads the lines."""
        reply = self.run(*words)
        assert isinstance(reply, Verbatim)
        return parse_client_list(reply.text)

    def closing(self) -> list[int]:
        """Return the ids of the connections that are to be closed."""
        return [session.id for session in self.sessions.values() if session.closing]


@pytest.fixture
def connections() -> Three:
    """Three new connections."""
    return Three()


def test_id_is_the_sessions(connections: Three) -> None:
    """CLIENT ID answers the connection's number."""
    assert connections.run(b"ID") == 1


def test_name_is_set_shown_and_taken_away(connections: Three) -> None:
    """CLIENT GETNAME is null without a name; an empty SETNAME takes the name away."""
    assert connections.run(b"GETNAME") is None
    assert connections.run(b"SetName", b"worker-1") == OK
    assert connections.run(b"GETNAME") == b"worker-1"
    assert connections.run(b"SETNAME", b"") == OK
    assert connections.run(b"GETNAME") is None


@pytest.mark.parametrize("name", [b"a b", b"a\nb", b"\xc3\xa9", b"\x7f"])
def test_name_that_would_break_the_list_is_refused(connections: Three, name: bytes) -> None:
    """Blanks, line breaks and what is not printable ASCII are refused in names."""
    line = "ERR Client names cannot contain spaces, newlines or special characters."
    assert connections.error(b"SETNAME", name) == line
    assert connections.run(b"GETNAME") is None


def test_library_is_shown_in_info(connections: Three) -> None:
    """CLIENT SETINFO is remembered and shown by CLIENT INFO."""
    assert connections.run(b"SETINFO", b"lib-name", b"redis-py") == OK
    assert connections.run(b"SETINFO", b"LIB-VER", b"8.1.0") == OK
    [line] = connections.listed(b"INFO")
    assert (line["lib-name"], line["lib-ver"]) == ("redis-py", "8.1.0")


def test_library_info_that_is_unknown_or_unprintable_is_refused(connections: Three) -> None:
    """CLIENT SETINFO knows two attributes, and takes printable values only."""
    assert connections.error(b"SETINFO", b"lib-foo", b"x") == "ERR Unrecognized option 'lib-foo'"
    expected = "ERR lib-name cannot contain spaces, newlines or special characters."
    assert connections.error(b"SETINFO", b"LIB-NAME", b"a b") == expected


def test_info_describes_the_asking_connection(connections: Three) -> None:
    """CLIENT INFO is one line with id, addresses, age, flags, database, command, user and protocol."""
    session = connections.asker
    session.created_us = NOW_US - 61_500_000
    session.readonly, session.protocol, session.last_command = True, 3, b"client|info"
    [line] = connections.listed(b"INFO")
    assert line == {
        "id": "1",
        "addr": "10.0.0.9:1",
        "laddr": "10.0.0.1:7001",
        "name": "",
        "age": "61",
        "flags": "r",
        "db": "0",
        "cmd": "client|info",
        "user": "default",
        "resp": "3",
        "lib-name": "",
        "lib-ver": "",
    }


def test_list_shows_all_or_the_chosen_connections(connections: Three) -> None:
    """CLIENT LIST shows every connection, those of a type, or those whose ids are given and known."""

    def ids(*words: bytes) -> list[str]:
        return [line["id"] for line in connections.listed(b"LIST", *words)]

    assert ids() == ids(b"TYPE", b"Normal") == ["1", "2", "3"]
    assert ids(b"type", b"replica") == ids(b"TYPE", b"pubsub") == []
    assert ids(b"ID", b"3", b"77", b"1") == ["3", "1"]


@pytest.mark.parametrize("option", [b"NO-EVICT", b"NO-TOUCH"])
def test_switches_are_accepted(connections: Three, option: bytes) -> None:
    """CLIENT NO-EVICT and NO-TOUCH take ON and OFF and nothing else."""
    assert connections.run(option, b"on") == OK
    assert connections.asker.no_evict is (option == b"NO-EVICT")
    assert connections.asker.no_touch is (option == b"NO-TOUCH")
    assert connections.run(option, b"OFF") == OK
    assert [connections.asker.no_evict, connections.asker.no_touch] == [False, False]
    assert connections.error(option, b"maybe") == "ERR syntax error"


@pytest.mark.parametrize(
    ("words", "killed"),
    [
        ((b"ID", b"2"), [2]),
        ((b"ID", b"99"), []),
        ((b"ID", b"1"), []),
        ((b"ID", b"1", b"SKIPME", b"no"), [1]),
        ((b"addr", b"10.0.0.9:3"), [3]),
        ((b"LADDR", b"10.0.0.1:7001"), [2, 3]),
        ((b"TYPE", b"normal", b"SKIPME", b"NO"), [1, 2, 3]),
        ((b"TYPE", b"pubsub"), []),
        ((b"USER", b"default"), [2, 3]),
        ((b"ID", b"2", b"ADDR", b"10.0.0.9:3"), []),
        ((b"skipme", b"yes"), [2, 3]),
    ],
)
def test_kill_marks_what_all_filters_match(connections: Three, words: tuple[bytes, ...], killed: list[int]) -> None:
    """CLIENT KILL closes the connections that pass every filter, the asking one only with SKIPME no."""
    assert connections.run(b"KILL", *words) == len(killed)
    assert connections.closing() == killed


def test_kill_by_address_alone_takes_the_asker_too(connections: Three) -> None:
    """The old form, CLIENT KILL addr, answers OK and does not spare the asking connection."""
    assert connections.run(b"KILL", b"10.0.0.9:1") == OK
    assert connections.closing() == [1]


@pytest.mark.parametrize(
    "words",
    [
        (b"1.2.3.4:5",),
        (b"ID", b"0"),
        (b"ID", b"2", b"TYPE", b"nosuch"),
        (b"ID", b"2", b"USER", b"bob"),
        (b"ID", b"2", b"NOPE", b"x"),
        (b"ID", b"2", b"SKIPME", b"maybe"),
        (b"ID", b"2", b"ADDR"),
    ],
)
def test_kill_that_is_refused_closes_nothing(connections: Three, words: tuple[bytes, ...]) -> None:
    """An error anywhere in CLIENT KILL leaves every connection open."""
    connections.error(b"KILL", *words)
    assert connections.closing() == []
