"""Snapshots on a follower (Raft §7): an offer is answered like a heartbeat, and the snapshot fetched meanwhile.

The machine's state reaches its disk first, the log follows: a crash in between leaves a state beyond the log, which the
next start mends in the same way (``RaftLog.install``). What a snapshot covers is committed, so it may be installed
whoever leads by then.
"""

from __future__ import annotations

from durable_raft.errors import InvariantViolation
from durable_raft.raft import contradiction, lives
from durable_raft.raft.messages import AppendEntriesResponse, InstallSnapshot
from durable_raft.raft.ready import Offer
from durable_raft.raft.replication import matching
from durable_raft.raft.state import RaftState
from durable_raft.raft.types import Base, Configuration, Index, LogPoint, NodeId, Role


def handle_install_snapshot(state: RaftState, now: int, source: NodeId, message: InstallSnapshot) -> None:
    """Follow the leader, note its offer when the snapshot is wanted, and say how far this log is known to match."""
    state.hear_leader(now, source)
    point = LogPoint(message.last_included_index, message.last_included_term, message.last_included_chain)
    if (other := contradiction.conflict(state.log, point, ())) is not None:
        contradiction.note(state, source, *other)
        return
    state.leader_commit = max(state.leader_commit or point.index, point.index)
    if wants(state, point):
        state.offer = Offer(source, point)
    state.send(source, _known_match(state, message.read_round))


def _known_match(state: RaftState, read_round: int) -> AppendEntriesResponse:
    """Return a success that says what certainly matches: what is committed here is in every leader's log.

    So the leader goes on from there, if its log still begins so early, whatever it believed before.
    """
    return matching(state, min(state.log.commit_index, state.log.flushed), read_round)


def wants(state: RaftState, point: LogPoint) -> bool:
    """Return whether a snapshot taken at ``point`` would bring this node forward, and may be begun with.

    The disk must hold a term that is not below the snapshot's: a log never ends in a term that its node does not know.
    """
    if point.term > state.flushed_hard_state.current_term or state.doubts.contradiction is not None:
        return False
    if contradiction.conflict(state.log, point, ()) is not None:
        return False
    return point.index > floor(state)


def may_count_at(state: RaftState, point: LogPoint, configuration: Configuration | None) -> bool:
    """Return whether ``configuration`` can be the one that counts at ``point``; see ``Raft.may_count_at``."""
    log = state.log
    if log.holds(point):
        return configuration == log.configurations.stored_at(point.index)
    index = 0 if configuration is None else configuration.index
    if index > log.commit_index:
        return index <= point.index
    # None came between: what is committed here is in every log that reaches so far.
    return configuration == log.configurations.stored_at(log.commit_index)


def floor(state: RaftState) -> Index:
    """Return the index behind which a snapshot must have been taken to be of use; see ``Raft.snapshot_floor``."""
    if state.is_whole:
        # What is committed here and lost cannot be applied: a snapshot taken behind it helps.
        return state.log.last_applied if state.log.lost else state.log.commit_index
    # Without a state any will do behind which the log goes on; one beyond the log replaces it.
    return Index(state.log.base.index - 1)


def install(state: RaftState, base: Base, configuration: Configuration | None = None) -> None:
    """Go on from a snapshot taken at ``base``; see ``Raft.install_snapshot``."""
    if not wants(state, base.point):
        raise InvariantViolation(f"snapshot at {base.point}, but committed is {state.log.commit_index}")
    if not may_count_at(state, base.point, configuration):
        raise InvariantViolation(f"snapshot at {base.point} with another configuration than counts there")
    is_kept = state.log.install(base, configuration)
    if not is_kept:
        state.note_cut()
        # What made this node a member may have been cut with the log (``RaftState._change_configuration``).
        state.introduced.clear()
    state.is_whole = True
    state.snapshot = base.point
    leader = state.leader_id
    if state.role is Role.FOLLOWER and leader is not None and not lives.is_unheard(state, leader):
        # Unasked: the leader goes on from here before it offers the next one. No ReadIndex round is confirmed by it.
        state.send_after_write(leader, _known_match(state, 0))
    state.observe(
        "installed_snapshot", index=base.point.index, term=base.point.term, log="kept" if is_kept else "replaced"
    )


def lose_state(state: RaftState, now: int) -> None:
    """Go on without a state; see ``Raft.lose_state``."""
    state.is_whole = False
    state.observe("lost_state", term=state.current_term, last_applied=state.log.last_applied)
    if state.role is not Role.FOLLOWER:
        state.become_follower(now, state.current_term, None)
