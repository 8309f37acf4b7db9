"""One bound for a node's memory: those who fill it are closed, and everybody else is served."""

from __future__ import annotations

import pytest

from durable_raft.raft.types import NodeId
from durable_raft.wire.peer import Hello, encode_frame
from tests.cluster.attack import Attack, closed_for, half_a_message, sent
from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import Cluster
from tests.cluster.operators import operate
from tests.cluster.raw import Conversation

pytestmark = pytest.mark.cluster

ADDRESS_SPACE = 512 << 20
SETTINGS = {
    "memory_max": "256MiB",
    "map_bytes": "64MiB",
    "disk_reserve_bytes": "4MiB",
    "checkpoint_log_bytes": "4MiB",
    "log_tail_bytes": "1MiB",
    "heartbeat_ms": 200,
    "election_timeout_min_ms": 9000,
    "election_timeout_max_ms": 12000,
}
LEADS = {"election_timeout_min_ms": 4000, "election_timeout_max_ms": 5000}
VALUE_BYTES = 10_000_000
CLOSED = 50
"""Attackers of each kind that are closed at least."""

WELL_BEHAVED = 40
"""Commands that the well-behaved client is answered at least, while all others attack."""


@pytest.fixture
def cluster(cluster_of: ClusterFactory) -> Cluster:
    """Three nodes, of which n1 leads and has an address space of 512 MB."""
    cluster = cluster_of(3, settings_of={"n1": LEADS}, **SETTINGS)
    cluster.wait_ready()
    cluster.kill9()
    cluster.run_under("n1", ["prlimit", f"--as={ADDRESS_SPACE}"], **LEADS)
    for node_id in ("n2", "n3"):
        cluster.start(node_id)
    if (leader := cluster.wait_ready()) != "n1":
        # It is the one that takes longest to start.
        operate(cluster, leader, "transfer", "--to", "n1")
    assert cluster.wait_ready() == "n1"
    return cluster


def test_a_well_behaved_client_is_served_while_all_others_fill_the_memory(cluster: Cluster) -> None:
    """Unread replies, half-sent requests and half-sent messages of peers at once, all with 512 MB of address space."""
    node = cluster.nodes["n1"]
    info = cluster.info("n1")
    assert info is not None
    cluster_id = bytes.fromhex(info["raft_cluster_id"])
    # Who is not at n2's address is not n2, and is given room for a handshake.
    hello = encode_frame(cluster_id, Hello(NodeId("n2"), b"?" * 16, NodeId("n1"), "", b"a stranger's own"))
    half_message = half_a_message(cluster_id, 9_000_000)
    half_request = b"*3\r\n$3\r\nSET\r\n$1\r\nh\r\n$12000000\r\n" + b"x" * 8_000_000
    too_long = b"*3\r\n$3\r\nSET\r\n$1\r\nh\r\n$60000000\r\n" + b"x" * 40_000_000
    with Conversation(cluster, "n1") as client:
        assert client.ask("SET", "large", "x" * VALUE_BYTES) == "OK"
        pid = cluster.pid("n1")
        with (
            Attack(60, lambda: sent(node.client_port, b"GET large\r\n" * 5)),
            Attack(40, lambda: sent(node.client_port, half_request)),
            Attack(10, lambda: sent(node.client_port, too_long)),
            Attack(20, lambda: sent(node.peer_port, hello + half_message)),
        ):
            served = 0
            while served < WELL_BEHAVED or not _all_have_closed(cluster):
                assert client.ask("SET", "small", str(served)) == "OK", cluster.explain("a write was not answered")
                assert client.ask("GET", "small") == str(served), cluster.explain("a read was not answered")
                served += 1
        assert cluster.pid("n1") == pid
        assert "n1" in cluster.running(), cluster.explain("n1 has ended")
    for share in ("requests", "replies"):
        cluster.logged("n1", f"event=memory_share_full share={share}")


def _all_have_closed(cluster: Cluster) -> bool:
    """Return whether attackers of each kind have been closed for their memory."""
    return all(closed_for(cluster, "n1", share) >= CLOSED for share in ("requests", "replies"))


def test_a_request_that_stops_half_way_is_ended_and_an_idle_connection_is_not(cluster_of: ClusterFactory) -> None:
    """With the reason; whoever asks nothing may stay for ever."""
    cluster = cluster_of(1, request_timeout_ms=300)
    cluster.wait_ready()
    with Conversation(cluster, "n1") as idle, Conversation(cluster, "n1") as half:
        assert idle.ask("PING") == "PONG"
        half.send_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\nh\r\n$1000\r\nxx")
        assert half.read_until(b"never") == (b"-ERR unfinished: less than 16384 bytes more came within 0.3 s\r\n")
        assert half.is_closed
        assert idle.ask("PING") == "PONG"
    stats = cluster.info("n1")
    assert stats is not None
    assert stats["raft_requests_timed_out"] == "1"
    cluster.logged("n1", "event=half_sent_timeout")


def test_a_node_that_has_no_memory_for_its_maps_refuses_and_keeps_its_directory(cluster_of: ClusterFactory) -> None:
    """It says what does not fit; with enough memory it goes on with what it had."""
    cluster = cluster_of(1, map_bytes="256MiB")
    cluster.wait_ready()
    with Conversation(cluster, "n1") as client:
        assert client.ask("SET", "a", "1") == "OK"
    cluster.kill9("n1")
    cluster.run_under("n1", ["prlimit", f"--as={ADDRESS_SPACE}"])
    assert cluster.wait_exit("n1") == 2
    cluster.logged("n1", "memory_max=0: expected at least")
    cluster.start("n1")
    cluster.wait_ready()
    with Conversation(cluster, "n1") as client:
        assert client.ask("GET", "a") == "1"
