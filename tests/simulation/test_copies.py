"""Volumes that were rolled back where one witness alone knows: what the leader is owed (raft/lives.py)."""

from __future__ import annotations

import pytest

from durable_raft.raft import lives
from durable_raft.raft.state import RaftState
from durable_raft.raft.types import Index, NodeId, Term
from tests.simulation.disk import Image
from tests.simulation.swarm import MS
from tests.simulation.test_timeouts import slow_world
from tests.simulation.world import World

SECOND = 1_000 * MS


class RolledBack:
    """A follower whose volume goes back within its present life, and whom the leader alone hears until it resumes."""

    def __init__(self, seed: int, *, is_slow: bool = False) -> None:
        """Have it happen in a world without any other fault.

        Args:
            is_slow: whether the disk that went back hangs until the leader was heard: the life is told after that.
        """
        self.is_slow = is_slow
        self.is_heard_first = False
        self.world: World = slow_world(seed, think=50 * MS, clients=3, duration=15 * SECOND)
        self.forgotten = 0
        """Entries that the volume held, and holds no more."""
        self.world.at(5 * SECOND, None, self._take)

    def _take(self) -> None:
        leader = self.world.leader()
        assert leader is not None
        site = next(each for each in self.world.up() if each is not leader)
        self.world.at(8 * SECOND, None, self._roll_back, site.name, leader.name, site.disk.image())

    def _roll_back(self, name: NodeId, leader: NodeId, image: Image) -> None:
        world, site = self.world, self.world.sites[name]
        assert world.leader() is world.sites[leader], "the leader of before leads on"
        self.forgotten = site.disk.promised.last_index - image.promised.last_index
        site.crashed("its volume is rolled back")
        site.went_back(image, is_copied=False)
        if self.is_slow:
            site.hung_until = world.now + 2 * SECOND
            world.at(site.hung_until - 1, None, self._look, name, leader)
        for (source, target), wire in world.network.wires.items():
            wire.is_cut = target == name and source != leader
        world.at(world.now + 3 * SECOND, None, world.network.join)

    def _look(self, name: NodeId, leader: NodeId) -> None:
        process = self.world.sites[name].process
        assert process is not None
        state = process.node.raft.state
        self.is_heard_first = state.leader_id == leader and not state.doubts.answers


@pytest.mark.parametrize("is_slow", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_volume_that_went_back_in_its_present_life_is_known_by_what_it_owes(seed: int, *, is_slow: bool) -> None:
    """No life was forgotten, and its place is its own; the leader remembers what it acknowledged, and admits it."""
    story = RolledBack(seed, is_slow=is_slow)
    story.world.run()
    assert story.forgotten > 5
    assert story.is_heard_first == is_slow
    assert story.world.counts["went_back"] == 1
    assert story.world.counts["peer_went_back"] == 0


def test_a_leader_that_is_heard_first_and_forgets_is_no_witness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both rules that keep what is owed until the life is told are broken: the order of two messages decides."""
    monkeypatch.setattr(lives, "is_unheard", lambda *_: False)
    monkeypatch.setattr(RaftState, "remember_owed", lambda _: None)
    story = RolledBack(0, is_slow=True)
    story.world.run()
    assert story.is_heard_first
    assert story.world.counts["went_back"] == 0


def test_without_what_is_owed_it_votes_as_if_nothing_had_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    """The witness above is the only one."""
    monkeypatch.setattr(RaftState, "owed_by", lambda *_: (Term(0), Term(0), Index(0)))
    story = RolledBack(0)
    story.world.run()
    assert story.forgotten > 5
    assert story.world.counts["went_back"] == 0
