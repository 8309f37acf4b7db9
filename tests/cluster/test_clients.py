"""Redis's own clients against real nodes: they connect, find the leader, and work as they are."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import redis

from durable_raft.kv.slots import key_slot
from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import Cluster
from tests.cluster.proxy import HOST
from tests.cluster.raw import Conversation
from tests.support.waiting import WAIT_S

pytestmark = pytest.mark.cluster

needs_redis_tools = pytest.mark.skipif(
    shutil.which("redis-cli") is None or shutil.which("redis-benchmark") is None,
    reason="redis-cli and redis-benchmark are not installed (Debian: redis-tools)",
)


def port_of(cluster: Cluster, node_id: str) -> str:
    """Return a node's client port, as an argument."""
    return str(cluster.nodes[node_id].client_port)


def redis_cli(cluster: Cluster, node_id: str, *arguments: str, stdin: str | None = None) -> str:
    """Run redis-cli on a node and return what it prints; it must succeed."""
    command = ["redis-cli", "-h", HOST, "-p", port_of(cluster, node_id), *arguments]
    done = subprocess.run(command, input=stdin or "", capture_output=True, text=True, timeout=WAIT_S, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_speaks_both_protocols(shared_cluster: Cluster, protocol: int) -> None:
    """A plain client of the leader: strings, counters, expiry, scans, introspection."""
    client = shared_cluster.client(shared_cluster.leader(), protocol=protocol)
    assert client.set("a", "1", ex=100) is True
    assert client.incr("a") == 2
    assert client.mget("a", "nosuch") == [b"2", None]
    assert 0 < client.ttl("a") <= 100
    client.mset({f"key:{number}": "v" for number in range(50)})
    assert len(set(client.scan_iter("key:*", count=7))) == 50
    assert client.dbsize() == 51
    info = client.info()
    assert info["role"] == "master"
    assert info["cluster_enabled"] == 1
    assert client.info("raft")["raft_role"] == "leader"
    with pytest.raises(redis.ResponseError, match="not an integer"):
        client.incrby("key:1", 1)


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_cluster_client_works_through_the_death_of_the_leader(cluster: Cluster, protocol: int) -> None:
    """A cluster client with its default retries sees no error while the leader is killed and replaced."""
    client = cluster.cluster_client(protocol=protocol)
    for number in range(50):
        client.set(f"before:{number}", number)
    assert client.mget("before:1", "before:2") == [b"1", b"2"]
    cluster.kill9(cluster.leader())
    for number in range(50):
        client.set(f"after:{number}", number)
    for number in range(50):
        assert client.get(f"before:{number}") == client.get(f"after:{number}") == b"%d" % number


@needs_redis_tools
def test_redis_cli_follows_redirections_with_c_and_shows_them_without(shared_cluster: Cluster) -> None:
    """redis-cli -c on a follower reaches the leader; without -c it prints MOVED."""
    follower = shared_cluster.followers()[0]
    assert redis_cli(shared_cluster, follower, "-c", "SET", "city", "Paris") == "OK"
    assert redis_cli(shared_cluster, follower, "-c", "GET", "city") == "Paris"
    assert redis_cli(shared_cluster, follower, "GET", "city").startswith(f"MOVED {key_slot(b'city')} ")
    assert redis_cli(shared_cluster, shared_cluster.leader(), "-3", "GET", "nosuch") == ""


@needs_redis_tools
def test_redis_cli_scans_and_pipes(shared_cluster: Cluster) -> None:
    """--pipe takes a mass of commands, --scan gives every key back once, --cluster check is content."""
    leader = shared_cluster.leader()
    said = redis_cli(shared_cluster, leader, "--pipe", stdin="".join(f"SET key:{n} {n}\n" for n in range(1000)))
    assert "errors: 0, replies: 1000" in said
    assert sorted(redis_cli(shared_cluster, leader, "--scan").split()) == sorted(f"key:{n}" for n in range(1000))
    assert "All 16384 slots covered" in redis_cli(
        shared_cluster, leader, "--cluster", "check", f"{HOST}:{port_of(shared_cluster, leader)}"
    )


@needs_redis_tools
@pytest.mark.parametrize(("pipeline", "requests"), [("1", "2000"), ("16", "8000")])
def test_redis_benchmark_meets_no_error(shared_cluster: Cluster, pipeline: str, requests: str) -> None:
    """redis-benchmark, which ends at the first error reply, runs through."""
    command = ["redis-benchmark", "-p", port_of(shared_cluster, shared_cluster.leader()), "-t", "set,get,incr,mset"]
    command += ["-n", requests, "-c", "50", "-P", pipeline, "-q"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("requests per second") == 4, done.stdout + done.stderr
    assert "rror" not in done.stdout


def test_protocol_switch_inside_a_pipeline(shared_cluster: Cluster) -> None:
    """Each reply speaks the protocol that was in force when its command came."""
    with Conversation(shared_cluster, shared_cluster.leader()) as conversation:
        conversation.send_bytes(b"GET nosuch\r\nHELLO 3\r\nGET nosuch\r\nHELLO 2\r\nGET nosuch\r\nPING\r\n")
        data = conversation.read_until(b"+PONG\r\n")
    assert data.startswith(b"$-1\r\n%7\r\n")
    assert b"_\r\n*14\r\n" in data
    assert data.endswith(b"$-1\r\n+PONG\r\n")


def test_silenced_replies_are_not_sent(shared_cluster: Cluster) -> None:
    """CLIENT REPLY SKIP and OFF leave out exactly the replies they say; the commands are executed."""
    with Conversation(shared_cluster, shared_cluster.leader()) as conversation:
        conversation.send_bytes(
            b"CLIENT REPLY SKIP\r\nSET a 1\r\nGET a\r\nCLIENT REPLY OFF\r\nSET a 2\r\nCLIENT REPLY ON\r\n"
        )
        conversation.send_bytes(b"GET a\r\nPING\r\n")
        assert conversation.read_until(b"+PONG\r\n") == b"$1\r\n1\r\n+OK\r\n$1\r\n2\r\n+PONG\r\n"


def test_client_kill_ends_another_connection(shared_cluster: Cluster) -> None:
    """CLIENT KILL ID closes that connection and no other."""
    leader = shared_cluster.leader()
    with Conversation(shared_cluster, leader) as killer, Conversation(shared_cluster, leader) as victim:
        victim_id = victim.ask("CLIENT", "ID")
        assert killer.ask("CLIENT", "KILL", "ID", str(victim_id)) == "1"
        assert victim.reply() is None
        assert killer.ask("PING") == "PONG"


def test_wait_counts_followers_that_have_the_writes_before_it(shared_cluster: Cluster) -> None:
    """A pipelined WAIT is answered after the writes before it, and a majority has those."""
    with Conversation(shared_cluster, shared_cluster.leader()) as conversation:
        conversation.send("SET", "a", "1")
        conversation.send("WAIT", "1", "100")
        assert conversation.reply() == "OK"
        assert int(conversation.reply() or "-1") >= 0


def test_expiry_is_the_same_on_every_replica(shared_cluster: Cluster) -> None:
    """A key expires on the leader and, by the same entry, on its replicas, with nothing else being written."""
    leader = shared_cluster.leader()
    client = shared_cluster.client(leader)
    client.set("gone", "v", px=300)
    client.set("kept", "v")
    left_ms = client.pttl("gone")
    assert left_ms <= 300
    assert left_ms != -1, "it was set without its time"
    shared_cluster.wait(lambda: client.get("gone") is None, "the key to expire")
    assert client.dbsize() == 1
    shared_cluster.wait_converged()
    for node_id in shared_cluster.node_ids:
        with Conversation(shared_cluster, node_id) as conversation:
            assert conversation.ask("READONLY") == "OK"
            assert conversation.ask("GET", "gone") == "nil"
            assert conversation.ask("GET", "kept") == "v"


def test_cluster_of_one_needs_no_peers(cluster_of: ClusterFactory) -> None:
    """A single node leads itself, serves, and has its data back after kill -9."""
    cluster = cluster_of(1)
    cluster.wait_ready()
    client = cluster.client("n1")
    for number in range(20):
        client.set(f"key:{number}", number)
    cluster.kill9("n1")
    cluster.start("n1")
    cluster.wait_ready()
    assert cluster.client("n1").mget([f"key:{number}" for number in range(20)]) == [b"%d" % n for n in range(20)]
