"""The main job: what a majority flushed and a client was told is there after kill -9 of one, the leader, or all."""

from __future__ import annotations

import pytest

from tests.cluster.harness import Cluster
from tests.cluster.workload import Workload, assert_on_all_nodes, missing

pytestmark = pytest.mark.cluster


def test_acknowledged_writes_survive_kills_of_any_replica_again_and_again(cluster: Cluster) -> None:
    """Every acknowledged write is there after a follower, the leader and then all were killed, twice."""
    workload = Workload(cluster)
    with workload.running():
        workload.wait_for(200)
        for _ in range(2):
            leader = cluster.leader()
            follower = next(node for node in cluster.node_ids if node != leader)
            cluster.kill9(follower)
            workload.wait_for(50)
            cluster.restart(follower)
            cluster.wait_ready()
            leader = cluster.leader()
            cluster.kill9(leader)
            workload.wait_for(50)
            cluster.restart(leader)
            for node in cluster.node_ids:
                cluster.kill9(node)
            for node in cluster.node_ids:
                cluster.restart(node)
            workload.wait_for(50)
    cluster.wait_ready()
    lost = missing(cluster.client(cluster.leader()), workload.acknowledged)
    print(f"{len(workload.acknowledged)} acknowledged, {workload.unknown} unknown, {len(lost)} lost")
    assert lost == []


def test_replicas_agree_after_the_kills(cluster: Cluster) -> None:
    """After kills under load every replica ends with the same state, as a stale read of each shows."""
    workload = Workload(cluster)
    with workload.running():
        workload.wait_for(100)
        cluster.kill9(cluster.leader())
        workload.wait_for(100)
    for node in cluster.node_ids:
        if not cluster.is_running(node):
            cluster.restart(node)
    assert_on_all_nodes(cluster, workload.acknowledged)
