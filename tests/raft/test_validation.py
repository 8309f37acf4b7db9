"""What no correct node says is refused, and nothing has changed; what is only late is taken as it always was."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from durable_raft.errors import PeerMisbehaved
from durable_raft.raft.messages import (
    FETCH_ENTRIES_MAX,
    AppendEntriesResponse,
    FetchEntries,
    FetchEntriesResponse,
    InstallSnapshot,
    Message,
    RequestVote,
    RequestVoteResponse,
    ResumeResponse,
    TimeoutNow,
)
from durable_raft.raft.term_budget import REFILL_MS, TERM_STEP_MAX
from durable_raft.raft.types import ORIGIN, Index, LogPoint, NodeId, Role, Term
from tests.support.raft_cluster import Cluster
from tests.support.raft_solo import accepted, append_entries, ask, lead, refused, request_vote, solo, vote

FAR = Term(2**63 - 1)
POINT = LogPoint(Index(1), Term(1), 0)


def following() -> Cluster:
    """Return a cluster whose n1 follows n2 in term 3, with the log 1 1 2 3 of which three are committed."""
    cluster = solo("1 1 2 3", term=3)
    cluster.tell("n1", "n2", append_entries("1 1 2 3", term=3, after=4, commit=3))
    assert cluster["n1"].log.commit_index == 3
    return cluster


def leading() -> Cluster:
    """Return a cluster whose n1 leads term 4 with the log 1 1 2 4; n2 has it, and n3 was asked about entry 3."""
    cluster = solo("1 1 2", term=3)
    term = lead(cluster)
    assert term == 4
    ask(cluster, "n2", accepted(term, 4))
    return cluster


def refuses(cluster: Cluster, source: str, message: Message, rule: str) -> None:
    """n1 refuses ``message`` by ``rule``, and is as it was before."""
    state = cluster["n1"].state
    before = _picture(cluster)
    with pytest.raises(PeerMisbehaved, match=rule):
        state_step(cluster, source, message)
    assert _picture(cluster) == before
    assert cluster["n1"].state is state


def state_step(cluster: Cluster, source: str, message: Message) -> None:
    """Tell n1 a message, without the work that it would do upon it."""
    cluster["n1"].step(cluster.now, NodeId(source), message)


def _picture(cluster: Cluster) -> object:
    state, log = cluster["n1"].state, cluster["n1"].log
    progress = {
        peer: {name: copy.copy(getattr(each, name)) for name in each.__slots__} for peer, each in state.progress.items()
    }
    return (
        (state.role, state.hard_state, state.leader_id, state.leader_commit, state.heard_from_leader_at),
        (state.election_deadline, dict(state.votes), state.standing, state.offer, state.read_round),
        (log.last, log.commit_index, log.flushed, log.base, dict(log.lost)),
        (list(state.messages), list(state.messages_after_write), progress, state.term_budget.left(cluster.now)),
    )


# -- terms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        request_vote(FAR, 9, 3),
        request_vote(FAR, 9, 3, pre_vote=True),
        vote(FAR),
        vote(FAR, granted=False),
        vote(FAR, pre_vote=True),
        append_entries("", term=FAR, after=0),
        accepted(FAR, 0),
        InstallSnapshot(FAR, Index(9), Term(3), 0, 0),
        FetchEntriesResponse(FAR, (), (), ORIGIN, ORIGIN),
        ResumeResponse(b"a nonce!", False, True, FAR, Term(0), Index(0), Term(0)),
        accepted(3 + TERM_STEP_MAX + 1, 0),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_term_far_ahead_is_refused_whatever_it_stands_in(message: Message) -> None:
    """One frame of the last term there is would leave the cluster without a leader for ever."""
    refuses(following(), "n3", message, "ahead of 3")


def test_a_node_that_was_away_for_years_is_brought_up_to_date() -> None:
    """The largest step that is believed, at once."""
    cluster = following()
    state_step(cluster, "n3", append_entries("", term=3 + TERM_STEP_MAX, after=0))
    assert cluster["n1"].current_term == 3 + TERM_STEP_MAX


def test_small_steps_do_not_add_up_to_a_large_one() -> None:
    """What messages may raise the term by comes back with time only; elections go on meanwhile."""
    cluster = following()
    state_step(cluster, "n3", vote(3 + TERM_STEP_MAX, granted=False))
    refuses(cluster, "n3", vote(4 + TERM_STEP_MAX, granted=False), "is 1 ahead")
    cluster.now += 1 + REFILL_MS // TERM_STEP_MAX
    state_step(cluster, "n3", vote(4 + TERM_STEP_MAX, granted=False))
    assert cluster["n1"].current_term == 4 + TERM_STEP_MAX
    cluster.now += REFILL_MS
    state_step(cluster, "n3", vote(4 + 2 * TERM_STEP_MAX, granted=False))


def test_who_heard_of_the_first_lie_has_as_much_room_as_who_was_lied_to() -> None:
    """Two nodes that hear the same terms stay within each other's reach."""
    liar_heard, other = following(), following()
    for step in range(1, 4):
        term = 3 + step * TERM_STEP_MAX
        state_step(liar_heard, "n3", vote(term, granted=False))
        state_step(other, "n3", vote(term, granted=False))
        liar_heard.now += REFILL_MS
        other.now += REFILL_MS
    assert liar_heard["n1"].current_term == other["n1"].current_term


