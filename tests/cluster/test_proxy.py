"""The partition proxy itself: a partition test proves nothing when the partition is none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from durable_raft.cli.local_cluster import free_ports
from tests.cluster.proxy import HOST, ProxyNetwork

QUIET_S = 0.2
"""How long nothing must arrive over a link that is cut; what is not cut arrives in well under a millisecond."""


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A server that sends back what it is sent."""
    server = socket.create_server((HOST, 0))

    def echo(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(4096):
                    connection.sendall(data)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield server.getsockname()[1]
    server.close()


@pytest.fixture
def network(echo_port: int) -> Iterator[ProxyNetwork]:
    """Links a -> b and b -> a, both to the echo server."""
    network = ProxyNetwork()
    for (source, target), port in zip([("a", "b"), ("b", "a")], free_ports(2), strict=True):
        network.add(source, target, port=port, target_port=echo_port)
    yield network
    network.close()


def dial(network: ProxyNetwork, source: str, target: str) -> socket.socket:
    """Connect through a link."""
    server = network.links[source, target]._server
    assert server is not None
    return socket.create_connection(server.sockets[0].getsockname(), timeout=5.0)


def is_dropped(connection: socket.socket) -> bool:
    """Return whether the far end closes or resets the connection without sending anything."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_open_link_forwards_both_ways(network: ProxyNetwork) -> None:
    """What is sent through an open link comes back from the far side."""
    with dial(network, "a", "b") as connection:
        connection.sendall(b"hello")
        assert connection.recv(100) == b"hello"
    assert network.links["a", "b"].bytes_forwarded == 10


def test_cut_link_is_silent_and_heal_drops_it(network: ProxyNetwork) -> None:
    """A cut link passes no byte and raises no error; after heal the old connection is gone, a new one works."""
    with dial(network, "a", "b") as old:
        old.sendall(b"1")
        assert old.recv(1) == b"1"
        network.cut("a", "b")
        old.sendall(b"lost")
        old.settimeout(QUIET_S)
        with pytest.raises(TimeoutError):
            old.recv(1)
        network.heal()
        old.settimeout(5.0)
        assert is_dropped(old)
    with dial(network, "a", "b") as new:
        new.sendall(b"2")
        assert new.recv(1) == b"2"


def test_new_connection_over_a_cut_link_hears_nothing(network: ProxyNetwork) -> None:
    """Dialling over a cut link neither fails nor gets through."""
    network.cut("a", "b")
    with dial(network, "a", "b") as connection:
        connection.sendall(b"x")
        connection.settimeout(QUIET_S)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert network.links["a", "b"].bytes_forwarded == 0


def test_cut_is_one_way_and_partition_is_both(network: ProxyNetwork) -> None:
    """Cutting a -> b leaves b -> a alone; a partition, or isolating a node, cuts both."""
    network.cut("a", "b")
    with dial(network, "b", "a") as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
    network.partition(["a"], ["b"])
    assert not any(link._open.is_set() for link in network.links.values())
    network.heal()
    assert all(link._open.is_set() for link in network.links.values())
    network.isolate("a")
    assert not any(link._open.is_set() for link in network.links.values())


def test_stalled_link_delivers_late_and_whole(network: ProxyNetwork) -> None:
    """What is sent over a stalled link arrives after resume, in order and complete."""
    with dial(network, "a", "b") as connection:
        network.stall("a", "b")
        connection.sendall(b"late")
        connection.settimeout(QUIET_S)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        network.resume("a", "b")
        connection.settimeout(5.0)
        data = b""
        while len(data) < 4:
            data += connection.recv(4)
        assert data == b"late"
