"""Planted bugs of elections, replication and commit."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

from durable_raft.raft import election, incoming, replication
from durable_raft.raft import state as state_module
from durable_raft.raft.log import RaftLog
from durable_raft.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    RequestVote,
    RequestVoteResponse,
)
from durable_raft.raft.progress import Progress
from durable_raft.raft.quorum import majority_value
from durable_raft.raft.state import RaftState
from durable_raft.raft.types import Configuration, Entry, HardState, Index, NodeId, Role, Term
from tests.simulation.planting import Patch, mutant

# -- elections --------------------------------------------------------------------------------------------------------


def _grant(rule: Callable[[RaftState, Any, RequestVote], bool]) -> Callable[..., None]:
    def handle(state: RaftState, now: int, source: Any, message: RequestVote) -> None:
        up_to_date = state.log.is_up_to_date(message.last_log_index, message.last_log_term)
        if message.pre_vote:
            granted = up_to_date and message.term > state.current_term and not election.hears_a_leader(state, now)
            term = message.term if granted else state.current_term
            state.send(source, RequestVoteResponse(term, granted, pre_vote=True))
            return
        granted = rule(state, source, message)
        if granted:
            state.hard_state = HardState(state.current_term, source)
            state.reset_election_deadline(now)
        state.send(source, RequestVoteResponse(state.current_term, granted, pre_vote=False))

    return handle


@mutant
def second_vote_in_a_term() -> Sequence[Patch]:
    """A voter does not look whether it has voted already."""

    def rule(state: RaftState, source: Any, message: RequestVote) -> bool:
        del source
        up_to_date = state.log.is_up_to_date(message.last_log_index, message.last_log_term)
        return up_to_date and message.term == state.current_term and state.role is Role.FOLLOWER

    return [(election, "handle_request_vote", _grant(rule))]


@mutant
def vote_without_log_check() -> Sequence[Patch]:
    """Votes, pre-votes too, go to candidates whose log is behind."""
    return [(RaftLog, "is_up_to_date", lambda _self, _index, _term: True)]


@mutant
def log_compared_by_length() -> Sequence[Patch]:
    """The up-to-date check compares the index before the term (async-raft a48a3282)."""
    return [
        (
            RaftLog,
            "is_up_to_date",
            lambda self, index, term: (index, term) >= (self.last.index, self.last.term),
        )
    ]


@mutant
def vote_forgotten_at_restart() -> Sequence[Patch]:
    """The vote is not stored, only the term (CCF #8094, raftos)."""
    init = RaftState.__init__

    def forget(self: RaftState, config: Any, stored: Any, *rest: Any, **named: Any) -> None:
        init(self, config, stored, *rest, **named)
        self.hard_state = HardState(stored.hard_state.current_term, None)
        self.flushed_hard_state = self._submitted_hard_state = self.hard_state

    return [(RaftState, "__init__", forget)]


@mutant
def vote_cleared_in_the_same_term() -> Sequence[Patch]:
    """A candidate that steps down in its own term forgets its vote."""
    become = RaftState.become_follower

    def forget(self: RaftState, now: int, term: Term, leader_id: Any) -> None:
        if term == self.current_term and self.role is Role.CANDIDATE:
            self.hard_state = HardState(term, None)
        become(self, now, term, leader_id)

    return [(RaftState, "become_follower", forget)]


@mutant
def minority_elects() -> Sequence[Patch]:
    """Half of the votes are taken for a majority."""

    def half(configuration: Configuration, ids: Container[NodeId]) -> bool:
        return sum(voter in ids for voter in configuration.voters) >= max(1, len(configuration.voters) // 2)

    return [(election, "has_quorum", half)]


@mutant
def stale_votes_counted() -> Sequence[Patch]:
    """Answers to an earlier campaign count in this one."""

    def handle(state: RaftState, now: int, source: Any, message: RequestVoteResponse) -> bool:
        if state.role not in (Role.PRE_CANDIDATE, Role.CANDIDATE):
            return False
        state.votes[source] = message.vote_granted
        return election._count_votes(state, now)

    return [(election, "handle_request_vote_response", handle)]


@mutant
def leader_ignores_newer_term() -> Sequence[Patch]:
    """A leader takes no notice of a newer term in an answer."""
    enter = incoming._enter_newer_term

    def ignore(state: RaftState, now: int, source: Any, message: Any) -> bool:
        if state.role is Role.LEADER and isinstance(message, AppendEntriesResponse):
            return False
        return enter(state, now, source, message)

    return [(incoming, "_enter_newer_term", ignore)]


# -- replication and commit -------------------------------------------------------------------------------------------


@mutant
def old_term_committed_by_counting() -> Sequence[Patch]:
    """Entries of earlier terms are committed by counting replicas (Figure 8)."""

    def advance(state: RaftState) -> None:
        matched = [progress.match_index for progress in state.progress.values()]
        state.log.commit_to(Index(majority_value([*matched, state.log.flushed])))

    return [(replication, "advance_commit_index", advance)]


@mutant
def minority_commits() -> Sequence[Patch]:
    """One copy too few is enough to commit."""

    def too_few(values: Any) -> int:
        descending = sorted(values, reverse=True)
        return int(descending[max(0, len(descending) // 2 - 1)])

    return [(state_module, "majority_value", too_few)]


@mutant
def commit_beyond_verified() -> Sequence[Patch]:
    """A follower commits up to the leader's index, whatever this message verified (hashicorp raft.go:1591)."""
    accept = replication._accept

    def eager(state: RaftState, now: int, source: Any, message: AppendEntries, **known: Any) -> None:
        state.log.commit_to(min(message.leader_commit, state.log.last.index))
        accept(state, now, source, message, **known)

    return [(replication, "_accept", eager)]


@mutant
def match_beyond_verified() -> Sequence[Patch]:
    """A follower acknowledges its whole log when a heartbeat fits."""

    def accept(
        state: RaftState, now: int, source: Any, message: AppendEntries, *, verified: Index, is_new: bool
    ) -> None:
        del now
        state.log.commit_to(min(message.leader_commit, verified))
        match = verified if is_new else max(verified, state.log.flushed)
        answer = AppendEntriesResponse(state.current_term, True, match, Index(0), Term(0), Index(0), message.read_round)
        state.send_after_write(source, answer)

    return [(replication, "_accept", accept)]


@mutant
def matching_suffix_cut() -> Sequence[Patch]:
    """An AppendEntries that is late cuts what follows it, though nothing conflicts (async-raft 9540c904)."""

    def append_new(state: RaftState, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            state.log.append(entry)

    def count_known(log: RaftLog, entries: tuple[Entry, ...]) -> int:
        if entries and log.commit_index < entries[0].index <= log.last.index:
            log.truncate_from(entries[0].index)
            return 0
        return known(log, entries)

    known = replication._count_known
    return [(replication, "_append_new", append_new), (replication, "_count_known", count_known)]


@mutant
def conflict_not_cut() -> Sequence[Patch]:
    """Entries are compared by index only: a conflicting suffix stays."""

    def count_known(log: RaftLog, entries: tuple[Entry, ...]) -> int:
        return sum(entry.index <= log.last.index for entry in entries)

    return [(replication, "_count_known", count_known)]


@mutant
def previous_entry_not_checked() -> Sequence[Patch]:
    """The term of the entry before is not compared (Raft §5.3, consistency check)."""
    handle = replication.handle_append_entries

    def trusting(state: RaftState, now: int, source: Any, message: AppendEntries) -> None:
        log = state.log
        if log.base.index < message.prev_log_index <= log.last.index:
            here = message.prev_log_index
            message = message._replace(prev_log_term=log.term_at(here), prev_log_chain=log.chain_at(here))
        handle(state, now, source, message)

    return [(replication, "handle_append_entries", trusting)]


@mutant
def no_entry_at_start_of_term() -> Sequence[Patch]:
    """A new leader appends no entry of its own: what earlier terms left is never committed (etcd #7331)."""

    def begin(state: RaftState, now: int) -> None:
        state.become_leader(now)
        state.term_start_index = Index(0)

    return [(replication, "begin_term", begin)]


@mutant
def stale_rejection_regresses() -> Sequence[Patch]:
    """A late rejection moves next_index below what is known to match."""

    def reject(state: RaftState, progress: Progress, message: AppendEntriesResponse) -> None:
        del state
        progress.next_index = Index(max(1, message.conflict_index))
        progress.probe_sent = False

    return [(replication, "_handle_rejection", reject)]


@mutant
def leader_overwrites_its_log() -> Sequence[Patch]:
    """A new leader drops what it has not committed and starts over."""
    begin = replication.begin_term

    def fresh(state: RaftState, now: int) -> None:
        if state.log.last.index > state.log.commit_index:
            state.log.truncate_from(Index(state.log.commit_index + 1))
        begin(state, now)

    return [(replication, "begin_term", fresh)]


@mutant
def quorum_not_checked() -> Sequence[Patch]:
    """A leader cut off from everybody leads on: its clients wait until the wires are joined (Ongaro §6.2)."""
    return [(replication, "check_quorum", lambda _state, _now: None)]


@mutant
def probe_never_ends() -> Sequence[Patch]:
    """A probe whose answer is lost is never sent again: an answer that is no news is not looked at (raft-rs #557)."""
    matched = Progress.became_matched

    def only_news(self: Progress, match_index: Index) -> bool:
        return match_index > self.match_index and matched(self, match_index)

    return [(Progress, "became_matched", only_news)]
