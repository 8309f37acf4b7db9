"""Each rule over the whole cluster is seen to fire when it is broken on purpose, and to be silent when it is kept."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from durable_raft.errors import InvariantViolation
from durable_raft.raft import invariants
from durable_raft.raft.core import Raft
from durable_raft.raft.invariants import ClusterInvariants
from durable_raft.raft.messages import AppendEntries, AppendEntriesResponse, RequestVote, RequestVoteResponse
from durable_raft.raft.types import HardState, Index, LogPoint, NodeId, Role, Term
from tests.support.raft_disk import entries_of
from tests.support.raft_solo import accepted, ask, lead, solo

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")


@dataclass
class Flushed:
    """What the test says a disk holds."""

    hard_state: HardState = field(default_factory=HardState)
    chains: list[int] = field(default_factory=list)

    @property
    def last_index(self) -> int:
        """Index of the last flushed entry."""
        return len(self.chains)

    def holds(self, index: int, chain: int) -> bool:
        """Return whether the entry is there."""
        return index <= len(self.chains) and self.chains[index - 1] == chain


def a_leader() -> Raft:
    """Return n1, leading term 3 with three entries, all committed."""
    cluster = solo("1 2", term=2)
    ask(cluster, "n2", accepted(lead(cluster), 3))
    return cluster["n1"]


def chains_of(core: Raft) -> list[int]:
    """Return the chain values of a core's log."""
    return [core.log.chain_at(Index(index)) for index in range(1, core.log.last.index + 1)]


@pytest.fixture
def core() -> Raft:
    """n1, leading term 3."""
    return a_leader()


@pytest.fixture
def disks(core: Raft) -> dict[NodeId, Flushed]:
    """n1's and n2's disks hold the leader's log and votes for it; n3's is empty."""
    vote = HardState(Term(3), N1)
    return {N1: Flushed(vote, chains_of(core)), N2: Flushed(vote, chains_of(core)), N3: Flushed()}


@pytest.fixture
def rules(disks: dict[NodeId, Flushed]) -> ClusterInvariants:
    """The rules over those disks."""
    return ClusterInvariants(disks)


def fires(rule: str) -> pytest.RaisesExc[InvariantViolation]:
    """Expect that a rule is named."""
    return pytest.raises(InvariantViolation, match=rule)


def test_lawful_leader_passes(rules: ClusterInvariants, core: Raft) -> None:
    """A leader that a majority elected, with commits that a majority holds, breaks no rule, and the rules count."""
    before = replace(invariants.observe(core.state), role=Role.CANDIDATE, commit_index=Index(0))
    rules.node_changed(N1, core.state, before)
    rules.acknowledged(N1, Index(3))
    assert rules.leaders == {3: N1}
    assert rules.committed_chains == chains_of(core)
    assert rules.checks > 0


def test_election_safety(rules: ClusterInvariants, core: Raft, disks: dict[NodeId, Flushed]) -> None:
    """Two leaders of one term, and a leader without a majority of flushed votes, are refused."""
    rules.leaders[Term(3)] = N2
    with fires("Election Safety: n2 and n1 both lead term 3"):
        rules.leader_elected(N1, core.state)
    disks[N2].hard_state = HardState(Term(3), N3)
    del rules.leaders[Term(3)]
    with fires(r"only \['n1'\] hold flushed votes"):
        rules.leader_elected(N1, core.state)


def test_leader_completeness(rules: ClusterInvariants, core: Raft) -> None:
    """A leader that lacks an entry committed in an earlier term is refused."""
    rules.committed_upto(N1, core.state, Index(0))
    rules.committed_chains[:] = [*chains_of(core), 7]
    rules._commit_terms[:] = [Term(1), Term(2), Term(2), Term(2)]
    with fires("Leader Completeness: n1 leads term 3 without the committed entry 4"):
        rules.leader_elected(N1, core.state)


def test_leader_append_only(rules: ClusterInvariants, core: Raft) -> None:
    """A leader whose entry is another one than before is refused."""
    seen = invariants.observe(core.state)
    before = replace(seen, last_index=Index(2), last_chain=12345)
    with fires("Leader Append-Only: n1 replaced its entry 2"):
        rules.node_changed(N1, core.state, before)


def test_log_matching(rules: ClusterInvariants) -> None:
    """Another entry under a known index and term is refused."""
    first, second = entries_of("1 1")
    rules.entries_accepted(N1, [first, second])
    rules.entries_accepted(N2, [first])
    with fires("Log Matching: n3 has another entry 2 of term 1"):
        rules.entries_accepted(N3, [replace(second, chain=1)])


