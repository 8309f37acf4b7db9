"""Elections beyond Figure 2: random timeouts, PreVote, leader stickiness, CheckQuorum (Ongaro §4.2.3, §6.2, §9.6)."""

from __future__ import annotations

import pytest

from durable_raft.raft.messages import RequestVote
from durable_raft.raft.types import Role
from tests.support.raft_cluster import Cluster
from tests.support.raft_disk import Disk
from tests.support.raft_solo import accepted, ask, campaign, follow, lead, request_vote, solo, vote

# -- timeouts (§5.2, §9.3) ---------------------------------------------------------------------------------------------


def test_timeout_5_2_is_drawn_anew_within_min_and_max() -> None:
    """Each start of the timer draws from [min, max], both ends included, so that split votes do not repeat."""
    cluster = solo(term=1, election_timeout_min_ms=20, election_timeout_max_ms=29)
    drawn = set()
    for _ in range(300):
        follow(cluster, "n2", 1)
        drawn.add((cluster["n1"].deadline() or 0) - cluster.now)

    assert drawn == set(range(20, 30))


def test_timeout_5_2_split_vote_is_resolved() -> None:
    """Two candidates who split the vote try again at different times, and one wins."""
    cluster = Cluster("n1 n2 n3 n4")
    for name in ("n1", "n2"):
        cluster.timeout(name)
    for candidate, voter in (("n1", "n3"), ("n2", "n4")):
        cluster.deliver(candidate, voter)
        cluster.deliver(voter, candidate)

    cluster.run_until(lambda: cluster.leader() is not None, ms=3_000)


def test_no_deadline_means_nothing_to_wait_for() -> None:
    """A leader without peers has no timer: only events can change anything."""
    cluster = solo(voters="n1")
    cluster.timeout("n1")

    assert cluster.role("n1") is Role.LEADER
    assert cluster["n1"].deadline() is None


# -- PreVote (Ongaro §9.6) ---------------------------------------------------------------------------------------------


def test_pre_vote_9_6_asks_without_changing_term_or_vote() -> None:
    """A pre-candidate asks about the next term and keeps its own; nothing is written."""
    cluster = solo("1", term=4)
    cluster.slow("n1")

    cluster.timeout("n1")

    assert cluster.sent("n1", "n2") == [request_vote(5, 1, 1, pre_vote=True)]
    assert (cluster["n1"].current_term, cluster["n1"].voted_for) == (4, None)
    assert cluster.in_flight("n1") == []


def test_pre_vote_9_6_answer_changes_nothing_at_the_voter() -> None:
    """A granted pre-vote names the term asked about, and costs the voter neither term nor vote nor timer."""
    cluster = solo("1", term=4)
    deadline = cluster["n1"].deadline()

    assert ask(cluster, "n2", request_vote(8, 1, 1, pre_vote=True)) == [vote(8, pre_vote=True)]
    assert ask(cluster, "n3", request_vote(8, 1, 1, pre_vote=True)) == [vote(8, pre_vote=True)], "to each who asks"

    assert (cluster["n1"].current_term, cluster["n1"].voted_for) == (4, None)
    assert cluster["n1"].deadline() == deadline
    assert cluster.disk("n1").hard_state.current_term == 4


def test_pre_vote_9_6_is_refused_while_a_leader_is_heard() -> None:
    """A pre-candidate that cannot hear a living leader does not disturb those who do, until they too miss it."""
    cluster = solo()
    follow(cluster, "n2", 1)
    cluster.now += 149
    assert ask(cluster, "n3", request_vote(2, pre_vote=True)) == [vote(1, granted=False, pre_vote=True)]

    cluster.now += 1

    assert ask(cluster, "n3", request_vote(2, pre_vote=True)) == [vote(2, pre_vote=True)]


def test_pre_vote_9_6_is_refused_for_a_term_that_is_not_new() -> None:
    """A pre-vote for a term this node is in already could not succeed; the answer tells the term."""
    cluster = solo(term=5)

    assert ask(cluster, "n2", request_vote(5, pre_vote=True)) == [vote(5, granted=False, pre_vote=True)]
    assert ask(cluster, "n2", request_vote(3, pre_vote=True)) == [vote(5, granted=False, pre_vote=True)]


def test_pre_vote_9_6_grants_of_another_term_do_not_count() -> None:
    """Only grants for the term asked about lead to an election."""
    cluster = solo(term=4)
    cluster.timeout("n1")

    for term in (4, 6, 9):
        ask(cluster, "n2", vote(term, pre_vote=True))
    assert (cluster.role("n1"), cluster["n1"].current_term) == (Role.PRE_CANDIDATE, 4)
    ask(cluster, "n2", vote(5, pre_vote=True))

    assert (cluster.role("n1"), cluster["n1"].current_term) == (Role.CANDIDATE, 5)


