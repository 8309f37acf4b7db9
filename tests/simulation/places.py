"""The rule for what is kept of configurations beside the log: each place names the one that counts there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable_raft.errors import InvariantViolation
from durable_raft.raft.configuration import decode
from durable_raft.raft.types import CONFIGURATION, Configuration
from durable_raft.storage.state.meta import KvMeta

if TYPE_CHECKING:
    from tests.simulation.world import World


class PlaceRules:
    """Judges every disk and every node of a world by the entries that are committed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.made: list[Configuration] = []
        """Of the entries that are committed, ascending."""
        self._judged = 0
        """So many committed entries were looked at."""

    def look(self) -> list[Configuration]:
        """Take note of what was committed since the last look; return the configurations among it."""
        committed, known = self._world.committed, len(self.made)
        for entry in committed[self._judged :]:
            if entry.kind is CONFIGURATION:
                self.made.append(decode(entry.index, entry.payload))
        self._judged = len(committed)
        return self.made[known:]

    def counts_at(self, index: int) -> Configuration | None:
        """Return the configuration that counts at a committed place, by the entries alone."""
        self.look()
        if index > self._judged:
            raise InvariantViolation(f"{index} is not applied anywhere, and a state is beyond it")
        return next((each for each in reversed(self.made) if each.index <= index), None)

    def judge(self) -> None:
        """Require that each state, in use or coming in, names the configuration of its own place, and so each node."""
        counts = self._world.counts
        for site in self._world.sites.values():
            kv = site.disk.kv
            coming = [each[0] for each in (kv.waiting, kv.partial) if each is not None]
            for meta in (*([] if kv.meta is None else [kv.meta]), *coming):
                self._judge_state(site.name, meta)
            counts["snapshots with a configuration"] += any(each.stored_configuration for each in coming)
            if site.process is not None and site.process.is_alive:
                log = site.process.node.raft.log
                applied, configurations = log.last_applied, log.configurations
                if applied <= len(self._world.committed):
                    self._require(f"{site.name} at {applied}", configurations.stored_at(applied), applied)
                    counts["bases with a configuration"] += bool(configurations.stored_at(log.base.index))

    def _judge_state(self, name: str, meta: KvMeta) -> None:
        index = meta.applied.point.index
        self._require(f"the state of {name} at {index}", meta.stored_configuration, index)
        self._world.counts["states with a configuration"] += meta.stored_configuration is not None

    def _require(self, what: str, named: Configuration | None, index: int) -> None:
        expected = self.counts_at(index)
        if named != expected:
            raise InvariantViolation(f"{what} names {named}, and {expected} counts there")
