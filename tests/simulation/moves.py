"""Changes of addresses in a simulated cluster, under the rule for what is kept of configurations beside the log.

The leader is asked now and then to name another peer address of somebody. That changes no voter, and nobody is reached
by it here, so a seed goes its way. But it is a configuration like any other: an entry that counts at once, is cut with
its log, and has to be known where the log is compacted or replaced. Who comes and goes: members.py.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace
from typing import Final

from durable_raft.errors import ChangeRefused, InvariantViolation
from durable_raft.raft.changes import Readdress
from durable_raft.raft.types import Role
from tests.simulation.places import PlaceRules
from tests.simulation.process import Process
from tests.simulation.swarm import MS
from tests.simulation.world import World

LOOK_MS: Final = 25
CHANGE_SHARE: Final = 0.2
"""How often, and at which share of its looks, a change is asked for."""


class MovingWorld(World):
    """A world whose members' addresses change; each look judges every disk and every node."""

    def __init__(self, seed: int, *, is_traced: bool = False) -> None:
        """Play ``seed`` with changes of addresses, and no others."""
        super().__init__(seed, is_traced=is_traced, changes_members=False)
        self._moves = random.Random(self.rng_of("moves"))
        self._places = PlaceRules(self)
        self.at(self.swarm.election_max_ms * MS, None, self._look)

    def run(self) -> None:
        """Play the whole seed; in the end all go by the newest configuration."""
        super().run()
        self._places.judge()
        for site in self.up():
            if site.process is not None and site.process.node.raft.configuration != self._places.made[-1]:
                raise InvariantViolation(f"{site.name} goes by another configuration than the newest")

    def _look(self) -> None:
        self._places.judge()
        leader = self.leader()
        if not self.is_healing:
            if leader is not None and leader.process is not None and self._moves.random() < CHANGE_SHARE:
                leader.process.run(self._change, (leader.process,))
            self.at(self.now + LOOK_MS * MS, None, self._look)

    def _change(self, process: Process) -> None:
        raft = process.node.raft
        if raft.role is not Role.LEADER:
            return
        self.running = process
        member = self._moves.choice(raft.configuration.members)
        moved = replace(member, peer_address=f"moved-{self._moves.randrange(10**6)}:17000")
        with suppress(ChangeRefused):
            raft.change(process.node._now_ms(), raft.configuration.index, [Readdress(moved)])
            self.counts["changes"] += 1
        process.node.wake()
