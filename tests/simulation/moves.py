"""Changes of members in a simulated cluster, and the rule for what is kept of them beside the log.

The leader is asked now and then to name another peer address of somebody. That changes no voter, and nobody is reached
by it here, so a seed goes its way. But it is a configuration like any other: an entry that counts at once, is cut with
its log, and has to be known where the log is compacted or replaced.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace
from typing import Final

from durable_raft.errors import ChangeRefused, InvariantViolation
from durable_raft.raft.changes import Readdress
from durable_raft.raft.configuration import decode
from durable_raft.raft.types import CONFIGURATION, Configuration, Role
from durable_raft.storage.state.meta import KvMeta
from tests.simulation.process import Process
from tests.simulation.swarm import MS
from tests.simulation.world import World

LOOK_MS: Final = 25
CHANGE_SHARE: Final = 0.2
"""How often, and at which share of its looks, a change is asked for."""


class MovingWorld(World):
    """A world whose members' addresses change; each look judges every disk and every node."""

    def __init__(self, seed: int, *, is_traced: bool = False) -> None:
        """Play ``seed`` with changes."""
        super().__init__(seed, is_traced=is_traced)
        self._moves = random.Random(self.rng_of("moves"))
        self._made: list[Configuration] = []
        """Of the entries that are committed, ascending."""
        self._judged = 0
        """So many committed entries were looked at."""
        self.at(self.swarm.election_max_ms * MS, None, self._look)

    def run(self) -> None:
        """Play the whole seed; in the end all go by the newest configuration."""
        super().run()
        self.judge()
        for site in self.up():
            if site.process is not None and site.process.node.raft.configuration != self._made[-1]:
                raise InvariantViolation(f"{site.name} goes by another configuration than the newest")

    def _look(self) -> None:
        self.judge()
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

    # -- the rule -------------------------------------------------------------------------------------------------

    def counts_at(self, index: int) -> Configuration | None:
        """Return the configuration that counts at a committed place, by the entries alone."""
        for entry in self.committed[self._judged :]:
            if entry.kind is CONFIGURATION:
                self._made.append(decode(entry.index, entry.payload))
        self._judged = len(self.committed)
        if index > self._judged:
            raise InvariantViolation(f"{index} is not applied anywhere, and a state is beyond it")
        return next((each for each in reversed(self._made) if each.index <= index), None)

    def judge(self) -> None:
        """Require that each state, in use or coming in, names the configuration of its own place, and so each node."""
        for site in self.sites.values():
            kv = site.disk.kv
            coming = [each[0] for each in (kv.waiting, kv.partial) if each is not None]
            for meta in (*([] if kv.meta is None else [kv.meta]), *coming):
                self._judge_state(site.name, meta)
            self.counts["snapshots with a configuration"] += any(each.stored_configuration for each in coming)
            if site.process is not None and site.process.is_alive:
                log = site.process.node.raft.log
                applied, configurations = log.last_applied, log.configurations
                if applied <= len(self.committed):
                    self._require(f"{site.name} at {applied}", configurations.stored_at(applied), applied)
                    self.counts["bases with a configuration"] += bool(configurations.stored_at(log.base.index))

    def _judge_state(self, name: str, meta: KvMeta) -> None:
        index = meta.applied.point.index
        self._require(f"the state of {name} at {index}", meta.stored_configuration, index)
        self.counts["states with a configuration"] += meta.stored_configuration is not None

    def _require(self, what: str, named: Configuration | None, index: int) -> None:
        expected = self.counts_at(index)
        if named != expected:
            raise InvariantViolation(f"{what} names {named}, and {expected} counts there")
