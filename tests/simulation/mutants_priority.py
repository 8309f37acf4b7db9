"""Planted bugs of election priorities (raft/priority.py): who leads in the end."""

from __future__ import annotations

from collections.abc import Sequence

from durable_raft.raft import hand_over
from durable_raft.raft.priority import Priorities
from tests.simulation.planting import Patch, mutant


@mutant
def leader_never_makes_way() -> Sequence[Patch]:
    """A leader stays, though a voter that an operator prefers keeps up with it."""
    return [(hand_over, "_make_way", lambda _state, _now: None)]


@mutant
def priorities_turned_around() -> Sequence[Patch]:
    """A leader takes the lower priority for the better one."""
    real = Priorities.of
    return [(Priorities, "of", lambda self, peer: 2 * self.own - real(self, peer))]
