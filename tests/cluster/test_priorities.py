"""Who is to lead, under real nodes: the one with the highest election priority, as far as it can."""

from __future__ import annotations

from typing import Final

import pytest

from tests.cluster.conftest import ClusterFactory
from tests.cluster.workload import Workload, assert_on_all_nodes

pytestmark = pytest.mark.cluster

TIMEOUTS: Final = {"election_timeout_min_ms": 400, "election_timeout_max_ms": 600, "election_timeout_bound_ms": 600}
"""That do not become longer: a leader makes way after 30 of the longest."""
WAIT_S: Final = 240.0


def test_the_node_with_the_highest_priority_leads_again_and_again(cluster_of: ClusterFactory) -> None:
    """A restart gives it the priority. It leads once it has kept up, and when it is killed another leads."""
    cluster = cluster_of(3, **TIMEOUTS)
    leader = cluster.wait_ready()
    preferred = cluster.followers()[0]
    cluster.restart(preferred, settings={"election_priority": 5})
    workload = Workload(cluster)
    with workload.running():
        cluster.wait(
            lambda: f"event=makes_way target={preferred}" in cluster.log(leader), "a leader that makes way", WAIT_S
        )
        cluster.wait(lambda: cluster.leader() == preferred, "the node that is to lead", WAIT_S)
        cluster.kill9(preferred)
        cluster.leader(other_than=preferred)
        cluster.start(preferred, settings={"election_priority": 5})
        cluster.wait(lambda: cluster.leader() == preferred, "the node that is to lead, again", WAIT_S)
    assert_on_all_nodes(cluster, workload.acknowledged)
    with cluster.client(preferred) as client:
        assert client.config_get("election-priority") == {"election-priority": "5"}
