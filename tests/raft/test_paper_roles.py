"""Figure 2 of the Raft paper, rule by rule: the rules for followers, candidates and leaders.

Each test names its box and section; the words in quotes are the paper's. ``test_paper.py`` has the other boxes.
"""

from __future__ import annotations

import pytest

from durable_raft.errors import PeerMisbehaved
from durable_raft.raft.messages import AppendEntries, RequestVote
from durable_raft.raft.types import EntryKind, NodeId, Role
from tests.support.raft_cluster import Cluster
from tests.support.raft_solo import (
    accepted,
    append_entries,
    appends_to,
    ask,
    campaign,
    follow,
    lead,
    refused,
    request_vote,
    solo,
    vote,
)

# -- Followers (§5.2) --------------------------------------------------------------------------------------------------


def test_followers_5_2_election_timeout_starts_a_campaign() -> None:
    """ "If election timeout elapses without receiving AppendEntries or granting vote: convert to candidate"."""
    cluster = solo()
    cluster.now = cluster["n1"].deadline() or 0

    cluster.now -= 1
    cluster.fire("n1")
    assert cluster.role("n1") is Role.FOLLOWER, "not a moment before"
    cluster.now += 1
    cluster.fire("n1")

    assert cluster.role("n1") is Role.PRE_CANDIDATE
    assert campaign_of(cluster) == {"n2": request_vote(1, pre_vote=True), "n3": request_vote(1, pre_vote=True)}


def test_followers_5_2_append_entries_resets_the_timer() -> None:
    """Hearing from the current leader puts the election off."""
    cluster = solo()
    follow(cluster, "n2", 1)
    cluster.now += 140

    follow(cluster, "n2", 1)

    assert (cluster["n1"].deadline() or 0) >= cluster.now + 150


def test_followers_5_2_granting_a_vote_resets_the_timer() -> None:
    """A granted vote puts the election off; a refused one does not."""
    cluster = solo("1", term=1)
    deadline = cluster["n1"].deadline()
    cluster.now += 140

    ask(cluster, "n2", request_vote(2, index=0, last_term=0))
    assert cluster["n1"].deadline() == deadline
    ask(cluster, "n2", request_vote(3, index=1, last_term=1))

    assert (cluster["n1"].deadline() or 0) >= cluster.now + 150


def test_followers_5_1_propose_is_refused() -> None:
    """Only the leader takes client requests."""
    cluster = solo()

    assert cluster.propose("n1", "x") is None
    assert cluster["n1"].log.last.index == 0


# -- Candidates (§5.2) -------------------------------------------------------------------------------------------------


def test_candidates_5_2_start_of_an_election() -> None:
    """ "Increment currentTerm, vote for self, reset election timer, send RequestVote RPCs to all other servers"."""
    cluster = solo("1 3", term=4)
    cluster.timeout("n1")
    cluster.packets.clear()
    cluster.now += 7

    ask(cluster, "n2", vote(5, pre_vote=True))
    core = cluster["n1"]

    assert (core.role, core.current_term, core.voted_for) == (Role.CANDIDATE, 5, "n1")
    assert cluster.now + 150 <= core.state.election_deadline <= cluster.now + 300
    assert cluster.sent("n1", "n3") == [request_vote(5, index=2, last_term=3)]
    assert cluster.disk("n1").hard_state == core.state.hard_state


@pytest.mark.parametrize(
    ("voters", "needed"), [("n1 n2", 1), ("n1 n2 n3", 1), ("n1 n2 n3 n4", 2), ("n1 n2 n3 n4 n5", 2)]
)
def test_candidates_5_2_majority_wins(voters: str, needed: int) -> None:
    """ "If votes received from majority of servers: become leader": own vote included, the same voter once."""
    cluster = solo(voters=voters)
    term = campaign(cluster)
    peers = cluster["n1"].state.peers

    for voter in peers[: needed - 1]:
        ask(cluster, voter, vote(term))
        ask(cluster, voter, vote(term))
        assert cluster.role("n1") is Role.CANDIDATE, "not yet, and a voter counts once"
    ask(cluster, peers[needed - 1], vote(term))

    assert cluster.role("n1") is Role.LEADER