def test_state_machine_safety(rules: ClusterInvariants, core: Raft) -> None:
    """An entry that is not committed, or not the committed one, is not applied or committed."""
    entries = core.log.entries(Index(1), Index(4), 1 << 20)
    with fires("n1 applied 1, which is not committed"):
        rules.entry_applied(N1, entries[0])
    rules.committed_upto(N1, core.state, Index(0))
    rules.entry_applied(N1, entries[0])
    with fires("n2 applied another entry 1"):
        rules.entry_applied(N2, replace(entries[0], chain=1))
    rules.committed_chains[1] = 1
    with fires("n2 committed another entry 2"):
        rules.committed_upto(N2, core.state, Index(0))


def test_acknowledged_is_flushed_by_a_majority(
    rules: ClusterInvariants, core: Raft, disks: dict[NodeId, Flushed]
) -> None:
    """A commit that only a minority of disks holds is refused."""
    disks[N2].chains.pop()
    with fires(r"n1 counts on 3, which only the disks of \['n1'\] hold"):
        rules.committed_upto(N1, core.state, Index(0))


def test_flushed_is_on_the_disk(rules: ClusterInvariants, core: Raft, disks: dict[NodeId, Flushed]) -> None:
    """A node that counts another entry as flushed than its disk holds is refused."""
    disks[N1].chains[-1] = 1
    with fires("n1 counts 3 as flushed"):
        rules.node_changed(N1, core.state, replace(invariants.observe(core.state), flushed=2))


def test_term_and_vote_never_go_back(rules: ClusterInvariants) -> None:
    """A node that starts with an older term, or another vote, than it had flushed is refused."""
    rules.hard_state_flushed(N1, HardState(Term(3), N1))
    rules.node_started(N1, HardState(Term(3), N1))
    for held in (HardState(Term(2), N1), HardState(Term(3), N2), HardState(Term(3), None)):
        with fires("Durability: n1 starts with"):
            rules.node_started(N1, held)


def test_messages_promise_what_is_flushed(rules: ClusterInvariants) -> None:
    """A vote or an acknowledgement that leaves before it is flushed is refused, and so is a second vote."""
    rules.message_leaves(N2, N1, RequestVoteResponse(Term(3), vote_granted=True, pre_vote=False))
    rules.message_leaves(N2, N1, RequestVoteResponse(Term(9), vote_granted=True, pre_vote=True))
    with fires("n3's vote for n1 in term 3 leaves before it is flushed"):
        rules.message_leaves(N3, N1, RequestVoteResponse(Term(3), vote_granted=True, pre_vote=False))
    with fires("n3's vote for n3 in term 4"):
        rules.message_leaves(N3, N1, RequestVote(Term(4), Index(1), Term(1), pre_vote=False))
    zero = Index(0)
    with fires("n2 acknowledges 4 to n1, flushed: 3"):
        rules.message_leaves(N2, N1, AppendEntriesResponse(Term(3), True, Index(4), zero, Term(0), zero, 0))
    with fires("n3 answers in term 3 and has flushed 0"):
        rules.message_leaves(N3, N1, AppendEntriesResponse(Term(3), False, zero, zero, Term(0), zero, 0))
    rules._votes[N2, Term(3)] = N3
    with fires("n2 votes twice in term 3"):
        rules.message_leaves(N2, N1, RequestVoteResponse(Term(3), vote_granted=True, pre_vote=False))


def test_check_quorum(rules: ClusterInvariants, core: Raft) -> None:
    """A leader that goes on after an election timeout without a majority is refused."""
    heard = core.progress[N2].heard_at
    rules.quorum_kept(N1, core.state, heard)
    with fires("CheckQuorum: n1 still leads"):
        rules.quorum_kept(N1, core.state, heard + 10_000)


def test_old_term_is_not_committed_by_counting(rules: ClusterInvariants, core: Raft) -> None:
    """A leader whose commit index stands at an entry of an earlier term, newly moved, is refused (Figure 8)."""
    core.log.commit_index = Index(2)
    with fires("Commit: n1 in term 3 counted replicas of 2/t2"):
        rules.committed_upto(N1, core.state, Index(1))


# -- what the rules let pass -------------------------------------------------------------------------------------------


