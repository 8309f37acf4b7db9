"""Nodes that are slow, not dead: their disks take long, or they get no processor. They elect, and keep their leader."""

from __future__ import annotations

from typing import Final

import pytest

from tests.cluster.conftest import ClusterFactory, Strace
from tests.cluster.harness import Cluster
from tests.cluster.raw import Conversation
from tests.cluster.workload import Workload

pytestmark = pytest.mark.cluster

DEFAULT: Final = {"heartbeat_ms": 50, "election_timeout_min_ms": 150, "election_timeout_max_ms": 300}
"""The timeouts of the paper: a flush that takes 300 ms is longer than any of them."""

SLOW_FLUSH: Final = "fdatasync:delay_enter=300000"
TERMS_MAX: Final = 4
"""That an election may take on a busy machine. Before campaigns waited for flushes it took more than 50."""


def _term(cluster: Cluster) -> int:
    """Return the highest term that any node is in."""
    return max(int(info["raft_current_term"]) for info in cluster.infos().values())


def test_slow_disks_elect(cluster_of: ClusterFactory, strace: Strace) -> None:
    """Every flush of every node takes 300 ms longer: a leader is elected, keeps its place under load, is replaced."""
    cluster = cluster_of(3, **DEFAULT)
    cluster.wait_ready()
    cluster.kill9()
    for node_id in cluster.node_ids:
        trace = cluster.directory / f"{node_id}.trace"
        cluster.run_under(node_id, strace(trace, "fdatasync", SLOW_FLUSH), **DEFAULT)
    began = _first_term(cluster)
    leader = cluster.leader()
    assert _term(cluster) - began <= TERMS_MAX, cluster.explain("too many elections for the first leader")
    before = _term(cluster)
    with Conversation(cluster, leader) as client:
        answers = {client.ask("SET", f"key{number}", "x") for number in range(5)}
    assert answers == {"OK"}, cluster.explain("a leader on a slow disk does not serve")
    cluster.kill9(leader)
    cluster.leader()
    assert _term(cluster) - before <= TERMS_MAX, cluster.explain("too many elections for the next leader")
    for node_id in cluster.node_ids:
        assert "(DELAYED)" in (cluster.directory / f"{node_id}.trace").read_text()
    infos = cluster.infos().values()
    assert max(int(info["raft_slow_flush_ms"]) for info in infos) >= 300, "the nodes did not learn how slow they are"


def _first_term(cluster: Cluster) -> int:
    """Return the term of the first node that answers after a start."""
    cluster.wait(lambda: bool(cluster.infos()), "a node to answer")
    return _term(cluster)


def test_a_node_that_stood_still_deposes_nobody_and_waits_longer(cluster_of: ClusterFactory) -> None:
    """A follower without a processor for longer than its timeout hears its leader late: it learns, and says so."""
    cluster = cluster_of(3, election_timeout_bound_ms=60_000)
    leader = cluster.wait_ready()
    follower = cluster.followers()[0]
    with Workload(cluster, writers=1).running():
        cluster.pause(follower)
        cluster.wait(lambda: _silence_ms(cluster, leader, follower) > 1_500, f"{leader} to miss {follower}")
        stood = cluster.log(follower).count("event=became_candidate")
        cluster.resume(follower)
        cluster.wait(lambda: int((cluster.info(follower) or {}).get("raft_late_ms", 0)) > 0, f"{follower} to learn")
        info = cluster.info(follower)
    assert info is not None
    shortest, longest = (int(text) for text in info["raft_election_timeout_ms"].split("-"))
    assert (shortest, longest) >= (1_000, 2_000), "at least twice as long as configured"
    cluster.logged(follower, "event=timeouts_raised")
    assert cluster.log(follower).count("event=became_candidate") == stood, cluster.explain(f"{follower} stood")


def _silence_ms(cluster: Cluster, leader: str, follower: str) -> int:
    """Return for how long ``leader`` has not heard ``follower``."""
    info = cluster.info(leader) or {}
    facts = dict(fact.split("=") for fact in info.get(f"raft_peer_{follower}", "last_contact_ms=0").split(","))
    return int(facts["last_contact_ms"] or 0)
