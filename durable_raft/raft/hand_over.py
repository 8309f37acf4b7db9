"""A leader that had better not lead hands over by itself (transfer.py), without waiting to be replaced:

- one whose disk *hangs*: the others store what it cannot. It sends no heartbeats, so the others would elect somebody
  anyway (replication.py), an election timeout later. It goes by the evidence: another voter has on its disk what this
  one's did not take. Where all disks stand still, or none of the others is known to be better, nobody is asked;
- one whose disk is *full*: it would refuse every write, though the others have room for them (room.py);
- one whose disk *failed*: its node ends, and says so on its way out (``last_word``).

Whoever is asked decides itself: a node whose own disk hangs, that is wounded or has no state, does not campaign. Who
does not take over is not asked again for a while, because each time writes are held.
"""

from __future__ import annotations

from typing import Final

from durable_raft.raft import room, transfer
from durable_raft.raft.messages import Envelope, TimeoutNow
from durable_raft.raft.state import RaftState
from durable_raft.raft.types import LEADER, NodeId

PAUSE: Final = 10
"""Election timeouts until a leader whose successor did not take over asks again."""


def consider(state: RaftState, now: int) -> None:
    """Begin to hand over if somebody else had better lead."""
    if state.role is not LEADER or state.transfer is not None:
        return
    if state.is_disk_stalled(now):
        # What is full as well does not matter: its disk takes nothing.
        _leave_hung_disk(state, now)
    else:
        _leave_full_disk(state, now)


def _leave_hung_disk(state: RaftState, now: int) -> None:
    """Hand over to a voter whose disk took what this one's did not, or that lacks nothing."""
    if now < state.hand_over.hung_from:
        return
    least = min(state.log.flushed + 1, state.log.last.index)
    able = [peer for peer in _fit(state, now) if state.progress[peer].match_index >= least]
    target = _roomiest(state, able)
    if target is not None:
        state.observe("leader_with_hung_disk", target=target, term=state.current_term)
        state.hand_over.hung_from = now + PAUSE * state.timeouts.longest(now)
        transfer.start(state, now, target)


def _leave_full_disk(state: RaftState, now: int) -> None:
    """Hand over if this leader's disk has too little room for writes, and a majority of the others has enough."""
    if now < state.hand_over.full_from:
        return
    if room.own(state) is room.AMPLE or not room.is_ample_on_majority(state):
        # Whoever leads has to refuse.
        return
    target = transfer.furthest(state, _with_room(state, _fit(state, now)))
    if target is not None:
        state.observe("leader_without_room", target=target, term=state.current_term)
        state.hand_over.full_from = now + PAUSE * state.timeouts.longest(now)
        transfer.start(state, now, target)


def last_word(state: RaftState, now: int) -> list[Envelope]:
    """Return what a leader says whose disk failed: somebody else is to campaign, for this node stores nothing more.

    It promises nothing. Not all of the log may have reached whoever is asked, which is for the voters to judge.
    """
    if state.role is not LEADER:
        return []
    target = _roomiest(state, _fit(state, now))
    return [] if target is None else [Envelope(target, TimeoutNow(state.current_term))]


def _fit(state: RaftState, now: int) -> list[NodeId]:
    return transfer.fit(state, now - state.timeouts.longest(now))


def _with_room(state: RaftState, peers: list[NodeId]) -> list[NodeId]:
    return [peer for peer in peers if state.progress[peer].room is room.AMPLE]


def _roomiest(state: RaftState, peers: list[NodeId]) -> NodeId | None:
    """Return whoever has most of the log, if possible of those that have room for more."""
    return transfer.furthest(state, _with_room(state, peers) or peers)
