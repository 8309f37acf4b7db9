"""Client connections of one real node: what is answered, in which order, and when a connection ends."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

import hiredis
import pytest

from durable_raft.server.clients import OWED_MAX
from tests.support.forked_nodes import ForkedNodes
from tests.support.waiting import WAIT_S

pytestmark = pytest.mark.cluster

CLIENTS_MAX = 12
OUTPUT_BYTES_MAX = 2 << 20


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedNodes]:
    """A cluster of one, with small limits."""
    made = ForkedNodes(
        1,
        tmp_path_factory.mktemp("clients"),
        clients_max=CLIENTS_MAX,
        output_bytes_max=OUTPUT_BYTES_MAX,
        value_bytes_max=4 << 20,
        request_bytes_max=8 << 20,
    )
    made.start()
    made.leader()
    yield made
    made.close()


def packed(command: Sequence[str | bytes]) -> bytes:
    """Return a command as it is sent."""
    # hiredis declares a tuple of one.
    return bytes(hiredis.pack_command(tuple(command)))  # type: ignore[arg-type]


class Raw:
    """A connection whose bytes the test decides about."""

    def __init__(self, nodes: ForkedNodes) -> None:
        address = nodes.address("n1")
        self.socket = socket.create_connection((address.host, address.port), WAIT_S)
        self._reader = hiredis.Reader()

    def send(self, *commands: str) -> None:
        """Send commands at once."""
        self.socket.sendall(b"".join(packed(command.split()) for command in commands))

    def replies(self, count: int) -> list[object]:
        """Return the next ``count`` replies, errors as their text; fewer when the connection ends before."""
        found: list[object] = []
        while len(found) < count:
            reply = self._reader.gets()
            if reply is False:
                try:
                    data = self.socket.recv(1 << 16)
                except ConnectionResetError:
                    return found
                if not data:
                    return found
                self._reader.feed(data)
            else:
                found.append(str(reply) if isinstance(reply, hiredis.ReplyError) else reply)
        return found

    def is_closed(self) -> bool:
        """Wait for the end of the connection, with nothing more said."""
        return self.replies(1) == []


@pytest.fixture
def raw(nodes: ForkedNodes) -> Iterator[Raw]:
    """A connection."""
    connection = Raw(nodes)
    yield connection
    connection.socket.close()


@pytest.fixture
def other(nodes: ForkedNodes) -> Iterator[Raw]:
    """Another connection."""
    connection = Raw(nodes)
    yield connection
    connection.socket.close()


def test_replies_come_in_the_order_of_the_commands(raw: Raw) -> None:
    """Whatever answers them: the machine, in runs and alone, the connection, or nobody."""
    commands = [
        "SET a 1",
        "PING",
        *["SET b 2"] * 70,
        "GET a",
        "NOSUCH x",
        "GET",
        "GET b",
        "get a",
        "WAIT 0 0",
        "ECHO e",
    ]
    raw.send(*commands)
    found = raw.replies(len(commands))
    assert found[:2] == [b"OK", b"PONG"]
    assert found[2:72] == [b"OK"] * 70
    assert found[72] == b"1"
    assert str(found[73]).startswith("ERR unknown command 'NOSUCH'")
    assert str(found[74]).startswith("ERR wrong number of arguments for 'get'")
    assert found[75:] == [b"2", b"1", 0, b"e"]


def test_a_client_may_close_its_half_and_still_get_replies(raw: Raw) -> None:
    """What was asked before is answered, then the connection ends."""
    raw.send("SET half 1", "GET half")
    raw.socket.shutdown(socket.SHUT_WR)
    assert raw.replies(3) == [b"OK", b"1"]


def test_bytes_that_are_no_command_end_the_connection(raw: Raw) -> None:
    """After the replies to what came before them, and with the reason; nothing behind them is executed."""
    raw.send("SET before 1")
    raw.socket.sendall(b"*1\r\n$x\r\n")
    raw.send("SET after 1")
    found = raw.replies(3)
    assert found[0] == b"OK"
    assert str(found[1]).startswith("ERR Protocol error")
    assert len(found) == 2


def test_nothing_behind_quit_is_executed(raw: Raw, other: Raw) -> None:
    """In the same bytes, as a run, or later."""
    raw.send("QUIT", "SET quit 1", "SET quit 2")
    assert raw.replies(3) == [b"OK"]
    other.send("GET quit")
    assert other.replies(1) == [None]


def test_one_connection_too_many_is_turned_away(nodes: ForkedNodes) -> None:
    """It is told why; the others go on, and there is room again when one has ended."""
    taken = [Raw(nodes) for _ in range(CLIENTS_MAX)]
    for connection in taken:
        connection.send("PING")
        assert connection.replies(1) == [b"PONG"]
    late = Raw(nodes)
    assert late.replies(2) == ["ERR max number of clients reached"]
    for connection in (*taken, late):
        connection.socket.close()
    nodes.wait(lambda: nodes.info("n1").get("connected_clients") == "1", "the connections to end")


def test_more_is_not_read_while_too_much_is_owed(raw: Raw) -> None:
    """A client may pipeline without limit: what it is owed is bounded, and all is answered."""
    count = 3 * OWED_MAX
    raw.send(*["INCR owed"] * count)
    assert raw.replies(count) == list(range(1, count + 1))


def test_a_client_that_does_not_read_is_cut_off(nodes: ForkedNodes, raw: Raw, other: Raw) -> None:
    """And it alone: what it does not read is not kept for ever."""
    other.send(f"SET large {'x' * (1 << 20)}")
    assert other.replies(1) == [b"OK"]
    raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    raw.send(*["GET large"] * 50)
    nodes.logged("n1", "client_too_slow")
    assert len(raw.replies(50)) < 50
    other.send("PING")
    assert other.replies(1) == [b"PONG"]


def test_a_client_can_end_another(nodes: ForkedNodes, raw: Raw, other: Raw) -> None:
    """CLIENT KILL closes the others it names, also one that has never said anything, with nothing more said."""
    host, port = other.socket.getsockname()
    address = f"{host}:{port}"

    def is_listed() -> bool:
        raw.send("CLIENT LIST")
        return f" addr={address} " in str(raw.replies(1)[0])

    nodes.wait(is_listed, "the other to be connected")
    raw.send(f"CLIENT KILL ADDR {address}", "PING")
    assert raw.replies(2) == [1, b"PONG"]
    assert other.is_closed()


def test_a_client_that_wants_no_replies_gets_none(raw: Raw) -> None:
    """CLIENT REPLY OFF and SKIP drop replies of the machine's too; the commands are executed."""
    raw.send("CLIENT REPLY SKIP", "SET quiet 1", "GET quiet", "CLIENT REPLY OFF", "INCR quiet", "CLIENT REPLY ON")
    raw.send("GET quiet")
    assert raw.replies(3) == [b"1", b"OK", b"2"]


