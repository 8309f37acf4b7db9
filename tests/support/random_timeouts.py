"""Timeouts that follow no rule: what the algorithm must be safe with (Raft: "safety must not depend on timing")."""

from __future__ import annotations

import random

from durable_raft.raft.timeouts import Timeouts
from durable_raft.raft.types import RaftConfig


class RandomTimeouts(Timeouts):
    """Waits for a time that chance gives, another in every ms, from next to nothing to the bound."""

    def __init__(self, config: RaftConfig, seed: object) -> None:
        super().__init__(config)
        self._seed = seed

    def _drawn(self, now: int, what: str) -> int:
        """Return the same number for the same question in the same ms: work that is there stays there."""
        return random.Random(f"{self._seed} {now} {what}").randint(1, self.bound)

    def shortest(self, now: int) -> int:
        """Return any time."""
        return self._drawn(now, "shortest")

    def longest(self, now: int) -> int:
        """Return any time."""
        return self._drawn(now, "longest")

    def election_range(self, now: int, *, is_voting: bool) -> tuple[int, int]:
        """Return a range between any two times."""
        low, high = sorted((self._drawn(now, f"from {is_voting}"), self._drawn(now, f"to {is_voting}")))
        return low, high

    def hung_after(self, now: int) -> int:
        """Return any time, in one life always the same: a disk that hangs does so until it has flushed."""
        del now
        return self._drawn(0, "hung")
