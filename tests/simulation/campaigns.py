"""Judges how nodes stand for election: each that fails waits longer, and what was learned is forgotten in calm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from durable_raft.errors import InvariantViolation
from durable_raft.raft.timeouts import HALF_LIFE_MS, Timeouts

if TYPE_CHECKING:
    from tests.simulation.process import Process

CALM: Final = 20
"""Half-lives after which the worst that any timeout can teach is forgotten."""


class Campaigns:
    """The campaigns of one life of a node."""

    def __init__(self) -> None:
        self._in_a_row = 0
        """Elections that this node stood for one after the other: it followed and led nobody in between."""
        self._stood_at = 0
        """When it stood last (ms, by its own clock)."""

    def note(self, process: Process, event: str) -> None:
        """Note an event of the node's log.

        Raises:
            InvariantViolation: the node stands for election again too early.
        """
        if event in ("became_follower", "became_leader"):
            self._in_a_row = 0
        elif event == "became_candidate":
            self._stand(process)

    def _stand(self, process: Process) -> None:
        """Judge the next election in a row: each time out of the one before doubles the shortest timeout."""
        config, now = process.node.raft.state.config, process.node._now_ms()
        shortest, longest = config.election_timeout_min_ms, config.election_timeout_max_ms
        bound = max(config.election_timeout_bound_ms, longest) * shortest // longest
        least = min(shortest << self._in_a_row - 1, bound) if self._in_a_row else 0
        waited = now - self._stood_at
        # A clock may begin far below zero: the first election of a life has none before it.
        if process.learns and self._in_a_row and waited < least:
            raise InvariantViolation(
                f"Elections back off: {process.site.name} stands again after {waited} ms, for the "
                f"{self._in_a_row + 1}th time in a row; at least {least}"
            )
        self._in_a_row += 1
        self._stood_at = now


def check_calm(name: str, timeouts: Timeouts, now: int, configured: tuple[int, int]) -> None:
    """Check that a node that led or followed to the end waits as configured after a long calm.

    Raises:
        InvariantViolation: it does not.
    """
    then = timeouts.election_range(now + CALM * HALF_LIFE_MS, is_voting=True)
    if then != configured:
        raise InvariantViolation(f"Timeouts come back: {name} waits {then} ms after a long calm, not {configured}")
