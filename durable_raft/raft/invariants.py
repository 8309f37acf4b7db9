"""Rules that the state of one node, and of a whole cluster, must keep, as code; checked after every step in tests.

They raise explicitly, so that ``python -O`` does not remove them. Above each rule stands the paper's sentence.
``ClusterInvariants`` sees every node and every disk, so it can judge what no node can: it outlives their crashes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from durable_raft.errors import InvariantViolation
from durable_raft.raft.log import RaftLog
from durable_raft.raft.messages import AppendEntriesResponse, Message, RequestVote, RequestVoteResponse
from durable_raft.raft.quorum import has_quorum
from durable_raft.raft.state import RaftState
from durable_raft.raft.types import Configuration, Entry, HardState, Index, Member, Membership, NodeId, Role, Term


@dataclass(slots=True)
class Observed:
    """What a later state of the same node is compared with. Not frozen: made at every step, a third of the cost."""

    current_term: Term
    voted_for: NodeId | None
    commit_index: Index
    last_applied: Index
    role: Role
    last_index: Index
    last_chain: int = 0
    flushed: int = 0
    is_whole: bool = True


def observe(state: RaftState) -> Observed:
    """Return what ``check_transition`` needs to know of this moment."""
    log, held, last = state.log, state.hard_state, state.log.last
    return Observed(
        held.current_term,
        held.voted_for,
        log.commit_index,
        log.last_applied,
        state.role,
        last.index,
        last.chain,
        log.flushed,
        state.is_whole,
    )


def check_state(state: RaftState) -> None:
    """Check one state.

    Raises:
        InvariantViolation: naming the rule and the values.
    """
    log = state.log
    # Figure 2: lastApplied <= commitIndex, and both lie within the log.
    if not log.base.index <= log.last_applied <= log.commit_index <= log.last.index:
        _broken(
            f"base {log.base.index} <= applied {log.last_applied} <= commit {log.commit_index} <= last {log.last.index}"
        )
    # Only flushed counts: flushed <= submitted <= accepted.
    if not log.base.index <= log.flushed <= log.submitted <= log.last.index:
        _broken(f"base {log.base.index} <= flushed {log.flushed} <= submitted {log.submitted} <= last {log.last.index}")
    # §5.1: a server's current term is at least that of every entry it holds.
    if state.current_term < log.last.term:
        _broken(f"current_term {state.current_term} >= last term {log.last.term}")
    role = state.role
    # Figure 2, Candidates: vote for self.
    if (role is Role.LEADER or role is Role.CANDIDATE) and state.voted_for != state.config.node_id:
        _broken(f"{role.value} voted for {state.voted_for}")
    if role is not Role.FOLLOWER and not state.is_voter:
        _broken(f"a {role.value} is a voter")
    # §6: a server always uses the latest configuration in its log; it counts from its append to its cut.
    used = state.configuration
    if used is not log.configurations.newest or used.index > log.last.index:
        _broken(f"the configuration at {used.index} is the newest of a log that ends at {log.last.index}")
    if role is Role.LEADER:
        _check_leader(state, log)
    elif state.progress:
        _broken("only a leader tracks progress")
    elif state.pending_reads or state.confirmed_reads:
        _broken("only a leader serves reads")


def _check_leader(state: RaftState, log: RaftLog) -> None:
    if state.flushed_hard_state != state.hard_state:
        _broken("a leader's own vote is flushed")
    if log.missing():
        _broken("a leader holds its whole log")
    if state.progress.keys() != state.peer_set:
        _broken(f"a leader tracks {sorted(state.progress)}, and its configuration has {sorted(state.peers)}")
    for peer, progress in state.progress.items():
        if not 0 <= progress.match_index < progress.next_index <= log.last.index + 1:
            _broken(
                f"{peer}: 0 <= match {progress.match_index} < next {progress.next_index} <= last {log.last.index} + 1"
            )


def check_transition(before: Observed, after: Observed) -> None:
    """Check that the node went from ``before`` to ``after`` lawfully.

    Raises:
        InvariantViolation: naming the rule and the values.
    """
    # §5.1: current terms increase monotonically.
    if after.current_term < before.current_term:
        _broken(f"term fell from {before.current_term} to {after.current_term}")
    if after.current_term == before.current_term:
        # §5.2: each server votes for at most one candidate in a given term.
        if before.voted_for is not None and after.voted_for != before.voted_for:
            _broken(f"vote of term {after.current_term} changed from {before.voted_for} to {after.voted_for}")
        # Leader Append-Only (§5.3): a leader never overwrites or deletes entries in its log; it only appends.
        if before.role is after.role is Role.LEADER and after.last_index < before.last_index:
            _broken(f"leader's log shrank: {before.last_index}, {after.last_index}")
    # Figure 2: commitIndex and lastApplied increase monotonically.
    if after.commit_index < before.commit_index:
        _broken(f"commit fell: {before.commit_index}, {after.commit_index}")
    # A state that was lost is begun again from a snapshot, wherever that was taken.
    if before.is_whole and after.last_applied < before.last_applied:
        _broken(f"applied fell: {before.last_applied}, {after.last_applied}")


def _broken(rule: str) -> None:
    raise InvariantViolation(f"broken: {rule}")


def counted_by(state: RaftState, commit_before: Index) -> list[tuple[Index, Configuration]]:
    """Return whose majorities must hold what, for a leader whose commit index rose from ``commit_before``.

    A configuration is committed by its own majorities. What lies behind it may have been committed by those of the next
    one, which the leader appended because of that; so the end of what is committed is held by the newest's.
    """
    log = state.log
    newly = [each for each in log.configurations.since(commit_before) if commit_before < each.index <= log.commit_index]
    return [*((each.index, each) for each in newly), (log.commit_index, state.configuration)]


class FlushedLog(Protocol):
    """What one disk certainly holds, whether its node is up or not."""

    @property
    def hard_state(self) -> HardState:
        """The flushed term and vote."""

    @property
    def last_index(self) -> int:
        """Index of the last flushed entry."""

    def holds(self, index: int, chain: int) -> bool:
        """Return whether the entry at ``index`` is flushed with this chain value, so that all before it agree."""


class ClusterInvariants:
    """The rules of Figure 3 over every node of one cluster and all that ever happened in it."""

    def __init__(self, disks: Mapping[NodeId, FlushedLog]) -> None:
        """Begin with an empty history; ``disks`` has every node's. All vote until a leader goes by something else."""
        self._disks = disks
        first = tuple(Member(node_id, "", "") for node_id in sorted(disks))
        self._configuration = Configuration.initial(Membership(first))
        """By which a leader counted what it committed last."""
        self.leaders: dict[Term, NodeId] = {}
        """Who was elected in which term."""
        self.committed_chains: list[int] = []
        """Chain value of every committed entry; the first has index 1."""
        self.checks = 0
        """Rules checked so far."""
        self._commit_terms: list[Term] = []
        """By position: the term in which the entry was first seen committed. Ascends."""
        self._chains: dict[tuple[Index, Term], int] = {}
        self._votes: dict[tuple[NodeId, Term], NodeId] = {}
        self._flushed_hard_states: dict[NodeId, HardState] = {}
        self._former_hard_states: dict[NodeId, list[HardState]] = {}
        """By node: what the disks before its present one had flushed."""
        self._held_upto = 0
        """Every committed entry up to here was seen on a majority of disks."""

    # -- one node after each event --------------------------------------------------------------------------------

    def node_changed(self, name: NodeId, state: RaftState, before: Observed) -> Observed:
        """Check a node after an event; return what the next check compares with.

        Raises:
            InvariantViolation: naming the rule and the values.
        """
        check_state(state)
        after = observe(state)
        check_transition(before, after)
        self.checks += 11
        if after.role is Role.LEADER:
            if before.role is not Role.LEADER or before.current_term != after.current_term:
                self.leader_elected(name, state)
            elif after.last_index > before.last_index:
                # Leader Append-Only (§5.3): a leader never overwrites or deletes entries in its log; it only appends.
                self.checks += 1
                if state.log.chain_at(before.last_index) != before.last_chain:
                    _broken(f"Leader Append-Only: {name} replaced its entry {before.last_index}")
        if after.flushed != before.flushed:
            # Figure 2, persistent state: what counts as flushed is on the disk, that entry and no other.
            self.checks += 1
            if after.flushed and not self._disks[name].holds(after.flushed, state.log.chain_at(state.log.flushed)):
                _broken(f"Durability: {name} counts {after.flushed} as flushed, and its disk does not hold that entry")
        if after.commit_index > before.commit_index:
            self.committed_upto(name, state, before.commit_index)
        return after

    def quorum_kept(self, name: NodeId, state: RaftState, now: int, overslept: int = 0) -> None:
        """Check a leader that was just about to send heartbeats, ``overslept`` ms after they were due.

        Ongaro §6.2: a leader steps down if an election timeout elapses without a successful round of heartbeats to a
        majority of its cluster. What it has learned to wait has a bound, and while it did not run it heard nobody.
        """
        if state.role is Role.LEADER and state.progress:
            self.checks += 1
            silence = now - state.quorum_value([progress.heard_at for progress in state.progress.values()], now)
            patience = min(state.timeouts.longest(now), state.timeouts.bound)
            if silence - overslept > patience + state.config.heartbeat_ms:
                _broken(f"CheckQuorum: {name} still leads after {silence} ms without a majority")

    def node_started(self, name: NodeId, held: HardState) -> None:
        """Term and vote never go back (Figure 2: "updated on stable storage before responding to RPCs")."""
        self.checks += 1
        before = self._flushed_hard_states.get(name, HardState())
        same_term = held.current_term == before.current_term
        if held.current_term < before.current_term or (same_term and before.voted_for not in (None, held.voted_for)):
            _broken(f"Durability: {name} starts with {held}, and had flushed {before}")

    def hard_state_flushed(self, name: NodeId, hard_state: HardState) -> None:
        """Note what a node's disk promised to keep."""
        self._flushed_hard_states[name] = hard_state

    def disk_replaced(self, name: NodeId) -> None:
        """Note that a node's disk is lost, and with it what it promised; who counts on that is judged as ever."""
        held = self._flushed_hard_states.pop(name, None)
        if held is not None:
            self._former_hard_states.setdefault(name, []).append(held)
        self._votes = {(node, term): vote for (node, term), vote in self._votes.items() if node != name}

    # -- logs -----------------------------------------------------------------------------------------------------

    def entries_accepted(self, name: NodeId, entries: Iterable[Entry]) -> None:
        """Check entries as they are handed to a disk.

        Log Matching (§5.3): if two logs contain an entry with the same index and term, then the logs are identical in
        all entries up through the given index.
        """
        chains = self._chains
        for entry in entries:
            self.checks += 1
            if chains.setdefault((entry.index, entry.term), entry.chain) != entry.chain:
                _broken(f"Log Matching: {name} has another entry {entry.index} of term {entry.term}")

    def entry_applied(self, name: NodeId, entry: Entry) -> None:
        """Check an entry as it is applied.

        State Machine Safety (§5.4.3): if a server has applied a log entry at a given index to its state machine, no
        other server will ever apply a different log entry for the same index.
        """
        self.checks += 1
        if entry.index > len(self.committed_chains):
            _broken(f"State Machine Safety: {name} applied {entry.index}, which is not committed")
        if entry.chain != self.committed_chains[entry.index - 1]:
            _broken(f"State Machine Safety: {name} applied another entry {entry.index} of term {entry.term}")

    def committed_upto(self, name: NodeId, state: RaftState, before: Index) -> None:
        """Check what a node newly holds committed, and note it."""
        log = state.log
        if log.base.index > before and self.committed_chains[log.base.index - 1] != log.base.chain:
            # §7: a snapshot covers what is committed, so it matches what everybody committed there.
            _broken(f"State Machine Safety: {name} installed another state at {log.base.index}")
        for index in range(max(before, log.base.index) + 1, log.commit_index + 1):
            chain = log.chain_at(Index(index))
            self.checks += 1
            if index > len(self.committed_chains):
                self.committed_chains.append(chain)
                self._commit_terms.append(state.current_term)
            elif self.committed_chains[index - 1] != chain:
                _broken(f"State Machine Safety: {name} committed another entry {index}")
        if state.role is Role.LEADER:
            # §5.4.2: only log entries from the leader's current term are committed by counting replicas.
            term = log.term_at(log.commit_index)
            if term != state.current_term:
                _broken(f"Commit: {name} in term {state.current_term} counted replicas of {log.commit_index}/t{term}")
            for index, self._configuration in counted_by(state, before):
                self.acknowledged(name, index)
        else:
            self.acknowledged(name, log.commit_index)

    def acknowledged(self, name: NodeId, index: Index) -> None:
        """Check that what is committed, or answered, is flushed by a majority.

        §5.3: a log entry is committed once the leader that created the entry has replicated it on a majority of the
        servers; only a flushed copy is one.
        """
        self.checks += 1
        if index <= self._held_upto:
            return
        chain = self.committed_chains[index - 1]
        holders = [node for node, disk in self._disks.items() if disk.holds(index, chain)]
        if not has_quorum(self._configuration, holders):
            _broken(f"Acknowledged => flushed: {name} counts on {index}, which only the disks of {holders} hold")
        self._held_upto = index

    # -- leaders --------------------------------------------------------------------------------------------------

    def leader_elected(self, name: NodeId, state: RaftState) -> None:
        """Check a node that has just won an election."""
        self.checks += 3
        term = state.current_term
        # Election Safety (§5.2): at most one leader can be elected in a given term.
        known = self.leaders.setdefault(term, name)
        if known != name:
            _broken(f"Election Safety: {known} and {name} both lead term {term}")
        # §5.2: a candidate wins an election if it receives votes from a majority of the servers in the same term.
        voters = [
            node
            for node, disk in self._disks.items()
            if any(_has_voted(held, term, name) for held in (disk.hard_state, *self._former_hard_states.get(node, ())))
        ]
        if not has_quorum(state.configuration, voters):
            _broken(f"Election Safety: {name} leads term {term}, but only {voters} hold flushed votes for it")
        # Leader Completeness (§5.4.3): if a log entry is committed in a given term, then that entry will be present in
        # the logs of the leaders for all higher-numbered terms.
        index = bisect_left(self._commit_terms, term)
        log = state.log
        if index > log.last.index or (
            # What lies before the base is in the leader's state.
            index > log.base.index and log.chain_at(Index(index)) != self.committed_chains[index - 1]
        ):
            _broken(f"Leader Completeness: {name} leads term {term} without the committed entry {index}")

    # -- promises -------------------------------------------------------------------------------------------------

    def message_leaves(self, source: NodeId, target: NodeId, message: Message) -> None:
        """Check what a message promises (Figure 2: "updated on stable storage before responding to RPCs")."""
        if isinstance(message, AppendEntriesResponse):
            self.checks += 1
            disk = self._disks[source]
            held = disk.hard_state.current_term
            if held < message.term:
                _broken(f"Durability: {source} answers in term {message.term} and has flushed {held}")
            if message.success and held == message.term and message.match_index > disk.last_index:
                _broken(
                    f"Durability: {source} acknowledges {message.match_index} to {target}, flushed: {disk.last_index}"
                )
        elif isinstance(message, RequestVoteResponse):
            if message.vote_granted and not message.pre_vote:
                self._vote_leaves(source, target, message.term)
        elif isinstance(message, RequestVote) and not message.pre_vote:
            self._vote_leaves(source, source, message.term)

    def _vote_leaves(self, source: NodeId, candidate: NodeId, term: Term) -> None:
        """Check a vote: flushed, and the only one (§5.2: at most one candidate in a given term)."""
        self.checks += 2
        if not _has_voted(self._disks[source].hard_state, term, candidate):
            _broken(f"Durability: {source}'s vote for {candidate} in term {term} leaves before it is flushed")
        known = self._votes.setdefault((source, term), candidate)
        if known != candidate:
            _broken(f"Election Safety: {source} votes twice in term {term}: {known}, {candidate}")


def _has_voted(held: HardState, term: Term, candidate: NodeId) -> bool:
    """Return whether a flushed hard state proves, or has outlived, a vote."""
    return held.current_term > term or (held.current_term == term and held.voted_for == candidate)
