"""``raftlog repair`` and ``recover`` between lives of real nodes: what comes out serves every acknowledged write."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cluster.conftest import ClusterFactory
from tests.cluster.operators import operate
from tests.tools.test_repair import raftlog, rot

pytestmark = pytest.mark.cluster


def test_two_of_three_with_wounds_serve_again(cluster_of: ClusterFactory) -> None:
    """The leader's disk is gone, each follower misses something in log or state: every acknowledged write is there."""
    cluster = cluster_of(3, checkpoint_changes=100, log_tail_entries=100_000)
    client = cluster.client(cluster.wait_ready())
    expected = {b"key:%d" % number: b"value %d" % number * 30 for number in range(400)}
    for key, value in expected.items():
        client.set(key, value)
    cluster.wait_converged()
    leader = cluster.leader()
    followers = cluster.followers()
    for node_id in cluster.node_ids:
        cluster.stop(node_id)
    shutil.rmtree(cluster.nodes[leader].directory)
    directories = [cluster.nodes[node_id].directory for node_id in followers]
    rot(directories[0], *range(50, 60), 399)
    rot(directories[1], *range(150, 160), 400)
    with (directories[1] / "kv" / "data.mdb").open("r+b") as file:
        file.seek(4096 * 3)
        file.write(bytes(4096 * 2))
    code, said = raftlog("repair", directories[0], "--peers", directories[1], "--apply")
    assert code == 0, said
    for directory in directories:
        (made,) = directory.parent.glob(f"{directory.name}.repaired-*")
        shutil.rmtree(directory)
        made.rename(directory)
    for node_id in followers:
        cluster.start(node_id)
    client = cluster.client(cluster.leader())
    assert client.mget(list(expected)) == list(expected.values())
    cluster.start(leader)
    cluster.wait_ready()


def test_a_new_cluster_from_one_survivor(cluster_of: ClusterFactory, tmp_path: Path) -> None:
    """A majority is gone for good: the survivor begins a cluster of another id, and it is said what may be lost."""
    cluster = cluster_of(3)
    client = cluster.client(cluster.wait_ready())
    client.set("city", "Paris")
    cluster.wait_converged()
    survivor = cluster.followers()[0]
    for node_id in cluster.node_ids:
        cluster.stop(node_id)
    nodes = ",".join(f"{n.node_id}=127.0.0.1:{n.client_port}@{n.peer_port}" for n in cluster.nodes.values())
    directory = cluster.nodes[survivor].directory
    code, said = raftlog("recover", directory, "--cluster", nodes, "--output", tmp_path / "new")
    assert code == 1
    assert "may be lost" in said
    assert not (tmp_path / "new").exists()
    code, said = raftlog("recover", directory, "--cluster", nodes, "--output", tmp_path / "new", "--apply")
    assert code == 0, said
    for node_id, node in cluster.nodes.items():
        shutil.rmtree(node.directory)
        (tmp_path / "new" / node_id).rename(node.directory)
        cluster.start(node_id, settings={"cluster_id": said.rpartition("--cluster-id ")[2].strip()})
    assert cluster.client(cluster.wait_ready()).get("city") == b"Paris"


def test_a_new_cluster_from_a_survivor_that_was_added(cluster_of: ClusterFactory, tmp_path: Path) -> None:
    """The members were changed, and a majority of those of today is gone: what the survivor's disk held is there.

    The new cluster takes writes, and members are added to it as to any other.
    """
    cluster = cluster_of(3)
    leader = cluster.wait_ready()
    cluster.client(leader).set("before", "the change")
    gone = cluster.followers()[0]
    entry = cluster.join("n4", leader)
    operate(cluster, leader, "member", "replace", gone, entry)
    cluster.wait_exit(gone)
    cluster.forget(gone)
    client = cluster.client(cluster.leader())
    expected = {b"key:%d" % number: b"value %d" % number for number in range(200)}
    for key, value in expected.items():
        client.set(key, value)
    cluster.wait_converged()
    cluster.stop("n4")
    cluster.client(cluster.leader()).set("late", "only the others have it")
    for node_id in cluster.running():
        cluster.kill9(node_id)
    nodes = ",".join(f"{n.node_id}=127.0.0.1:{n.client_port}@{n.peer_port}" for n in cluster.nodes.values())
    survivor = cluster.nodes["n4"].directory
    for node_id in cluster.node_ids:
        if node_id != "n4":
            shutil.rmtree(cluster.nodes[node_id].directory)
    words = ("recover", survivor, "--cluster", nodes, "--output", tmp_path / "new")
    code, said = raftlog(*words)
    assert code == 1
    assert "may be lost" in said
    code, said = raftlog(*words, "--apply")
    assert code == 0, said
    shutil.rmtree(survivor)
    cluster.refound()
    for node_id, node in cluster.nodes.items():
        (tmp_path / "new" / node_id).rename(node.directory)
        cluster.start(node_id, settings={"cluster_id": said.rpartition("--cluster-id ")[2].strip()})
    leader = cluster.wait_ready()
    client = cluster.client(leader)
    assert client.get("before") == b"the change"
    assert client.mget(list(expected)) == list(expected.values())
    assert client.get("late") is None
    operate(cluster, leader, "member", "add", cluster.join("n5", leader))
    operate(cluster, leader, "member", "promote", "n5")
    client.set("afterwards", "as any other")
    cluster.wait_converged()
    rows = operate(cluster, "n5", "member", "list")["members"]
    assert isinstance(rows, list)
    assert sorted(row["id"] for row in rows) == sorted(cluster.node_ids)
