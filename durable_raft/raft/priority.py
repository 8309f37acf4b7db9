"""Election priorities: who is to lead when several nodes could, as an operator has set it (MongoDB has the same).

- The reachable voter with the highest priority leads, in the end: a leader with a lower one hands over to it, once it
  has kept up for a while (hand_over.py).
- When a leader falls silent, those with the highest priority stand in the first half of the election timeouts, and the
  others in the second. No timeout becomes longer by that, and none is shorter.
- A node of priority 0 stands as the last resort. It lets election timeouts pass while a voter with a higher one can be
  reached, but not for ever (reluctance.py).

Each node knows its own, and those of the nodes to which it has a link: these say it when the link is made. So nobody
waits for a node that is gone. The leader that has just fallen silent does not count either. Nodes may know different
things: it is a preference, and nothing of safety depends on it. Votes are granted as ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from durable_raft.raft.types import DEFAULT_PRIORITY, NodeId


class Priorities:
    """What one node knows of them."""

    __slots__ = ("_reachable", "are_equal", "own")

    def __init__(self, own: int) -> None:
        self.own = own
        self._reachable: dict[NodeId, int] = {}
        self.are_equal = True
        """Whether no reachable node has another one."""

    def note(self, reachable: Mapping[NodeId, int]) -> None:
        """Note who can be reached, and with which priority."""
        self._reachable = dict(reachable)
        self.are_equal = all(priority == self.own for priority in reachable.values())

    def of(self, peer: NodeId) -> int:
        """Return the priority of ``peer``; of one that cannot be reached it is not known, and taken for the default."""
        return self._reachable.get(peer, DEFAULT_PRIORITY)

    def share_of(self, low: int, high: int, rivals: Iterable[NodeId]) -> tuple[int, int]:
        """Return which part of a range of election timeouts is this node's.

        Args:
            low: the shortest of the range (ms).
            high: the longest.
            rivals: the other voters that may lead.
        """
        others = self._of_reachable(rivals)
        middle = (low + high) // 2
        if any(priority > self.own for priority in others):
            return middle, high
        if any(priority < self.own for priority in others):
            return low, middle
        return low, high

    def is_last_resort(self, rivals: Iterable[NodeId]) -> bool:
        """Return whether this node is to lead only if none of ``rivals`` can."""
        return self.own == 0 and any(priority > 0 for priority in self._of_reachable(rivals))

    def _of_reachable(self, peers: Iterable[NodeId]) -> list[int]:
        return [self._reachable[peer] for peer in peers if peer in self._reachable]
