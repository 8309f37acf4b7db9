"""Nodes of several programs in one cluster: an operator upgrades them, goes back, and raises the version now and then.

A program is what it can. The first can version 1 and knows no entry that raises it, as 0.1.0. The second is this one's,
the third is one to come. An operator does what docs/operating.md says, one node at a time. If a node cannot start with
its program, a newer one is installed. At the end every node gets one that can what the cluster has.

Two rules: no state names another version than the committed entries make at its place; the version is not raised over
the head of a member that runs an older program.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from durable_raft.errors import InvariantViolation, UnknownFormatVersion
from durable_raft.raft.messages import AppendEntries, FetchEntriesResponse
from durable_raft.raft.types import VERSION, Entry, Index
from durable_raft.raft.versions import FIRST, OURS, Versions, decode_version, require
from durable_raft.wire.messages import NodeMessage, SnapshotChunk
from tests.simulation.swarm import MS

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.site import Site
    from tests.simulation.world import World

PROGRAMS: Final = (Versions(FIRST, FIRST), OURS, Versions(FIRST, OURS.newest + 1))
"""In the order in which they were released."""


HASTE: Final = 0.3
"""How often an operator goes back at the very moment at which the version is being raised."""


class Upgrades:
    """One operator, and what is judged of versions."""

    def __init__(self, world: World) -> None:
        """Begin with the first program everywhere."""
        self._world = world
        self._rng = random.Random(world.rng_of("upgrades"))
        self._haste = random.Random(world.rng_of("haste"))
        self._is_over = False
        self._raised: list[tuple[Index, int]] = []
        """Where the committed entries raised the version, and to what."""
        self._judged = 0
        for site in world.sites.values():
            site.program = PROGRAMS[0]

    # -- what the operator does -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Plan the first deed."""
        self._plan_next()

    def end(self) -> None:
        """Install what can be of the cluster wherever that is not so; a node that runs takes it at its next start."""
        self._is_over = True
        for site in self._world.present():
            if not site.program.has(self._present()):
                self._install(site, PROGRAMS[-1])

    def _present(self) -> int:
        """Return the version by the committed entries."""
        self._look()
        return max((version for _, version in self._raised), default=FIRST)

    def _plan_next(self) -> None:
        world = self._world
        pause = int(self._rng.expovariate(1.0) * world.swarm.upgrade_interval) + 1
        world.at(world.now + pause, None, self._do)

    def _do(self) -> None:
        if self._is_over:
            return
        deed = self._rng.choices((self._upgrade, self._downgrade, self._raise), (3, 1, 3))[0]
        deed()
        self.judge()
        self._plan_next()

    def _upgrade(self) -> None:
        self._change(1)

    def _downgrade(self) -> None:
        self._change(-1)

    def _change(self, by: int) -> None:
        """Install the next program, or the one before, on a node that runs."""
        up = self._world.up()
        if not up:
            return
        site = self._rng.choice(up)
        at = PROGRAMS.index(site.program) + by
        if 0 <= at < len(PROGRAMS):
            self._world.counts["upgrades" if by > 0 else "downgrades"] += 1
            self._install(site, PROGRAMS[at])

    def _install(self, site: Site, program: Versions) -> None:
        self._world.say(f"** {site.name} gets the program of {program}")
        site.program = program
        site.crashed("another program is installed")

    def _raise(self) -> None:
        leader = self._world.leader()
        if leader is not None and (process := leader.process) is not None and not process.is_paused:
            process.run(self._ask_to_raise, (process,))

    def _ask_to_raise(self, process: Process) -> None:
        raised = process.node.raise_version(None, is_dry=False)
        counts = self._world.counts
        if not isinstance(raised, int):
            counts["raising refused"] += 1
            return
        counts["raising begun"] += 1
        self._world.say(f"** {process.site.name} raises the version to {raised}")
        for member in process.node.raft.configuration.ids():
            self._require_able(self._world.sites[member], raised)
        if self._haste.random() < HASTE:
            self._world.at(self._world.now, None, self._go_back, process.site)

    def _go_back(self, leader: Site) -> None:
        """Have all others run the first program at once: the entry has reached nobody, and may be cut or not."""
        self._world.counts["gone back in haste"] += 1
        for site in self._world.up():
            if site is not leader:
                self._install(site, PROGRAMS[0])

    def _require_able(self, site: Site, version: int) -> None:
        """What a process that has run for a while can, the leader must know."""
        low, high = self._world.swarm.link_delay
        process = site.process
        if process is None or self._world.now - process.started_at < 4 * (low + high) + 10 * MS:
            return
        if not process.platform.versions.has(version):
            raise InvariantViolation(f"Versions: raised to {version}, but {site.name} runs {process.platform.versions}")

    # -- what programs do -----------------------------------------------------------------------------------------

    def check_start(self, site: Site) -> None:
        """Refuse to start, as a program does whose directory was written by a newer one; raises that."""
        meta = site.disk.kv.meta
        require(site.program, FIRST if meta is None else meta.version, site.name)

    def refused(self, site: Site, error: UnknownFormatVersion) -> None:
        """Install a newer program on a node that ended, or did not start, for want of one; nothing of it is damage."""
        at = PROGRAMS.index(site.program)
        if at + 1 == len(PROGRAMS):
            raise InvariantViolation(f"Versions: {site.name} refuses its directory with the newest program: {error}")
        self._world.counts["ended for want of a newer program"] += 1
        site.program = PROGRAMS[at + 1]

    def takes(self, site: Site, message: NodeMessage) -> bool:
        """Return whether the program of a node knows the frame; the first one does not know every form."""
        is_first = site.program is PROGRAMS[0]
        entries: tuple[Entry, ...] = (
            message.entries if isinstance(message, AppendEntries | FetchEntriesResponse) else ()
        )
        is_known = all(entry.kind is not VERSION for entry in entries)
        if isinstance(message, SnapshotChunk):
            is_known = message.version == FIRST
        if is_first and not is_known:
            self._world.counts["frames of a newer program"] += 1
            self.left_behind(site)
        return is_known or not is_first

    def left_behind(self, site: Site) -> None:
        """Take note of a node that cannot follow with its program: in the end an operator has to see to it."""
        if self._is_over:
            self._world.at(self._world.now, None, self._bring_up, site, site.program)

    def _bring_up(self, site: Site, program: Versions) -> None:
        if site.program is program:
            self._install(site, PROGRAMS[-1])

    # -- what is judged -------------------------------------------------------------------------------------------

    def _look(self) -> None:
        committed = self._world.committed
        for entry in committed[self._judged :]:
            if entry.kind is VERSION:
                self._raised.append((entry.index, decode_version(entry.index, entry.payload)))
        self._judged = len(committed)

    def judge(self) -> None:
        """Require that each state, in use or coming in, names the version of its own place."""
        self._look()
        for site in self._world.sites.values():
            kv = site.disk.kv
            metas = [kv.meta, *(each[0] for each in (kv.waiting, kv.partial) if each is not None)]
            for meta in metas:
                if meta is None:
                    continue
                at = meta.applied.point.index
                expected = max((version for index, version in self._raised if index <= at), default=FIRST)
                if meta.version != expected:
                    raise InvariantViolation(f"Versions: {site.name} at {at} names {meta.version}, expected {expected}")
                self._world.counts["states with a version"] += meta.version > FIRST
