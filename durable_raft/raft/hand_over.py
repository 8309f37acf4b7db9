"""A leader that had better not lead hands over by itself (transfer.py), without waiting to be replaced:

- one whose disk *hangs*: the others store what it cannot. It sends no heartbeats, so the others would elect somebody
  anyway (replication.py), an election timeout later. It goes by the evidence: another voter has on its disk what this
  one's did not take. Where all disks stand still, or none of the others is known to be better, nobody is asked;
- one whose disk is *full*: it would refuse every write, though the others have room for them (room.py);
- one whose disk *failed*: its node ends, and says so on its way out (``last_word``);
- one with a lower *priority* than another voter that has kept up with it for a while (priority.py).

Whoever is asked decides itself: a node whose own disk hangs, that is wounded or has no state, does not campaign. Who
does not take over is not asked again for a while, because each time writes are held.
"""

from __future__ import annotations

from typing import Final

from durable_raft.raft import room, transfer
from durable_raft.raft.messages import Envelope, TimeoutNow
from durable_raft.raft.quorum import has_quorum
from durable_raft.raft.state import RaftState
from durable_raft.raft.types import LEADER, NodeId

PAUSE: Final = 10
"""Election timeouts until a leader whose successor did not take over asks again."""

KEEPING_UP: Final = 30
"""Election timeouts for which a voter of a higher priority must have kept up: one that comes and goes, or whose disk
hangs now and then, does not get leadership each time it is well for a moment."""

DOUBLINGS_MAX: Final = 5
"""So often that time doubles while those of a higher priority do not take over: nothing is wrong with who leads."""


def consider(state: RaftState, now: int) -> None:
    """Begin to hand over if somebody else had better lead."""
    if state.role is not LEADER or state.transfer is not None:
        return
    if state.is_disk_stalled(now):
        # What is full as well does not matter: its disk takes nothing.
        _leave_hung_disk(state, now)
        return
    _leave_full_disk(state, now)
    _make_way(state, now)


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
    if room.own(state) is room.AMPLE:
        return
    # Who has not answered in this term may be as full: two such nodes would give it to each other again and again.
    ample = _with_room(state, [peer for peer in _fit(state, now) if state.progress[peer].is_heard])
    if not has_quorum(state.configuration, ample):
        # Whoever leads has to refuse.
        return
    target = transfer.furthest(state, ample)
    if target is not None:
        state.observe("leader_without_room", target=target, term=state.current_term)
        state.hand_over.full_from = now + PAUSE * state.timeouts.longest(now)
        transfer.start(state, now, target)


def _make_way(state: RaftState, now: int) -> None:
    """Hand over to a voter of a higher priority that has kept up for long enough, and has room."""
    watch = state.hand_over
    if state.transfer is not None or state.is_changing or state.priorities.are_equal:
        watch.keeping_up.clear()
        return
    if watch.term != state.current_term:
        watch.begin(state.current_term)
    own, longest = state.priorities.own, state.timeouts.longest(now)
    _watch(state, now, [peer for peer in _with_room(state, _fit(state, now)) if state.priorities.of(peer) > own])
    if now < watch.preferred_from:
        return
    able = [p for p, (since, at) in watch.keeping_up.items() if now - since >= KEEPING_UP * longest and at == now]
    target = transfer.furthest(state, able)
    if target is not None:
        state.observe("makes_way", target=target, priority=state.priorities.of(target), own=own)
        watch.preferred_from = now + (KEEPING_UP << watch.attempts) * longest
        watch.attempts = min(watch.attempts + 1, DOUBLINGS_MAX)
        transfer.start(state, now, target)


def _watch(state: RaftState, now: int, preferred: list[NodeId]) -> None:
    """See who of ``preferred`` keeps up: holds, an election timeout ago at the latest, what was committed before."""
    watch, longest = state.hand_over, state.timeouts.longest(now)
    keeping_up: dict[NodeId, tuple[int, int]] = {}
    for peer in preferred:
        since, level_at = watch.keeping_up.get(peer, (now, now - 1))
        if state.progress[peer].match_index >= watch.committed_then:
            level_at = now
        if now - level_at <= longest:
            keeping_up[peer] = (since, level_at)
    watch.keeping_up, watch.committed_then = keeping_up, state.log.commit_index


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
