"""Timeouts that learn: longer where others are late, as configured where it is calm, never beyond their bound."""

from __future__ import annotations

import pytest

from durable_raft.raft.messages import RequestVote
from durable_raft.raft.timeouts import HALF_LIFE_MS, Timeouts
from durable_raft.raft.types import NodeId, RaftConfig, Role, Term
from tests.support.raft_cluster import Cluster
from tests.support.raft_nodes import configuration_of
from tests.support.raft_solo import accepted, append_entries, ask, campaign, follow, lead, request_vote, solo, vote

CONFIGURED = (150, 300)
LONGEST = (1_000, 2_000)
"""What the bound allows."""


def range_of(cluster: Cluster) -> tuple[int, int]:
    """Return from where n1 draws its election timeouts now."""
    patience = cluster["n1"].patience(cluster.now)
    return patience.shortest_ms, patience.longest_ms


def hear_after(cluster: Cluster, ms: int, *, term: int = 1) -> None:
    """Let n1 hear n2, its leader, after so long."""
    cluster.now += ms
    follow(cluster, "n2", term)


def following(*, late: int = 0) -> Cluster:
    """Return a cluster in which n1 follows n2, whose last heartbeat was late by so much."""
    cluster = solo()
    follow(cluster, "n2", 1)
    hear_after(cluster, 50 + late)
    return cluster


# -- what is late ------------------------------------------------------------------------------------------------------


def test_calm_changes_nothing() -> None:
    """Heartbeats that come in time, and answers and flushes that are quick, leave the timeouts as configured."""
    cluster = following()
    for ms in (50, 51, 30, 87, 1, 49):
        hear_after(cluster, ms)

    assert range_of(cluster) == CONFIGURED
    assert cluster.now + 150 <= cluster["n1"].state.election_deadline <= cluster.now + 300
    assert "timeouts_raised" not in cluster.counts


def test_late_heartbeat_stretches_the_timeout() -> None:
    """Four times as long as the worst was late; drawn anew with the very message that was late."""
    cluster = following(late=100)

    assert range_of(cluster) == (400, 800)
    assert cluster.now + 400 <= cluster["n1"].state.election_deadline <= cluster.now + 800
    assert cluster.counts["timeouts_raised"] == 1


def test_whoever_waits_longer_keeps_its_leader_longer() -> None:
    """No vote and no pre-vote against a leader that was heard within the shortest timeout of now (Ongaro §4.2.3)."""
    cluster = following(late=100)
    cluster.now += 399
    assert ask(cluster, "n3", request_vote(2, pre_vote=True)) == [vote(1, granted=False, pre_vote=True)]
    assert ask(cluster, "n3", request_vote(2)) == []
    cluster.now += 1

    assert ask(cluster, "n3", request_vote(2, pre_vote=True)) == [vote(2, pre_vote=True)]


@pytest.mark.parametrize("late", [250, 1_000, 1_950, 2_000])
def test_no_timeout_exceeds_its_bound(late: int) -> None:
    """However late, and however many campaigns failed, and however slow the disk is."""
    cluster = following(late=late)
    state = cluster["n1"].state
    state.timeouts.note_flush(cluster.now, 1_900)
    state.timeouts.failed_campaigns = 60

    assert state.timeouts.election_range(cluster.now, is_voting=True) == LONGEST
    assert state.timeouts.longest(cluster.now) == 2_000
    assert state.timeouts.hung_after(cluster.now) == 2_000


def test_what_no_patience_could_wait_for_teaches_nothing() -> None:
    """A leader that was away for longer than the bound was rightly suspected."""
    assert range_of(following(late=2_001)) == CONFIGURED


def test_bound_at_the_configured_timeout_learns_nothing() -> None:
    """So an operator can have the timeouts of the paper."""
    for bound in (1, 300):
        cluster = solo(election_timeout_bound_ms=bound)
        follow(cluster, "n2", 1)
        hear_after(cluster, 300)

        assert range_of(cluster) == CONFIGURED


def test_timeouts_come_back_down() -> None:
    """What was late counts half after each half-life of calm, until all is as configured, which is told once."""
    cluster = following(late=240)
    begin = cluster.now
    seen: list[tuple[int, int]] = []
    while cluster.now < begin + 4 * HALF_LIFE_MS:
        hear_after(cluster, 50)
        if not seen or seen[-1] != range_of(cluster):
            seen.append(range_of(cluster))

    assert seen == [(960, 1920), (480, 960), (240, 480), CONFIGURED]
    assert cluster.now + 150 <= cluster["n1"].state.election_deadline <= cluster.now + 300
    assert (cluster.counts["timeouts_raised"], cluster.counts["timeouts_as_configured"]) == (1, 1)


