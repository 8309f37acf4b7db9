"""cli/resp_client.py against real servers: redis-server for the protocol, plain sockets for what goes wrong."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from durable_raft.addresses import Address
from durable_raft.cli.local_cluster import HOST, free_ports, stop_nodes, wait_until
from durable_raft.cli.resp_client import ClusterClient, RespClient
from durable_raft.errors import ErrorAnswered, NodeUnreachable


@pytest.fixture(scope="module")
def redis_address() -> Iterator[Address]:
    """A redis-server of its own."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    address = Address(HOST, free_ports(1)[0])
    process = subprocess.Popen(
        [program, "--port", str(address.port), "--bind", HOST, "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
    )

    def answers() -> bool:
        try:
            RespClient(address).close()
        except NodeUnreachable:
            return False
        return True

    assert wait_until(answers, 10.0)
    yield address
    stop_nodes([process])


@contextmanager
def scripted(*answers: bytes, host: str = HOST) -> Iterator[Address]:
    """Listen and give these answers, one per connection, to whatever comes; then close the connection."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:

        def serve() -> None:
            for answer in answers:
                connection, _ = server.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield Address(host, server.getsockname()[1])


def test_replies_become_values(redis_address: Address) -> None:
    """Strings, integers, nothing, arrays and status lines come back as Python values; errors are raised."""
    with RespClient(redis_address) as client:
        assert client.call("SET", "key", b"\x00\r\n") == b"OK"
        assert client.call("GET", "key") == b"\x00\r\n"
        assert client.call("GET", "absent") is None
        assert client.call("STRLEN", "key") == 3
        assert client.call("MGET", "key", "absent") == [b"\x00\r\n", None]
        with pytest.raises(ErrorAnswered, match="ERR value is not an integer"):
            client.call("INCR", "key")
        assert client.call("PING") == b"PONG"


def test_long_values_arrive_whole(redis_address: Address) -> None:
    """A value longer than any single read comes back complete."""
    with RespClient(redis_address) as client:
        client.call("SET", "long", b"x" * 3_000_000)
        value = client.call("GET", "long")
    assert isinstance(value, bytes)
    assert len(value) == 3_000_000


def test_info_becomes_a_dictionary(redis_address: Address) -> None:
    """INFO's lines become keys and values, without the headings."""
    with RespClient(redis_address) as client:
        info = client.info("server")
    assert info["tcp_port"] == str(redis_address.port)
    assert not any(key.startswith("#") for key in info)


def test_nobody_there_is_unreachable() -> None:
    """A port on which nobody listens is told as such, with the address."""
    (port,) = free_ports(1)
    with pytest.raises(NodeUnreachable, match=rf"{HOST}:{port} does not answer"):
        RespClient(Address(HOST, port))


def test_silence_and_broken_connections_are_unreachable() -> None:
    """A node that says nothing in time, closes, or talks rubbish raises the same error, naming the command."""
    with (
        socket.create_server((HOST, 0)) as mute,
        RespClient(Address(HOST, mute.getsockname()[1]), timeout_s=0.1) as client,
        pytest.raises(NodeUnreachable, match=r"'PING'.*timed out"),
    ):
        client.call("PING")
    for answer in (b"", b"$5\r\nab", b"rubbish\r\n"):
        with scripted(answer) as address, RespClient(address) as client, pytest.raises(NodeUnreachable, match="PING"):
            client.call("PING")


def test_cluster_client_follows_moved(redis_address: Address) -> None:
    """An answer MOVED leads to the node that is named, and the command's result comes from there."""
    with scripted(f"-MOVED 5 {redis_address}\r\n".encode()) as follower, ClusterClient([follower]) as client:
        assert client.call("SET", "moved", "1") == b"OK"
        assert client.call("GET", "moved") == b"1"


def test_cluster_client_follows_moved_to_an_ipv6_address() -> None:
    """Redis, and so this node, writes an IPv6 host without brackets in MOVED."""
    with scripted(b"+OK\r\n", host="::1") as leader:
        moved = f"-MOVED 5 {leader.in_redis_form()}\r\n".encode()
        with scripted(moved) as follower, ClusterClient([follower]) as client:
            assert client.call("SET", "moved", "1") == b"OK"


@pytest.mark.parametrize("code", ["CLUSTERDOWN no leader", "TRYAGAIN x", "UNKNOWN fate", "OVERLOADED x"])
def test_cluster_client_asks_again_while_there_is_no_leader(redis_address: Address, code: str) -> None:
    """Errors that pass are asked about again, at the other nodes too; a dead node is passed over."""
    dead = Address(HOST, free_ports(1)[0])
    with scripted(f"-{code}\r\n".encode()) as first, ClusterClient([first, dead, redis_address]) as client:
        assert client.call("PING") == b"PONG"


def test_cluster_client_raises_errors_that_stay(redis_address: Address) -> None:
    """An error that asking again does not cure is raised at once, and the connection stays good."""
    with ClusterClient([redis_address]) as client:
        with pytest.raises(ErrorAnswered, match="ERR unknown command"):
            client.call("NOSUCHCOMMAND")
        assert client.call("PING") == b"PONG"


def test_cluster_client_gives_up_at_the_deadline() -> None:
    """When no node answers, the deadline ends it with the last reason."""
    ports = free_ports(2)
    with (
        ClusterClient([Address(HOST, port) for port in ports], deadline_s=0.1) as client,
        pytest.raises(NodeUnreachable, match=r"no leader within 0\.1 s; last: .*does not answer"),
    ):
        client.call("PING")
