"""Figure 2 of the Raft paper, rule by rule: what is persistent, the receivers of both RPCs, the rules for all servers.

Each test names its box and section; the words in quotes are the paper's. ``test_paper_roles.py`` has followers,
candidates and leaders; elections, durability, flow and reads beyond Figure 2 have files of their own.
"""

from __future__ import annotations

import pytest

from durable_raft.raft.messages import AppendEntriesResponse, RequestVoteResponse
from durable_raft.raft.types import Role
from tests.support.raft_cluster import Cluster
from tests.support.raft_solo import (
    accepted,
    answer_of,
    append_entries,
    ask,
    campaign,
    lead,
    request_vote,
    solo,
    vote,
)

# -- State: "Persistent state on all servers: updated on stable storage before responding to RPCs" ---------------------


def test_state_5_2_vote_is_persisted_before_responding() -> None:
    """A granted vote leaves only after the write with term and vote, in one piece, is flushed."""
    cluster = solo()
    cluster.slow("n1")

    assert ask(cluster, "n2", request_vote(1)) == []
    assert [write.hard_state for write in cluster.in_flight("n1")] == [cluster["n1"].state.hard_state]
    cluster.flush("n1")

    assert cluster.sent("n1", "n2") == [vote(1)]
    assert (cluster.disk("n1").hard_state.current_term, cluster.disk("n1").hard_state.voted_for) == (1, "n2")


def test_state_5_3_entries_are_persisted_before_responding() -> None:
    """An accepted entry is acknowledged only after its write is flushed."""
    cluster = solo(term=1)
    cluster.slow("n1")

    assert ask(cluster, "n2", append_entries("1 1", term=1, after=0)) == []
    cluster.flush("n1")

    assert cluster.sent("n1", "n2") == [accepted(1, 2)]
    assert cluster.disk("n1").terms() == [1, 1]


def test_state_5_1_newer_term_is_persisted_before_responding() -> None:
    """Even a refusal that speaks for a newer term waits until that term is flushed."""
    cluster = solo("1 2")
    cluster.slow("n1")

    assert ask(cluster, "n2", request_vote(7, index=1, last_term=1)) == []
    cluster.flush("n1")

    assert cluster.sent("n1", "n2") == [vote(7, granted=False)]


def test_state_restart_restores_term_vote_and_log() -> None:
    """A node that starts again has its term, its vote and its log, and begins as a follower (PySyncObj #202)."""
    cluster = solo("1 1 3", term=5, vote="n2")
    core = cluster["n1"]

    assert (core.current_term, core.voted_for, core.log.last.index, core.role) == (5, "n2", 3, Role.FOLLOWER)
    assert (core.log.commit_index, core.log.last_applied) == (0, 0)


# -- RequestVote RPC, receiver implementation (§5.2, §5.4) -------------------------------------------------------------


def test_request_vote_1_5_1_older_term_is_refused() -> None:
    """1. "Reply false if term < currentTerm": and tell the newer term."""
    cluster = solo(term=5)

    assert answer_of(cluster, "n2", request_vote(4), RequestVoteResponse) == vote(5, granted=False)
    assert cluster["n1"].voted_for is None


def test_request_vote_2_5_2_one_vote_per_term() -> None:
    """2. "If votedFor is null or candidateId": the first candidate of a term gets the vote, another does not."""
    cluster = solo()

    assert ask(cluster, "n2", request_vote(1)) == [vote(1)]
    assert ask(cluster, "n3", request_vote(1)) == [vote(1, granted=False)]
    assert ask(cluster, "n2", request_vote(1)) == [vote(1)], "asked again, the same answer"
    assert ask(cluster, "n3", request_vote(2)) == [vote(2)], "a new term, a new vote"


def test_request_vote_2_5_2_vote_survives_a_restart() -> None:
    """A vote given before a crash is not given to another candidate of the same term after it."""
    cluster = solo()
    ask(cluster, "n2", request_vote(1))

    cluster.crash("n1")
    cluster.restart("n1")

    assert ask(cluster, "n3", request_vote(1)) == [vote(1, granted=False)]
    assert ask(cluster, "n2", request_vote(1)) == [vote(1)]


