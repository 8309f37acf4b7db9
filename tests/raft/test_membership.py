"""Changes of members and transfers of leadership: what is refused, what is waited for, what goes on by itself."""

from __future__ import annotations

import pytest

from durable_raft.errors import ChangeRefused, PeerMisbehaved
from durable_raft.raft.changes import (
    AddLearner,
    ChangeInProgress,
    Demote,
    IdUsed,
    NotCaughtUp,
    NotLeading,
    NotReady,
    NoWorkingMajority,
    Promote,
    Readdress,
    Remove,
    StaleConfiguration,
    Step,
    next_configuration,
)
from durable_raft.raft.configuration import MEMBERS_MAX
from durable_raft.raft.messages import AppendEntries, RequestVote, TimeoutNow
from durable_raft.raft.types import ORIGIN, EntryKind, Index, Member, NodeId, Role, Term, make_entry
from tests.support.raft_cluster import Cluster
from tests.support.raft_nodes import configuration_of
from tests.support.raft_solo import accepted, ask, campaign, request_vote, solo, vote

N1, N2, N3, N4 = NodeId("n1"), NodeId("n2"), NodeId("n3"), NodeId("n4")
FOUR = Member(N4, "n4:1", "n4:2")


def led(voters: str = "n1 n2 n3", joiners: str = "n4") -> Cluster:
    """Return a cluster that n1 leads, all of whom have answered."""
    cluster = Cluster(voters, joiners=joiners)
    cluster.elect("n1")
    cluster.run(60)
    return cluster


