"""Limits and bad input from clients: a clear error, nothing lost, nobody else disturbed."""

from __future__ import annotations

import time

import pytest

from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import Cluster
from tests.cluster.raw import Conversation

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"*1\r\nfoo\r\n", b"-ERR Protocol error: expected '$', got 'f'\r\n"),
        (b"*x\r\n", b"-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*1\r\n$-5\r\n", b"-ERR Protocol error: invalid bulk length\r\n"),
        (b'SET a "b\r\n', b"-ERR Protocol error: unbalanced quotes in request\r\n"),
    ],
)
def test_malformed_request_ends_its_own_connection(shared_cluster: Cluster, data: bytes, error: bytes) -> None:
    """Redis's protocol error after the replies owed before it; then the connection closes, and only that one."""
    leader = shared_cluster.leader()
    with Conversation(shared_cluster, leader) as other, Conversation(shared_cluster, leader) as bad:
        assert other.ask("SET", "a", "1") == "OK"
        bad.send_bytes(b"GET a\r\n" + data + b"PING\r\n")
        assert bad.read_until(b"never") == b"$1\r\n1\r\n" + error
        assert bad.is_closed
        assert other.ask("GET", "a") == "1"


def test_announced_length_over_the_limit_is_refused_before_its_bytes(cluster_of: ClusterFactory) -> None:
    """A bulk or a request that says it will be too long is refused at its header."""
    cluster = cluster_of(1, value_bytes_max="1MiB", request_bytes_max="2MiB")
    cluster.wait_ready()
    with Conversation(cluster, "n1") as conversation:
        conversation.send_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1048577\r\n")
        assert conversation.read_until(b"never") == b"-ERR Protocol error: invalid bulk length\r\n"
    with Conversation(cluster, "n1") as conversation:
        conversation.send_bytes(b"*4\r\n$4\r\nMGET\r\n" + (b"$1048576\r\n" + b"x" * 1048576 + b"\r\n") * 2)
        assert b"Protocol error" in conversation.read_until(b"never")
    with Conversation(cluster, "n1") as conversation:
        assert conversation.ask("SET", "a", "x" * 1000) == "OK"


def test_too_many_clients_are_turned_away(cluster_of: ClusterFactory) -> None:
    """Beyond clients_max a connection gets Redis's error and is closed; a place that is given back is taken again."""
    cluster = cluster_of(1, clients_max=3)
    cluster.wait_ready()
    with Conversation(cluster, "n1") as first, Conversation(cluster, "n1") as second:
        assert first.ask("PING") == second.ask("PING") == "PONG"
        with Conversation(cluster, "n1") as third:
            assert third.ask("PING") == "PONG"
            with Conversation(cluster, "n1") as fourth:
                assert fourth.read_until(b"never") == b"-ERR max number of clients reached\r\n"

    def is_admitted() -> bool:
        with Conversation(cluster, "n1") as again:
            return again.ask("PING") == "PONG"

    cluster.wait(is_admitted, "a place for a client")


def test_client_that_does_not_read_is_cut_off_and_a_large_reply_is_not(cluster_of: ClusterFactory) -> None:
    """One reply larger than output_bytes_max reaches a client that reads; replies that pile up end the connection."""
    cluster = cluster_of(1, output_bytes_max="256KiB")
    cluster.wait_ready()
    with Conversation(cluster, "n1") as reading, Conversation(cluster, "n1") as lazy:
        assert reading.ask("SET", "a", "x" * (1 << 20)) == "OK"
        assert len(reading.ask("GET", "a") or "") == 1 << 20
        lazy.send_bytes(b"GET a\r\n" * 400)
        cluster.wait(lambda: "event=client_too_slow" in cluster.log("n1"), "the lazy client to be cut off")
        assert reading.ask("GET", "nosuch") == "nil"
    info = cluster.info("n1", "clients")
    assert info is not None


def test_command_without_a_leader_is_held_and_then_refused_without_effect(cluster_of: ClusterFactory) -> None:
    """Without a majority a write is held for client_hold_ms, then CLUSTERDOWN; it is not executed later."""
    cluster = cluster_of(3, client_hold_ms=700)
    cluster.wait_ready()
    victims = cluster.node_ids[:2]
    survivor = cluster.node_ids[2]
    cluster.kill9(*victims)
    cluster.wait(lambda: (cluster.info(survivor) or {}).get("raft_leader_id") == "", "the survivor to be leaderless")
    with Conversation(cluster, survivor) as conversation:
        started = time.monotonic()
        reply = conversation.ask("SET", "a", "1")
        assert reply is not None
        assert reply.startswith("-CLUSTERDOWN")
        assert time.monotonic() - started >= 0.6
        assert (conversation.ask("GET", "a") or "").startswith("-CLUSTERDOWN")
        assert conversation.ask("PING") == "PONG"
    cluster.restart(*victims)
    cluster.wait_ready()
    assert cluster.client(cluster.leader()).get("a") is None


def test_held_command_is_executed_when_a_leader_is_elected(cluster_of: ClusterFactory) -> None:
    """A command that came while there was no leader is answered once there is one."""
    cluster = cluster_of(3, client_hold_ms=20000)
    cluster.wait_ready()
    victims, survivor = cluster.node_ids[:2], cluster.node_ids[2]
    cluster.kill9(*victims)
    cluster.wait(lambda: (cluster.info(survivor) or {}).get("raft_leader_id") == "", "the survivor to be leaderless")
    with Conversation(cluster, survivor) as conversation:
        conversation.send("SET", "a", "1")
        cluster.restart(*victims)
        reply = conversation.reply() or ""
    assert reply == "OK" or reply.startswith("-MOVED")


def test_queue_over_its_bound_refuses_more(cluster_of: ClusterFactory) -> None:
    """More than pending_bytes_max of held commands: OVERLOADED, and nothing of it is done."""
    cluster = cluster_of(3, client_hold_ms=3000, pending_bytes_max="1MiB", request_bytes_max="1MiB")
    cluster.wait_ready()
    victims, survivor = cluster.node_ids[:2], cluster.node_ids[2]
    cluster.kill9(*victims)
    cluster.wait(lambda: (cluster.info(survivor) or {}).get("raft_leader_id") == "", "the survivor to be leaderless")
    with Conversation(cluster, survivor) as conversation:
        for number in range(30):
            conversation.send("SET", f"key:{number}", "x" * 100_000)
        replies = [conversation.reply() or "" for _ in range(30)]
    refused = [reply for reply in replies if reply.startswith("-OVERLOADED")]
    given_up = [reply for reply in replies if reply.startswith("-CLUSTERDOWN")]
    assert len(given_up) >= 5
    assert len(refused) >= 10
    assert len(refused) + len(given_up) == 30


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("NOSUCH a b", "-ERR unknown command 'NOSUCH', with args beginning with: 'a' 'b' "),
        ("GET", "-ERR wrong number of arguments for 'get' command"),
        ("INCRBY a x", "-ERR value is not an integer or out of range"),
        ("SET a b EX 0", "-ERR invalid expire time in 'set' command"),
        ("SELECT 1", "-ERR SELECT is not allowed in cluster mode"),
        ("CLIENT NOSUCH", "-ERR unknown subcommand 'NOSUCH'. Try CLIENT HELP."),
    ],
)
def test_mistakes_get_rediss_own_words(shared_cluster: Cluster, command: str, error: str) -> None:
    """Errors are Redis's to the letter, and the connection goes on."""
    with Conversation(shared_cluster, shared_cluster.leader()) as conversation:
        assert conversation.ask(*command.split()) == error
        assert conversation.ask("PING") == "PONG"
