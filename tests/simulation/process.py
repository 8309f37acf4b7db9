"""One life of a node in the simulation: the real ``server.node.Node``, handed another world (platform.py).

The real node, core, dispatcher, machine and log-writer grouping run unchanged.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from durable_raft.errors import (
    CorruptRecord,
    DiskFull,
    DurableRaftError,
    InvariantViolation,
    NodeRemoved,
    PeerMisbehaved,
    PeerTooOld,
    StorageError,
    UnknownFormatVersion,
)
from durable_raft.kv.commands import COMMANDS
from durable_raft.raft import invariants
from durable_raft.raft.timeouts import Timeouts
from durable_raft.raft.types import Entry, HardState, NodeId
from durable_raft.server.core_timer import CoreTimer
from durable_raft.server.node import Node
from durable_raft.server.pending import Slot
from durable_raft.server.slices import Steps
from durable_raft.server.start import recovery
from durable_raft.server.start.recovery import NodeData
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.state.meta import first_meta
from durable_raft.wire.peer import NodeMessage
from tests.simulation.campaigns import Campaigns
from tests.simulation.journal_disk import SimJournaledStore
from tests.simulation.parts import Callback, SimulatedCrash
from tests.simulation.platform import SimPlatform
from tests.simulation.sim_store import SimStore
from tests.simulation.state_disk import SimKv, SimStateDirectory
from tests.support.batches import runs_of
from tests.support.random_timeouts import RandomTimeouts

if TYPE_CHECKING:
    from tests.simulation.site import Site
    from tests.simulation.world import World

TURNS_MAX: Final = 10_000
"""Turns of a node's loop in one instant before the run is called a livelock."""


NOWHERE: Final = Path("simulated")
"""The data directory that is none."""


class Livelock(AssertionError):
    """A node or the cluster works for ever without time passing, or does not recover."""


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

    def expect_reply(self, reply_bytes: int) -> bool:
        """Wait for every reply."""
        del reply_bytes
        return True

    def became_answered(self, reply_bytes: int) -> None:
        """Have the reply sent at the node's next turn to reply; what it says must be flushed by a majority."""
        del reply_bytes
        if not self._is_dirty:
            self._is_dirty = True
            self.process.dirty.append(self)

    def take(self, commands: Sequence[list[bytes]]) -> None:
        """Take commands as the real connection does, all in one turn, those of one name together."""
        for run in runs_of(commands):
            slot = Slot(self, 2, run.length)
            self._slots.append(slot)
            self.process.node.dispatcher.route_run(slot, COMMANDS[run.name], run)
        self.flush()

    def flush(self) -> None:
        """Send the replies that are there, in order."""
        self._is_dirty = False
        while self._slots and self._slots[0].reply is not None:
            slot = self._slots.popleft()
            for reply in split_replies(joined(slot.reply), slot.owed):
                self._on_reply(reply)


def joined(reply: bytes | list[bytes] | None) -> bytes:
    """Return a slot's replies in one piece."""
    return reply if isinstance(reply, bytes) else b"".join(reply or ())


def split_replies(data: bytes, count: int) -> list[bytes]:
    """Return ``count`` RESP2 replies that stand in ``data`` one after the other, and nothing else."""
    replies, at = [], 0
    for _ in range(count):
        end = _end_of_reply(data, at)
        replies.append(data[at:end])
        at = end
    assert at == len(data), f"{count} replies expected: {data!r}"
    return replies


def _end_of_reply(data: bytes, at: int) -> int:
    end = data.index(b"\r\n", at) + 2
    kind, count = data[at : at + 1], data[at + 1 : end - 2]
    if kind == b"$" and count != b"-1":
        return end + int(count) + 2
    if kind == b"*":
        for _ in range(int(count)):
            end = _end_of_reply(data, end)
    return end


