"""Each invariant is seen to fire on a state that was broken on purpose: a check that cannot fail checks nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from durable_raft.errors import InvariantViolation
from durable_raft.raft import invariants
from durable_raft.raft.core import Raft
from durable_raft.raft.messages import AppendEntriesResponse, RequestVoteResponse
from durable_raft.raft.ready import ReadReady
from durable_raft.raft.state_parts import PendingRead
from durable_raft.raft.types import HardState, Index, LostEntry, NodeId, Role, Standing, Term
from tests.support.raft_checks import BrokenRule
from tests.support.raft_cluster import Cluster
from tests.support.raft_disk import Disk, entries_of
from tests.support.raft_nodes import OpenRead
from tests.support.raft_solo import accepted, answer_of, append_entries, ask, lead, request_vote, solo, vote


def a_leader() -> Raft:
    """Return a lawful leader of term 3 with three flushed entries."""
    cluster = solo("1 2", term=2)
    ask(cluster, "n2", accepted(lead(cluster), 2))
    return cluster["n1"]


def a_follower() -> Raft:
    """Return a lawful follower with three flushed entries, two of them committed and applied."""
    cluster = solo("1 2 2", term=2)
    ask(cluster, "n2", append_entries("1 2 2", term=2, after=3, commit=2))
    return cluster["n1"]


def _break_applied(core: Raft) -> None:
    core.log.last_applied = Index(core.log.commit_index + 1)


def _break_commit(core: Raft) -> None:
    core.log.commit_index = Index(core.log.last.index + 1)


def _break_flushed(core: Raft) -> None:
    core.log.flushed = Index(core.log.submitted + 1)


def _break_submitted(core: Raft) -> None:
    core.log.submitted = Index(core.log.last.index + 1)


def _break_term(core: Raft) -> None:
    core.state.hard_state = HardState(Term(1), None)


def _break_vote(core: Raft) -> None:
    core.state.hard_state = replace(core.state.hard_state, voted_for=NodeId("n2"))


def _break_vote_flush(core: Raft) -> None:
    core.state.flushed_hard_state = HardState()


def _break_next_index(core: Raft) -> None:
    progress = core.progress[NodeId("n2")]
    progress.next_index = progress.match_index


def _break_next_index_beyond(core: Raft) -> None:
    core.progress[NodeId("n2")].next_index = Index(core.log.last.index + 2)


def _break_progress(core: Raft) -> None:
    core.state.progress = dict(a_leader().progress)


def _break_pending_reads(core: Raft) -> None:
    core.state.pending_reads.append(PendingRead(1, Index(1), 1))


def _break_confirmed_reads(core: Raft) -> None:
    core.state.confirmed_reads.append(ReadReady(1, Index(1)))


def _break_standing(core: Raft) -> None:
    core.state.standing = Standing(is_voter=False)


def _break_log(core: Raft) -> None:
    (entry,) = core.log.entries(Index(2), Index(3), 0)
    core.log.lose(LostEntry(entry.index, entry.term, entry.crc, entry.chain))
    core.log._cache.clear()


@pytest.mark.parametrize(
    ("make", "plant", "rule"),
    [
        (a_leader, _break_standing, "a leader is a voter"),
        (a_leader, _break_log, "a leader holds its whole log"),
        (a_follower, _break_applied, "applied 3 <= commit 2"),
        (a_follower, _break_commit, "commit 4 <= last 3"),
        (a_follower, _break_flushed, "flushed 4 <= submitted 3"),
        (a_follower, _break_submitted, "submitted 4 <= last 3"),
        (a_follower, _break_term, "current_term 1 >= last term 2"),
        (a_leader, _break_vote, "leader voted for n2"),
        (a_leader, _break_vote_flush, "own vote is flushed"),
        (a_leader, _break_next_index, "n2: 0 <= match 2 < next 2"),
        (a_leader, _break_next_index_beyond, "next 5 <= last 3"),
        (a_follower, _break_progress, "only a leader tracks progress"),
        (a_follower, _break_pending_reads, "only a leader serves reads"),
        (a_follower, _break_confirmed_reads, "only a leader serves reads"),
    ],
)
def test_check_state_fires(make: Callable[[], Raft], plant: Callable[[Raft], None], rule: str) -> None:
    """A lawful state passes; the same with one rule broken is refused, naming the rule and the values."""
    core = make()
    invariants.check_state(core.state)

    plant(core)

    with pytest.raises(InvariantViolation, match=rule):
        invariants.check_state(core.state)


BEFORE = invariants.Observed(Term(4), NodeId("n2"), Index(7), Index(6), Role.LEADER, Index(9))


@pytest.mark.parametrize(
    ("after", "rule"),
    [
        (replace(BEFORE, current_term=Term(3)), "term fell from 4 to 3"),
        (replace(BEFORE, voted_for=NodeId("n3")), "vote of term 4 changed from n2 to n3"),
        (replace(BEFORE, voted_for=None), "vote of term 4 changed from n2 to None"),
        (replace(BEFORE, commit_index=Index(6)), "commit fell: 7, 6"),
        (replace(BEFORE, last_applied=Index(5)), "applied fell: 6, 5"),
        (replace(BEFORE, last_index=Index(8)), "leader's log shrank: 9, 8"),
    ],
)
def test_check_transition_fires(after: invariants.Observed, rule: str) -> None:
    """A lawless step is refused, naming the rule and the values."""
    with pytest.raises(InvariantViolation, match=rule):
        invariants.check_transition(BEFORE, after)


@pytest.mark.parametrize(
    "after",
    [
        replace(BEFORE, current_term=Term(5), voted_for=NodeId("n3"), role=Role.FOLLOWER),
        replace(BEFORE, role=Role.FOLLOWER, last_index=Index(8)),
        replace(BEFORE, commit_index=Index(9), last_applied=Index(9)),
    ],
)
def test_check_transition_lets_lawful_steps_pass(after: invariants.Observed) -> None:
    """A new term frees the vote, a follower's log may shrink, indexes may rise."""
    invariants.check_transition(BEFORE, after)


