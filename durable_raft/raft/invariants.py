"""Rules that one node's state must keep, as code; checked after every step in tests.

They raise explicitly, so that ``python -O`` does not remove them.
"""

from __future__ import annotations

from dataclasses import dataclass

from durable_raft.errors import InvariantViolation
from durable_raft.raft.state import RaftState
from durable_raft.raft.types import Index, NodeId, Role, Term


@dataclass(frozen=True, slots=True)
class Observed:
    """What a later state of the same node is compared with."""

    current_term: Term
    voted_for: NodeId | None
    commit_index: Index
    last_applied: Index
    role: Role
    last_index: Index


def observe(state: RaftState) -> Observed:
    """Return what ``check_transition`` needs to know of this moment."""
    log = state.log
    return Observed(state.current_term, state.voted_for, log.commit_index, log.last_applied, state.role, log.last.index)


def check_state(state: RaftState) -> None:
    """Check one state.

    Raises:
        InvariantViolation: naming the rule and the values.
    """
    log = state.log
    # Figure 2: lastApplied <= commitIndex, and both lie within the log.
    _require(
        log.base.index <= log.last_applied <= log.commit_index <= log.last.index,
        f"base {log.base.index} <= applied {log.last_applied} <= commit {log.commit_index} <= last {log.last.index}",
    )
    # Only flushed counts: flushed <= submitted <= accepted.
    _require(
        log.base.index <= log.flushed <= log.submitted <= log.last.index,
        f"base {log.base.index} <= flushed {log.flushed} <= submitted {log.submitted} <= last {log.last.index}",
    )
    # §5.1: a server's current term is at least that of every entry it holds.
    _require(state.current_term >= log.last.term, f"current_term {state.current_term} >= last term {log.last.term}")
    if state.role in (Role.LEADER, Role.CANDIDATE):
        # Figure 2, Candidates: vote for self.
        _require(state.voted_for == state.config.node_id, f"{state.role.value} voted for {state.voted_for}")
    if state.role is Role.LEADER:
        _require(state.flushed_hard_state == state.hard_state, "a leader's own vote is flushed")
        for peer, progress in state.progress.items():
            _require(
                0 <= progress.match_index < progress.next_index <= log.last.index + 1,
                f"{peer}: 0 <= match {progress.match_index} < next {progress.next_index} <= last {log.last.index} + 1",
            )
    else:
        _require(not state.progress, "only a leader tracks progress")
        _require(not state.pending_reads and not state.confirmed_reads, "only a leader serves reads")


def check_transition(before: Observed, after: Observed) -> None:
    """Check that the node went from ``before`` to ``after`` lawfully.

    Raises:
        InvariantViolation: naming the rule and the values.
    """
    # §5.1: current terms increase monotonically.
    _require(after.current_term >= before.current_term, f"term fell from {before.current_term} to {after.current_term}")
    # §5.2: each server votes for at most one candidate in a given term.
    if after.current_term == before.current_term and before.voted_for is not None:
        _require(
            after.voted_for == before.voted_for,
            f"vote of term {after.current_term} changed from {before.voted_for} to {after.voted_for}",
        )
    # Figure 2: commitIndex and lastApplied increase monotonically.
    _require(after.commit_index >= before.commit_index, f"commit fell: {before.commit_index}, {after.commit_index}")
    _require(after.last_applied >= before.last_applied, f"applied fell: {before.last_applied}, {after.last_applied}")
    # Leader Append-Only (§5.3): a leader never overwrites or deletes entries in its log.
    if before.role is after.role is Role.LEADER and before.current_term == after.current_term:
        _require(after.last_index >= before.last_index, f"leader's log shrank: {before.last_index}, {after.last_index}")


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise InvariantViolation(f"broken: {rule}")