def test_every_rule_that_is_checked_is_counted(rules: ClusterInvariants, core: Raft) -> None:
    """The campaigns say how many rules they checked; a rule that is not counted may not be checked either."""
    seen = invariants.observe(core.state)
    entries = core.log.entries(Index(1), Index(4), 1 << 20)
    shorter = replace(seen, last_index=Index(2), last_chain=core.log.chain_at(Index(2)))
    zero = Index(0)
    answer = AppendEntriesResponse(Term(3), True, Index(3), zero, Term(0), zero, 0)
    counted = []
    for check in (
        lambda: rules.node_changed(N1, core.state, seen),
        lambda: rules.node_changed(N1, core.state, replace(seen, flushed=2)),
        lambda: rules.node_changed(N1, core.state, shorter),
        lambda: rules.quorum_kept(N1, core.state, 0),
        lambda: rules.node_started(N1, HardState()),
        lambda: rules.entries_accepted(N1, entries),
        lambda: rules.committed_upto(N1, core.state, Index(0)),
        lambda: rules.entry_applied(N1, entries[2]),
        lambda: rules.acknowledged(N1, Index(3)),
        lambda: rules.leader_elected(N1, core.state),
        lambda: rules.message_leaves(N1, N2, answer),
        lambda: rules.message_leaves(N2, N1, RequestVoteResponse(Term(3), vote_granted=True, pre_vote=False)),
        lambda: rules.message_leaves(N1, N2, RequestVote(Term(3), zero, Term(0), pre_vote=True)),
    ):
        before = rules.checks
        check()
        counted.append(rules.checks - before)
    assert counted == [11, 12, 12, 1, 1, 3, 4, 1, 1, 3, 1, 2, 0]
    assert ClusterInvariants({}).checks == 0


def test_the_rules_of_one_node_are_checked_with_those_of_the_cluster(rules: ClusterInvariants, core: Raft) -> None:
    """A lawless state and a lawless step are refused whoever asks."""
    seen = invariants.observe(core.state)
    with fires("commit fell"):
        rules.node_changed(N1, core.state, replace(seen, commit_index=Index(9), last_applied=Index(3)))
    core.log.last_applied = Index(4)
    with fires("applied 4 <= commit 3"):
        rules.node_changed(N1, core.state, seen)


def test_leader_append_only_looks_at_logs_that_grew_only(rules: ClusterInvariants, core: Raft) -> None:
    """One that did not grow is compared by nothing: reading its chain would cost every step."""
    seen = invariants.observe(core.state)
    rules.node_changed(N1, core.state, replace(seen, last_chain=12345))


def test_a_follower_is_not_asked_for_a_quorum(rules: ClusterInvariants, core: Raft) -> None:
    """Nor is a leader without peers, nor one within an election timeout and a heartbeat."""
    heard = core.progress[N2].heard_at
    rules.quorum_kept(N1, core.state, heard + 350)
    with fires("CheckQuorum: n1 still leads after 351 ms"):
        rules.quorum_kept(N1, core.state, heard + 351)
    alone = solo(voters="n1")
    alone.timeout("n1")
    rules.quorum_kept(N1, alone["n1"].state, heard + 10_000)
    core.state.role = Role.FOLLOWER
    rules.quorum_kept(N1, core.state, heard + 10_000)


def test_a_flushed_log_that_was_cut_to_nothing_needs_no_disk(
    rules: ClusterInvariants, disks: dict[NodeId, Flushed]
) -> None:
    """Index 0 is on every disk, and on none."""
    follower = solo("1", term=1)["n1"]
    seen = invariants.observe(follower.state)
    follower.log.truncate_from(Index(1))
    disks[N3].chains = []
    rules.node_changed(N3, follower.state, seen)


def test_what_is_newly_committed_is_judged_and_nothing_else(
    rules: ClusterInvariants, core: Raft, disks: dict[NodeId, Flushed]
) -> None:
    """An index that did not move is not judged again, though a disk may have lost it since."""
    seen = invariants.observe(core.state)
    disks[N2].chains = []
    rules.node_changed(N1, core.state, seen)
    with fires("only the disks of"):
        rules.node_changed(N1, core.state, replace(seen, commit_index=Index(0)))


def test_what_was_seen_on_a_majority_is_not_looked_for_again(
    rules: ClusterInvariants, core: Raft, disks: dict[NodeId, Flushed]
) -> None:
    """A majority held it once: nobody asks again, neither for it nor for what lies before it."""
    rules.committed_upto(N1, core.state, Index(0))
    disks[N2].chains = []
    for index in (3, 2, 1):
        rules.acknowledged(N1, Index(index))


