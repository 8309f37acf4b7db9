"""One node: the core, the log writer, the machine and the links, and the order in which they do their parts.

``_process`` is the one place where that order is written; persister.py draws where a write's flush is in it. Everything
here runs on the event loop's thread, so every transition is serial; the log writer talks to it through
``call_soon_threadsafe``.
Any exception that is not a client's or a peer's fault is final: the node stops and promises nothing more.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Sequence

from durable_raft.errors import DurableRaftError, NodeRemoved, StorageError
from durable_raft.kv.machine import Machine
from durable_raft.kv.records import Record
from durable_raft.kv.replies import ErrorReply, Later, Reply
from durable_raft.raft.changes import Step
from durable_raft.raft.core import Raft
from durable_raft.raft.types import LEADER, Configuration, Entry, Index, NodeId
from durable_raft.raft.versions import Versions
from durable_raft.server.alarms import REMOVED, Alarm, Announcer
from durable_raft.server.applying import Applier
from durable_raft.server.clock import Timer
from durable_raft.server.cluster_version import ClusterVersion
from durable_raft.server.core_events import CoreEvents
from durable_raft.server.core_timer import CoreTimer
from durable_raft.server.disk_watch import DiskWatch
from durable_raft.server.dispatch import Dispatcher
from durable_raft.server.dispatch_facts import DispatchLimits
from durable_raft.server.expiry_timer import ExpiryTimer
from durable_raft.server.large_entries import LargeEntries
from durable_raft.server.leadership import LeadershipWatch, hand_over, priorities_of
from durable_raft.server.log_writer import Flushed
from durable_raft.server.logs import event
from durable_raft.server.members import Members
from durable_raft.server.memory import NodeMemory
from durable_raft.server.peers import LinkEvents
from durable_raft.server.persister import Persister
from durable_raft.server.platform import Platform
from durable_raft.server.settings.config import NodeConfig
from durable_raft.server.slices import Jobs
from durable_raft.server.start.raft_config import raft_config
from durable_raft.server.start.recovery import NodeData
from durable_raft.server.state.keeper import StateEvents, StateKeeper
from durable_raft.server.time_resets import TimeResets
from durable_raft.server.timekeeper import Timekeeper
from durable_raft.storage.state.meta import KvMeta
from durable_raft.wire.messages import (
    AskTime,
    FetchSnapshot,
    NodeMessage,
    SnapshotChunk,
    StateHash,
    TellMembers,
    TellTime,
)

_logger = logging.getLogger(__name__)

WRITER_STOP_S = 10.0
"""How long a stop waits for the disk."""

HOUSEKEEPING_S = 0.25
"""How often held commands, open fates and the room on the disk are looked at."""


class Node:
    """Runs one node on an event loop; the platform (server/platform.py) is all it has of the world."""

    def __init__(
        self,
        config: NodeConfig,
        data: NodeData,
        platform: Platform,
        reply: Callable[[], None],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        """Wire the parts.

        Args:
            config: of this node.
            data: what recovery found on the disk.
            platform: clocks, loop, links, threads, chance.
            reply: sends the replies that became ready.
            on_fatal: called once, when the node must stop for good.
        """
        self._config = config
        self._store = store = data.log_store
        self._clock, self._loop = platform.clock, platform.loop
        self._crash_points, self._recorder = platform.crash_points, platform.recorder
        self._reply, self._on_fatal = reply, on_fatal
        self._is_stopped = self._is_wake_scheduled = False
        self.started_at = self.now_s()
        self.counters = CoreEvents(platform.recorder.note)
        self.heard_at: dict[NodeId, int] = {}
        """When each peer last sent a message (monotonic, ms)."""
        self.memory = NodeMemory(config, platform.clock.monotonic)
        self._workers = (platform.worker("states", self.fail), platform.worker("snapshots", self.fail))
        self.raft = self._core_of(data, platform)
        self.members = Members(self.raft, config, store.identity.cluster_id)
        self._writer = platform.log_writer(store, self._flushed_on_thread, self._failed_on_thread)
        self.persister = Persister(self._writer)
        self._jobs = Jobs(self._clock.monotonic, platform.slice_steps)
        """What was handed out to be applied or read and is not done yet."""
        self.keeper = self._keeper_of(data, platform)
        self.timekeeper = Timekeeper(self.raft, self._clock, config.clock_bound_ms, self._tell)
        self.dispatcher = Dispatcher(
            self.raft,
            self.keeper.machine,
            DispatchLimits(config.client_hold_ms / 1000, config.pending_bytes_max, config.batch_bytes_max),
            (self._clock.monotonic, self.timekeeper.stamp_ms, self.timekeeper.present_ms),
            self.wake,
            self._is_reachable,
            self._jobs,
            platform.slice_steps,
        )
        self._time_resets = TimeResets(self.timekeeper, self.dispatcher, config.directory)
        self.version = self._version_for(platform.versions)
        self._applier = Applier(self._jobs, self.dispatcher, self._applied)
        reserve = config.disk_reserve_bytes
        self._disk = DiskWatch(store, self.keeper, self.raft, self.dispatcher, platform.clock, reserve)
        dials = random.Random(platform.rng.getrandbits(64))  # noqa: S311 - pauses, not secrets
        self.peers = platform.links(store.identity, self.members.reached(), dials, self._link_events())
        self._announcer = Announcer(self.raft, self.peers.links)
        self.leadership = LeadershipWatch(self.raft, self._is_reachable, self.now_s)
        self._timer = CoreTimer(self._loop, self._clock, lambda: self.raft.role is LEADER, self._on_timer)
        self._expiry_timer = ExpiryTimer(self._loop, self._process)
        self._housekeeping_timer: Timer | None = None

    def _core_of(self, data: NodeData, platform: Platform) -> Raft:
        """Return the core that goes on from what the disk holds."""
        core_config = raft_config(self._config, data, platform.life)
        view = LargeEntries(self._store, self._workers[1], platform.large_bytes, self._entries_read)
        applied = None if data.kv is None else data.kv.checkpoint.applied.point
        now_ms, has_state = self._now_ms(), data.kv is not None
        return Raft(core_config, data.stored, view, platform.rng, now_ms, self.counters, applied, has_state=has_state)

    def _version_for(self, ours: Versions) -> ClusterVersion:
        return ClusterVersion(self.raft, lambda: self.keeper.machine, ours, lambda: self.peers.versions, self.counters)

    def _link_events(self) -> LinkEvents:
        return LinkEvents(
            receive=self._receive,
            changed=self._link_changed,
            joined=lambda peer: self.members.forget(self._now_ms(), peer),
            was_replaced=self.raft.was_replaced,
            was_removed=self.members.was_removed,
            cluster_version=lambda: self.version.present,
            failed=self.fail,
            half_sent=self.memory.messages,
            priority=self._config.election_priority,
        )

    def _keeper_of(self, data: NodeData, platform: Platform) -> StateKeeper:
        events = StateEvents(
            send=self._tell,
            compact=self._writer.compact,
            machine_replaced=self._machine_replaced,
            checkpoint_written=self._checkpoint_written,
            wounds_found=self.wake,
            failed=self.fail,
            is_applying=lambda: self._jobs.are_under_way,
        )
        return StateKeeper(
            self._config, data, self.raft, platform.rng, self._workers, platform.clock, platform.crash_points, events
        )

    # -- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen to peers and take part; raises OSError when the peer address cannot be listened on."""
        self._recorder.recovered(self.raft)
        self._disk.begin()
        self._writer.start()
        for worker in self._workers:
            worker.start()
        await self.peers.start(self._config.peer_host, self._config.peer_port)
        self._housekeeping()
        self.wake()

    def remember(self) -> None:
        """Have the disk keep what a later life of this node must not forget, now and not at the next look."""
        if not self._is_stopped and self.raft.remember():
            self._process()

    def hand_over(self, asked: Collection[NodeId]) -> NodeId | None:
        """Begin to hand leadership over before leaving, to one who was not asked yet; return to whom (None: nobody)."""
        self.wake()
        return hand_over(self.raft, self._now_ms(), asked)

    def stop(self) -> bool:
        """Take part no longer; what was submitted to the log is still flushed.

        Returns:
            Whether the log writer ended; when its disk hangs, the store must not be closed under it.
        """
        self._is_stopped = True
        self._timer.cancel()
        self._expiry_timer.cancel()
        if self._housekeeping_timer is not None:
            self._housekeeping_timer.cancel()
        self.peers.close()
        if self._writer.stop(WRITER_STOP_S) and all(worker.stop(WRITER_STOP_S) for worker in self._workers):
            self.keeper.close()
            return True
        event(_logger, logging.ERROR, "log_writer_stuck", reason=f"its last write did not end within {WRITER_STOP_S} s")
        return False

    @property
    def last_failure(self) -> BaseException | None:
        """What the log writer met in its last moments, when nobody was told any more."""
        return self._writer.failure

    def fail(self, error: BaseException) -> None:
        """Stop for good: from here on nothing is promised or answered."""
        if not self._is_stopped:
            if isinstance(error, StorageError):
                self.peers.send(self.raft.last_word(self._now_ms()))
            self._is_stopped = True
            self._on_fatal(self._disk.lost_directory() or error)

    # -- events ---------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Have ``_process`` run after the events of this turn of the loop."""
        if not self._is_wake_scheduled:
            self._is_wake_scheduled = True
            self._loop.call_soon(self._process)

    def _link_changed(self) -> None:
        self.raft.peers_changed(self._now_ms(), priorities_of(self.peers.links))
        self.timekeeper.links_changed()
        self.members.tell(self.peers)
        self.wake()

    def _entries_read(self) -> None:
        self.raft.entries_read()
        self.wake()

    def _receive(self, source: NodeId, message: NodeMessage) -> None:
        if not self._is_stopped:
            self.heard_at[source] = now = self._now_ms()
            if isinstance(message, (FetchSnapshot, SnapshotChunk, StateHash)):
                self.version.check(source, message)
                self.keeper.receive(source, message)
            else:
                if isinstance(message, (AskTime, TellTime)):
                    self.timekeeper.receive(source, message)
                elif isinstance(message, TellMembers):
                    self.members.heard(now, source, message)
                    self.members.follow(self.peers, self.dispatcher)
                else:
                    self.raft.step(now, source, message)
                if not self._is_due(now):
                    self._arm_timers()
                    return
            self.wake()

    def _tell(self, target: NodeId, message: NodeMessage) -> None:
        """Send a message that promises nothing."""
        if not self._is_stopped:
            self.peers.tell(target, message)

    def count_keys_in_slot(self, slot: int) -> Reply:
        """Have the keys of one hash slot counted by looking at every key."""
        return Later(self.keeper.machine.count_keys_in_slot(slot))

    def read_state(self, index: Index, after: bytes | None) -> tuple[KvMeta, list[tuple[bytes, Record]]] | None:
        """Return records of a checkpoint."""
        return self.keeper.backups.piece(index, after)

    def request_checkpoint(self) -> None:
        """Have a checkpoint written of all that is applied."""
        self.keeper.checkpointer.request()
        self.wake()

    def reset_time(self, time_ms: int | None) -> int | ErrorReply:
        """Have the cluster time set, by an entry of the log."""
        self.wake()
        return self._time_resets.propose(time_ms)

    def raise_version(self, version: int | None, *, is_dry: bool) -> int | ErrorReply:
        """Have the version of the cluster raised, by an entry of the log."""
        self.wake()
        return self.version.propose(version, is_dry=is_dry)

    def change_members(self, steps: Sequence[Step], against: Index | None, *, is_dry: bool) -> Configuration:
        """Begin a change of members; raises ``ChangeRefused``."""
        against = self.raft.configuration.index if against is None else against
        if is_dry:
            return self.raft.plan_change(self._now_ms(), against, steps)
        self.wake()
        self.raft.change(self._now_ms(), against, steps)
        return self.raft.configuration

    def transfer(self, target: NodeId | None) -> NodeId:
        """Begin to hand leadership over; raises ``ChangeRefused``."""
        self.wake()
        return self.raft.transfer(self._now_ms(), target)

    def _machine_replaced(self, machine: Machine) -> None:
        """Answer from another machine from now on; or from none, while the state is not whole."""
        if not self.raft.is_whole:
            self.dispatcher.is_caught_up = False
        self.dispatcher.use_machine(machine, self.raft.log.last_applied)
        self._jobs.drop()
        self.timekeeper.state_replaced()
        self.wake()

    def _flushed_on_thread(self, flushed: Flushed) -> None:
        self._loop.call_soon_threadsafe(self._note_flushed, flushed)

    def _failed_on_thread(self, error: BaseException) -> None:
        self._loop.call_soon_threadsafe(self.fail, error)

    def _note_flushed(self, flushed: Flushed) -> None:
        if not self._is_stopped:
            self._take_flushed(flushed)
            self._process_if_due()

    def _take_flushed(self, flushed: Flushed) -> None:
        """Tell the core what is durable, and let the messages go that waited for it."""
        for number in flushed.numbers:
            self.raft.persisted(self._now_ms(), number)
        promises = self.persister.flushed(flushed)
        self._crash_points.reach("before_send_after_write")
        self.peers.send(promises)

    def _process_if_due(self) -> None:
        """Do what the last event left to be done; most events of a busy node leave nothing but another deadline."""
        if self._is_due(self._now_ms()):
            self._process()
        else:
            self._arm_timers()

    def _on_timer(self) -> None:
        if not self._is_stopped:
            self.raft.timeout(self._now_ms())
            self._process()

    def _is_due(self, now_ms: int) -> bool:
        """Return whether ``_process`` has something to do; most events of a busy node leave nothing."""
        return (
            self.raft.has_ready(now_ms, may_apply=self.may_apply)
            or self.dispatcher.has_due()
            or self.leadership.has_changed()
            or not self.dispatcher.is_caught_up
            or self.keeper.checkpointer.is_pending
        )

    @property
    def may_apply(self) -> bool:
        """Whether the machine takes entries: it has room for their changes, and is done with those it took before.

        What was handed out counts as applied for the core, so whatever looks at the machine waits for the second.
        """
        return not self._jobs.are_under_way and self.keeper.checkpointer.may_apply

    # -- the order ------------------------------------------------------------------------------------------------

    def _process(self) -> None:
        """Propose what waits, then do what the core says must happen now: persist, send, apply, reply.

        A leader sends before its flush has ended. Where the flush is, for either way of a write: persister.py.
        """
        self._is_wake_scheduled = False
        if self._is_stopped:
            return
        reach = self._crash_points.reach
        self._look_around()
        self.dispatcher.propose_due()
        was_busy = self._jobs.are_under_way
        ready = self.raft.ready(self._now_ms(), may_apply=self.may_apply)
        if ready.write is not None:
            reach("before_submit")
            self.persister.submit(ready.write)
        if ready.messages:
            reach("before_send")
            self.peers.send(ready.messages)
        if self.raft.role is not LEADER:
            self._persist_lone()
            if self._is_stopped:
                return
        self.peers.send(self.persister.hold(ready.messages_after_write))
        if ready.offer is not None:
            self.keeper.offered(ready.offer)
        if ready.lost_reads:
            # Before anything is applied: behind such a read its connection may have writes that are about to be.
            self.dispatcher.give_back_reads(ready.lost_reads)
        if ready.committed or ready.reads:
            reach("before_apply")
            self._applier.queue(ready.committed, ready.reads)
        applies = self._jobs.are_under_way
        if applies:
            self._jobs.run()
            reach("after_apply")
        is_at_rest = not self._jobs.are_under_way
        if not self.dispatcher.is_caught_up and is_at_rest:
            self.dispatcher.is_caught_up = self.raft.is_caught_up
        reach("before_reply")
        self._reply()
        reach("after_reply")
        if applies or self.keeper.checkpointer.is_pending:
            self.keeper.consider()
        self._look_ahead(was_busy=was_busy)
        self._persist_lone()

    def _look_around(self) -> None:
        """Go by the members and the leader that there are now."""
        self.members.follow(self.peers, self.dispatcher)
        if self.leadership.note():
            self.dispatcher.leadership_changed()

    def _look_ahead(self, *, was_busy: bool) -> None:
        """See to it that ``_process`` runs again when there is more to do, now or later.

        Args:
            was_busy: whether the machine could not take what the core had for it.
        """
        self._recorder.progress(self.raft)
        is_more = self._jobs.are_under_way or was_busy or (self.may_apply and self.raft.has_more())
        if is_more or self.dispatcher.has_due():
            # Replaying is cut in bounded pieces; an applied batch makes room for the next; lost reads are routed anew.
            self.wake()
        self._arm_timers()

    def _persist_lone(self) -> None:
        """Flush the write that is kept for this thread, if there is one, and let go what it promised."""
        try:
            flushed = self.persister.persist_lone()
        except DurableRaftError as error:
            self.fail(error)
            return
        if flushed is not None:
            self._take_flushed(flushed)
            if self._is_due(self._now_ms()):
                # Others' turn first: the next write may be alone, too.
                self.wake()

    def _applied(self, entry: Entry) -> None:
        # A checkpoint at this entry has the version that it raises.
        self.version.applied(entry)
        self.keeper.applied(entry)
        self._time_resets.applied(entry)

    def _is_reachable(self, node_id: NodeId) -> bool:
        """Return whether ``node_id`` is this node or there to answer clients, though it may refuse one that went."""
        link = self.peers.links.get(node_id)
        return node_id == self._config.node_id if link is None else link.is_up or link.is_refused_as_removed

    def now_s(self) -> float:
        """Return the monotonic time in seconds."""
        return self._clock.monotonic()

    # -- timers ---------------------------------------------------------------------------------------------------

    def _now_ms(self) -> int:
        return int(self._clock.monotonic() * 1000)

    def _arm_timers(self) -> None:
        deadline = self.raft.deadline()
        if deadline is not None:
            self._timer.arm(deadline / 1000)
        deadline_ms = self.dispatcher.next_expiry_ms() if self.raft.role is LEADER else None
        self._expiry_timer.arm(deadline_ms, self.timekeeper.stamp_ms)

    def _housekeeping(self) -> None:
        if self._is_stopped:
            return
        if (lost := self._disk.lost_directory()) is not None:
            self.fail(lost)
            return
        if self.dispatcher.has_deadlines():
            self.dispatcher.expire()
        self.memory.expire()
        self._reply()
        self.keeper.tick()
        self.timekeeper.tick()
        self._time_resets.tick()
        if self.raft.remember() or self.raft.has_more() or self.dispatcher.has_due():
            self.wake()
        self._disk.look()
        self._announcer.tick()
        if self.members.has_left(self.peers.links, self.dispatcher):
            self._reply()
            self.fail(NodeRemoved(REMOVED))
        self._housekeeping_timer = self._loop.call_later(HOUSEKEEPING_S, self._housekeeping)

    def alarms(self) -> tuple[Alarm, ...]:
        """Return what is wrong with this node so that somebody has to act."""
        return self._announcer.alarms()

    # -- reports --------------------------------------------------------------------------------------------------

    def _checkpoint_written(self) -> None:
        self._recorder.note("checkpoint", index=self.raft.snapshot.index)
        self.wake()
