"""Frames that no correct peer sends, to real nodes: the link is dropped, and the cluster serves as if nothing was.

Each of these frames ended a node with exit code 70, deposed the leader, or left the cluster without one for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from durable_raft.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    InstallSnapshot,
    Introduce,
    RequestVote,
)
from durable_raft.raft.types import Index, Term
from durable_raft.wire.peer import PeerMessage
from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import Cluster
from tests.cluster.stranger import Somebody, never_right

pytestmark = pytest.mark.cluster


def frames(term: int, last: int) -> list[PeerMessage]:
    """Return what no correct node says to anybody, in a cluster of this term whose log ends there."""
    now, point = Term(term), (Index(last), Term(term), 0)
    return [
        *never_right(),
        AppendEntries(now, Index(0), Term(0), 0, (), Index(0), 0),
        AppendEntries(Term(term + 1), Index(1), Term(term + 1), 0, (), Index(0), 0),
        AppendEntriesResponse(now, True, Index(last), Index(1), Term(0), Index(0), 0),
        InstallSnapshot(now, *point, 0),
    ]


def answers(term: int, last: int) -> list[PeerMessage]:
    """Return what no correct follower answers to the leader of this term."""
    now = Term(term)
    return [
        AppendEntriesResponse(now, True, Index(last + 1000), Index(0), Term(0), Index(0), 0),
        AppendEntriesResponse(now, True, Index(0), Index(0), Term(0), Index(0), 1 << 50),
        AppendEntriesResponse(now, False, Index(0), Index(2**56), Term(0), Index(2**56), 0),
    ]


def standing_of(cluster: Cluster, node: str) -> tuple[int, int, str]:
    """Return term, end of the log, and role."""
    info = cluster.info(node)
    assert info is not None
    return int(info["raft_current_term"]), int(info["raft_last_log_index"]), info["raft_role"]


def say_all(cluster: Cluster, target: str, messages: Sequence[PeerMessage], *, listens: bool, waits: bool) -> bytes:
    """Have somebody in the place of n3, which is down, say each on a link of its own; return all that was answered."""
    somebody = Somebody(cluster, "n3")

    async def part() -> bytes:
        return b"".join([await somebody.say(target, message, waits=waits) for message in messages])

    return somebody.play(part, listens=listens)


def serves(cluster: Cluster, leader: str, term: int) -> None:
    """The same leader leads in the same term, nobody died, and a write is acknowledged."""
    assert cluster.client(leader).set("still", "here")
    for node in ("n1", "n2"):
        assert standing_of(cluster, node)[0] == term
    assert standing_of(cluster, leader)[2] == "leader"


def test_a_stranger_who_knows_the_cluster_is_heard_by_nobody(cluster_of: ClusterFactory) -> None:
    """Without n3's address he is not n3: none of his frames is looked at, not even one that a liar could send."""
    cluster = cluster_of(3)
    cluster.wait_ready()
    cluster.kill9("n3")
    leader = cluster.leader(other_than="n3")
    assert cluster.client(leader).set("city", "Paris")
    term, last, _ = standing_of(cluster, leader)
    lawful: list[PeerMessage] = [
        RequestVote(Term(term + 1), Index(last + 9), Term(term), False),
        Introduce(b"somebody's disk-"),
    ]
    for target in ("n1", "n2"):
        messages = [*frames(term, last), *answers(term, last), *lawful]
        assert say_all(cluster, target, messages, listens=False, waits=False) == b""
    serves(cluster, leader, term)
    for node in ("n1", "n2"):
        info = cluster.info(node)
        assert info is not None
        assert int(info["raft_peer_misbehaved"]) == 0
        assert "disk_replaced" not in cluster.log(node)


@pytest.mark.parametrize("is_leader", [True, False], ids=["to the leader", "to a follower"])
def test_a_peer_that_says_what_no_correct_node_says_is_dropped(cluster_of: ClusterFactory, *, is_leader: bool) -> None:
    """It is at its address, so it is believed to be n3; each of its lies ends its link, and is logged and counted."""
    cluster = cluster_of(3)
    cluster.wait_ready()
    cluster.kill9("n3")
    leader = cluster.leader(other_than="n3")
    assert cluster.client(leader).set("city", "Paris")
    follower = "n2" if leader == "n1" else "n1"
    target = leader if is_leader else follower
    term, last, _ = standing_of(cluster, leader)
    messages = frames(term, last) + (answers(term, last) if is_leader else [])
    say_all(cluster, target, messages, listens=True, waits=True)
    serves(cluster, leader, term)
    info = cluster.info(target)
    assert info is not None
    # More points than are ever asked for are refused before they are looked at.
    assert int(info["raft_peer_misbehaved"]) == len(messages) - 1
    assert int(info["raft_peer_refused"]) >= 1
    log = cluster.log(target)
    assert "event=peer_misbehaved" in log
    assert "peer=n3" in log
    assert "frame=\"Introduce(b'any random uuid!'" in log


def test_a_real_node_comes_back_after_somebody_played_it(cluster_of: ClusterFactory) -> None:
    """Its disk is the one that is known: nothing that was said in its name is held against it."""
    cluster = cluster_of(3)
    cluster.wait_ready()
    cluster.kill9("n3")
    leader = cluster.leader(other_than="n3")
    term, last, _ = standing_of(cluster, leader)
    say_all(cluster, leader, frames(term, last), listens=False, waits=False)
    say_all(cluster, leader, frames(term, last), listens=True, waits=True)
    assert cluster.client(leader).set("city", "Paris")
    cluster.start("n3")
    cluster.wait_ready()
    assert standing_of(cluster, "n3")[1] >= last
