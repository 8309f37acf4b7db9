"""Death at every crash point of checkpoints, compaction and snapshots: nothing is lost, and all states end equal."""

from __future__ import annotations

import signal
from typing import Final

import pytest

from durable_raft.server.crash_points import STATE_POINTS
from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import EAGER, PATIENT, Cluster
from tests.cluster.workload import Workload, assert_on_all_nodes

pytestmark = pytest.mark.cluster

LEADER: Final = "n1"
FOLLOWER: Final = "n2"

RESTLESS: Final = {
    "checkpoint_changes": 20,
    "checkpoint_entries": 20,
    "checkpoint_interval_ms": 200,
    "log_tail_entries": 10,
    "log_tail_bytes": 1000,
}
"""Checkpoints all the time, and a log so short that a follower that was away needs a snapshot."""

OF_THE_TAKER: Final = tuple(point for point in STATE_POINTS if "snapshot" in point and not point.endswith("_sent"))
OF_THE_IDLE: Final = tuple(point for point in STATE_POINTS if "prefix" in point)
"""Passed only while nobody writes: the prefix goes along with writes otherwise."""
OF_ANYBODY: Final = tuple(p for p in STATE_POINTS if p not in (*OF_THE_TAKER, *OF_THE_IDLE) and not p.endswith("_sent"))


BURSTS: Final = 10
"""Of writes, after one of which at the latest a prefix is left to drop."""


def need_snapshot(cluster: Cluster, follower: str, workload: Workload) -> None:
    """Kill a follower and write until the others have compacted what it lacks."""
    info = cluster.info(follower)
    assert info is not None
    last = int(info["raft_last_log_index"])
    cluster.kill9(follower)

    def is_compacted() -> bool:
        return min((int(each["raft_first_log_index"]) for each in cluster.infos().values()), default=0) > last + 1

    cluster.wait(is_compacted, f"the log up to {last} to be compacted")
    workload.wait_for(20)


@pytest.mark.parametrize("victim", [pytest.param(LEADER, id="leader"), pytest.param(FOLLOWER, id="follower")])
@pytest.mark.parametrize("point", OF_ANYBODY)
def test_death_amid_checkpoint_and_compaction_loses_nothing(
    cluster_of: ClusterFactory, point: str, victim: str
) -> None:
    """A node that dies there comes back with its state and its log fitting together, and equal to the others."""
    cluster = cluster_of(3, crash_at={victim: f"{point}:3"}, settings_of={LEADER: EAGER}, **PATIENT, **RESTLESS)
    assert cluster.wait_ready() == LEADER
    workload = Workload(cluster)
    with workload.running():
        assert cluster.wait_exit(victim) == -signal.SIGKILL, cluster.explain(f"{victim} did not die at {point}")
        workload.wait_for(30)
        cluster.start(victim)
        cluster.wait_ready()
        workload.wait_for(30)
    assert_on_all_nodes(cluster, workload.acknowledged)


def _ends_at_rest(cluster: Cluster) -> bool:
    """Wait until the follower has died, or the others have a checkpoint of all and nothing behind it to drop."""

    def is_over() -> bool:
        infos = cluster.infos()
        ends = {each["raft_last_log_index"] for each in infos.values()}
        taken = {each["raft_snapshot_index"] for each in infos.values()}
        return not cluster.is_running(FOLLOWER) or (len(infos) == 3 and len(ends) == 1 and ends == taken)

    cluster.wait(is_over, "the follower to die, or all to rest")
    return not cluster.is_running(FOLLOWER)


@pytest.mark.parametrize("point", OF_THE_IDLE)
def test_death_amid_a_compaction_of_its_own_loses_nothing(cluster_of: ClusterFactory, point: str) -> None:
    """A node that dies between two transactions that drop the prefix comes back with the log that is left."""
    cluster = cluster_of(3, crash_at={FOLLOWER: point}, settings_of={LEADER: EAGER}, **PATIENT, **RESTLESS)
    assert cluster.wait_ready() == LEADER
    workload = Workload(cluster)
    for _ in range(BURSTS):
        # The prefix may have gone along with the last writes of a burst.
        with workload.running():
            workload.wait_for(200)
        if _ends_at_rest(cluster):
            break
    assert cluster.wait_exit(FOLLOWER) == -signal.SIGKILL, cluster.explain(f"{FOLLOWER} did not die at {point}")
    cluster.start(FOLLOWER)
    cluster.wait_ready()
    assert_on_all_nodes(cluster, workload.acknowledged)


@pytest.mark.parametrize("point", OF_THE_TAKER)
def test_death_of_a_follower_amid_a_snapshot_leaves_the_old_or_the_new_state(
    cluster_of: ClusterFactory, point: str
) -> None:
    """A follower that dies while it takes a snapshot in comes back, goes on or starts over, and ends equal."""
    cluster = cluster_of(3, settings_of={LEADER: EAGER}, **PATIENT, **RESTLESS)
    assert cluster.wait_ready() == LEADER
    workload = Workload(cluster)
    with workload.running():
        need_snapshot(cluster, FOLLOWER, workload)
        cluster.start(FOLLOWER, crash_at=point)
        assert cluster.wait_exit(FOLLOWER) == -signal.SIGKILL, cluster.explain(f"{FOLLOWER} did not die at {point}")
        cluster.start(FOLLOWER)
        cluster.wait_ready()
        workload.wait_for(30)
    assert_on_all_nodes(cluster, workload.acknowledged)


def test_death_of_the_sender_amid_a_snapshot_only_delays_it(cluster_of: ClusterFactory) -> None:
    """When the leader dies as it sends the first piece, the follower fetches the snapshot from the next leader."""
    point = "before_snapshot_piece_sent"
    cluster = cluster_of(3, crash_at={LEADER: point}, settings_of={LEADER: EAGER}, **PATIENT, **RESTLESS)
    assert cluster.wait_ready() == LEADER
    workload = Workload(cluster)
    with workload.running():
        need_snapshot(cluster, FOLLOWER, workload)
        cluster.start(FOLLOWER)
        assert cluster.wait_exit(LEADER) == -signal.SIGKILL, cluster.explain(f"{LEADER} did not die at {point}")
        cluster.wait_ready()
        workload.wait_for(30)
        cluster.start(LEADER)
        cluster.wait_ready()
    installed = cluster.info(FOLLOWER)
    assert installed is not None
    assert int(installed["raft_snapshots_installed"]) >= 1
    assert_on_all_nodes(cluster, workload.acknowledged)
