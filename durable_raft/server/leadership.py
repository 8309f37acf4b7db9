"""Who leads, as one node sees it: whether that changed since it was last looked at, and since when nobody does."""

from __future__ import annotations

from collections.abc import Callable

from durable_raft.raft.core import Raft
from durable_raft.raft.types import NodeId, Role, Term


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