@pytest.mark.parametrize(
    ("index", "last_term", "granted"),
    [
        pytest.param(3, 2, True, id="same log"),
        pytest.param(4, 2, True, id="same term, longer"),
        pytest.param(2, 2, False, id="same term, shorter"),
        pytest.param(1, 3, True, id="newer term, though shorter"),
        pytest.param(9, 1, False, id="older term, though longer"),
        pytest.param(0, 0, False, id="empty"),
    ],
)
@pytest.mark.parametrize("pre_vote", [False, True])
def test_request_vote_2_5_4_1_up_to_date(index: int, last_term: int, granted: bool, pre_vote: bool) -> None:
    """2. "Candidate's log is at least as up-to-date": the later last term wins, then the longer log."""
    cluster = solo("1 2 2")

    answer = answer_of(cluster, "n2", request_vote(9, index, last_term, pre_vote=pre_vote), RequestVoteResponse)

    assert answer.vote_granted is granted


def test_request_vote_5_2_repeated_vote_checks_the_log_again() -> None:
    """A vote recorded for a candidate is no licence: asked again with a shorter log, the answer is no."""
    cluster = solo("1 2 2", term=3, vote="n2")

    assert ask(cluster, "n2", request_vote(3, index=1, last_term=1)) == [vote(3, granted=False)]


# -- AppendEntries RPC, receiver implementation (§5.3) -----------------------------------------------------------------


def test_append_entries_1_5_1_older_term_is_refused() -> None:
    """1. "Reply false if term < currentTerm": the old leader learns the newer term, the log stays."""
    cluster = solo("1", term=5)

    answer = answer_of(cluster, "n2", append_entries("1 4", term=4, after=1), AppendEntriesResponse)

    assert (answer.success, answer.term) == (False, 5)
    assert cluster["n1"].log.last.index == 1
    assert cluster["n1"].leader_id is None


@pytest.mark.parametrize(
    ("follower", "after", "conflict_index", "conflict_term"),
    [
        pytest.param("1 1", 5, 3, 0, id="log too short: its end"),
        pytest.param("", 3, 1, 0, id="log empty: index 1"),
        pytest.param("1 2 2 2 2", 4, 2, 2, id="another term there: that term and where it begins"),
    ],
)
def test_append_entries_2_5_3_prev_mismatch_is_refused(
    follower: str, after: int, conflict_index: int, conflict_term: int
) -> None:
    """2. "Reply false if log doesn't contain an entry at prevLogIndex whose term matches": with a hint where it may."""
    cluster = solo(follower, term=4)

    message = append_entries("1 1 3 3 3 4", term=4, after=after)
    answer = answer_of(cluster, "n2", message, AppendEntriesResponse)

    assert not answer.success
    assert (answer.rejected_index, answer.conflict_index, answer.conflict_term) == (
        after,
        conflict_index,
        conflict_term,
    )
    assert cluster.disk("n1").terms() == [int(term) for term in follower.split()], "nothing is cut on a refusal"


def test_append_entries_2_5_3_heartbeat_checks_prev_too() -> None:
    """2. The consistency check holds for an empty AppendEntries as well, and such a refusal commits nothing."""
    cluster = solo("1 2", term=3)

    answer = answer_of(cluster, "n2", append_entries("1 1", term=3, after=2, commit=2), AppendEntriesResponse)

    assert not answer.success
    assert cluster["n1"].log.commit_index == 0


def test_append_entries_3_5_3_conflict_is_cut() -> None:
    """3. "If an existing entry conflicts with a new one, delete the existing entry and all that follow it"."""
    cluster = solo("1 1 2 2 2", term=3)

    answer = answer_of(cluster, "n2", append_entries("1 1 3", term=3, after=1), AppendEntriesResponse)

    assert answer == accepted(3, 3)
    assert cluster.disk("n1").terms() == [1, 1, 3]


