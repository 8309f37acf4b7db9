"""Planted bugs of what is waited for: they cost no safety, but the cluster its leaders."""

from __future__ import annotations

from collections.abc import Sequence

from durable_raft.raft.timeouts import Timeouts, Worst
from tests.simulation.planting import Patch, mutant


@mutant
def elections_never_back_off() -> Sequence[Patch]:
    """A candidate that lost stands again as early as the first time (Kafka's KRaft backs off)."""

    def election_range(self: Timeouts, now: int, *, is_voting: bool) -> tuple[int, int]:
        self.failed_campaigns = 0
        return sound(self, now, is_voting=is_voting)

    sound = Timeouts.election_range
    return [(Timeouts, "election_range", election_range)]


@mutant
def patience_never_comes_down() -> Sequence[Patch]:
    """What was late once is waited for ever after."""
    return [(Worst, "at", lambda self, _now: self._value)]


@mutant
def timeouts_beyond_their_bound() -> Sequence[Patch]:
    """Timeouts grow with what is late, however much that is."""

    def shortest(self: Timeouts, now: int) -> int:
        return max(self._min, 40 * self._late.at(now))

    return [(Timeouts, "shortest", shortest)]
