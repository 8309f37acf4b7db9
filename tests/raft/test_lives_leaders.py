"""Leaders who have not said yet what an earlier life of a directory owes them (raft/lives.py)."""

from __future__ import annotations

import pytest

from durable_raft.raft.changes import AddLearner
from durable_raft.raft.messages import Message, Resume, TimeoutNow
from durable_raft.raft.types import Base, Index, Life, LogPoint, Member, NodeId, Role, Term
from tests.raft.test_lives import BEFORE, HERE, NOW, answer, knowing, living, resume
from tests.support.raft_cluster import Cluster
from tests.support.raft_disk import Disk
from tests.support.raft_solo import accepted, append_entries, ask, lead, refused


def asked(cluster: Cluster, leader: str) -> set[type[Message]]:
    """Let a heartbeat's time pass, and return what kinds of messages n1 has sent to ``leader`` by then."""
    cluster.now += 50
    cluster.fire("n1")
    return {type(message) for message in cluster.sent("n1", leader)}


@pytest.mark.parametrize("owed", [(0, 0), (1, 3)])
def test_a_leader_that_became_a_member_behind_the_end_of_this_log_is_asked_too(owed: tuple[int, int]) -> None:
    """Its entries make it known here: a volume that went back to before them owes it most, and one that lags nothing.

    What it was sent in this life must not be in its answer, or the one that lags is taken for the other.
    """
    cluster = living()
    answer(cluster, "n2")
    answer(cluster, "n3")
    heartbeat = append_entries("1 1 1", term=1, after=2)
    cluster.tell("n1", "n4", heartbeat)
    assert cluster.disk("n1").last.index == 2
    assert cluster["n1"].state.leader_id == "n4"
    assert asked(cluster, "n4") == {Resume}
    answer(cluster, "n4", owed=owed)
    assert cluster["n1"].is_old_copy is (owed > (1, 2))
    assert not cluster["n1"].state.has_life_to_tell
    (said,) = ask(cluster, "n4", heartbeat)
    assert said.match_index == 3  # type: ignore[union-attr]


def test_nobody_campaigns_for_a_leader_that_has_not_said_what_it_is_owed() -> None:
    """It hands leadership to a log that held all of its own, before it went back."""
    cluster = living()
    answer(cluster, "n2")
    assert cluster["n1"].is_voter
    cluster.tell("n1", "n3", TimeoutNow(Term(1)))
    assert cluster.role("n1") is Role.FOLLOWER
    answer(cluster, "n3")
    cluster.tell("n1", "n3", TimeoutNow(Term(1)))
    assert cluster.role("n1") is Role.CANDIDATE


@pytest.mark.parametrize("is_heard", [False, True])
def test_a_leader_that_has_not_said_what_it_is_owed_is_not_told_of_a_snapshot(*, is_heard: bool) -> None:
    """The one that offered it lost its office meanwhile. Who leads now would be owed what this life acknowledges."""
    cluster = living()
    answer(cluster, "n2")
    if is_heard:
        answer(cluster, "n3")
    cluster.tell("n1", "n3", append_entries("1 1", term=1, after=2))
    cluster.packets.clear()
    cluster["n1"].install_snapshot(Base(LogPoint(Index(9), Term(1), 99), 9))
    assert (Resume in asked(cluster, "n3")) is not is_heard
    assert cluster.disk("n1").last.index == 9
    cluster["n1"].install_snapshot(Base(LogPoint(Index(12), Term(1), 12), 12))
    cluster.fire("n1")
    assert [getattr(said, "match_index", None) for said in cluster.sent("n1", "n3")] == [12] * is_heard


def test_a_leader_remembers_what_it_is_owed_when_it_forgets_what_is_held() -> None:
    """A volume that went back refuses its heartbeat before it has told of its life."""
    cluster = knowing(Life(4, b"life 4.."))
    term = lead(cluster)
    cluster.tell("n1", "n2", accepted(term, 3))
    cluster.tell("n1", "n2", refused(term, 3, 3)._replace(is_voter=False))
    assert cluster["n1"].progress[NodeId("n2")].match_index == 0
    (said,) = ask(cluster, "n2", resume(*BEFORE, NOW))
    assert (said.owed_in, said.owed_term, said.owed_index) == (term, term, 3)  # type: ignore[union-attr]


def test_a_life_that_was_begun_alone_is_not_told() -> None:
    """It is not counted, so a member that comes could not know it by anything."""
    cluster = Cluster("n1", joiners="n2", disks={"n1": Disk("1", place=HERE)})
    cluster.elect("n1")
    cluster.change("n1", AddLearner(Member(NodeId("n2"), "n2:1", "n2:2")))
    assert cluster["n1"].state.peers == ("n2",)
    cluster.now += 1_000
    cluster.fire("n1")
    assert not [packet for packet in cluster.packets if isinstance(packet.message, Resume)]
    cluster.run(1_000)
    assert cluster["n2"].log.last == cluster["n1"].log.last
