"""The harness on real nodes: what it says it does to them really happens, and what it says of them is so."""

from __future__ import annotations

import shutil
import signal

import pytest
import redis

from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import Cluster

pytestmark = pytest.mark.cluster


def test_clients_reach_the_cluster(shared_cluster: Cluster) -> None:
    """A plain client of the leader and a cluster client that starts anywhere see each other's writes."""
    shared_cluster.client(shared_cluster.leader()).set("city", "Paris")
    client = shared_cluster.cluster_client()
    assert client.get("city") == b"Paris"
    client.set("city", "Rome")
    assert shared_cluster.client(shared_cluster.leader()).get("city") == b"Rome"


def test_killed_node_is_dead_and_comes_back(cluster: Cluster) -> None:
    """kill9 ends the process with SIGKILL; restart brings the node back with its data and it catches up."""
    victim = cluster.leader()
    cluster.client(victim).set("city", "Paris")
    cluster.kill9(victim)
    assert cluster.wait_exit(victim) == -signal.SIGKILL
    assert not cluster.is_running(victim)
    successor = cluster.leader(other_than=victim)
    assert cluster.client(successor).get("city") == b"Paris"
    cluster.restart(victim)
    cluster.wait_ready()
    assert len(cluster.infos()) == 3


def test_clean_stop_has_exit_code_0_and_restart_uses_it(cluster: Cluster) -> None:
    """SIGTERM ends a node with exit code 0; restarting nodes that run stops them first."""
    assert cluster.stop("n1") == 0
    cluster.start("n1")
    cluster.wait_ready()
    before = {node_id: cluster.pid(node_id) for node_id in cluster.node_ids}
    cluster.restart()
    cluster.wait_ready()
    assert all(cluster.pid(node_id) != pid for node_id, pid in before.items())


def test_paused_leader_is_deposed_and_follows_when_it_wakes(cluster: Cluster) -> None:
    """A paused node answers nothing and another leads; resumed, it follows the new leader."""
    old = cluster.leader()
    cluster.pause(old)
    assert cluster.info(old, timeout_s=0.2) is None
    new = cluster.leader(other_than=old)
    cluster.resume(old)
    cluster.wait_converged()
    assert cluster.leader() == new


def test_crash_point_kills_the_node_in_its_first_life_only(cluster_of: ClusterFactory) -> None:
    """crash_at arms one node; when it is started again it is not armed."""
    cluster = cluster_of(3, crash_at={"n2": "after_persist:1"})
    assert cluster.wait_exit("n2") == -signal.SIGKILL
    cluster.start("n2")
    cluster.wait_ready()
    client = cluster.cluster_client()
    for number in range(10):
        client.set(f"key{number}", "x")
    cluster.wait_converged()
    assert cluster.is_running("n2")


def test_settings_reach_the_nodes(cluster_of: ClusterFactory) -> None:
    """Settings of a cluster are those of every node; those of a start go over them."""
    cluster = cluster_of(1, log_format="json")
    cluster.wait_ready()
    assert cluster.log("n1").startswith('{"time"')
    cluster.restart("n1", settings={"log_format": "text"})
    cluster.wait_ready()
    assert " INFO node=n1 event=" in cluster.log("n1").splitlines()[-1]


def test_isolated_leader_loses_its_place_and_follows_after_healing(cluster_of: ClusterFactory) -> None:
    """Behind proxies, which carry every link, a leader without links is replaced; healed, all agree."""
    cluster = cluster_of(3, proxied=True)
    network = cluster.network
    assert network is not None
    old = cluster.wait_ready()
    assert all(link.bytes_forwarded for link in network.links.values())
    network.isolate(old)
    new = cluster.leader(other_than=old)
    cluster.client(new).set("city", "Paris")
    network.heal()
    cluster.wait_converged()
    client = cluster.client(old)
    client.execute_command("READONLY")  # type: ignore[no-untyped-call]
    assert client.get("city") == b"Paris"


def test_partition_holds_until_it_is_healed(cluster_of: ClusterFactory) -> None:
    """With every node alone nobody can be elected and no write succeeds; healed, one is and writes do."""
    cluster = cluster_of(3, proxied=True, client_hold_ms=100)
    cluster.wait_ready()
    assert cluster.network is not None
    cluster.network.partition(["n1"], ["n2"], ["n3"])
    cluster.wait(lambda: all(info["raft_role"] != "leader" for info in cluster.infos().values()), "no leader")
    with pytest.raises(redis.RedisError, match="no leader"):
        cluster.client("n1").set("city", "Paris")
    cluster.network.heal()
    cluster.client(cluster.leader()).set("city", "Rome")


def test_node_runs_under_another_program(cluster_of: ClusterFactory) -> None:
    """A node can be run under strace, stopped cleanly and killed there like any other."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    cluster = cluster_of(1)
    cluster.wait_ready()
    cluster.stop("n1")
    trace = cluster.directory / "trace"
    cluster.run_under("n1", [strace, "-f", "-o", str(trace), "-e", "trace=fdatasync"])
    cluster.client(cluster.wait_ready()).set("city", "Paris")
    assert "fdatasync(" in trace.read_text()
    cluster.kill9("n1")
    cluster.start("n1")
    assert cluster.client(cluster.wait_ready()).get("city") == b"Paris"


def test_a_node_that_refuses_to_start_is_not_waited_for(cluster_of: ClusterFactory) -> None:
    """Nobody would lead a new cluster that lacks one: the wait fails at once, and says why that one is missing."""
    cluster = cluster_of(3, settings_of={"n2": {"map_bytes": "1MiB"}})
    with pytest.raises(AssertionError, match="n2 refused to start, with exit code") as caught:
        cluster.leader()
    assert "disk_reserve_bytes" in str(caught.value)
    code = cluster.wait_exit("n2")
    assert code > 0
    with pytest.raises(AssertionError, match="in vain for a leader"):
        cluster.leader(timeout_s=0.05)


def test_failure_shows_the_logs(cluster: Cluster) -> None:
    """A wait that is in vain says what was waited for and how every node's log ends."""
    cluster.kill9("n3")
    with pytest.raises(AssertionError) as caught:
        cluster.wait(lambda: False, "the impossible", timeout_s=0.05)
    said = str(caught.value)
    assert "in vain for the impossible" in said
    assert "n3: ended with -9" in said
    assert said.count("event=started") == 3