# -- votes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        (request_vote(4, 9, 4), "a candidate of term 4 whose log ends in term 4"),
        (request_vote(4, 9, 7, pre_vote=True), "whose log ends in term 7"),
        (request_vote(4, 9, 0), "last_log_index 9 with last_log_term 0"),
        (request_vote(4, 0, 2), "last_log_index 0 with last_log_term 2"),
    ],
)
def test_a_candidate_knows_its_own_log(message: RequestVote, rule: str) -> None:
    """Its term is above that of every entry it holds (Raft §5.1)."""
    refuses(following(), "n3", message, rule)


def test_a_vote_that_nobody_asked_for_counts_for_nothing() -> None:
    """It may be late, so it is no lie; a follower, and a leader, do not look at it."""
    for cluster, term in ((following(), 3), (leading(), 4)):
        role = cluster.role("n1")
        for message in (vote(term), vote(term + 1, pre_vote=True)):
            assert isinstance(message, RequestVoteResponse)
            state_step(cluster, "n3", message)
        assert cluster.role("n1") is role


# -- entries ----------------------------------------------------------------------------------------------------------


def test_a_second_leader_of_a_term_is_refused() -> None:
    """By whoever leads that term, and by whoever follows its leader (Raft §5.2)."""
    refuses(leading(), "n2", append_entries("", term=4, after=0), "two leaders in term 4: n1 and n2")
    refuses(following(), "n3", append_entries("", term=3, after=0), "two leaders in term 3: n2 and n3")
    snapshot = InstallSnapshot(Term(3), Index(9), Term(3), 0, 0)
    refuses(following(), "n3", snapshot, "two leaders in term 3: n2 and n3")
    refuses(leading(), "n2", TimeoutNow(Term(4)), "two leaders in term 4: n1 and n2")
    refuses(following(), "n3", TimeoutNow(Term(3)), "two leaders in term 3: n2 and n3")


@pytest.mark.parametrize(
    ("log", "after", "rule"),
    [
        ("1 1 1", 3, "entry 3 of term 1, but another is committed there"),
        ("1 2 2", 1, "entry 2 of term 2, but another is committed there"),
        ("2 2 2 2", 0, "entry 1 of term 2, but another is committed there"),
    ],
)
def test_what_is_committed_is_not_contradicted(log: str, after: int, rule: str) -> None:
    """Every leader holds it (Raft §5.4.3): whoever does not is none, while another is heard."""
    refuses(following(), "n3", append_entries(log, term=5, after=after), rule)


def test_a_leader_is_not_deposed_by_whoever_contradicts_what_it_committed() -> None:
    """Its followers hear it, so they have elected nobody else."""
    cluster = leading()
    refuses(cluster, "n3", append_entries("1 1 1", term=5, after=3), "entry 3 of term 1, but another is committed")


def test_what_contradicts_the_committed_log_is_looked_at_when_no_leader_is_heard() -> None:
    """Disks that went back may have elected such a leader: then this node takes no part, and cuts nothing."""
    cluster = following()
    cluster.now += 10_000
    state_step(cluster, "n3", append_entries("1 1 1", term=5, after=3))
    assert cluster["n1"].state.doubts.contradiction is not None
    assert cluster["n1"].log.last == following()["n1"].log.last


def test_what_is_not_committed_may_be_replaced() -> None:
    """That is how logs are repaired (Raft §5.3)."""
    cluster = following()
    state_step(cluster, "n3", append_entries("1 1 2 5", term=5, after=3))
    assert cluster["n1"].log.last.term == 5
    cluster = following()
    state_step(cluster, "n3", append_entries("1 1 2 2 2", term=5, after=4))
    assert cluster["n1"].log.last == following()["n1"].log.last, "rejected: the entry before is another one"


def test_what_the_log_begins_behind_is_not_contradicted() -> None:
    """A snapshot covers it, so it is committed; nobody holds another entry there."""
    cluster = following()
    cluster.checkpoint("n1", 2)
    for after in (1, 2):
        message = append_entries("2 2 2", term=5, after=after)
        refuses(cluster, "n3", message, f"entry {after} of term 2, but another is committed there")
    state_step(cluster, "n2", append_entries("1 1 2 3", term=3, after=0))


@pytest.mark.parametrize(
    ("index", "term", "rule"),
    [
        (0, 0, "a snapshot at 0 of term 0"),
        (9, 0, "a snapshot at 9 of term 0"),
        (9, 4, "a snapshot at 9 of term 4 from a leader of term 3"),
    ],
)
def test_a_snapshot_is_of_what_was_committed(index: int, term: int, rule: str) -> None:
    """Behind the first entry, in a term that was, and of this log."""
    refuses(following(), "n2", InstallSnapshot(Term(3), Index(index), Term(term), 0, 0), rule)
    another = InstallSnapshot(Term(5), Index(3), Term(1), 0, 0)
    refuses(following(), "n3", another, "entry 3 of term 1, but another is committed there")


