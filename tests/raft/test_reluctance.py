"""A node that had better not lead lets others stand first, but not for ever (raft/reluctance.py)."""

from __future__ import annotations

from durable_raft.raft.reluctance import LET_PASS_MAX
from durable_raft.raft.types import EntryKind, Role
from tests.support.raft_cluster import Cluster
from tests.support.raft_solo import lead


def test_a_reluctant_node_stands_when_nobody_else_did() -> None:
    """A cluster with no other node left must be led."""
    cluster = Cluster("n1 n2 n3", real="n1")
    cluster["n1"].be_reluctant(True)
    assert cluster["n1"].is_reluctant
    for _ in range(LET_PASS_MAX):
        cluster.timeout("n1")
        assert cluster["n1"].role is Role.FOLLOWER
    cluster.timeout("n1")
    assert cluster["n1"].role is Role.PRE_CANDIDATE


def test_a_node_that_is_not_reluctant_stands_at_once() -> None:
    """The rule costs nothing where it does not hold."""
    cluster = Cluster("n1 n2 n3", real="n1")
    cluster.timeout("n1")
    assert cluster["n1"].role is Role.PRE_CANDIDATE


def test_only_a_leader_sets_the_time_back() -> None:
    """By an entry of a kind of its own, whose time may be lower than that of the entry before."""
    cluster = Cluster("n1 n2 n3", real="n1")
    assert cluster["n1"].propose_time_reset(5) is None
    lead(cluster)
    assert cluster["n1"].propose(b"", 1000) is not None
    entry = cluster["n1"].propose_time_reset(5)
    assert entry is not None
    assert (entry.kind, entry.timestamp_ms) == (EntryKind.TIME_RESET, 5)
