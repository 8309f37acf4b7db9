"""What stands in for links, threads and crash points in the simulation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from durable_raft.errors import DurableRaftError, InvariantViolation
from durable_raft.raft.messages import Envelope
from durable_raft.raft.ready import Write
from durable_raft.raft.types import DEFAULT_PRIORITY, Identity, Member, NodeId
from durable_raft.raft.versions import Versions
from durable_raft.server.cluster_secret import SecretState
from durable_raft.server.crash_points import CrashPoints
from durable_raft.server.log_writer import Flushed, LogWriter
from durable_raft.server.peers import LinkEvents
from durable_raft.storage.log.log_store import LogStore
from durable_raft.wire.peer import NodeMessage
from tests.support.raft_trace import write_words

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.site import Site

Callback = Callable[..., object]


class SimulatedCrash(BaseException):
    """Kills the node at a crash point; nothing in the product catches it."""


class SimCrashPoints(CrashPoints):
    """Kills the node when the armed point is reached."""

    def arm(self, name: str, count: int) -> None:
        """Die when ``name`` is reached for the ``count``-th time from now."""
        self._armed, self._left = name, count

    def reach(self, name: str) -> None:
        """Raise ``SimulatedCrash`` at the armed point."""
        if name == self._armed:
            self._left -= 1
            if self._left <= 0:
                raise SimulatedCrash(name)


class SimLink:
    """Whether a peer is believed to be reachable."""

    def __init__(self) -> None:
        self.is_up = True
        self.dropped = 0
        self.priority = DEFAULT_PRIORITY
        self.is_refused_as_replaced = self.is_replaced = self.is_refused_as_removed = self.is_proven = False


class SimLinks:
    """``server.peers.Links`` to the simulated network: every message is judged before it leaves."""

    refusals = misbehaviours = 0
    secret = SecretState()

    def __init__(self, process: Process, identity: Identity, members: Sequence[Member], events: LinkEvents) -> None:
        self._process = process
        self._name = identity.node_id
        self._changed = events.changed
        self.receive = events.receive
        self.was_replaced = events.was_replaced
        self.links: dict[NodeId, SimLink] = {
            member.node_id: SimLink() for member in members if member.node_id != identity.node_id
        }
        self._cluster_version = events.cluster_version
        self.versions: dict[NodeId, Versions] = {}
        """What the program of each peer can that is heard."""
        self._too_old: set[NodeId] = set()
        for peer in self.links:
            self._greet(peer)

    def _greet(self, peer: NodeId) -> None:
        """Hear what ``peer`` says of its program when its link comes up, and hear no more of it if that is too old."""
        site = self._process.world.sites.get(peer)
        if site is None or site.process is None:
            return
        versions = site.process.platform.versions
        if self.can_be_heard(versions):
            self._too_old.discard(peer)
            self.versions[peer] = versions
        else:
            self._too_old.add(peer)
            self.refuse(site)

    def refuse(self, site: Site) -> None:
        """Take note of a node that is not heard for its program."""
        world = self._process.world
        world.counts["refused as too old"] += 1
        if world.upgrades is not None:
            world.upgrades.left_behind(site)

    def can_be_heard(self, versions: Versions) -> bool:
        """Return whether a node of such a program is heard."""
        return versions.has(self._cluster_version())

    async def start(self, host: str, port: int) -> None:
        """Nothing has to be dialled; who is to lead is known from the beginning."""
        del host, port
        if self._process.world.swarm.priorities:
            for peer, link in self.links.items():
                link.priority = self._process.world.sites[peer].config.election_priority
            self._changed()

    def hears(self, source: NodeId) -> bool:
        """Return whether this node hears ``source``."""
        return source not in self._too_old

    def follow(self, members: Sequence[Member]) -> None:
        """Nobody comes or goes here; where they do, links are dialled (dialled.py)."""
        assert {member.node_id for member in members} == {*self.links, self._name}

    def send(self, envelopes: Sequence[Envelope]) -> None:
        """Judge and send."""
        world = self._process.world
        for envelope in envelopes:
            target, message = envelope
            world.rules.message_leaves(self._name, target, message)
            world.network.send(self._name, target, message)

    def tell(self, target: NodeId, message: NodeMessage) -> None:
        """Send what is none of the core's."""
        self._process.world.network.send(self._name, target, message)

    def link_changed(self, peer: NodeId, *, is_up: bool) -> None:
        """Note that a link came up or went down."""
        self.links[peer].is_up = is_up
        self.versions.pop(peer, None)
        if is_up:
            self._greet(peer)
        self._changed()

    def close(self) -> None:
        """Nothing to close."""


LOOK_US: Final = 20_000
"""How often the mover looks whether something is to be moved."""

ROOM_MS: Final = 20
"""How long a write that found no room waits."""


class _NoRoom(Exception):
    """The disk is full: the transaction is tried again later."""


