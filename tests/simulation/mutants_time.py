"""Planted bugs of the cluster time."""

from __future__ import annotations

from collections.abc import Sequence

from durable_raft.kv.machine import Machine
from durable_raft.server.agreed_clock import AgreedClock, Agreement
from durable_raft.server.cluster_time import ClusterTime
from durable_raft.server.timekeeper import Timekeeper
from tests.simulation.planting import Patch, mutant


@mutant
def own_clock_sets_time() -> Sequence[Patch]:
    """A leader steers by its own clock, as if it were the only one."""

    def look(self: AgreedClock, now_ms: int, own_ms: int) -> Agreement:
        del self, now_ms
        return Agreement(own_ms, 0, own_ms)

    return [(AgreedClock, "look", look)]


@mutant
def jump_without_majority() -> Sequence[Patch]:
    """A new leader that does not know the time takes its own clock's, whatever others would say."""

    def begin(self: Timekeeper, now_ms: int) -> bool:
        self._start("clocks", self._own_ms(), now_ms)
        return True

    return [(Timekeeper, "_begin", begin)]


@mutant
def pace_unbounded() -> Sequence[Patch]:
    """The cluster time is set to the agreed clock at once, wherever that is."""

    def steer(self: ClusterTime, now_ms: int, agreed_ms: int | None) -> None:
        if agreed_ms is not None:
            self.set(agreed_ms, now_ms)

    return [(ClusterTime, "steer", steer)]


@mutant
def reset_only_moves_ahead() -> Sequence[Patch]:
    """Every second replica takes no step back: its time never falls."""
    made: list[int] = []

    def reset(self: Machine, time_ms: int) -> None:
        if id(self) not in made:
            made.append(id(self))
        if made.index(id(self)) % 2:
            self._keyspace.reset_time(time_ms)
        else:
            self._keyspace.advance_time(time_ms)

    return [(Machine, "reset_time", reset)]