def test_candidates_5_2_refusals_and_old_votes_do_not_count() -> None:
    """Only granted votes of this very term elect."""
    cluster = solo(term=4)
    term = campaign(cluster)

    ask(cluster, "n2", vote(term, granted=False))
    ask(cluster, "n3", vote(term - 1))
    ask(cluster, "n3", vote(term, pre_vote=True))

    assert cluster.role("n1") is Role.CANDIDATE


def test_candidates_5_2_append_entries_from_the_new_leader_converts() -> None:
    """ "If AppendEntries RPC received from new leader: convert to follower": of the same term, and the vote stays."""
    cluster = solo()
    term = campaign(cluster)

    ask(cluster, "n2", append_entries("", term=term, after=0))
    core = cluster["n1"]

    assert (core.role, core.leader_id, core.voted_for) == (Role.FOLLOWER, "n2", "n1")
    assert ask(cluster, "n3", request_vote(term)) == [vote(term, granted=False)], "no second vote in this term"


def test_candidates_5_2_election_timeout_starts_a_new_election() -> None:
    """ "If election timeout elapses: start new election": a new term, after a new pre-vote."""
    cluster = solo()
    term = campaign(cluster)
    cluster.packets.clear()

    assert campaign(cluster) == term + 1
    assert request_vote(term + 1) in cluster.sent("n1", "n3")


# -- Leaders (§5.2, §5.3, §5.4) ----------------------------------------------------------------------------------------


def test_leaders_8_noop_opens_the_term() -> None:
    """§8: a leader "commits a blank no-op entry at the start of its term", so that older entries do not wait."""
    cluster = solo("1 2", term=2)
    term = lead(cluster)
    entry = cluster.disk("n1").all_entries()[-1]

    assert (entry.kind, entry.index, entry.term, entry.payload) == (EntryKind.NOOP, 3, term, b"")
    ask(cluster, "n2", accepted(term, 3))
    assert cluster["n1"].log.commit_index == 3


def test_leaders_5_2_first_append_entries_leaves_upon_election() -> None:
    """ "Upon election: send initial empty AppendEntries RPCs to each server": it carries the no-op at once."""
    cluster = solo("1 2", term=2)
    term = campaign(cluster)
    cluster.packets.clear()

    ask(cluster, "n2", vote(term))

    (message,) = appends_to(cluster, "n3")
    assert (message.prev_log_index, message.prev_log_term, len(message.entries)) == (2, 2, 1)


def test_leaders_5_2_heartbeats_repeat_during_idle_periods() -> None:
    """ "Repeat during idle periods to prevent election timeouts": every heartbeat interval, to every follower."""
    cluster = solo(heartbeat_ms=50)
    lead(cluster)
    cluster.timeout("n1")
    cluster.packets.clear()
    sent_at = cluster.now

    cluster.timeout("n1")

    assert cluster.now == sent_at + 50
    assert len(appends_to(cluster, "n2")) == 1
    assert len(appends_to(cluster, "n3")) == 1


def test_leaders_5_2_no_heartbeat_before_it_is_due() -> None:
    """A timer that rings early, or for something else, sends nothing."""
    cluster = solo(heartbeat_ms=50)
    lead(cluster)
    cluster.timeout("n1")
    cluster.packets.clear()

    cluster.now += 49
    cluster.fire("n1")
    assert cluster.packets == []
    cluster.now += 1
    cluster.fire("n1")

    assert len(appends_to(cluster, "n2")) == 1


def test_leaders_5_3_command_is_appended_and_sent() -> None:
    """ "If command received from client: append entry to local log", and "send AppendEntries RPC with log entries"."""
    cluster = solo()
    term = lead(cluster)
    ask(cluster, "n2", accepted(term, 1))

    entry = cluster.propose("n1", "x")

    assert entry is not None
    assert (entry.index, entry.term, entry.payload) == (2, term, b"x")
    (message,) = [message for message in appends_to(cluster, "n2") if message.entries]
    assert (message.prev_log_index, message.entries) == (1, (entry,))


def test_leaders_5_3_success_updates_next_and_match_index() -> None:
    """ "If successful: update nextIndex and matchIndex for follower": an old answer lowers neither."""
    cluster = solo("1 1 1", term=1)
    term = lead(cluster)
    progress = cluster["n1"].progress[NodeId("n2")]
    assert (progress.match_index, progress.next_index) == (0, 4), "Figure 2: 0, and last log index + 1"

    ask(cluster, "n2", accepted(term, 4))
    ask(cluster, "n2", accepted(term, 2))

    assert (progress.match_index, progress.next_index) == (4, 5)


