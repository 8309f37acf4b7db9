"""Leadership is handed over: the leader lets another node campaign at once (TimeoutNow, Ongaro §3.10).

Until then it takes no proposals, so that the other's log can come level with its own; whoever proposes holds what it
has. Reads are answered as ever. The other node asks for votes without a pre-vote, and says why, so that voters who hear
a leader answer it all the same. If it does not lead within an election timeout, the leader goes on as before.

An operator asks for it, a node that stops does it, a leader that is removed, and one that had better not lead
(hand_over.py).

Nothing here weakens Raft: any node may campaign at any time.
"""

from __future__ import annotations

from collections.abc import Iterable

from durable_raft.errors import ChangeRefused
from durable_raft.raft import election
from durable_raft.raft.changes import NotLeading
from durable_raft.raft.messages import TimeoutNow
from durable_raft.raft.state import RaftState
from durable_raft.raft.state_parts import Transfer
from durable_raft.raft.types import FOLLOWER, LEADER, NodeId


def transfer(state: RaftState, now: int, target: NodeId | None) -> NodeId:
    """Begin to hand leadership over; see ``Raft.transfer``."""
    if state.role is not LEADER:
        raise NotLeading("this node does not lead")
    if state.transfer is not None:
        raise ChangeRefused(f"leadership is being handed to {state.transfer.target}")
    heard_since = now - state.timeouts.longest(now)
    if target is None and (target := successor(state, heard_since)) is None:
        raise ChangeRefused("no other voter answers that could lead")
    if target == state.config.node_id or target not in state.configuration.voters:
        raise ChangeRefused(f"{target!r} is no other voter")
    if not _is_fit(state, target, heard_since):
        raise ChangeRefused(f"{target} does not answer, or its disk is not admitted yet")
    start(state, now, target)
    advance(state, now)
    return target


def successor(state: RaftState, heard_since: int = 0) -> NodeId | None:
    """Return the other voter that had best lead, of those that answered since then (ms); None: there is none."""
    return furthest(state, fit(state, heard_since))


def fit(state: RaftState, heard_since: int) -> list[NodeId]:
    """Return the other voters that may lead, as far as this leader knows: those that answered since then (ms)."""
    return [peer for peer in state.configuration.voters if _is_fit(state, peer, heard_since)]


def furthest(state: RaftState, peers: Iterable[NodeId]) -> NodeId | None:
    """Return whom of ``peers`` to ask: of those that hold what is committed the one with the highest priority, and of
    these whoever has most of the log. None: there is nobody.
    """
    commit_index = state.log.commit_index

    def rank(peer: NodeId) -> tuple[bool, int, int, NodeId]:
        match_index = state.progress[peer].match_index
        return match_index >= commit_index, state.priorities.of(peer), match_index, peer

    return max(peers, key=rank, default=None)


def _is_fit(state: RaftState, peer: NodeId, heard_since: int) -> bool:
    progress = state.progress.get(peer)
    return progress is not None and progress.is_voter and progress.heard_at >= heard_since


def start(state: RaftState, now: int, target: NodeId) -> None:
    """Take no more proposals, and give ``target`` an election timeout's time."""
    state.transfer = Transfer(target, now + state.timeouts.longest(now))
    state.observe("transfer_begun", target=target, term=state.current_term)


def advance(state: RaftState, now: int) -> None:
    """Let the other node campaign once it has the whole log; give up when its time is over."""
    under_way = state.transfer
    if under_way is None or state.role is not LEADER:
        return
    progress = state.progress.get(under_way.target)
    if progress is None or now >= under_way.until:
        state.transfer = None
        state.observe("transfer_given_up", target=under_way.target, term=state.current_term)
        if not state.has_vote and state.configuration.index <= state.log.commit_index:
            # It has no vote any more (membership.py): somebody else leads, or will.
            state.become_follower(now, state.current_term, None)
        return
    if progress.match_index == state.log.last.index and now >= under_way.ask_from:
        under_way.ask_from = now + state.config.heartbeat_ms
        state.send(under_way.target, TimeoutNow(state.current_term))


def handle_timeout_now(state: RaftState, now: int, source: NodeId) -> None:
    """Campaign at once, as the leader asks; a node that cannot lead does not."""
    is_fit = state.has_vote and state.may_lead and state.is_hard_state_flushed and not state.is_disk_stalled(now)
    if state.role is not FOLLOWER or state.leader_id != source or not is_fit:
        return
    state.become_candidate(now)
    state.is_successor = True
    election.ask_for_votes(state, now)
