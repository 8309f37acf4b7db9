"""How far messages may raise the term: a bounded step, so that one lie cannot use up the terms there are.

A term above the known one is believed as it stands (Figure 2, Rules for Servers): nothing proves it. An honest cluster
raises its term once for an election, and an election takes an election timeout. A node that was away for years, beside
a cluster that elected twenty times a second all the while, is a step of ``TERM_STEP_MAX`` behind after seven years.

The step is a budget that refills, not a limit of one message. With a limit of one message, two lies, one after the
other, would bring a node so far ahead that the others could never believe it again. With the budget, whoever hears of
the first lie can follow it, and has as much room left as the node that was lied to.
"""

from __future__ import annotations

from typing import Final

TERM_STEP_MAX: Final = 1 << 32
"""Terms by which messages may raise a node's term at once."""

REFILL_MS: Final = 3_600_000
"""In what time a budget that was used up is full again: of 2^63 terms the last is 245,000 years of lies away."""


class TermBudget:
    """What is left of one node's step; a life begins with all of it."""

    __slots__ = ("_at", "_left")

    def __init__(self, now: int) -> None:
        """Begin at ``now`` (ms)."""
        self._left = TERM_STEP_MAX
        self._at = now

    def left(self, now: int) -> int:
        """Return by how many terms a message may raise the term now."""
        return min(TERM_STEP_MAX, self._left + max(0, now - self._at) * TERM_STEP_MAX // REFILL_MS)

    def spend(self, now: int, terms: int) -> None:
        """Note that a message raised the term by ``terms``."""
        self._left, self._at = self.left(now) - terms, now