def test_leaders_5_3_failure_decrements_next_index_and_retries() -> None:
    """ "If AppendEntries fails because of log inconsistency: decrement nextIndex and retry": at once, by the hint."""
    cluster = solo("1 1 1 4 4 5 5 6 6 6", term=6)
    term = lead(cluster)

    answers = ask(cluster, "n2", refused(term, rejected=10, conflict=7, conflict_term=3))

    (retry,) = [message for message in answers if isinstance(message, AppendEntries)]
    assert retry.prev_log_index == 3, "terms 4 to 6 cannot match a follower that had term 3 there"
    assert retry.entries[0].index == 4


def test_leaders_5_3_majority_of_flushed_copies_commits() -> None:
    """ "If there exists an N > commitIndex, a majority of matchIndex[i] >= N, and log[N].term == currentTerm"."""
    cluster = solo(voters="n1 n2 n3 n4 n5")
    term = lead(cluster)
    cluster.propose("n1", "x")

    ask(cluster, "n2", accepted(term, 1))
    ask(cluster, "n2", accepted(term, 2))
    assert cluster["n1"].log.commit_index == 0, "two of five"
    ask(cluster, "n3", accepted(term, 1))
    assert cluster["n1"].log.commit_index == 1, "three of five have the first"
    ask(cluster, "n4", accepted(term, 1))
    ask(cluster, "n4", accepted(term, 2))

    assert cluster["n1"].log.commit_index == 2


def test_leaders_5_4_2_entries_of_earlier_terms_are_not_committed_by_counting() -> None:
    """§5.4.2: an old entry on a majority is not committed; one of the current term commits it along (Figure 8)."""
    cluster = solo("1 2", term=3)
    term = lead(cluster)

    ask(cluster, "n2", accepted(term, 2))
    ask(cluster, "n3", accepted(term, 2))
    assert cluster["n1"].log.commit_index == 0, "index 2 is on every disk, but of term 2"
    ask(cluster, "n2", accepted(term, 3))

    assert cluster["n1"].log.commit_index == 3


def test_leaders_timestamps_never_go_back() -> None:
    """A leader whose clock is behind stamps what the entry before has, also after an election (ARCHITECTURE "Time")."""
    cluster = solo("1 1 1", term=1)
    lead(cluster)
    core = cluster["n1"]

    stamped = [core.propose(b"", timestamp_ms) for timestamp_ms in (1, 900, 20)]

    assert cluster.disk("n1").all_entries()[-1].timestamp_ms == 3, "the no-op"
    assert [entry.timestamp_ms for entry in stamped if entry] == [3, 900, 900]


def test_leaders_5_3_log_is_append_only() -> None:
    """Leader Append-Only: a refusal changes what a leader sends, never what it holds."""
    cluster = solo("1 1 2", term=2)
    term = lead(cluster)
    before = cluster.disk("n1").terms()

    ask(cluster, "n2", refused(term, rejected=3, conflict=1, conflict_term=1))

    assert cluster.disk("n1").terms() == before


def test_leaders_5_1_answers_of_an_older_term_are_ignored() -> None:
    """A late acknowledgement from an earlier leadership changes nothing."""
    cluster = solo("1", term=3)
    term = lead(cluster)

    ask(cluster, "n2", accepted(term - 1, 2))

    assert cluster["n1"].log.commit_index == 0
    assert cluster["n1"].progress[NodeId("n2")].match_index == 0


def test_leaders_5_2_a_second_leader_of_a_term_is_not_believed() -> None:
    """Election Safety: who claims to lead our own term is no correct node, and changes nothing here."""
    cluster = solo()
    term = lead(cluster)

    with pytest.raises(PeerMisbehaved, match="two leaders"):
        ask(cluster, "n2", append_entries("", term=term, after=0))
    assert cluster.role("n1") is Role.LEADER


# -- helpers -----------------------------------------------------------------------------------------------------------


def campaign_of(cluster: Cluster) -> dict[str, RequestVote]:
    """Take what n1 asks each peer."""
    asked: dict[str, RequestVote] = {}
    for peer in cluster["n1"].state.peers:
        (message,) = cluster.sent("n1", peer)
        assert isinstance(message, RequestVote)
        asked[peer] = message
    return asked