class Process:
    """One life of a node."""

    def __init__(self, world: World, site: Site) -> None:
        self.world = world
        self.site = site
        self.rng: random.Random = random.Random(world.rng_of(f"process {site.name} {site.lives}"))
        self.started_at = world.now
        self.is_alive = True
        self.is_paused = False
        self.soon: deque[tuple[Callback, tuple[Any, ...]]] = deque()
        self._backlog: deque[tuple[Callback, tuple[Any, ...]]] = deque()
        self.dirty: list[Connection] = []
        self.connections: list[Connection] = []
        self.campaigns = Campaigns()
        self.learns: bool = not world.swarm.is_patience_random or world.is_healing
        """Whether the node waits for as long as it has learned, or for as long as chance says."""
        world.running = self
        self.store = self._open_store()
        data = self._recover()
        self.platform = SimPlatform(self)
        config = replace(site.config, accept_old_copy=site.accepts_old_copy, seeds=site.seeds)
        site.accepts_old_copy = False
        self.node = Node(config, data, self.platform, self._reply, self._fatal)
        if not self.learns:
            state = self.node.raft.state
            state.timeouts = RandomTimeouts(state.config, self.rng.random())
            world.counts["lives with random patience"] += 1
        self.observed = invariants.observe(self.node.raft.state)
        self._heartbeat_due = self.node.raft.state.heartbeat_due
        self._wrap_apply()
        self._check_start()
        self.run(self._start, ())

    def _open_store(self) -> SimStore | SimJournaledStore:
        """Open the log in one of the ways of this run, whatever the way of the life before."""
        disk, world, name = self.site.disk, self.world, self.site.name

        def flushed(held: HardState) -> None:
            world.rules.hard_state_flushed(name, held)

        commit = random.Random(world.rng_of(f"commit {name} {self.site.lives}")).choice(world.swarm.commits)
        world.counts[f"lives with {commit}"] += 1
        home = SimStore(disk, flushed)
        if commit == "lmdb" and home.mark is None:
            return home
        home = SimStore(disk, lambda _: None, is_home=True)
        return SimJournaledStore(home, disk.journal, flushed, is_used=commit == "journal")

    def _recover(self) -> NodeData:
        """Open the disk as the real recovery does."""
        disk = self.site.disk
        disk.kv.restart()
        if self.world.upgrades is not None:
            self.world.upgrades.check_start(self.site)
        store = cast("LmdbLogStore", self.store)
        stored = recovery.mended(store)
        if disk.kv.meta is None and stored.base.index == 0:
            disk.kv.meta, disk.kv.state = first_meta(self.store.identity, self.store.membership), {}
        states = SimStateDirectory(disk)
        if disk.kv.meta is None:
            return NodeData(store, stored, states, None, disk.place)
        kv = SimKv(disk)
        return NodeData(store, recovery.fit(NOWHERE, store, stored, kv), states, kv, disk.place)

    def _check_start(self) -> None:
        """What a node starts with is what its disk had flushed: no less, and nothing that is damaged unseen."""
        state, promised = self.node.raft.state, self.site.disk.promised
        log, lie = state.log, self.site.disk.lie
        chain = promised.last_chain
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

        def judged(entry: Entry) -> Steps:
            self._check_commit()
            rules.entry_applied(site.name, entry)
            self.world.entry_applied(self, entry)
            return apply(entry)

        dispatcher.apply = judged  # type: ignore[method-assign]

    # -- events ---------------------------------------------------------------------------------------------------

    def run(self, callback: Callback, args: tuple[Any, ...]) -> None:
        """Run one event and the turns of the loop it asks for, then check every rule."""
        if not self.is_alive:
            return
        if self.is_paused:
            self._backlog.append((callback, args))
            return
        self.world.running = self
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
            if self.is_alive:
                self._check_rules()
        except SimulatedCrash as crash:
            self.site.crashed(f"crash_at_point: {crash}")
        except CorruptRecord as error:
            if self.site.disk.lie is None:
                raise
            self._fatal(error)
        except UnknownFormatVersion as error:
            self._fatal(error)

    def _check_rules(self) -> None:
        state = self.node.raft.state
        self._check_no_work_is_left()
        self.observed = self.world.rules.node_changed(self.site.name, state, self.observed)
        self.world.time_rules.event_ended(self)
        if state.heartbeat_due != self._heartbeat_due:
            rang_at, due = state.heartbeat_due - state.config.heartbeat_ms, self._heartbeat_due
            self._heartbeat_due = state.heartbeat_due
            self.world.rules.quorum_kept(self.site.name, state, rang_at, max(0, rang_at - due))

    def _check_no_work_is_left(self) -> None:
        """A node that rests with no turn to come has done all that its core had for it."""
        if self.node._is_wake_scheduled:
            return
        now, may_apply = self.node._now_ms(), self.node.may_apply
        if self.node.raft.has_ready(now, may_apply=may_apply):
            raise InvariantViolation(f"{self.site.name} rests, but its core has {self.node.raft.ready(now)}")
        self._check_deadline_is_kept(self.node.raft.deadline(), self.node._timer)

    def _check_deadline_is_kept(self, deadline: int | None, timer: CoreTimer) -> None:
        """What the core waits for wakes it in time, or once the process has run for a moment."""
        if deadline is None:
            return
        latest = max(deadline / 1000, timer._believed_at or 0.0)
        if timer._handle is None or timer._due > latest:
            raise InvariantViolation(f"{self.site.name} rests, but nothing wakes it at {deadline} ms")

    def _check_commit(self) -> None:
        """Judge a commit before what it commits is applied or answered, in the same event."""
        state = self.node.raft.state
        if state.log.commit_index > self.observed.commit_index:
            self.observed = self.world.rules.node_changed(self.site.name, state, self.observed)

    def receive(self, source: NodeId, message: NodeMessage) -> None:
        """Take a message from the network."""
        self.run(self._hear, (source, message))

    def _hear(self, source: NodeId, message: NodeMessage) -> None:
        try:
            self.platform.network.receive(source, message)
        except PeerTooOld as error:
            self.site.cannot_follow(error)
        except PeerMisbehaved as error:
            raise InvariantViolation(
                f"Misbehaviour: {self.site.name} accuses {source}, which is correct: {error}"
            ) from error

    def hear_lie(self, source: NodeId, message: NodeMessage) -> None:
        """Take what no correct node says: it is refused, and nothing has changed."""
        self.run(self._refuse_lie, (source, message))

    def _refuse_lie(self, source: NodeId, message: NodeMessage) -> None:
        state = self.node.raft.state
        before = invariants.observe(state), state.leader_id, len(state.messages), len(state.messages_after_write)
        try:
            self.platform.network.receive(source, message)
        except PeerMisbehaved:
            after = invariants.observe(state), state.leader_id, len(state.messages), len(state.messages_after_write)
            if after != before:
                raise InvariantViolation(f"Misbehaviour: {message!r:.80} changed {before} to {after}") from None
        else:
            raise InvariantViolation(f"Misbehaviour: {self.site.name} believes {message!r:.120}")

    def resume(self) -> None:
        """End a pause: everything that arrived meanwhile happens at once, in order."""
        self.is_paused = False
        backlog, self._backlog = self._backlog, deque()
        for callback, args in backlog:
            self.run(callback, args)

    def learn(self) -> None:
        """Wait for as long as it learns to, from now on."""
        if not self.learns:
            self.learns = True
            state = self.node.raft.state
            state.timeouts = Timeouts(state.config)
            # Until now it waited for as long as chance said, which no rule judges.
            self.campaigns = Campaigns()
            # A disk that hung by chance's word may hang no more, without an event: what could not be sent can be.
            self.run(self.node.wake, ())

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
        if isinstance(error, DiskFull):
            raise InvariantViolation(f"A full disk ends no node: {self.site.name}: {error}") from error
        if isinstance(error, NodeRemoved) and self.world.churn is not None:
            self.site.crashed("was removed")
            self.world.churn.ended_as_removed(self.site)
            return
        if isinstance(error, UnknownFormatVersion):
            if self.site.process is not self:
                # It did not get through its start.
                self.end()
                raise error
            self.site.lacks_a_program(error)
        if isinstance(error, DurableRaftError) and not isinstance(error, InvariantViolation):
            self.site.crashed(f"stops: {error}")
        else:
            raise error

    def end(self, *, loses_power: bool = False) -> None:
        """End this life; some of the writes under way may have reached the disk, in order, unknown to anybody.

        ``loses_power``: the next one may be half written.
        """
        self.is_alive = False
        for connection in self.connections:
            connection.on_lost()
        writes = self.platform.writer.drain()
        reached = writes[: self.rng.randint(0, len(writes))]
        if (work := self._worker_job()) is not None and self.rng.random() < 0.5:
            # A checkpoint or a piece of a snapshot was on its way to the disk, and got there.
            with suppress(StorageError, SimulatedCrash):
                work()
        if reached:
            try:
                self.store.persist(reached)
            except DurableRaftError as error:
                if isinstance(error, InvariantViolation):
                    raise
                # It found no room: what was handed over behind it waits for it.
                writes = reached
        if isinstance(self.store, SimJournaledStore):
            if loses_power and len(reached) < len(writes):
                self.store.lose_power(writes[len(reached) :])
            elif self.rng.random() < 0.5:
                # A move was under way, and got there.
                with suppress(StorageError):
                    self.store.move()
        self.store.close()

    def _worker_job(self) -> Callable[[], object] | None:
        worker = self.platform.workers[0]
        return worker.waiting[0][0] if worker.waiting else None