def test_wait_is_answered_when_the_writes_before_it_are(raw: Raw) -> None:
    """It counts the replicas that have them: none in a cluster of one."""
    raw.send(*["INCR waited"] * 5, "WAIT 0 1000", "GET waited")
    assert raw.replies(7) == [1, 2, 3, 4, 5, 0, b"5"]


def test_an_expired_key_goes_by_itself(nodes: ForkedNodes, raw: Raw) -> None:
    """Nobody asks for it: the leader says when its time has come."""
    raw.send("SET short x PX 20", "SET long x EX 1000")
    assert raw.replies(2) == [b"OK", b"OK"]
    nodes.wait(
        lambda: nodes.info("n1")["db0"].startswith("keys=") and "expires=1," in nodes.info("n1")["db0"], "expiry"
    )


def test_the_state_is_given_piece_by_piece(nodes: ForkedNodes, raw: Raw) -> None:
    """A backup reads one checkpoint whatever is written meanwhile; behind its last key comes nothing."""
    raw.send(*[f"SET piece:{number:03} {'p' * 1000}" for number in range(100)])
    raw.replies(100)
    before = nodes.number("n1", "checkpoints")
    raw.send("RAFT CHECKPOINT")
    assert raw.replies(1) == [b"OK"]
    nodes.wait(lambda: nodes.number("n1", "checkpoints") > before, "a checkpoint")
    found: dict[bytes, bytes] = {}
    index, pieces = 0, 0
    command: list[str | bytes] = ["RAFT", "SNAPSHOT", "0"]
    while True:
        raw.socket.sendall(packed(command))
        (reply,) = raw.replies(1)
        assert isinstance(reply, list)
        assert index in (0, reply[0])
        index, items = reply[0], reply[2:]
        if not items:
            break
        pieces += 1
        found.update(zip(items[::4], items[1::4], strict=True))
        command = ["RAFT", "SNAPSHOT", str(index), items[-4]]
        raw.send("SET piece:000 changed", "RAFT CHECKPOINT")
        raw.replies(2)
    assert pieces > 2
    assert found[b"piece:000"] == b"p" * 1000
    assert len([key for key in found if key.startswith(b"piece:")]) == 100
    raw.send("RAFT SNAPSHOT x")
    assert str(raw.replies(1)[0]).startswith("ERR value is not an integer")