# -- what the core itself refuses --------------------------------------------------------------------------------------


def test_core_refuses_a_message_from_itself() -> None:
    """No link leads there: it is a bug. Who is no member may speak: the own log may be the older one (Raft §6)."""
    cluster = solo()

    with pytest.raises(InvariantViolation, match="n1 hears itself"):
        cluster.tell("n1", "n1", request_vote(5))


def test_core_refuses_to_start_from_an_impossible_disk() -> None:
    """A term on the disk below that of the last entry cannot have been written by us (PySyncObj #202)."""
    with pytest.raises(InvariantViolation, match="current_term 2 is below the last entry's term 3"):
        solo("1 3", term=2)


def test_a_node_that_is_no_member_waits() -> None:
    """It does not campaign, however long it hears nothing; it answers whoever asks it (Raft §6)."""
    cluster = solo(voters="n2 n3")

    cluster.run(5_000)

    assert (cluster.role("n1"), cluster["n1"].current_term) == (Role.FOLLOWER, 0)
    assert answer_of(cluster, "n2", request_vote(5), RequestVoteResponse).vote_granted


# -- the rules of Figure 3, over a cluster (tests/support/raft_checks.py) ----------------------------------------------


def test_election_safety_fires() -> None:
    """A second leader of one term is refused."""
    cluster = Cluster()
    cluster.elect("n1")

    with pytest.raises(BrokenRule, match="Election Safety: n1 and n2 both lead term 1"):
        cluster.rules.leader_elected(NodeId("n2"), cluster["n1"])


def test_leader_without_durable_votes_fires() -> None:
    """A leader for whom no majority of disks holds a vote is refused."""
    cluster = Cluster()
    cluster.elect("n1")
    for name in ("n2", "n3"):
        cluster.disk(name).hard_state = HardState(Term(1), NodeId(name))

    with pytest.raises(BrokenRule, match=r"n1 leads term 1, but only \['n1'\] hold votes for it"):
        cluster.rules.leader_elected(NodeId("n1"), cluster["n1"])


def test_leader_completeness_fires() -> None:
    """A leader whose log lacks what an earlier term committed is refused."""
    cluster = Cluster()
    cluster.elect("n1")
    cluster.elect("n2")
    lacking = solo("", term=9)
    lead(lacking)
    for node in cluster.nodes.values():
        node.disk.hard_state = HardState(Term(10), NodeId("n1"))

    with pytest.raises(BrokenRule, match="Leader Completeness: n1 leads term 10 without the committed entry"):
        cluster.rules.leader_elected(NodeId("n1"), lacking["n1"])