def test_the_worst_counts() -> None:
    """A smaller lateness does not hide a larger one before that has faded, and a larger one counts at once."""
    cluster = following(late=100)
    hear_after(cluster, 50 + 60)
    assert range_of(cluster) == (400, 800)
    hear_after(cluster, 50 + 120)
    assert range_of(cluster) == (480, 960)


def test_false_suspicion_teaches() -> None:
    """A leader that was suspected and speaks again in its term was alive: the whole gap counts."""
    cluster = following()
    cluster.timeout("n1")
    assert cluster.role("n1") is Role.PRE_CANDIDATE
    gap = cluster["n1"].state.election_deadline - cluster.now
    hear_after(cluster, gap - 1)

    assert cluster.role("n1") is Role.FOLLOWER
    assert range_of(cluster)[0] > 150


def test_a_deposed_leader_that_still_speaks_teaches() -> None:
    """Its message of an older term shows that it was alive when it was replaced."""
    cluster = following()
    cluster.now += 160
    cluster.tell("n1", "n3", append_entries("", term=2, after=0))
    assert range_of(cluster) == CONFIGURED
    cluster.tell("n1", "n2", append_entries("", term=1, after=0))

    assert range_of(cluster) == (440, 880), "it was 110 ms late"


def test_another_leader_begins_anew() -> None:
    """The time between one leader's last word and the next one's first is nobody's lateness."""
    cluster = following()
    cluster.now += 280
    cluster.tell("n1", "n3", append_entries("", term=2, after=0))
    cluster.now += 280
    cluster.tell("n1", "n2", append_entries("", term=3, after=0))

    assert range_of(cluster) == CONFIGURED


def test_a_slow_pre_vote_teaches_how_far_the_others_are() -> None:
    """Where an answer takes 120 ms, an election has to be waited for as long as that again and again."""
    cluster = solo(voters="n1 n2 n3 n4 n5")
    cluster.timeout("n1")
    cluster.now += 120
    ask(cluster, "n2", vote(1, pre_vote=True))

    assert range_of(cluster) == (480, 960)


# -- a leader ----------------------------------------------------------------------------------------------------------


