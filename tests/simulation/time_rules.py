"""Rules of the cluster time, checked on every leader after every event, against the true time that only a run knows.

- It runs between 0.9 and 1.1 times as fast as the leader's monotonic clock, and never back, but for a reset.
- While a minority of the clocks is wrong it is the true time, to within ``TOLERANCE_MS`` and what the faults of the run
  explain: jumps and drifts of monotonic clocks, and outages that no majority of clocks could tell. A slow link and a
  node that was paused explain nothing: what was long under way is not believed while anybody can be heard in time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from durable_raft.errors import InvariantViolation
from durable_raft.raft.types import Role, Term
from durable_raft.server.cluster_time import PACE_CHANGE_MAX

if TYPE_CHECKING:
    from durable_raft.server.node import Node
    from tests.simulation.process import Process
    from tests.simulation.world import World

TOLERANCE_MS: Final = 1_500
"""Clocks that are right are 0.2 s off the truth at most (world.py), and read to 0.25 s. What a leader told in time is
at most 0.5 s old, and two leaders may follow each other before one has steered."""


class _Seen(NamedTuple):
    process: Process
    term: Term
    resets: int
    monotonic_ms: int
    time_ms: int


class TimeRules:
    """The rules over one run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: dict[str, _Seen] = {}
        self._ahead_ms = self._behind_ms = 0
        """What is explained, beside what drifts."""
        self.checks = 0

    def true_ms(self) -> int:
        """Return the true time of day."""
        return self._world.epoch_ms + self._world.now // 1000

    def monotonic_jumped(self, seconds: float) -> None:
        """A monotonic clock has jumped ahead: its node may take the cluster time along."""
        self._ahead_ms += int(seconds * 1000)

    def begins(self, fields: Mapping[str, object]) -> None:
        """A leader has begun without the word of a majority of clocks: the outage before is not counted.

        Or it has waited for a word in time about the cluster time, and has begun with one that was long under way.
        """
        time_ms = fields["time_ms"]
        if fields["source"] in ("log", "middle", "late") and isinstance(time_ms, int):
            self._behind_ms = max(self._behind_ms, self.true_ms() - time_ms)
            if fields["source"] == "middle":
                self._ahead_ms = max(self._ahead_ms, time_ms - self.true_ms())

    def event_ended(self, process: Process) -> None:
        """Check a node after an event.

        Raises:
            InvariantViolation: naming the rule and the values.
        """
        node = process.node
        if node.raft.role is not Role.LEADER or node.timekeeper._office != node.raft.current_term:
            return
        time_ms = node.timekeeper.stamp_ms()
        if time_ms is None:
            return
        self.checks += 2
        self._check_pace(process, node, time_ms)
        if not self._world.swarm.most_clocks_err:
            self._check_truth(process.site.name, time_ms)

    def _check_pace(self, process: Process, node: Node, time_ms: int) -> None:
        name, now = process.site.name, node._now_ms()
        resets = self._world.faults["time_reset"]
        before = self._seen.get(name)
        self._seen[name] = _Seen(process, node.raft.current_term, resets, now, time_ms)
        if before is None or before[:3] != self._seen[name][:3]:
            return
        moved, elapsed = time_ms - before.time_ms, now - before.monotonic_ms
        if not elapsed * (1 - PACE_CHANGE_MAX) - 2 <= moved <= elapsed * (1 + PACE_CHANGE_MAX) + 2 or moved < 0:
            raise InvariantViolation(f"Cluster time: {name} moved it by {moved} ms in {elapsed} ms")

    def _check_truth(self, name: str, time_ms: int) -> None:
        offset = time_ms - self.true_ms()
        swarm = self._world.swarm
        drifted = TOLERANCE_MS + self._world.now / 1000 * swarm.clock_drift
        if not -(drifted + self._behind_ms) <= offset <= drifted + self._ahead_ms:
            raise InvariantViolation(f"Cluster time: {name} stamps {offset} ms ahead of the true time")