def test_pre_vote_9_6_refused_by_a_majority_goes_back_to_follower() -> None:
    """A pre-candidate that cannot win waits for another timeout as a follower."""
    cluster = solo(term=4)
    cluster.timeout("n1")

    ask(cluster, "n2", vote(4, granted=False, pre_vote=True))
    assert cluster.role("n1") is Role.PRE_CANDIDATE
    ask(cluster, "n3", vote(4, granted=False, pre_vote=True))

    assert (cluster.role("n1"), cluster["n1"].current_term) == (Role.FOLLOWER, 4)


def test_pre_vote_9_6_partitioned_node_does_not_inflate_terms() -> None:
    """A node cut off for many timeouts comes back in the term it left, and the leader stays."""
    cluster = Cluster()
    cluster.elect("n1")
    term = cluster["n1"].current_term
    cluster.partition(["n1", "n2"], ["n3"])
    cluster.run(5_000)
    assert cluster.role("n3") is Role.PRE_CANDIDATE
    assert cluster["n3"].current_term == term

    cluster.heal()
    cluster.run(1_000)

    assert (cluster.leader(), cluster["n1"].current_term) == ("n1", term)
    assert cluster.role("n3") is Role.FOLLOWER


def test_pre_vote_9_6_one_deaf_node_does_not_disturb_the_others() -> None:
    """A node that hears nobody but is heard by all cannot depose the leader."""
    cluster = Cluster()
    cluster.elect("n1")
    term = cluster["n1"].current_term
    for source in ("n1", "n2"):
        cluster.cut(source, "n3")

    cluster.run(5_000)

    assert (cluster.leader(), cluster["n1"].current_term) == ("n1", term)


# -- leader stickiness (Ongaro §4.2.3) ---------------------------------------------------------------------------------


def test_stickiness_4_2_3_request_vote_is_ignored_while_a_leader_is_heard() -> None:
    """A candidate does not depose a leader that this node heard within the minimum election timeout."""
    cluster = solo()
    follow(cluster, "n2", 1)
    cluster.now += 149
    assert ask(cluster, "n3", request_vote(7)) == []
    assert cluster["n1"].current_term == 1

    cluster.now += 1

    assert ask(cluster, "n3", request_vote(7)) == [vote(7)]


def test_stickiness_4_2_3_leader_ignores_candidates() -> None:
    """A leader that still has its quorum takes no higher term from a RequestVote."""
    cluster = solo()
    term = lead(cluster)

    assert ask(cluster, "n3", request_vote(term + 5, 9, term)) == []
    assert ask(cluster, "n3", request_vote(term + 5, 9, term, pre_vote=True)) == [
        vote(term, granted=False, pre_vote=True)
    ]

    assert (cluster.role("n1"), cluster["n1"].current_term) == (Role.LEADER, term)


# -- CheckQuorum (Ongaro §6.2) -----------------------------------------------------------------------------------------


def test_check_quorum_6_2_leader_without_majority_steps_down() -> None:
    """A leader that no majority has answered for an election timeout steps down, in its own term."""
    cluster = Cluster()
    cluster.elect("n1")
    term = cluster["n1"].current_term
    cluster.partition(["n1"], ["n2", "n3"])

    cluster.run(400)

    assert cluster.role("n1") is not Role.LEADER
    assert cluster["n1"].current_term == term
    assert cluster["n1"].voted_for == "n1", "stepping down in a term keeps its vote"
    cluster.run_until(lambda: cluster.leader() in ("n2", "n3"), ms=2_000)


def test_check_quorum_6_2_counts_an_answer_for_a_whole_election_timeout() -> None:
    """An answer as old as the longest election timeout still counts, one that is older by a millisecond does not."""
    cluster = solo(election_timeout_max_ms=300, heartbeat_ms=1)
    lead(cluster)

    cluster.now += 300
    cluster.fire("n1")
    assert cluster.role("n1") is Role.LEADER
    cluster.now += 1
    cluster.fire("n1")

    assert cluster.role("n1") is Role.FOLLOWER
    assert cluster.counts["lost_quorum"] == 1


def test_check_quorum_6_2_any_answer_of_a_majority_keeps_the_leader() -> None:
    """One of two followers suffices, and a refusal counts as well as a success."""
    cluster = solo()
    term = lead(cluster)

    for _ in range(20):
        cluster.timeout("n1")
        ask(cluster, "n3", accepted(term, 0)._replace(success=False))

    assert cluster.role("n1") is Role.LEADER


def test_check_quorum_6_2_one_way_link_is_noticed() -> None:
    """A leader whose messages arrive but who hears nobody steps down, and the others elect."""
    cluster = Cluster()
    cluster.elect("n1")
    for source in ("n2", "n3"):
        cluster.cut(source, "n1")

    cluster.run_until(lambda: cluster.leader() in ("n2", "n3"), ms=3_000)


