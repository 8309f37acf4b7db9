"""The words of the algorithm that do something: who is known, who votes."""

from __future__ import annotations

from durable_raft.raft.types import Acquaintance, Member, Membership, NodeId, Standing

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")


def test_voters_are_named_in_their_order() -> None:
    """As they stand in the membership."""
    members = tuple(Member(node_id, f"{node_id}:1", f"{node_id}:2") for node_id in (N1, N2))
    assert Membership(members).ids() == (N1, N2)


def test_one_disk_is_known_of_each_peer() -> None:
    """The one that was noted last; sorted by node id, and the voter stays one."""
    first, second, other = Acquaintance(N3, b"a", ()), Acquaintance(N3, b"b", (b"a",)), Acquaintance(N2, b"c", ())
    standing = Standing(is_voter=False).with_peer(first).with_peer(other).with_peer(second)
    assert standing == Standing(is_voter=False, peers=(other, second))
    assert standing.peer(N3) == second
    assert standing.peer(N1) is None
    assert Standing().with_peer(other).is_voter