def test_log_matching_fires() -> None:
    """Another entry of a known index and term, or the same after another log, is refused."""
    cluster = Cluster(disks={"n1": Disk("1 1 2")})
    (other,) = entries_of("1 2 2")[2:]

    with pytest.raises(BrokenRule, match="Log Matching: n2 has another 3/t2"):
        cluster.rules.entries_accepted(NodeId("n2"), [other])


def test_state_machine_safety_fires() -> None:
    """Another entry applied at a known index, or one that nobody committed, is refused."""
    cluster = Cluster()
    cluster.elect("n1")
    applied = cluster.node("n1").applied[0]

    with pytest.raises(BrokenRule, match="State Machine Safety"):
        cluster.rules.entry_applied(NodeId("n2"), replace(applied, payload=b"other"))
    with pytest.raises(BrokenRule, match="which is not committed"):
        cluster.rules.entry_applied(NodeId("n2"), replace(applied, index=Index(99)))


def test_commit_without_a_majority_of_disks_fires() -> None:
    """A leader that commits what no majority has flushed is refused."""
    cluster = Cluster()
    cluster.elect("n1")
    cluster.slow("n1")
    entry = cluster.propose("n1", "x")
    assert entry is not None
    before = cluster["n1"].log.commit_index
    cluster["n1"].log.commit_index = entry.index

    with pytest.raises(BrokenRule, match=rf"n1 committed {entry.index}, which only the disks of \[\] hold"):
        cluster.rules.committed_upto(NodeId("n1"), cluster["n1"], before)


def test_commit_by_counting_an_entry_of_an_earlier_term_fires() -> None:
    """A leader whose commit_index rises to an entry of an earlier term is refused, on however many disks it is."""
    cluster = solo("1 2", term=2)
    lead(cluster)
    cluster["n1"].log.commit_index = Index(2)

    with pytest.raises(BrokenRule, match="n1 committed 2/t2 by counting in term 3"):
        cluster.rules.committed_upto(NodeId("n1"), cluster["n1"], 0)


@pytest.mark.parametrize(("floor", "ceiling", "rule"), [(9, 9, "at 1 misses 9"), (0, 0, "at 1 sees a later write")])
def test_read_that_is_not_linearizable_fires(floor: int, ceiling: int, rule: str) -> None:
    """A read that misses what was committed before it, or sees what was proposed after it, is refused."""
    cluster = Cluster()
    cluster.elect("n1")
    node = cluster.node("n1")
    node.open_reads[7] = OpenRead(floor, ceiling)
    node.core.state.confirmed_reads.append(ReadReady(7, Index(1)))

    with pytest.raises(BrokenRule, match=rule):
        cluster.propose("n1", "x")


def test_read_overtaken_by_a_later_write_fires() -> None:
    """A read that still waits while what was proposed after it is applied is refused."""
    cluster = Cluster()
    cluster.elect("n1")
    cluster.node("n1").open_reads[7] = OpenRead(0, 1)

    cluster.propose("n1", "x")

    with pytest.raises(BrokenRule, match="read 7 still waits, and 2 was applied after it"):
        cluster.settle()


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        (vote(5), "vote for n2 in term 5 leaves before it is flushed"),
        (request_vote(5), "vote for n1 in term 5 leaves before it is flushed"),
        (accepted(1, 9), "acknowledges 9, flushed: 1"),
        (accepted(5, 0), "answers in term 5 before it is flushed"),
    ],
)
def test_promise_that_leaves_before_the_flush_fires(
    message: RequestVoteResponse | AppendEntriesResponse, rule: str
) -> None:
    """A vote, a candidacy, an acknowledgement or a term that is not on the disk must not leave."""
    cluster = Cluster(disks={"n1": Disk("1")})

    with pytest.raises(BrokenRule, match=rule):
        cluster.rules.message_leaves(cluster.node("n1"), NodeId("n2"), message)


def test_second_vote_fires_even_after_a_restart() -> None:
    """Two candidates that got one node's vote in one term are noticed, whatever the disk says now."""
    cluster = Cluster(disks={"n1": Disk(term=4, vote="n2")})
    cluster.rules.message_leaves(cluster.node("n1"), NodeId("n2"), vote(4))
    cluster.disk("n1").hard_state = HardState(Term(4), NodeId("n3"))

    with pytest.raises(BrokenRule, match="n1 votes twice in term 4: n2, n3"):
        cluster.rules.message_leaves(cluster.node("n1"), NodeId("n3"), vote(4))