def test_the_first_entry_is_looked_for(rules: ClusterInvariants, core: Raft, disks: dict[NodeId, Flushed]) -> None:
    """Nothing counts as held before it was seen."""
    disks[N2].chains = []
    rules.committed_chains[:] = chains_of(core)
    with fires("n1 counts on 1, which only the disks of"):
        rules.acknowledged(N1, Index(1))


def compacted(core: Raft, upto: int) -> Raft:
    """Let a core's log begin behind ``upto``."""
    core.checkpointed(LogPoint(Index(3), Term(3), core.log.chain_at(Index(3))))
    core.compact(Index(upto))
    return core


def test_a_snapshot_is_of_what_was_committed(rules: ClusterInvariants, core: Raft) -> None:
    """A log that begins behind another state than all committed is refused; one that begins behind theirs is not."""
    rules.committed_upto(N1, core.state, Index(0))
    compacted(core, 2)
    rules.committed_upto(N1, core.state, Index(1))
    rules.committed_upto(N1, core.state, Index(0))
    assert rules.committed_chains == chains_of(a_leader())
    rules.committed_chains[1] = 1
    with fires("State Machine Safety: n1 installed another state at 2"):
        rules.committed_upto(N1, core.state, Index(1))
    rules.committed_upto(N1, core.state, Index(2))


def test_leader_completeness_up_to_the_base_of_a_log(rules: ClusterInvariants, core: Raft) -> None:
    """What lies before a leader's log is in its state; what is in the log is compared."""
    rules.committed_upto(N1, core.state, Index(0))
    rules._commit_terms[:] = [Term(1), Term(2), Term(2)]
    rules.leader_elected(N1, core.state)
    rules.committed_chains[2] = 1
    with fires("Leader Completeness: n1 leads term 3 without the committed entry 3"):
        rules.leader_elected(N1, core.state)
    compacted(core, 3)
    rules.leader_elected(N1, core.state)


def test_only_what_earlier_terms_committed_has_to_be_there(rules: ClusterInvariants, core: Raft) -> None:
    """An entry that was committed in the leader's own term came from it."""
    rules.committed_upto(N1, core.state, Index(0))
    assert rules._commit_terms == [3, 3, 3]
    rules.committed_chains.append(7)
    rules._commit_terms.append(Term(3))
    rules.leader_elected(N1, core.state)


def test_a_vote_of_a_disk_that_was_replaced_still_elected(
    rules: ClusterInvariants, disks: dict[NodeId, Flushed], core: Raft
) -> None:
    """Its votes count for the election they were given in; the new disk may vote as it likes."""
    rules.hard_state_flushed(N2, disks[N2].hard_state)
    rules.message_leaves(N2, N1, RequestVoteResponse(Term(3), vote_granted=True, pre_vote=False))
    rules.message_leaves(N1, N1, RequestVote(Term(3), Index(0), Term(0), pre_vote=False))
    rules.disk_replaced(N2)
    rules.disk_replaced(N3)
    disks[N2].hard_state = HardState(Term(3), N3)
    rules.leader_elected(N1, core.state)
    rules.node_started(N2, HardState())
    rules.message_leaves(N2, N3, RequestVoteResponse(Term(3), vote_granted=True, pre_vote=False))
    disks[N1].hard_state = HardState(Term(3), N3)
    with fires("n1 votes twice in term 3: n1, n3"):
        rules.message_leaves(N1, N3, RequestVoteResponse(Term(3), vote_granted=True, pre_vote=False))


def test_answers_that_promise_nothing_may_leave(rules: ClusterInvariants, disks: dict[NodeId, Flushed]) -> None:
    """A refusal names an index and promises none; what was flushed in an older term is not judged by this log."""
    zero = Index(0)
    rules.message_leaves(N2, N1, AppendEntriesResponse(Term(3), False, Index(9), zero, Term(0), zero, 0))
    rules.message_leaves(N2, N1, AppendEntriesResponse(Term(2), True, Index(9), zero, Term(0), zero, 0))
    rules.message_leaves(N2, N1, AppendEntriesResponse(Term(3), True, Index(3), zero, Term(0), zero, 0))
    rules.message_leaves(N2, N1, RequestVote(Term(9), zero, Term(0), pre_vote=True))
    rules.message_leaves(N2, N1, AppendEntries(Term(9), zero, Term(0), 0, (), zero, 0))
    disks[N2].hard_state = HardState(Term(4), N3)
    rules.message_leaves(N2, N1, RequestVoteResponse(Term(3), vote_granted=True, pre_vote=False))