@pytest.mark.parametrize(("index", "term"), [(0, 1), (4, 0)])
def test_the_position_before_the_first_entry_has_term_0_and_no_other_has(index: int, term: int) -> None:
    """A log begins at its origin."""
    message = append_entries("", term=3, after=0)._replace(prev_log_index=Index(index), prev_log_term=Term(term))
    refuses(following(), "n2", message, f"prev_log_index {index} with prev_log_term {term}")


def test_a_leader_has_no_log_of_a_later_term() -> None:
    """Its term is the highest in its log."""
    message = append_entries("", term=3, after=0)._replace(prev_log_index=Index(9), prev_log_term=Term(4))
    refuses(following(), "n2", message, "a leader of term 3 with a log of term 4")


def test_time_in_the_log_does_not_go_back() -> None:
    """Neither within a message nor from the entry before it, where that is the last one here."""
    cluster = following()
    message = append_entries("1 1 2 3 3 3", term=3, after=4)
    first, second = message.entries
    later = message._replace(entries=(replace(first, timestamp_ms=9_000_000), second))
    refuses(cluster, "n2", later, "entry 6: time goes back from 9000000 to")
    cluster["n1"].log.last_timestamp_ms = 8_000_000
    refuses(cluster, "n2", message, "entry 5: time goes back from 8000000 to")


# -- answers ----------------------------------------------------------------------------------------------------------


def test_nobody_acknowledges_what_it_was_not_sent() -> None:
    """n3 was asked about the entry before the term, and n2 was sent all but what is to come."""
    cluster = leading()
    refuses(cluster, "n3", accepted(4, 5), "matches up to 5, but was sent no more than 4")
    refuses(cluster, "n2", accepted(4, 2**56), "but was sent no more than 4")
    cluster.slow("n1")
    cluster.propose("n1", "x")
    ask(cluster, "n2", accepted(4, 5))
    refuses(cluster, "n3", accepted(4, 5), "but was sent no more than 4")
    assert cluster["n1"].log.commit_index == 4, "one liar and a leader without a flush are no majority"


def test_nobody_repeats_a_round_that_was_not_begun() -> None:
    """Else the reads to come would be confirmed before they are asked."""
    refuses(leading(), "n3", accepted(4, 0, 1), "repeats round 1, but the newest is 0")


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        (refused(4, 5, 3), "rejects 5 with a conflict at 3, but was sent no more than 4"),
        (refused(4, 2**56, 2**56), "was sent no more than 4"),
        (refused(4, 2, 3), "rejects 2 with a conflict at 3"),
        (refused(4, 3, 2, 5), "a conflict with term 5, in term 4"),
        (refused(4, 3, 2)._replace(match_index=Index(1)), "a rejection that matches up to 1"),
        (accepted(4, 1)._replace(conflict_index=Index(1)), "a success that names a conflict at 1"),
        (accepted(4, 1)._replace(conflict_term=Term(1)), "a success that names a conflict"),
        (accepted(4, 1)._replace(rejected_index=Index(1)), "a success that names a conflict"),
        (accepted(4, 1)._replace(asks_admission=True), "a voter that asks for admission"),
    ],
)
def test_a_rejection_is_of_what_was_sent(message: AppendEntriesResponse, rule: str) -> None:
    """And a success is none."""
    refuses(leading(), "n3", message, rule)


def test_a_late_refusal_of_an_older_leadership_is_taken() -> None:
    """It names what was sent then, which may be more than was sent since, and confirms no round of today."""
    cluster = leading()
    state_step(cluster, "n3", refused(4, 99, 0))
    assert cluster.role("n1") is Role.LEADER
    old = solo("1 1 2 3", term=3)
    (answer,) = ask(old, "n2", append_entries("1 1 2", term=2, after=3, read_round=77))
    assert isinstance(answer, AppendEntriesResponse)
    assert answer.read_round == 0


# -- beside the algorithm ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        (FetchEntries((POINT,) * (FETCH_ENTRIES_MAX + 1)), "65 wanted, at most 64"),
        (FetchEntriesResponse(Term(3), (), (POINT,) * (FETCH_ENTRIES_MAX + 1), ORIGIN, ORIGIN), "65 absent"),
        (FetchEntriesResponse(Term(3), (), (), ORIGIN, POINT), "a log that begins behind"),
    ],
)
def test_entries_are_asked_for_a_few_at_a_time(message: Message, rule: str) -> None:
    """As many as are looked up without keeping others waiting."""
    refuses(following(), "n3", message, rule)


def test_as_many_as_are_asked_for_are_answered() -> None:
    """The bound itself is lawful."""
    state_step(following(), "n3", FetchEntries((POINT,) * FETCH_ENTRIES_MAX))
