"""Who leads, as one node sees it: whether that changed, since when nobody does, and who is to lead next."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from durable_raft.errors import ChangeRefused
from durable_raft.raft.core import Raft
from durable_raft.raft.types import NodeId, Role, Term
from durable_raft.server.peers import Link


def hand_over(raft: Raft, now: int, asked: Collection[NodeId]) -> NodeId | None:
    """Begin to hand leadership over, first to who has most of the log, then to whoever else answers.

    Args:
        raft: the core.
        now: ms.
        asked: who did not take over; nobody is asked twice.

    Returns:
        To whom; None: this node does not lead, or nobody is left.
    """
    under_way = raft.state.transfer
    if under_way is not None:
        return under_way.target
    targets = [voter for voter in raft.configuration.voters if voter not in asked] if asked else [None]
    for target in targets:
        try:
            return raft.transfer(now, target)
        except ChangeRefused:
            continue
    return None


def priorities_of(links: Mapping[NodeId, Link]) -> dict[NodeId, int]:
    """Return the election priorities of those to whom a link is up (raft/priority.py)."""
    return {peer: link.priority for peer, link in links.items() if link.is_up}


class LeadershipWatch:
    """Compares what the core and the links say now with what they said before."""

    def __init__(self, raft: Raft, is_reachable: Callable[[NodeId], bool], now_s: Callable[[], float]) -> None:
        self._state = raft.state
        self._is_reachable = is_reachable
        self._now_s = now_s
        self.leaderless_since: float | None = now_s()
        """Monotonic time since when no leader is known; None while one is."""
        self._known = (self._state.role, self._state.leader_id, self._state.current_term, False)

    def has_changed(self) -> bool:
        """Return whether role, leader, term, or whether the leader can be reached is another than was noted."""
        return self._present() != self._known

    def note(self) -> bool:
        """Note what is now; return whether it changed."""
        known = self._present()
        if known == self._known:
            return False
        if known[1] is None:
            self.leaderless_since = self.leaderless_since or self._now_s()
        else:
            self.leaderless_since = None
        self._known = known
        return True

    def _present(self) -> tuple[Role, NodeId | None, Term, bool]:
        state = self._state
        leader_id = state.leader_id
        is_led = leader_id is not None and self._is_reachable(leader_id)
        return state.role, leader_id, state.hard_state.current_term, is_led
