"""The machine and its state on the disk: which machine there is, when it is checkpointed, given away, or replaced.

Everything runs on the event loop but what the worker thread is given: writing checkpoints, storing snapshots.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from durable_raft.errors import CorruptRecord, InvariantViolation
from durable_raft.kv.machine import Machine
from durable_raft.raft.core import Raft
from durable_raft.raft.ready import Offer
from durable_raft.raft.types import ORIGIN, Entry, Index, LostEntry, NodeId, chain_crc
from durable_raft.server.clock import Clock
from durable_raft.server.crash_points import CrashPoints
from durable_raft.server.logs import event
from durable_raft.server.settings.config import NodeConfig
from durable_raft.server.start.recovery import NodeData
from durable_raft.server.state.backup_source import BackupSource
from durable_raft.server.state.checkpoints import Checkpointer, Settled, settle_some
from durable_raft.server.state.scrubber import Scrubber
from durable_raft.server.state.snapshot_fetch import Snapshot, SnapshotFetcher
from durable_raft.server.state.snapshot_source import SnapshotSource
from durable_raft.server.state.state_hashes import StateHashes, is_agreed_index, is_agreed_time
from durable_raft.server.state.worker import Worker
from durable_raft.storage.environment import Room
from durable_raft.storage.state.meta import KvMeta
from durable_raft.storage.state.state_store import StateInstaller, StateStore
from durable_raft.storage.wounds import Wound, WoundedState, WoundKind
from durable_raft.wire.peer import FetchSnapshot, NodeMessage, SnapshotChunk, StateHash

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateEvents:
    """Whom the keeper tells of what; all of it on the event loop."""

    send: Callable[[NodeId, NodeMessage], None]
    """Sends a message to a node."""
    compact: Callable[[Index], None]
    """Drops the log up to an index from the disk."""
    machine_replaced: Callable[[Machine], None]
    """Another machine took the place of the one before it: only it may answer from now on."""
    checkpoint_written: Callable[[], None]
    """A checkpoint ended: applying may have waited for it."""
    wounds_found: Callable[[], None]
    """The core was told of wounds in the log: it has work."""
    failed: Callable[[BaseException], None]
    """The state cannot be believed: this life of the node ends."""
    is_applying: Callable[[], bool]
    """Whether the machine is behind what the core calls applied: no checkpoint can begin then."""


class StateKeeper:
    """Keeps one node's state."""

    def __init__(
        self,
        config: NodeConfig,
        data: NodeData,
        raft: Raft,
        rng: random.Random,
        workers: tuple[Worker, Worker],
        clock: Clock,
        crash_points: CrashPoints,
        events: StateEvents,
    ) -> None:
        """Begin with the state of ``data``.

        Args:
            config: of the node.
            data: what was found on the disk.
            raft: the core, which begins at the same checkpoint.
            rng: seeds the machines' cursors.
            workers: one writes states, the other reads snapshots.
            clock: of this node.
            crash_points: named places for tests.
            events: whom to tell of what.
        """
        worker, reader = workers
        self._config = config
        self._raft = raft
        self._rng = rng
        self._clock = clock
        self._crash_points = crash_points
        self._events = events
        self._states = data.states
        self._kv = data.kv
        self._check = data.check
        self._identity = data.log_store.identity
        self._membership = membership = data.log_store.membership
        self.checkpointer = Checkpointer(
            raft, membership, worker, clock, crash_points, config, events.compact, self._checkpointed
        )
        self.source = SnapshotSource(reader, clock)
        self.backups = BackupSource(clock)
        self.scrubber = Scrubber(data.log_store, raft, reader, clock, config.scrub_bytes_per_second, self._found_wounds)
        self.fetcher = SnapshotFetcher(
            self._begin_installation, worker, clock, crash_points, events.send, raft, self._install
        )
        self.hashes = StateHashes(config.node_id, lambda: raft.configuration)
        self._answering: set[NodeId] = set()
        """Who is being given a piece of a snapshot at the moment."""
        self._asked = 0
        self.differs = 0
        """How often this node's state was found to differ from the majority's."""
        self.applied_index: Index
        """Of the last entry that the machine has executed wholly; the core's ``last_applied`` may be ahead of it."""
        self._applied_chain: int
        """The chain of what was applied, computed from it: nothing was left out, repeated or put in."""
        self._applied_ms: int
        """The cluster time at ``applied_index``."""
        self._counts: tuple[int, int]
        self.machine = self._begin(self._kv)

    def _begin(self, kv: StateStore | None) -> Machine:
        """Make the machine that goes on from ``kv``, and have everything use the two."""
        self._kv = kv
        rng = random.Random(self._rng.getrandbits(64))  # noqa: S311 - SCAN's cursors, not secrets
        values, replies = self._config.value_bytes_max, self._config.reply_bytes_max
        if kv is None:
            view, machine = None, Machine(rng, value_bytes_max=values, reply_bytes_max=replies)
        else:
            view = kv.view()
            meta = kv.checkpoint
            machine = Machine(rng, values, view, meta.applied.timestamp_ms, replies, meta.version)
        self.machine = machine
        self.applied_index = self._raft.log.last_applied
        self._applied_chain = ORIGIN.chain if kv is None else kv.checkpoint.applied.point.chain
        self._applied_ms, self._counts = machine.time_ms, machine.counts
        self.checkpointer.use_machine(machine, kv, view)
        self.source.read_from(kv)
        self.backups.read_from(kv)
        self.scrubber.read_from(kv)
        self.hashes.forget()
        return machine

    # -- the node's turns -----------------------------------------------------------------------------------------

    def applied(self, entry: Entry) -> None:
        """Note that ``entry`` was applied to the machine."""
        chain = chain_crc(self._applied_chain, entry.crc)
        if entry.index != self.applied_index + 1 or chain != entry.chain:
            raise InvariantViolation(f"entry {entry.index} was applied behind {self.applied_index}: {chain:#010x}")
        before_ms, self._applied_ms = self._applied_ms, self.machine.time_ms
        self.applied_index, self._applied_chain = entry.index, chain
        if self.machine.is_settled:
            self._counts = self.machine.counts
        self.checkpointer.applied(len(entry.payload))
        is_by_index = is_agreed_index(entry.index)
        if is_by_index or is_agreed_time(self._applied_ms, before_ms):
            self.checkpointer.take_agreed(entry, is_by_time=not is_by_index)

    def counts(self) -> tuple[int, int]:
        """Return how many keys there are, and how many of them have a deadline.

        Where that is not known, and cannot be found in some milliseconds, what it was when it was known last.
        """
        if not self._events.is_applying():
            try:
                is_settled = settle_some(self.machine, self._clock, lambda: True)
            except CorruptRecord as error:
                # Whoever asked is not to blame: this life of the node ends.
                self._events.failed(error)
                return self._counts
            if is_settled:
                self._counts = self.machine.counts
        return self._counts

    def _checkpointed(self, settled: Settled) -> None:
        keys, deadlines, _ = settled.summary
        self._counts = self.machine.counts if self.machine.is_settled else (keys, deadlines)
        said = self.hashes.settled(settled.point, settled.summary, settled.version)
        self._broadcast(said)
        self._judge(said.applied_index)
        self._events.checkpoint_written()

    def consider(self) -> None:
        """Begin or write a checkpoint when it is time."""
        if not self.fetcher.is_finishing and not self._events.is_applying():
            self.checkpointer.consider()

    def tick(self) -> None:
        """Do what only time makes due: compaction, questions that were lost, views that nobody uses."""
        trouble = None if self._check is None else self._check.poll()
        if trouble == "":
            event(_logger, logging.INFO, "state_sound")
        elif trouble is not None:
            self._events.failed(
                WoundedState([Wound("environment", None, None, "a sound state", trouble, WoundKind.TREE)])
            )
            return
        room = self.room()
        if self._check is not None and room is not None and room.has_grown(self._check.file_bytes):
            event(_logger, logging.WARNING, "state_check_given_up", reason="the file grows while it is read")
            self._check.close()
            self._check = None
        self.source.expire(room)
        self.backups.expire(room)
        self.scrubber.tick()
        self.checkpointer.compact(self.source.held())
        if self._raft.is_whole:
            self.fetcher.tick()
        elif self._kv is not None:
            self._set_aside()
        else:
            if not self.fetcher.is_active or self.fetcher.is_overdue():
                source = self._snapshot_source()
                if source is not None:
                    self.fetcher.fetch(source)
            self.fetcher.tick()
        self.consider()

    def _snapshot_source(self) -> NodeId | None:
        """Return whom to ask for a state: the leader, or one node after the other while none can be elected.

        None: there is nobody else.

        What any node's checkpoint covers is committed. Without it this node may be the one that keeps the others from
        electing a leader, because its log is ahead of theirs and it must not lead.
        """
        others = self._raft.state.peers
        self._asked += 1
        return self._raft.leader_id or (others[self._asked % len(others)] if others else None)

    def offered(self, offer: Offer) -> None:
        """Fetch the snapshot that the leader has."""
        self.fetcher.fetch(offer.source)

    def receive(self, source: NodeId, message: FetchSnapshot | SnapshotChunk | StateHash) -> None:
        """Take a message about states."""
        if isinstance(message, SnapshotChunk):
            self.fetcher.received(source, message)
        elif isinstance(message, StateHash):
            self.hashes.heard(source, message)
            self._judge(message.applied_index)
        elif source not in self._answering:
            # Who asks on before it has the last piece gets that one first, and is not served before others.
            self._answering.add(source)
            if not self.source.answer(message, lambda chunk: self._give(source, chunk)):
                self._answering.discard(source)

    def _give(self, target: NodeId, chunk: SnapshotChunk) -> None:
        self._answering.discard(target)
        self._crash_points.reach("before_snapshot_piece_sent")
        self._events.send(target, chunk)

    def room(self) -> Room | None:
        """Return the room of the state's file; None while there is none."""
        return None if self._kv is None else self._kv.room()

    def readers(self) -> dict[int, int]:
        """Return how many checkpoints the readers of each process are behind."""
        return {} if self._kv is None else self._kv.readers()

    def note_room(self, owned_bytes: int | None) -> None:
        """Note what the state's file owns while the disk has little room; None: there is enough."""
        self.checkpointer.note_room(owned_bytes)

    def require_present(self) -> None:
        """Go on only if the state is still where it was opened; raises ``DirectoryLost``."""
        if self._kv is not None:
            self._kv.require_present()

    def close(self) -> None:
        """Release the state; nothing may use it any more."""
        self._release()

    # -- snapshots ------------------------------------------------------------------------------------------------

    def _begin_installation(self, snapshot: Snapshot) -> StateInstaller:
        return self._states.install(KvMeta(1, self._identity, self._membership, *snapshot))

    def _install(self, snapshot: Snapshot) -> None:
        """Swap a snapshot in that is whole and durable: the state first, then the log (raft/snapshots.py).

        Since it was begun more may be committed here, and with that another configuration.
        """
        base, configuration = snapshot.base, snapshot.configuration
        is_wanted = self._raft.wants_snapshot(base.point) and self._raft.may_count_at(base.point, configuration)
        if not is_wanted or snapshot.version < self.machine.version:
            # The version of a cluster never falls: whoever sent this is not to be believed.
            self._states.discard_waiting()
            return
        self._release()
        self._crash_points.reach("before_snapshot_swap")
        self._states.swap()
        self._crash_points.reach("after_snapshot_swap")
        kv = self._states.open()
        self._raft.install_snapshot(base, configuration)
        self._events.machine_replaced(self._begin(kv))
        event(_logger, logging.INFO, "snapshot_installed", index=base.point.index, keys=kv.checkpoint.summary.key_count)

    def _found_wounds(self, lost: Sequence[LostEntry], is_meta_wounded: bool) -> None:
        if lost:
            self._raft.lose(self._now_ms(), lost)
        if is_meta_wounded:
            event(_logger, logging.ERROR, "wound_found", wound="one copy of meta is rotten; it is written again")
            self._raft.rewrite_standing()
        self._events.wounds_found()

    def _now_ms(self) -> int:
        return int(self._clock.monotonic() * 1000)

    def _release(self) -> None:
        """Close the state that there is."""
        if self._check is not None:
            self._check.close()
        self.scrubber.close()
        self.source.close()
        self.backups.close()
        self.checkpointer.close()
        if self._kv is not None:
            self._kv.close()
            self._kv = None

    # -- states that differ ---------------------------------------------------------------------------------------

    def _broadcast(self, said: StateHash) -> None:
        for peer in self._raft.state.peers:
            self._events.send(peer, said)

    def _judge(self, index: Index) -> None:
        verdict = self.hashes.verdict(index)
        if verdict is None:
            return
        event(_logger, logging.ERROR, "state_differs", index=index, nodes=",".join(verdict.wrong))
        if self._config.node_id in verdict.wrong and self._raft.is_whole:
            self.differs += 1
            self._raft.lose_state(self._now_ms())
            self._events.machine_replaced(self.machine)

    def _set_aside(self) -> None:
        """Put the state aside that cannot be believed, once nothing is being written to it."""
        if self.checkpointer.is_writing:
            return
        self._release()
        name = self._states.set_aside("kv.differs")
        event(_logger, logging.ERROR, "state_set_aside", name=name)
        self._begin(None)
        self._events.machine_replaced(self.machine)
