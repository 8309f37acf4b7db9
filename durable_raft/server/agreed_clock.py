"""Whose clock counts: the time of day that the clocks of a majority of the voters agree on.

A node asks every other one what time it is (wire/peer.py: AskTime). The answer was true at some moment between question
and answer, so it is known to half of the round trip (Cristian 1989). An answer that took longer than half of the bound
says nothing. A minority of wrong clocks changes nothing, however far they are off: the clocks that count are the
majority that lie closest together.

Times are integer milliseconds: ``now_ms`` of this process's monotonic clock, all others since the Unix epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median_low
from typing import Final, NamedTuple

from durable_raft.raft.quorum import has_quorum
from durable_raft.raft.types import Configuration, NodeId

READING_LIFE_MS: Final = 10_000
"""After this an answer counts no more: by then its node was asked again several times, and is silent."""


class Agreement(NamedTuple):
    """What the clocks say at one moment."""

    time_ms: int | None
    """The time of day; None while no majority agrees on it."""
    own_offset_ms: int | None
    """By how much this node's clock is ahead of that."""
    median_ms: int | None
    """The middle of all clocks that are known, agreed or not; None while those are no majority."""


class AgreedClock:
    """The clocks of all voters, as this node has read them."""

    def __init__(self, node_id: NodeId, configuration: Callable[[], Configuration], bound_ms: int) -> None:
        """Begin with no clock but this node's own.

        Args:
            node_id: this node's.
            configuration: returns the present one, whose voters' clocks count.
            bound_ms: clocks that lie within it of each other agree.
        """
        self.bound_ms = bound_ms
        self._node_id = node_id
        self._configuration = configuration
        self._readings: dict[NodeId, tuple[int, int]] = {}
        """(the peer's time of day minus this node's monotonic clock, when it was read)."""

    def read(self, peer: NodeId, now_ms: int, asked_ms: int, time_of_day_ms: int) -> None:
        """Note what ``peer`` answered at ``now_ms`` to what it was asked at ``asked_ms``."""
        round_trip_ms = now_ms - asked_ms
        if 0 <= round_trip_ms <= self.bound_ms // 2:
            self._readings[peer] = (time_of_day_ms + round_trip_ms // 2 - now_ms, now_ms)

    def look(self, now_ms: int, own_ms: int) -> Agreement:
        """Return what the clocks say now, of which this node's own shows ``own_ms``."""
        own = own_ms - now_ms
        configuration = self._configuration()
        fresh = {node: offset for node, (offset, at_ms) in self._readings.items() if now_ms - at_ms <= READING_LIFE_MS}
        fresh[self._node_id] = own
        clocks = sorted((offset, node) for node, offset in fresh.items() if configuration.has_voter(node))
        closest = _closest_quorum(clocks, configuration)
        if closest is None:
            return Agreement(None, None, None)
        middle = median_low([offset for offset, _ in clocks]) + now_ms
        if closest[-1] - closest[0] > self.bound_ms:
            return Agreement(None, None, middle)
        agreed = median_low(closest)
        return Agreement(agreed + now_ms, own - agreed, middle)


def _closest_quorum(clocks: list[tuple[int, NodeId]], configuration: Configuration) -> list[int] | None:
    """Return the offsets of the neighbours in ``clocks`` that are a quorum and lie closest together; None: nobody is.

    Args:
        clocks: (offset, whose clock), ascending.
        configuration: whose quorum.
    """
    found: list[list[int]] = []
    for first in range(len(clocks)):
        for end in range(first + 1, len(clocks) + 1):
            if has_quorum(configuration, [node for _, node in clocks[first:end]]):
                found.append([offset for offset, _ in clocks[first:end]])
                break
    return min(found, key=lambda offsets: offsets[-1] - offsets[0], default=None)
