"""Every crash point, on a leader and on a follower, under load: the node dies there, no acknowledged write is lost."""

from __future__ import annotations

import signal
from typing import Final

import pytest

from durable_raft.server.crash_points import MOVE_POINTS, WRITE_POINTS
from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import EAGER, PATIENT, Cluster
from tests.cluster.workload import Workload, assert_on_all_nodes

pytestmark = pytest.mark.cluster

LEADER: Final = "n1"
"""Stands for election long before the others, so that the node that is to die leads from the first start on."""
FOLLOWER: Final = "n2"

COUNT: Final = 60
"""How often a point is passed before the node dies there, where only elections, writes and reads pass it."""
COUNTS: Final = {
    (LEADER, "before_send"): 300,
    (LEADER, "before_reply"): 600,
    (LEADER, "after_reply"): 600,
    (FOLLOWER, "before_reply"): 300,
    (FOLLOWER, "after_reply"): 300,
}
"""Points that an idle node passes dozens of times a second. A follower's ``before_send`` is passed by answers to
heartbeats only, as answers to entries wait for the disk."""


VICTIMS: Final = [pytest.param(LEADER, id="leader"), pytest.param(FOLLOWER, id="follower")]
JOURNAL_POINTS: Final = ("before_persist", "after_persist", *MOVE_POINTS)
MOVES: Final = 8
"""Under load a node moves what is pending about once a second, after some times while the cluster begins."""


def test_every_count_is_of_a_point() -> None:
    """The counts name points that exist: a renamed one would be tested with the wrong count."""
    assert {point for _, point in COUNTS} <= set(WRITE_POINTS)


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("point", WRITE_POINTS)
def test_death_at_a_crash_point_loses_nothing(cluster_of: ClusterFactory, point: str, victim: str) -> None:
    """A node that dies at the point amid writes is survived; when it is back, every node has every acknowledged write.

    Followers pass every point, those of replies included: these stand in the order of the node, not of a command.
    """
    _die_at(cluster_of, point, victim, COUNTS.get((victim, point), COUNT), "lmdb")


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("point", JOURNAL_POINTS)
def test_death_with_a_journal_loses_nothing(cluster_of: ClusterFactory, point: str, victim: str) -> None:
    """The same, where writes are made durable by the journal and moved into LMDB later."""
    _die_at(cluster_of, point, victim, MOVES if point in MOVE_POINTS else COUNT, "journal")


def _die_at(cluster_of: ClusterFactory, point: str, victim: str, count: int, log_commit: str) -> None:
    for times in (count, 4 * count, 16 * count):
        settings = PATIENT | {"log_commit": log_commit}
        cluster = cluster_of(3, crash_at={victim: f"{point}:{times}"}, settings_of={LEADER: EAGER}, **settings)
        if _dies_amid_writes(cluster, victim):
            return
    pytest.fail(f"{victim} died at {point} before the writers got going, three times")


def _dies_amid_writes(cluster: Cluster, victim: str) -> bool:
    """Have ``victim`` die and come back; False: time alone passes some points, and nothing was written yet."""
    assert cluster.wait_ready() == LEADER
    workload = Workload(cluster)
    with workload.running():
        assert cluster.wait_exit(victim) == -signal.SIGKILL, cluster.explain(f"{victim} did not die")
        if not workload.acknowledged:
            return False
        workload.wait_for(30)
        assert sorted(cluster.running()) == sorted({*cluster.node_ids} - {victim})
        cluster.start(victim)
        cluster.wait_ready()
        workload.wait_for(30)
    assert_on_all_nodes(cluster, workload.acknowledged)
    return True
