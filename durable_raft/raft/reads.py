"""Linearizable reads without a log entry: ReadIndex (Raft §8, Ongaro §6.4).

A read may be answered from the machine once (a) a majority repeated a round number that was sent *after* the read
arrived, so that this node certainly led when it did, and (b) the machine has applied the read's index: the commit index
of that moment, but at least the no-op that opened the term, before which a new leader does not know what is committed.

Every AppendEntries carries the newest round, so a write proposed after a read carries that read's round: when the write
is committed, the read is confirmed. That is what keeps a connection's reads before the writes pipelined after them.
"""

from __future__ import annotations

from durable_raft.raft.ready import ReadReady
from durable_raft.raft.state import RaftState
from durable_raft.raft.state_parts import PendingRead
from durable_raft.raft.types import Index, Role


def read(state: RaftState, read_id: int, after: Index) -> None:
    """Register a read; it sees at least the entry at ``after`` (an index this node proposed)."""
    if state.role is not Role.LEADER:
        state.lost_reads.append(read_id)
        return
    index = max(state.log.commit_index, state.term_start_index, after)
    state.read_round += 1
    state.pending_reads.append(PendingRead(read_id, index, state.read_round))
    confirm(state)


def confirmed_round(state: RaftState) -> int:
    """Return the newest round that a majority repeated; only voters count (admission.py)."""
    acked = [progress.acked_round if progress.is_voter else 0 for progress in state.progress.values()]
    return state.quorum_value(acked, state.read_round)


def confirm(state: RaftState) -> None:
    """Move on what a majority has confirmed; ask about the next round when reads still wait and none is out."""
    if not state.pending_reads:
        return
    acked = confirmed_round(state)
    while state.pending_reads and state.pending_reads[0].read_round <= acked:
        confirmed = state.pending_reads.popleft()
        state.confirmed_reads.append(ReadReady(confirmed.read_id, confirmed.read_index))
    if state.pending_reads and state.broadcast_round <= acked:
        state.broadcast_round = state.read_round


def has_answerable(state: RaftState) -> bool:
    """Return whether ``take_answerable`` has a read to hand out."""
    applied = state.log.last_applied
    return any(ready.read_index <= applied for ready in state.confirmed_reads)


def take_answerable(state: RaftState) -> list[ReadReady]:
    """Hand out confirmed reads whose index has been handed out for applying, ascending by index."""
    applied = state.log.last_applied
    answerable = [ready for ready in state.confirmed_reads if ready.read_index <= applied]
    if answerable:
        state.confirmed_reads = [ready for ready in state.confirmed_reads if ready.read_index > applied]
        answerable.sort(key=lambda ready: ready.read_index)
    return answerable
