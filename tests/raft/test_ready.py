"""``has_ready`` and ``ready`` speak of the same work: what one forgot, a runtime that asks first would never do."""

from __future__ import annotations

from durable_raft.raft.ready import Ready
from durable_raft.raft.types import Index, NodeId, Role
from tests.support.raft_cluster import Cluster
from tests.support.raft_solo import accepted, lead, solo

N2 = NodeId("n2")


def test_a_standing_to_be_written_is_work() -> None:
    """A scrubber that finds one copy of meta rotten has it written again: the core has a write then."""
    raft = solo("1 1").nodes[NodeId("n1")].core
    assert not raft.has_ready(0)
    raft.rewrite_standing()
    assert raft.has_ready(0)
    write = raft.ready(0).write
    assert write is not None
    assert write.standing == raft.state.standing


def test_a_read_round_to_be_asked_is_work() -> None:
    """A read that waits for the round before it is asked about when that one is confirmed."""
    cluster = _leader()
    raft = cluster.nodes[NodeId("n1")].core
    raft.read(1, Index(0))
    raft.ready(cluster.now)
    raft.read(2, Index(0))
    assert not raft.has_ready(cluster.now)
    raft.step(cluster.now, N2, accepted(raft.current_term, raft.log.last.index, 1))
    raft.ready(cluster.now)
    assert raft.state.broadcast_round == 2
    raft.read(3, Index(0))
    raft.step(cluster.now, N2, accepted(raft.current_term, raft.log.last.index, 2))
    assert raft.has_ready(cluster.now)
    assert [each.message.read_round for each in raft.ready(cluster.now).messages][:1] == [3]  # type: ignore[union-attr]


def test_nothing_is_handed_out_twice_or_without_notice() -> None:
    """Each kind of work is there, is handed out, and is gone; without any, ``ready`` is empty."""
    cluster = _leader()
    raft = cluster.nodes[NodeId("n1")].core
    assert raft.role is Role.LEADER
    raft.propose(b"", 1)
    assert raft.has_ready(cluster.now)
    raft.ready(cluster.now)
    assert not raft.has_ready(cluster.now)
    assert raft.ready(cluster.now) == Ready()


def _leader() -> Cluster:
    """Return n1 as a leader whose no-op is flushed and acknowledged by n2."""
    cluster = solo("1 1")
    lead(cluster)
    return cluster