# -- nodes that are stuck ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_leader", [True, False])
def test_stuck_node_with_higher_term_and_shorter_log_recovers(has_leader: bool) -> None:
    """Ahead in term, behind in log, it can neither win nor follow; the others come to it (etcd #8501, #8243)."""
    disks = {"n1": Disk("1 1 1 1", term=2), "n2": Disk("1 1 1 1", term=2), "n3": Disk("1 1", term=9)}
    cluster = Cluster(disks=disks)
    if has_leader:
        cluster.partition(["n1", "n2"], ["n3"])
        cluster.run_until(lambda: cluster.leader() is not None, ms=3_000)
        cluster.heal()

    cluster.run_until(lambda: cluster["n3"].log.commit_index >= 5, ms=3_000)

    assert cluster.leader() in ("n1", "n2")
    assert cluster["n3"].current_term > 9


def test_candidate_of_an_old_term_learns_the_new_one() -> None:
    """A candidate of an older term gets an answer that tells the newer term, and follows it."""
    cluster = Cluster(disks={"n2": Disk(term=6), "n3": Disk(term=6)})

    cluster.timeout("n1")
    cluster.settle()

    assert (cluster.role("n1"), cluster["n1"].current_term) == (Role.FOLLOWER, 6)


def test_candidate_refused_by_a_majority_gives_up() -> None:
    """A candidate that lost waits as a follower, its vote kept."""
    cluster = solo()
    term = campaign(cluster)

    for peer in ("n2", "n3"):
        ask(cluster, peer, vote(term, granted=False))

    assert (cluster.role("n1"), cluster["n1"].voted_for) == (Role.FOLLOWER, "n1")


def test_five_nodes_elect_and_agree_from_nothing() -> None:
    """Five fresh nodes left to themselves elect one leader and commit its no-op."""
    cluster = Cluster("n1 n2 n3 n4 n5", seed=3)

    cluster.run_until(lambda: all(core.core.log.commit_index >= 1 for core in cluster.up()), ms=3_000)

    assert not [packet for packet in cluster.packets if isinstance(packet.message, RequestVote)]


# -- what a change of role leaves behind -------------------------------------------------------------------------------


def test_follower_of_a_new_term_has_heard_no_leader() -> None:
    """Whoever asks for its vote in that term is not refused because of the leader before."""
    cluster = solo()
    follow(cluster, "n2", 1)
    cluster.tell("n1", "n3", accepted(5, 0))
    assert (cluster["n1"].current_term, cluster["n1"].leader_id) == (5, None)

    assert ask(cluster, "n3", request_vote(6)) == [vote(6)]


@pytest.mark.parametrize("event", ["quorum", "term"])
def test_leader_that_steps_down_waits_for_another(event: str) -> None:
    """A whole election timeout, though its own timer has not run for long."""
    cluster = solo(voters="n1 n2 n3 n4 n5")
    term = lead(cluster)
    for _ in range(40):
        cluster.timeout("n1")
        for peer in ("n2", "n3"):
            cluster.tell("n1", peer, accepted(term, 1))
    if event == "quorum":
        for _ in range(7):
            cluster.timeout("n1")
    else:
        cluster.tell("n1", "n2", accepted(term + 1, 0))

    assert cluster.role("n1") is Role.FOLLOWER
    assert cluster.now + 150 <= (cluster["n1"].deadline() or 0) <= cluster.now + 300


def test_campaigner_follows_nobody() -> None:
    """Clients are not sent to a leader that is not heard any more."""
    cluster = solo()
    follow(cluster, "n2", 1)
    core = cluster["n1"]
    assert str(core.leader_id) == "n2"
    cluster.timeout("n1")
    assert core.role is Role.PRE_CANDIDATE
    assert core.leader_id is None


def test_candidate_has_an_election_timeout_of_its_own() -> None:
    """Drawn when the election begins, not when the pre-vote did (Figure 2: reset election timer)."""
    cluster = solo(election_timeout_min_ms=150, election_timeout_max_ms=150, election_timeout_bound_ms=150)
    cluster.timeout("n1")
    cluster.now += 149
    ask(cluster, "n2", vote(1, pre_vote=True))

    assert cluster.role("n1") is Role.CANDIDATE
    assert cluster["n1"].state.election_deadline == cluster.now + 150


def test_pre_candidate_that_votes_for_another_campaigns_no_more() -> None:
    """It helped that one to its term: late answers to its own pre-vote must not begin the next one."""
    cluster = solo(term=4)
    cluster.timeout("n1")
    assert cluster.role("n1") is Role.PRE_CANDIDATE
    assert ask(cluster, "n2", request_vote(4)) == [vote(4)]
    assert cluster.role("n1") is Role.FOLLOWER

    cluster.tell("n1", "n3", vote(5, pre_vote=True))

    assert (cluster.role("n1"), cluster["n1"].current_term) == (Role.FOLLOWER, 4)


def test_follower_that_votes_keeps_its_role_and_says_nothing_of_it() -> None:
    """Only the vote changes."""
    cluster = solo(term=4)
    follow(cluster, "n3", 4)
    cluster.now += 150
    ask(cluster, "n2", request_vote(5))
    assert cluster.counts["became_follower"] == 2, "of term 4, and of term 5"