def with_learner() -> Cluster:
    """Return the same with n4 as a learner that has caught up."""
    cluster = led()
    cluster.change("n1", AddLearner(FOUR))
    cluster.run(400)
    return cluster


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ([], "changes nothing"),
        ([Readdress(Member(N1, "n1:1", "n1:2"))], "changes nothing"),
        ([AddLearner(Member(N2, "x", "y"))], "'n2' was used before"),
        ([Promote(N2)], "'n2' is no learner"),
        ([Promote(N4)], "'n4' is no learner"),
        ([Demote(N4)], "'n4' is no voter"),
        ([Remove(N4)], "'n4' is no member"),
        ([Readdress(FOUR)], "'n4' is no member"),
        ([Demote(N1), Remove(N2), Demote(N3)], "nobody would be left to vote"),
        ([Demote(N1), Remove(N1)], "n1 is named by two steps"),
        ([AddLearner(FOUR), Promote(N4)], "n4 is named by two steps"),
        ([AddLearner(Member(NodeId(""), "a", "b"))], "a node id is not empty"),
        ([AddLearner(Member(N4, "a" * 256, "b"))], "longer than 255 bytes"),
        ([AddLearner(Member(NodeId(f"x{n}"), "a", "b")) for n in range(MEMBERS_MAX)], "67 members"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(steps: list[Step], why: str) -> None:
    """Whatever the cluster is like."""
    with pytest.raises(ChangeRefused, match=why):
        next_configuration(configuration_of(["n1", "n2", "n3"]), steps)


def test_addresses_change_without_a_joint_configuration() -> None:
    """No voter comes or goes."""
    cluster = led()
    cluster.change("n1", Readdress(Member(N2, "there:1", "there:2")))
    cluster.run(60)
    for name in ("n1", "n2", "n3"):
        configuration = cluster[name].configuration
        assert (configuration.members[1].peer_address, configuration.outgoing) == ("there:2", ())


def test_what_the_leader_refuses() -> None:
    """Each refusal is of its own kind, and nothing is appended."""
    cluster = led()
    last = cluster["n1"].log.last
    for name, steps, against, kind in (
        ("n2", [AddLearner(FOUR)], 0, NotLeading),
        ("n1", [AddLearner(FOUR)], 3, StaleConfiguration),
        ("n1", [AddLearner(Member(N3, "", ""))], 0, IdUsed),
    ):
        with pytest.raises(kind):
            cluster.change(name, *steps, against=against)
    assert cluster["n1"].log.last == last
    cluster.change("n1", AddLearner(FOUR))
    with pytest.raises(ChangeInProgress):
        cluster.change("n1", Remove(N2))
    cluster.run(60)
    with pytest.raises(NotReady, match="not admitted"):
        cluster.change("n1", Promote(N4))


def test_a_leader_that_committed_nothing_yet_changes_nothing() -> None:
    """What was before its term is committed, or gone for good, once its own no-op is committed."""
    cluster = Cluster()
    cluster.timeout("n1")
    while cluster.role("n1") is not Role.LEADER:
        cluster.arrive(cluster.packets.pop(0))
    with pytest.raises(NotReady, match="of its term"):
        cluster.change("n1", Demote(N3))


def test_a_learner_that_lags_is_not_promoted_and_the_refusal_says_how_far_it_is() -> None:
    """It has to reach what was committed when that was first asked for, and no more."""
    cluster = with_learner()
    cluster.partition(["n1", "n2", "n3"], ["n4"])
    cluster.propose("n1", "a")
    cluster.settle()
    with pytest.raises(NotCaughtUp) as refused:
        cluster.change("n1", Promote(N4))
    assert (refused.value.node_id, refused.value.match_index, refused.value.needed_index) == (N4, 2, 3)
    cluster.heal()
    cluster.run(200)
    cluster.partition(["n1", "n2", "n3"], ["n4"])
    cluster.propose("n1", "b")
    cluster.settle()
    assert cluster["n1"].log.commit_index == 4
    cluster.change("n1", Promote(N4))


def test_a_change_that_leaves_no_working_majority_is_refused_with_the_arithmetic() -> None:
    """Of both sets of voters: those that come, and those that are."""
    cluster = led()
    cluster.crash("n3")
    cluster.run(400)
    with pytest.raises(NoWorkingMajority, match=r"of the new voters n1, n3 1 answer \(n1\), a majority is 2"):
        cluster.change("n1", Remove(N2))
    cluster.change("n1", Remove(N3))


def test_reads_and_writes_that_wait_do_not_wait_for_who_is_let_go() -> None:
    """When fewer have to agree, what they have agreed on is done at once."""
    cluster = led("n1 n2", "")
    cluster.change("n1", Demote(N2))
    cluster.deliver("n1", "n2")
    read = cluster.read("n1")
    cluster.propose("n1", "a")
    cluster.deliver("n2", "n1")
    assert [answered.read_id for answered in cluster.node("n1").answered] == [read]
    assert cluster["n1"].log.commit_index == cluster["n1"].log.last.index


def test_who_leaves_is_waited_for_and_then_let_go() -> None:
    """A node that is down is waited for, an election timeout; nothing is sent to it from then on."""
    cluster = led("n1 n2 n3 n4", "")
    cluster.crash("n4")
    cluster.change("n1", Remove(N4))
    cluster.run(100)
    assert cluster["n1"].configuration.leaving == (N4,)
    cluster.run(400)
    configuration = cluster["n1"].configuration
    assert (configuration.ids(), configuration.former) == ((N1, N2, N3), (N4,))
    assert set(cluster["n1"].progress) == {N2, N3}
    cluster.run(100)
    assert cluster.sent("n1", "n4") == []


def test_a_configuration_that_a_leader_makes_up_is_no_correct_node_s() -> None:
    """It is refused before anything is appended."""
    cluster = solo()
    entry = make_entry(previous=ORIGIN, term=Term(1), kind=EntryKind.CONFIGURATION, timestamp_ms=1, payload=b"\x01")
    message = AppendEntries(Term(1), Index(0), Term(0), 0, (entry,), Index(0), 0)
    with pytest.raises(PeerMisbehaved, match="entry 1"):
        cluster.tell("n1", "n2", message)
    assert cluster["n1"].log.last == ORIGIN


# -- transfer ---------------------------------------------------------------------------------------------------------


def test_a_node_that_is_asked_campaigns_without_a_pre_vote() -> None:
    """And says why, also when it asks again."""
    cluster = solo("1", term=1)
    cluster.tell("n1", "n2", AppendEntries(Term(1), Index(0), Term(0), 0, (), Index(0), 0))
    cluster.tell("n1", "n2", TimeoutNow(Term(1)))
    (asked,) = [message for message in cluster.sent("n1", "n3") if isinstance(message, RequestVote)]
    assert asked == RequestVote(Term(2), Index(1), Term(1), pre_vote=False, is_transfer=True)
    cluster.now += 60
    cluster.fire("n1")
    (again,) = [message for message in cluster.sent("n1", "n3") if isinstance(message, RequestVote)]
    assert again.is_transfer


@pytest.mark.parametrize(("source", "term"), [("n2", 1), ("n2", 2), ("n3", 3)])
def test_only_the_leader_hands_over(source: str, term: int) -> None:
    """One word of an older term, and one of a term whose leader this node has not heard, let it campaign for nobody."""
    cluster = solo("1", term=2)
    if source == "n3":
        cluster.tell("n1", "n2", AppendEntries(Term(2), Index(0), Term(0), 0, (), Index(0), 0))
    for _ in range(3):
        cluster.tell("n1", source, TimeoutNow(Term(term)))
    assert (cluster.role("n1"), cluster["n1"].current_term) == (Role.FOLLOWER, max(2, term))


def test_a_voter_that_hears_a_leader_answers_its_successor_only() -> None:
    """Others it does not even hear (Ongaro §4.2.3)."""
    cluster = solo("1", term=1)
    cluster.tell("n1", "n2", AppendEntries(Term(1), Index(0), Term(0), 0, (), Index(0), 0))
    cluster.packets.clear()
    assert ask(cluster, "n3", request_vote(2, 1, 1)) == []
    assert ask(cluster, "n3", request_vote(2, 1, 1)._replace(is_transfer=True)) == [vote(2)]


def test_a_leader_that_hands_over_takes_nothing_and_forgets_it_with_its_office() -> None:
    """No write, no reset of the time, no change, no second transfer."""
    cluster = led("n1 n2 n3", "")
    cluster.partition(["n1", "n3"], ["n2"])
    cluster.propose("n1", "a")
    cluster.settle()
    cluster.transfer("n1", "n2")
    core = cluster["n1"]
    assert core.is_transferring
    assert core.propose(b"b", 5) is core.propose_time_reset(5) is None
    with pytest.raises(NotLeading):
        cluster.change("n1", Demote(N3))
    with pytest.raises(ChangeRefused, match="being handed to n2"):
        cluster.transfer("n1", "n3")
    cluster.run(400)
    assert (core.is_transferring, core.role) == (False, Role.LEADER)
    for target, why in (("n1", "no other voter"), ("n9", "no other voter"), ("n2", "does not answer")):
        with pytest.raises(ChangeRefused, match=why):
            cluster.transfer("n1", target)
    with pytest.raises(NotLeading):
        cluster.transfer("n3", "n1")


def test_a_candidate_that_gives_up_is_nobodys_successor() -> None:
    """Its next campaign is its own."""
    cluster = solo("1", term=1)
    cluster.tell("n1", "n2", AppendEntries(Term(1), Index(0), Term(0), 0, (), Index(0), 0))
    cluster.tell("n1", "n2", TimeoutNow(Term(1)))
    assert cluster["n1"].state.is_successor
    term = campaign(cluster)
    assert not cluster["n1"].state.is_successor
    cluster.tell("n1", "n3", vote(term))
    assert cluster.role("n1") is Role.LEADER


def test_a_message_of_a_node_that_went_changes_nothing() -> None:
    """An answer of one that is no member any more may still be on its way."""
    cluster = with_learner()
    cluster.change("n1", Remove(N4))
    cluster.run(400)
    assert N4 not in cluster["n1"].progress
    before = cluster["n1"].log.commit_index
    cluster.tell("n1", "n4", accepted(cluster["n1"].current_term, cluster["n1"].log.last.index))
    assert cluster["n1"].log.commit_index == before


def test_disks_of_nodes_that_went_are_forgotten_everywhere() -> None:
    """Their ids come never again, so nothing has to be known of them."""
    cluster = with_learner()
    assert cluster["n2"].state.standing.peer(N4) is not None
    cluster.change("n1", Remove(N4))
    cluster.run(400)
    for name in ("n1", "n2", "n3"):
        assert cluster[name].state.standing.peer(N4) is None, name


ADDED = AddLearner(Member(NodeId("n4"), "n4:1", "n4:2"))


def with_a_lost_addition() -> tuple[Cluster, str]:
    """Return n1 to n3 and n4, whose addition by n1 was lost, and who leads; n1 knew n4's disk, and has forgotten it."""
    cluster = Cluster("n1 n2 n3", joiners="n4")
    cluster.elect("n1")
    cluster.run(100)
    cluster.partition(["n1", "n4"], ["n2", "n3"])
    cluster.change("n1", ADDED)
    cluster.run(150)
    assert NodeId("n1") in cluster["n4"].state.introduced
    cluster.crash("n1")
    cluster.heal()
    cluster.run_until(lambda: cluster.leader() in ("n2", "n3"), 5_000)
    cluster.run(300)
    cluster.restart("n1")
    cluster.run(300)
    leader = cluster.leader() or ""
    cluster.change(leader, Readdress(Member(NodeId("n3"), "n3:9", "n3:9")))
    cluster.run(500)
    assert cluster["n1"].state.standing.peer(NodeId("n4")) is None
    return cluster, leader


def test_a_node_whose_addition_was_lost_is_admitted_when_a_snapshot_replaces_its_log() -> None:
    """The snapshot names a later addition. Nothing says that who knew n4's disk from the lost one knows it still."""
    cluster, leader = with_a_lost_addition()
    cluster.partition(["n1", "n2", "n3"], ["n4"])
    cluster.change(leader, ADDED)
    cluster.run(300)
    cluster.transfer(leader, "n1")
    cluster.run_until(lambda: cluster.leader() == "n1", 1_000)
    cluster.run(100)
    cluster.checkpoint("n1", cluster["n1"].log.last_applied)
    cluster.heal()
    cluster.run_until(lambda: bool(cluster.offers), 1_000)
    cluster.install("n4")
    cluster.run_until(lambda: cluster["n4"].is_voter, 5_000)
    assert cluster.leader() == "n1"


def test_a_node_whose_addition_was_lost_is_admitted_when_it_is_added_again() -> None:
    """n1 has forgotten the disk of n4 with the entry that added it; n4 remembers that n1 knows it."""
    cluster, leader = with_a_lost_addition()
    cluster.transfer(leader, "n1")
    cluster.run_until(lambda: cluster.leader() == "n1", 1_000)
    cluster.run(100)
    cluster.change("n1", ADDED)
    cluster.run_until(lambda: cluster["n4"].is_voter, 5_000)