class SimLogWriter(LogWriter):
    """The real log writer's grouping, run by disk events instead of a thread."""

    def __init__(
        self,
        process: Process,
        store: LogStore,
        crash_points: CrashPoints,
        on_flushed: Callable[[Flushed], None],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        super().__init__(store, process.site.clock, crash_points, on_flushed, on_failed)
        self._process = process
        self._is_busy = False
        self._is_looking = False
        self._waiting: list[Write] = []
        """Writes that came while a transaction was under way; the next one takes them."""
        self._begun: list[Write] = []
        """Writes of the transaction under way."""

    def start(self) -> None:
        """There is no thread."""

    def submit(self, write: Write) -> None:
        """Queue a write; the disk takes its time."""
        process = self._process
        world = process.world
        world.rules.entries_accepted(process.site.name, write.entries)
        self._waiting.append(write)
        if world.is_traced:
            world.say(f"    {process.site.name} hands to its disk: {write_words(write)}")
        if not self._is_busy:
            self._begin()

    def persist_now(self, write: Write) -> Flushed | None:
        """Write on the node's own loop now and then, when the disk is free and quick."""
        process = self._process
        is_hung = process.site.hung_until > process.world.now
        if self._is_busy or is_hung or process.rng.random() < 0.4:
            return None
        process.world.rules.entries_accepted(process.site.name, write.entries)
        process.world.counts["written on the loop"] += 1
        self._begun = [write]
        flushed = super().persist_now(write)
        self._look_at_journal()
        return flushed

    def _look_at_journal(self) -> None:
        """Have the mover look in a moment, while it has anything to do."""
        if self._mover is None or self._is_looking or not self._mover.has_work:
            return
        self._is_looking = True
        world = self._process.world
        world.at(world.now + self._process.site.draw_disk_delay() + LOOK_US, self._process, self._look)

    def _look(self) -> None:
        process, mover = self._process, self._mover
        self._is_looking = False
        if mover is None or process.site.hung_until > process.world.now:
            self._look_at_journal()
            return
        try:
            mover.work()
        except InvariantViolation:
            raise
        except DurableRaftError as error:
            self._on_failed(error)
            return
        self._look_at_journal()

    def _begin(self) -> None:
        self._is_busy = True
        for write in self._waiting:
            super().submit(write)
        self._begun, self._waiting = self._waiting, []
        world = self._process.world
        world.at(world.now + self._process.site.draw_disk_delay(), self._process, self._complete)

    def _complete(self) -> None:
        process = self._process
        if process.site.hung_until > process.world.now:
            process.world.at(process.site.hung_until, process, self._complete)
            return
        self._is_busy = False
        try:
            self._flush_next_group()
        except InvariantViolation:
            raise
        except _NoRoom:
            self._waiting, self._begun = self._begun + self._waiting, []
            self._is_busy = True
            process.world.at(process.world.now + ROOM_MS * 1000, process, self._begin)
            return
        except DurableRaftError as error:
            self._on_failed(error)
            return
        self._look_at_journal()
        if process.world.is_traced:
            process.world.say(f"    {process.site.name} flushed up to {process.site.disk.promised.last_index}")
        if self._waiting and not self._is_busy:
            self._begin()

    def _wait_for_room(self) -> bool:
        raise _NoRoom

    def drain(self) -> list[Write]:
        """Return the writes that are not known to be flushed, in order."""
        flushed = self._process.store.number
        return [write for write in self._begun + self._waiting if write.number > flushed]


class SimWorker:
    """A ``Worker``: one piece of work after the other, each done at the end of its time."""

    def __init__(self, process: Process, on_failed: Callable[[BaseException], None]) -> None:
        self._process = process
        self._on_failed = on_failed
        self.waiting: deque[tuple[Callable[[], object], Callback]] = deque()
        """Work that has not touched the disk yet."""
        self._is_busy = False

    def start(self) -> None:
        """There is no thread."""

    def submit(self, work: Callable[[], Any], done: Callback) -> None:
        """Have ``work`` done after all that waits."""
        self.waiting.append((work, done))
        if not self._is_busy:
            self._begin()

    def settle(self) -> None:
        """Do what waits now; what follows it comes later."""
        while self.waiting:
            work, done = self.waiting.popleft()
            self._process.soon.append((done, (work(),)))

    def stop(self, timeout_s: float) -> bool:
        """There is no thread."""
        del timeout_s
        return True

    def _begin(self) -> None:
        self._is_busy = True
        world = self._process.world
        world.at(world.now + self._process.site.draw_disk_delay() * 3, self._process, self._complete)

    def _complete(self) -> None:
        process = self._process
        if process.site.hung_until > process.world.now:
            process.world.at(process.site.hung_until, process, self._complete)
            return
        if not self.waiting:
            self._is_busy = False
            return
        work, done = self.waiting.popleft()
        try:
            result = work()
        except InvariantViolation:
            raise
        except DurableRaftError as error:
            self._on_failed(error)
            return
        self._is_busy = False
        done(result)
        if self.waiting and not self._is_busy:
            self._begin()
