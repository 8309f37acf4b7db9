"""Leaders that hand over by themselves, with clients at work (raft/hand_over.py)."""

from __future__ import annotations

from collections import Counter

import pytest

from durable_raft.raft.types import NodeId
from tests.simulation.swarm import MS
from tests.simulation.test_timeouts import slow_world
from tests.simulation.world import World

SECOND = 1_000 * MS
STRUCK = 5 * SECOND


class HungDisks:
    """Disks that hang for two seconds, and nothing else; nothing but the core's rules says what becomes of it."""

    def __init__(self, seed: int, *, hang: str) -> None:
        self.world: World = slow_world(seed, think=20 * MS, clients=3, duration=8 * SECOND)
        self.hang = hang
        """Whose: the leader's, or all."""
        self.leader: NodeId | None = None
        self.successor: NodeId | None = None
        """Who leads a second later."""
        self.seen: Counter[str] = Counter()
        """What was counted in that second."""
        self.world.at(STRUCK, None, self._strike)
        self.world.at(STRUCK + SECOND, None, self._look)

    def _strike(self) -> None:
        world, leader = self.world, self.world.leader()
        assert leader is not None
        self.leader = leader.name
        for site in [leader] if self.hang == "leader" else world.up():
            site.hung_until = world.now + 2 * SECOND
        self.seen = Counter(world.counts)

    def _look(self) -> None:
        leader = self.world.leader()
        self.successor = leader.name if leader else None
        self.seen = self.world.counts - self.seen


@pytest.mark.parametrize("seed", range(2))
def test_a_leader_with_a_hung_disk_hands_over(seed: int) -> None:
    """Nobody has to notice that it is silent, and it does not lead again when its disk is back."""
    story = HungDisks(seed, hang="leader")
    story.world.run()
    assert story.successor not in (None, story.leader)
    assert story.seen["leader_with_hung_disk"] == story.seen["became_candidate"] == story.seen["became_leader"] == 1
    assert story.seen["became_pre_candidate"] == 0
    assert story.world.counts["leader_with_hung_disk"] == 1


@pytest.mark.parametrize("seed", range(2))
def test_where_all_disks_hang_nobody_is_asked_to_lead(seed: int) -> None:
    """It would change nothing."""
    story = HungDisks(seed, hang="all")
    story.world.run()
    assert story.seen["heartbeat_withheld"] > 0
    assert story.seen["leader_with_hung_disk"] == story.world.counts["leader_with_hung_disk"] == 0
