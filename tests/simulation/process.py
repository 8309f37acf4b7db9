"""One life of a node in the simulation: the real ``server.node.Node`` on a loop, links and a log writer of ours.

The real node, core, dispatcher, machine and log-writer grouping run unchanged; what they take from the operating system
is replaced: clocks, event loop, sockets, the writer's thread. ``stage()`` does that for the time of a run.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from unittest import mock

from durable_raft.errors import CorruptRecord, DurableRaftError, InvariantViolation
from durable_raft.kv.commands import COMMANDS
from durable_raft.raft import invariants
from durable_raft.raft.messages import Envelope, Message
from durable_raft.raft.ready import Write
from durable_raft.raft.types import Entry, Identity, Member, NodeId, RaftConfig
from durable_raft.server import dispatch as dispatch_module
from durable_raft.server import log_writer as log_writer_module
from durable_raft.server import node as node_module
from durable_raft.server.config import NodeConfig
from durable_raft.server.crash_points import CrashPoints
from durable_raft.server.log_writer import Flushed, LogWriter
from durable_raft.server.node import Node
from durable_raft.server.pending import Slot
from durable_raft.storage.lmdb_store import LmdbLogStore
from tests.simulation.disk import SimStore
from tests.support.raft_trace import event_words, write_words

if TYPE_CHECKING:
    from tests.simulation.world import Site, World

Callback = Callable[..., object]

TURNS_MAX: Final = 10_000
"""Turns of a node's loop in one instant before the run is called a livelock."""


class SimulatedCrash(BaseException):
    """Kills the node at a crash point; nothing in the product catches it."""


class Livelock(AssertionError):
    """A node or the cluster works for ever without time passing, or does not recover."""


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


class Timer:
    """What ``call_at`` returns."""

    __slots__ = ("_args", "_callback")

    def __init__(self, callback: Callback, args: tuple[Any, ...]) -> None:
        self._callback: Callback | None = callback
        self._args = args

    def cancel(self) -> None:
        """Never call."""
        self._callback = None

    def fire(self) -> None:
        """Call unless cancelled."""
        if self._callback is not None:
            self._callback(*self._args)


class SimLoop:
    """The part of an event loop that the node uses."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def call_soon(self, callback: Callback, *args: object) -> None:
        """Run in this turn or, on a busy loop, a little later."""
        process = self._process
        lag = process.site.loop_lag
        if lag:
            world = process.world
            world.at(world.now + int(process.rng.random() * lag), process, callback, *args)
        else:
            process.soon.append((callback, args))

    def call_soon_threadsafe(self, callback: Callback, *args: object) -> None:
        """Run in this turn."""
        self._process.soon.append((callback, args))

    def call_at(self, when_s: float, callback: Callback, *args: object) -> Timer:
        """Run at a time of the node's own monotonic clock."""
        timer = Timer(callback, args)
        world = self._process.world
        world.at(max(world.now, self._process.site.clock.world_time(when_s)), self._process, timer.fire)
        return timer

    def call_later(self, delay_s: float, callback: Callback, *args: object) -> Timer:
        """Run after a time by the node's own monotonic clock."""
        return self.call_at(self._process.site.clock.monotonic() + delay_s, callback, *args)


class SimLink:
    """Whether a peer is believed to be reachable."""

    def __init__(self) -> None:
        self.is_up = True


class SimPeers:
    """Stands in for ``server.peers.Peers``: every message is judged and handed to the network."""

    def __init__(
        self,
        identity: Identity,
        members: Sequence[Member],
        rng: random.Random,
        receive: Callable[[NodeId, Message], None],
        on_change: Callable[[], None],
    ) -> None:
        del rng, receive
        self._process = stage_now.process
        self._name = identity.node_id
        self._on_change = on_change
        self.links = {member.node_id: SimLink() for member in members if member.node_id != identity.node_id}
        self.heard_at: dict[NodeId, int] = {}

    async def start(self, host: str, port: int) -> None:
        """Nothing has to be dialled."""

    def tasks(self) -> Sequence[Any]:
        """No link is a task here."""
        return ()

    def send(self, envelopes: Sequence[Envelope]) -> None:
        """Judge and send."""
        world = self._process.world
        for envelope in envelopes:
            target, message = envelope
            world.rules.message_leaves(self._name, target, message)
            world.network.send(self._name, target, message)

    def link_changed(self, peer: NodeId, *, is_up: bool) -> None:
        """Note that a link came up or went down."""
        self.links[peer].is_up = is_up
        self._on_change()

    def close(self) -> None:
        """Nothing to close."""