def test_append_entries_3_5_3_matching_suffix_is_not_cut() -> None:
    """3. A stale or doubled AppendEntries, shorter than the log, cuts nothing that matches (§5.3; many broke it)."""
    cluster = solo(term=1)
    ask(cluster, "n2", append_entries("1 1 1 1 1", term=1, after=0))

    assert ask(cluster, "n2", append_entries("1 1 1 1 1", term=1, after=0, upto=3)) == [accepted(1, 3)]
    assert ask(cluster, "n2", append_entries("1 1 1 1 1", term=1, after=1, upto=1)) == [accepted(1, 1)]

    assert cluster.disk("n1").terms() == [1, 1, 1, 1, 1]


def test_append_entries_4_5_3_only_new_entries_are_appended() -> None:
    """4. "Append any new entries not already in the log": an overlap is skipped, the rest is one write."""
    cluster = solo("1 1", term=1)
    cluster.slow("n1")

    ask(cluster, "n2", append_entries("1 1 1 1", term=1, after=0))

    (write,) = cluster.in_flight("n1")
    assert write.truncate_from is None
    assert [entry.index for entry in write.entries] == [3, 4]


def test_append_entries_5_5_3_commit_follows_the_leader() -> None:
    """5. "If leaderCommit > commitIndex, set commitIndex": and what is committed is applied, in order."""
    cluster = solo("1 1 1", term=1)

    ask(cluster, "n2", append_entries("1 1 1", term=1, after=3, commit=2))

    assert cluster["n1"].log.commit_index == 2
    assert [entry.index for entry in cluster.node("n1").applied] == [1, 2]


def test_append_entries_5_5_3_commit_stops_at_the_last_verified_entry() -> None:
    """5. "min(leaderCommit, index of last new entry)": what lies beyond may be another leader's leftovers."""
    cluster = solo("1 2 2 2", term=3)

    ask(cluster, "n2", append_entries("1 3 3 3", term=3, after=0, upto=1, commit=4))

    assert cluster["n1"].log.commit_index == 1


def test_append_entries_5_5_3_heartbeat_commits_up_to_prev_only() -> None:
    """5. The same for a heartbeat: it verifies its prevLogIndex and nothing after it."""
    cluster = solo("1 2 2 2", term=3)

    ask(cluster, "n2", append_entries("1 3 3 3", term=3, after=1, upto=1, commit=4))

    assert cluster["n1"].log.commit_index == 1


def test_append_entries_5_5_3_commit_never_falls() -> None:
    """5. An AppendEntries that knows less does not lower commitIndex."""
    cluster = solo("1 1 1", term=1)
    ask(cluster, "n2", append_entries("1 1 1", term=1, after=3, commit=3))

    ask(cluster, "n2", append_entries("1 1 1", term=1, after=3, commit=1))

    assert cluster["n1"].log.commit_index == 3


# -- Rules for all servers (§5.1, §5.3) --------------------------------------------------------------------------------


def test_all_servers_5_3_committed_entries_are_applied_once_in_order() -> None:
    """ "If commitIndex > lastApplied: increment lastApplied, apply": each entry once, in the order of the log."""
    cluster = Cluster()
    cluster.elect("n1")
    for word in ("a", "b", "c"):
        cluster.propose("n1", word)
    cluster.run(100)

    for node in cluster.nodes.values():
        assert [entry.payload for entry in node.applied] == [b"", b"a", b"b", b"c"]
        assert [entry.index for entry in node.applied] == [1, 2, 3, 4]


def test_all_servers_5_1_a_request_of_a_higher_term_converts() -> None:
    """ "If RPC request contains term T > currentTerm: set currentTerm = T, convert to follower": here a candidate."""
    cluster = solo()
    term = campaign(cluster)

    ask(cluster, "n2", append_entries("", term=term + 3, after=0))

    assert (cluster.role("n1"), cluster["n1"].current_term) == (Role.FOLLOWER, term + 3)
    assert cluster["n1"].voted_for is None


@pytest.mark.parametrize("message", [accepted(9, 0), vote(9, granted=False), vote(9, granted=False, pre_vote=True)])
def test_all_servers_5_1_a_response_of_a_higher_term_converts(message: AppendEntriesResponse) -> None:
    """The same for every response, here to a leader."""
    cluster = solo()
    lead(cluster)

    ask(cluster, "n2", message)

    assert (cluster.role("n1"), cluster["n1"].current_term) == (Role.FOLLOWER, 9)