def test_late_answers_make_a_leader_patient() -> None:
    """CheckQuorum waits longer, as the followers of such a leader do."""
    cluster = solo()
    term = lead(cluster)
    for _ in range(4):
        cluster.timeout("n1")
    silence = cluster.now - 1_000
    ask(cluster, "n3", accepted(term, 0))
    shortest, longest = range_of(cluster)
    assert shortest > 150, f"no majority answered for {silence} ms"
    for _ in range(longest // 50):
        cluster.timeout("n1")
        assert cluster.role("n1") is Role.LEADER
    cluster.timeout("n1")

    assert cluster.role("n1") is Role.FOLLOWER


def test_one_slow_follower_makes_no_leader_patient() -> None:
    """What counts is the majority's silence: there was none."""
    cluster = solo()
    term = lead(cluster)
    for _ in range(4):
        cluster.timeout("n1")
        ask(cluster, "n2", accepted(term, 0))
    ask(cluster, "n3", accepted(term, 0))

    assert range_of(cluster) == CONFIGURED


def test_a_leader_that_gave_up_too_early_learns() -> None:
    """An answer of its term that comes after it stepped down shows that a majority was only late."""
    cluster = solo()
    term = lead(cluster)
    for _ in range(8):
        cluster.timeout("n1")
    assert (cluster.role("n1"), cluster["n1"].current_term) == (Role.FOLLOWER, term)
    cluster.tell("n1", "n3", accepted(term, 0))

    assert range_of(cluster) == LONGEST


def test_a_leader_that_overslept_reads_before_it_gives_up() -> None:
    """While the process did not run, answers came that it has not read; at its next timer it must have read them."""
    cluster = solo()
    lead(cluster)
    cluster.timeout("n1")
    cluster.now += 5_000
    cluster.fire("n1")
    assert cluster.role("n1") is Role.LEADER
    cluster.timeout("n1")

    assert cluster.role("n1") is Role.FOLLOWER


def test_a_leader_whose_answers_were_read_after_it_overslept_leads_on() -> None:
    """And it has learned from that how late it is itself."""
    cluster = solo()
    term = lead(cluster)
    cluster.timeout("n1")
    cluster.now += 400
    cluster.fire("n1")
    ask(cluster, "n2", accepted(term, 0))
    cluster.timeout("n1")

    assert cluster.role("n1") is Role.LEADER
    assert range_of(cluster) == LONGEST


# -- slow disks --------------------------------------------------------------------------------------------------------


def test_a_disk_that_is_always_slow_does_not_hang() -> None:
    """Four times its slowest flush is waited for before it counts as hung; a quick disk hangs after 300 ms."""
    cluster = solo()
    lead(cluster)
    cluster.slow("n1")
    for took in (290, 290):
        cluster.propose("n1", "x")
        cluster.now += took
        cluster.flush("n1")
    state = cluster["n1"].state
    cluster.propose("n1", "x")

    assert not state.is_disk_stalled(cluster.now + 4 * 290)
    assert state.is_disk_stalled(cluster.now + 4 * 290 + 1)
    quick = solo()
    lead(quick)
    quick.slow("n1")
    quick.propose("n1", "x")
    assert not quick["n1"].state.is_disk_stalled(quick.now + 300)
    assert quick["n1"].state.is_disk_stalled(quick.now + 301)


def test_a_disk_that_hung_teaches_nothing() -> None:
    """A flush beyond the bound is no slow one."""
    cluster = solo()
    lead(cluster)
    cluster.slow("n1")
    cluster.propose("n1", "x")
    cluster.now += 2_001
    cluster.flush("n1")

    assert cluster["n1"].state.timeouts.hung_after(cluster.now) == 300


def test_a_candidate_waits_from_the_flush_of_its_vote() -> None:
    """What its own disk takes is not taken from the others; and theirs may be as slow."""
    cluster = solo(voters="n1 n2 n3 n4 n5")
    cluster.slow("n1")
    cluster.timeout("n1")
    for peer in ("n2", "n3"):
        cluster.tell("n1", peer, vote(1, pre_vote=True))
    assert cluster.role("n1") is Role.CANDIDATE
    for _ in range(2):
        cluster.timeout("n1")
        assert (cluster.role("n1"), cluster["n1"].current_term) == (Role.CANDIDATE, 1), "its vote is not flushed"
    took = 400
    cluster.now = max(cluster.now, 1_700)
    cluster.flush("n1")

    assert cluster["n1"].state.timeouts.election_range(cluster.now, is_voting=False) == CONFIGURED
    assert cluster["n1"].state.election_deadline >= cluster.now + 2 * took


def test_a_voter_waits_from_the_flush_of_its_vote() -> None:
    """The candidate hears of the vote only then."""
    cluster = solo()
    cluster.slow("n1")
    cluster.now += 500
    cluster.tell("n1", "n2", request_vote(1))
    cluster.now += 290
    cluster.flush("n1")

    assert cluster["n1"].state.election_deadline >= cluster.now + 2 * 290


def test_slow_flushes_do_not_delay_the_suspicion_of_a_leader() -> None:
    """Heartbeats wait for no flush."""
    cluster = following()
    cluster["n1"].state.timeouts.note_flush(cluster.now, 900)
    hear_after(cluster, 50)

    assert cluster.now + 150 <= cluster["n1"].state.election_deadline <= cluster.now + 300


# -- campaigns that fail -----------------------------------------------------------------------------------------------


def test_elections_back_off() -> None:
    """After each campaign for nothing twice as long, up to the bound; a leader that is heard ends that."""
    cluster = solo()
    seen = []
    for _ in range(5):
        campaign(cluster)
        seen.append(range_of(cluster))
    assert seen == [CONFIGURED, (300, 600), (600, 1_200), LONGEST, LONGEST]
    assert cluster["n1"].state.election_deadline >= cluster.now + 1_000
    follow(cluster, "n2", 9)

    assert range_of(cluster) == CONFIGURED


def test_a_candidate_that_is_refused_backs_off() -> None:
    """By a majority: then it need not wait for its timer to know."""
    cluster = solo()
    term = campaign(cluster)
    for peer in ("n2", "n3"):
        ask(cluster, peer, vote(term, granted=False))

    assert cluster.role("n1") is Role.FOLLOWER
    assert range_of(cluster) == (300, 600)


def test_a_pre_vote_that_fails_costs_nobody_anything() -> None:
    """So a node that was cut off stands at once when it is joined again."""
    cluster = solo()
    for _ in range(5):
        cluster.timeout("n1")
        assert cluster.role("n1") is Role.PRE_CANDIDATE

    assert range_of(cluster) == CONFIGURED


def test_winning_ends_the_back_off() -> None:
    """A leader checks its quorum as configured."""
    cluster = solo()
    campaign(cluster)
    lead(cluster)

    assert range_of(cluster) == CONFIGURED


# -- votes that are lost -----------------------------------------------------------------------------------------------


def asked(cluster: Cluster) -> dict[str, list[RequestVote]]:
    """Take what n1 has asked of each peer."""
    return {
        peer: [message for message in cluster.sent("n1", peer) if isinstance(message, RequestVote)]
        for peer in cluster["n1"].state.peers
    }


@pytest.mark.parametrize("pre_vote", [True, False])
def test_votes_are_asked_for_again(pre_vote: bool) -> None:
    """After a heartbeat's time, within the campaign, of whom has not answered."""
    cluster = solo(voters="n1 n2 n3 n4 n5")
    if pre_vote:
        cluster.timeout("n1")
    else:
        campaign(cluster)
    cluster.packets.clear()
    core = cluster["n1"]
    cluster.tell("n1", "n2", vote(1, granted=False, pre_vote=pre_vote) if not pre_vote else vote(1, pre_vote=True))
    for _ in range(2):
        assert core.deadline() == cluster.now + 50
        cluster.now += 50
        cluster.fire("n1")
        question = request_vote(1, pre_vote=pre_vote)
        assert asked(cluster) == {"n2": [], "n3": [question], "n4": [question], "n5": [question]}

    assert cluster.counts["became_pre_candidate"] == 1, "the campaign is the same"


def test_a_link_that_comes_up_is_asked_at_once() -> None:
    """What was asked before was lost with the link."""
    cluster = solo()
    campaign(cluster)
    cluster.packets.clear()
    cluster.now += 3
    cluster["n1"].peers_changed(cluster.now)
    assert cluster["n1"].deadline() == cluster.now
    cluster.fire("n1")

    assert asked(cluster) == {"n2": [request_vote(1)], "n3": [request_vote(1)]}


def test_a_candidate_asks_for_nothing_before_its_vote_is_flushed() -> None:
    """Its request leaves with the flush, once."""
    cluster = solo()
    cluster.slow("n1")
    cluster.timeout("n1")
    cluster.tell("n1", "n2", vote(1, pre_vote=True))
    cluster.packets.clear()
    state = cluster["n1"].state
    while cluster.now + 50 < state.election_deadline:
        cluster.now += 50
        cluster.fire("n1")
    assert asked(cluster) == {"n2": [], "n3": []}
    cluster.flush("n1")

    assert asked(cluster) == {"n2": [request_vote(1)], "n3": [request_vote(1)]}


def test_a_voter_repeats_its_answer_and_nothing_else() -> None:
    """Asked again, it votes no second time: neither its timer nor its log tell of it."""
    cluster = solo()
    cluster.now += 500
    assert ask(cluster, "n2", request_vote(1)) == [vote(1)]
    deadline = cluster["n1"].state.election_deadline
    cluster.now += 50
    assert ask(cluster, "n2", request_vote(1)) == [vote(1)]

    assert cluster["n1"].state.election_deadline == deadline
    assert cluster.counts["granted_vote"] == 1


def test_a_vote_that_is_being_flushed_is_answered_once() -> None:
    """The answer that waits for the flush is enough."""
    cluster = solo()
    cluster.slow("n1")
    cluster.now += 500
    for _ in range(3):
        assert ask(cluster, "n2", request_vote(1)) == []
    cluster.flush("n1")
    assert cluster.sent("n1", "n2") == [vote(1)]


def test_a_lost_vote_costs_no_term() -> None:
    """Only two of three are up, and the question to the one is lost: the same campaign asks again, and wins."""
    cluster = Cluster()
    cluster.crash("n3")
    cluster.timeout("n1")
    cluster.deliver("n1", "n2")
    cluster.deliver("n2", "n1")
    assert cluster.role("n1") is Role.CANDIDATE
    assert cluster.drop("n1", "n2") == 1
    cluster.run(50)

    assert (cluster.leader(), cluster["n1"].current_term) == ("n1", 1)


# -- the arithmetic ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("configured", [(150, 300), (1_500, 2_000), (20, 29), (4_000, 6_000), (1, 2)])
def test_the_range_keeps_its_shape(configured: tuple[int, int]) -> None:
    """Stretched, it is as wide for its length as configured, and never shorter than that or longer than the bound."""
    shortest, longest = configured
    config = RaftConfig(
        NodeId("n1"),
        configuration_of(["n1", "n2"]),
        election_timeout_min_ms=shortest,
        election_timeout_max_ms=longest,
        heartbeat_ms=max(1, shortest // 3),
    )
    for late in range(0, 2_100, 7):
        timeouts = Timeouts(config)
        timeouts.leader_spoke(0, Term(1), NodeId("n2"))
        timeouts.leader_spoke(config.heartbeat_ms + late, Term(1), NodeId("n2"))
        now = config.heartbeat_ms + late
        low, high = timeouts.election_range(now, is_voting=False)
        assert (low, high) == (timeouts.shortest(now), timeouts.longest(now))
        assert shortest <= low < high
        assert high <= max(2_000, longest)
        assert high == low * longest // shortest