class SimLogWriter(LogWriter):
    """The real log writer's grouping, run by disk events instead of a thread."""

    def __init__(
        self,
        store: SimStore,
        crash_points: CrashPoints,
        on_flushed: Callable[[Flushed], None],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        super().__init__(store, crash_points, on_flushed, on_failed)
        self._process = stage_now.process
        self._is_busy = False
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
        except DurableRaftError as error:
            self._on_failed(error)
            return
        if process.world.is_traced:
            process.world.say(f"    {process.site.name} flushed up to {process.site.disk.promised.last_index}")
        if self._waiting and not self._is_busy:
            self._begin()

    def drain(self) -> list[Write]:
        """Return the writes that are not known to be flushed, in order."""
        flushed = self._process.store.number
        return [write for write in self._begun + self._waiting if write.number > flushed]


class Connection:
    """A client's connection, seen from the node."""

    def __init__(self, process: Process, on_reply: Callable[[bytes], None], on_lost: Callable[[], None]) -> None:
        self.process = process
        self._on_reply = on_reply
        self.on_lost = on_lost
        self.writes_outstanding = 0
        self.batched = 0
        self.is_readonly = False
        self._slots: deque[Slot] = deque()
        self._is_dirty = False

    def became_answered(self, reply_bytes: int) -> None:
        """Have the reply sent at the node's next turn to reply; what it says must be flushed by a majority."""
        del reply_bytes
        if not self._is_dirty:
            self._is_dirty = True
            self.process.dirty.append(self)

    def take(self, commands: Sequence[list[bytes]]) -> None:
        """Take commands as the real connection does, all in one turn."""
        for args in commands:
            slot = Slot(self, 2)
            self._slots.append(slot)
            self.process.node.dispatcher.take(self, slot, COMMANDS[args[0]], args)
        self.flush()

    def flush(self) -> None:
        """Send the replies that are there, in order."""
        self._is_dirty = False
        while self._slots and self._slots[0].reply is not None:
            self._on_reply(self._slots.popleft().reply or b"")


class Process:
    """One life of a node."""

    def __init__(self, world: World, site: Site) -> None:
        self.world = world
        self.site = site
        self.rng = random.Random(world.rng_of(f"process {site.name} {site.lives}"))
        self.is_alive = True
        self.is_paused = False
        self.soon: deque[tuple[Callback, tuple[Any, ...]]] = deque()
        self._backlog: deque[tuple[Callback, tuple[Any, ...]]] = deque()
        self.dirty: list[Connection] = []
        self.connections: list[Connection] = []
        self.crash_points = SimCrashPoints()
        stage_now.process = self
        self.store = SimStore(site.disk, lambda held: world.rules.hard_state_flushed(site.name, held))
        store = cast("LmdbLogStore", self.store)
        self.node = Node(site.config, store, self.rng.getrandbits(32), self.crash_points, self._fatal)
        self.observed = invariants.observe(self.node.raft.state)
        self.node.reply = self._reply
        self._heartbeat_due = self.node.raft.state.heartbeat_due
        self._wrap_apply()
        self._check_start()
        self.run(self._start, ())

    def _check_start(self) -> None:
        """What a node starts with is what its disk had flushed: no less, and nothing that is damaged unseen."""
        state, promised = self.node.raft.state, self.site.disk.promised
        log, lie = state.log, self.site.disk.lie
        chain = promised.chains[-1] if promised.chains else 0
        rule = f"Damage is never silent ({lie})" if lie else "Durability"
        if state.hard_state != promised.hard_state:
            raise InvariantViolation(f"{rule}: starts with {state.hard_state}, had flushed {promised.hard_state}")
        if (log.last.index, log.last.chain) != (promised.last_index, chain):
            raise InvariantViolation(f"{rule}: starts with {log.last}, had flushed up to {promised.last_index}")
        self.world.rules.node_started(self.site.name, state.hard_state)

    def _start(self) -> None:
        coroutine = self.node.start()
        try:
            coroutine.send(None)
        except StopIteration:
            return
        raise AssertionError("the start of a node waits for something")

    def _wrap_apply(self) -> None:
        """Judge every entry as it is applied; the dispatcher's own ``apply`` does the rest."""
        dispatcher, rules, site = self.node.dispatcher, self.world.rules, self.site
        apply = dispatcher.apply

        def judged(entry: Entry) -> None:
            self._check_commit()
            rules.entry_applied(site.name, entry)
            self.world.entry_applied(self, entry)
            apply(entry)

        dispatcher.apply = judged  # type: ignore[method-assign]

    # -- events ---------------------------------------------------------------------------------------------------

    def run(self, callback: Callback, args: tuple[Any, ...]) -> None:
        """Run one event and the turns of the loop it asks for, then check every rule."""
        if not self.is_alive:
            return
        if self.is_paused:
            self._backlog.append((callback, args))
            return
        stage_now.process = self
        soon = self.soon
        try:
            callback(*args)
            turns = 0
            while soon and self.is_alive:
                callback, args = soon.popleft()
                callback(*args)
                turns += 1
                if turns > TURNS_MAX:
                    raise Livelock(f"{self.site.name} turns for ever")
        except SimulatedCrash as crash:
            self.site.crashed(f"crash_at_point: {crash}")
            return
        except CorruptRecord as error:
            if self.site.disk.lie is None:
                raise
            self._fatal(error)
            return
        if self.is_alive:
            state = self.node.raft.state
            self.observed = self.world.rules.node_changed(self.site.name, state, self.observed)
            if state.heartbeat_due != self._heartbeat_due:
                self._heartbeat_due = state.heartbeat_due
                self.world.rules.quorum_kept(self.site.name, state, self._heartbeat_due - state.config.heartbeat_ms)

    def _check_commit(self) -> None:
        """Judge a commit before what it commits is applied or answered, in the same event."""
        state = self.node.raft.state
        if state.log.commit_index > self.observed.commit_index:
            self.observed = self.world.rules.node_changed(self.site.name, state, self.observed)

    def receive(self, source: NodeId, message: Message) -> None:
        """Take a message from the network."""
        self.run(self.node._receive, (source, message))

    def resume(self) -> None:
        """End a pause: everything that arrived meanwhile happens at once, in order."""
        self.is_paused = False
        backlog, self._backlog = self._backlog, deque()
        for callback, args in backlog:
            self.run(callback, args)

    def connect(self, on_reply: Callable[[bytes], None], on_lost: Callable[[], None]) -> Connection:
        """Accept a client."""
        connection = Connection(self, on_reply, on_lost)
        self.connections.append(connection)
        return connection

    def _reply(self) -> None:
        if not self.dirty:
            return
        # Acknowledged => flushed by a majority: an answer speaks for all that is applied.
        self._check_commit()
        log = self.node.raft.log
        if log.last_applied:
            self.world.rules.acknowledged(self.site.name, log.last_applied)
        dirty, self.dirty = self.dirty, []
        for connection in dirty:
            connection.flush()

    def _fatal(self, error: BaseException) -> None:
        if isinstance(error, DurableRaftError) and not isinstance(error, InvariantViolation):
            self.site.crashed(f"stops: {error}")
        else:
            raise error

    def end(self) -> None:
        """End this life; some of the writes under way may have reached the disk, in order, unknown to anybody."""
        self.is_alive = False
        self.node._is_stopped = True
        for connection in self.connections:
            connection.on_lost()
        writer = cast("SimLogWriter", self.node._writer)
        writes = writer.drain()
        reached = writes[: self.rng.randint(0, len(writes))]
        if reached:
            try:
                self.store.persist(reached)
            except DurableRaftError as error:
                if isinstance(error, InvariantViolation):
                    raise
        self.store.close()


# -- the stage --------------------------------------------------------------------------------------------------------


class _Stage:
    """Whose turn it is: the replaced clocks and constructors ask it."""

    process: Process

    def monotonic(self) -> float:
        """Return the running node's monotonic clock in seconds."""
        return self.process.site.clock.monotonic()

    def time_ns(self) -> int:
        """Return the running node's time of day."""
        return self.process.site.clock.time_of_day_ns()

    def perf_counter(self) -> float:
        """Return the running node's monotonic clock in seconds."""
        return self.process.site.clock.monotonic()

    def get_running_loop(self) -> SimLoop:
        """Return the running node's loop."""
        return SimLoop(self.process)


stage_now: Final = _Stage()


def _event(logger: logging.Logger, level: int, name: str, /, **fields: object) -> None:
    del logger, level
    process = stage_now.process
    world = process.world
    world.counts[name] += 1
    if world.is_traced:
        world.say(f"    {process.site.name} {event_words(name, fields)}")


def _raft_config(config: NodeConfig) -> RaftConfig:
    swarm = stage_now.process.world.swarm
    return RaftConfig(
        node_id=config.node_id,
        voters=config.membership.ids(),
        election_timeout_min_ms=config.election_timeout_min_ms,
        election_timeout_max_ms=config.election_timeout_max_ms,
        heartbeat_ms=config.heartbeat_ms,
        append_bytes_max=config.append_bytes_max,
        append_inflight_max=config.append_inflight_max,
        append_inflight_bytes_max=swarm.append_inflight_bytes_max,
        log_cache_bytes_max=swarm.cache_bytes_max,
    )


@contextmanager
def stage(batch_bytes_max: int) -> Iterator[None]:
    """Put the simulation in the place of the operating system for the node's module."""
    with (
        mock.patch.multiple(
            node_module,
            asyncio=stage_now,
            time=stage_now,
            Peers=SimPeers,
            LogWriter=SimLogWriter,
            event=_event,
            _raft_config=_raft_config,
        ),
        mock.patch.object(log_writer_module, "time", stage_now),
        mock.patch.object(dispatch_module, "BATCH_BYTES_MAX", batch_bytes_max),
    ):
        yield


NOWHERE: Final = Path("simulated")
