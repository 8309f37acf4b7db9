"""Checkpoints: when the machine's changes move to the disk, and what of the log may go afterwards.

A checkpoint covers what is applied *and* flushed here: the machine may be ahead of this node's own log. It is frozen on
the event loop, in no time, written by the worker thread, and taken over on the loop again. What the state is then, the
worker settles: it reads the old records anyway. One may be frozen while another is written, at agreed places of the log
(state_hashes.py); else the next begins when none is under way. The log is compacted only
behind a checkpoint that is durable (durability contract 5), and keeps a tail for followers that were away for a moment.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from durable_raft.errors import DiskFull
from durable_raft.kv.layer import CHANGE_BYTES, Layer
from durable_raft.kv.machine import Machine
from durable_raft.kv.records import StateSummary
from durable_raft.raft.core import Raft
from durable_raft.raft.types import ORIGIN, Base, Configuration, Entry, Index, LogPoint, Membership, Term
from durable_raft.raft.versions import FIRST
from durable_raft.server.clock import Clock
from durable_raft.server.crash_points import CrashPoints
from durable_raft.server.latency import LatencyRing
from durable_raft.server.logs import event
from durable_raft.server.settings.config import NodeConfig
from durable_raft.server.state.worker import Worker
from durable_raft.storage.state.change import ChangeSize
from durable_raft.storage.state.state_store import CheckpointView, StateStore

_logger = logging.getLogger(__name__)

PAGE_BYTES: Final = 4096

KEYS_PER_NEW_PAGE: Final = 2
"""New keys that count as a page which a checkpoint changes: fewer than fit into one, to bound what is replayed."""

FULL_S: Final = 0.2
"""How long a checkpoint that found no room waits before it is tried again."""

SETTLING_S: Final = 0.002
SETTLED_AT_ONCE: Final = 64
"""How long keys are settled at once, in seconds and in steps: where the disk is read for each, that takes a while."""

PERIOD_S_MIN: Final = 10.0
"""From one checkpoint for a new period to the next; while old entries are applied periods pass in no time."""

PAUSE_S: Final = 0.0005
"""How long the worker leaves the interpreter and the disk alone between two chunks."""


@dataclass(frozen=True, slots=True)
class _Frozen:
    """A state that is being written, or waits for it."""

    layer: Layer
    base: Base
    applied_bytes: int
    configuration: Configuration | None
    """The one that counts at ``base``; None: the fixed one of the first start."""
    version: int
    """Of the cluster, at ``base``."""


@dataclass(frozen=True, slots=True)
class _Written:
    """What the worker says of a checkpoint."""

    seconds: float
    summary: StateSummary


@dataclass(frozen=True, slots=True)
class Settled:
    """A state that is durable, in numbers."""

    point: LogPoint = ORIGIN
    summary: StateSummary = field(default_factory=StateSummary)
    version: int = FIRST
    """Of the cluster, at ``point``."""


def settle_some(machine: Machine, clock: Clock, is_wanted: Callable[[], bool]) -> bool:
    """Settle while ``is_wanted``, for some milliseconds; return whether all is. Raises as ``Machine.settle``."""
    until = clock.monotonic() + SETTLING_S
    for _ in range(SETTLED_AT_ONCE):
        if not is_wanted():
            break
        if machine.settle():
            return True
        if clock.monotonic() >= until:
            break
    return machine.is_settled


class Checkpointer:
    """Writes the checkpoints of one node; every method belongs to the event loop."""

    def __init__(
        self,
        raft: Raft,
        membership: Membership,
        worker: Worker,
        clock: Clock,
        crash_points: CrashPoints,
        config: NodeConfig,
        compact: Callable[[Index], None],
        on_written: Callable[[Settled], None],
    ) -> None:
        """Bind the parts; ``use_machine`` follows.

        Args:
            raft: the core.
            membership: stamped into every checkpoint.
            worker: writes.
            clock: of this node.
            crash_points: named places for tests.
            config: when a checkpoint is due, and how much of the log stays behind it.
            compact: drops the log up to an index from the disk.
            on_written: is told of each checkpoint that ended: applying may have waited for it.
        """
        self._raft = raft
        self._membership = membership
        self._worker = worker
        self._clock = clock
        self._crash_points = crash_points
        self._config = config
        self._compact = compact
        self._machine: Machine
        self._kv: StateStore | None = None
        self._view: CheckpointView | None = None
        """What the machine reads from; None while it has no state."""
        self._frozen: deque[_Frozen] = deque()
        """The oldest first: it is written next, or is being written."""
        self.settled = Settled()
        """The newest checkpoint."""
        self.is_writing = False
        self.waits_for_room = False
        """Whether a checkpoint waits because the disk is full."""
        self._retry_at = -math.inf
        self._owned_bytes: int | None = None
        """What the state's file owns behind its end while the disk has little room; None while it has enough."""
        self._is_requested = False
        self._applied_bytes = 0
        self._last_bytes = 0
        """``_applied_bytes`` at the last checkpoint."""
        self._last_at = self._clock.monotonic()
        self._last_period_at = -math.inf
        """When the last checkpoint for a new period began."""
        self._marks: deque[tuple[Index, int]] = deque()
        """(index, ``_applied_bytes``) of checkpoints behind which the log was not compacted yet, ascending."""
        self._on_written = on_written
        self._pages = 0
        """Of the state on the disk: a checkpoint changes no more than these, and those it adds."""
        self.durations = LatencyRing()
        self.count = 0

    # -- when -----------------------------------------------------------------------------------------------------

    def applied(self, payload_bytes: int) -> None:
        """Note that an entry was applied."""
        self._applied_bytes += payload_bytes

    def request(self) -> None:
        """Have a checkpoint begun as soon as none is under way."""
        self._is_requested = True

    @property
    def may_apply(self) -> bool:
        """Whether there is memory for more changes."""
        return not self._frozen or self._machine.overlay_bytes < self._config.overlay_bytes_max

    def note_room(self, owned_bytes: int | None) -> None:
        """Note what the state's file owns, while the disk has little room: a checkpoint must fit into it.

        Args:
            owned_bytes: allocated behind its end; None: there is room enough.
        """
        self._owned_bytes = owned_bytes

    def _room_share(self) -> float:
        """Return how much of the room that is owned the next checkpoint may take, when two have to fit into it."""
        if self._owned_bytes is None or self._kv is None or not self._machine.overlay_changes:
            return 0
        size = ChangeSize(self._machine.overlay_changes, self._machine.active_bytes)
        return self._kv.needed_bytes(size) / max(self._owned_bytes // 2, 1)

    @property
    def is_pending(self) -> bool:
        """Whether a checkpoint was asked for, or waits for the log."""
        is_waiting = bool(self._frozen) and not self.is_writing and not self.waits_for_room
        return self._is_requested or is_waiting

    def consider(self) -> None:
        """Begin a checkpoint when one is due, and write the one that waited for the log."""
        if not self._frozen and self._is_due():
            log = self._raft.log
            self._freeze(log.last_applied, log.term_at(log.last_applied), log.chain_at(log.last_applied))
            self._is_requested = False
        if not self._frozen or self._kv is None or self.is_writing or self._clock.monotonic() < self._retry_at:
            return
        frozen = self._frozen[0]
        if self._raft.log.flushed >= frozen.base.point.index:
            self._write(frozen, self._kv)

    def take_agreed(self, entry: Entry, *, is_by_time: bool) -> None:
        """Take a checkpoint at an agreed place, right behind ``entry``; none if two are under way already.

        Args:
            entry: was applied, and nothing behind it.
            is_by_time: whether only the time makes it one.
        """
        if not self._raft.is_whole or not self._machine.may_freeze or entry.index <= self._raft.snapshot.index:
            return
        now = self._clock.monotonic()
        if is_by_time:
            if now - self._last_period_at < PERIOD_S_MIN:
                return
            self._last_period_at = now
        self._freeze(entry.index, entry.term, entry.chain)

    def _is_due(self) -> bool:
        log, last = self._raft.log, self._raft.snapshot.index
        if not self._raft.is_whole or log.last_applied <= last:
            return False
        config = self._config
        return (
            self._is_requested
            or self._has_changed_enough()
            or self._room_share() >= 0.5
            or log.last_applied - last >= config.checkpoint_entries
            or (self._clock.monotonic() - self._last_at) * 1000 >= config.checkpoint_interval_ms
        )

    def _has_changed_enough(self) -> bool:
        """Return whether ``_due_share`` is at least 1; asked after each entry, so what is far from it is told first."""
        config, machine = self._config, self._machine
        if machine.overlay_changes * 2 >= config.checkpoint_pages and self._may_new_keys_decide():
            settle_some(machine, self._clock, self._may_new_keys_decide)
        may_be = (
            machine.overlay_changes >= min(config.checkpoint_changes, config.checkpoint_pages)
            or machine.active_bytes >= config.checkpoint_bytes
            or self._applied_bytes - self._last_bytes >= config.checkpoint_log_bytes
        )
        return may_be and self._due_share() >= 1

    def _may_new_keys_decide(self) -> bool:
        """Return whether a checkpoint may soon be due for the number of new keys, and for no other pages.

        Of keys that were set nobody knows yet which are new. So they are looked up while there are few of them.
        """
        pages_max = self._config.checkpoint_pages
        return self._pages < pages_max <= 2 * self._changed_pages()

    def _changed_pages(self) -> int:
        """Return how many pages a checkpoint would change or add, about; at most, while not all is settled."""
        added = max(0, self._machine.new_keys_max) // KEYS_PER_NEW_PAGE
        return min(self._machine.overlay_changes, self._pages + added)

    def _due_share(self) -> float:
        """Return how far the next checkpoint is due by what changed since the last one began; from 1 on it is."""
        config, machine = self._config, self._machine
        return max(
            machine.overlay_changes / config.checkpoint_changes,
            self._changed_pages() / config.checkpoint_pages,
            machine.active_bytes / config.checkpoint_bytes,
            (self._applied_bytes - self._last_bytes) / config.checkpoint_log_bytes,
        )

    # -- the way to the disk --------------------------------------------------------------------------------------

    def _freeze(self, index: Index, term: Term, chain: int) -> None:
        base = Base(LogPoint(index, term, chain), self._machine.time_ms)
        configuration = self._raft.stored_configuration_at(index)
        version = self._machine.version
        self._frozen.append(_Frozen(self._machine.freeze(), base, self._applied_bytes, configuration, version))
        self._begin_counting()

    def _begin_counting(self) -> None:
        """Count from here what makes the next checkpoint due."""
        self._last_at, self._last_bytes = self._clock.monotonic(), self._applied_bytes

    def _write(self, frozen: _Frozen, kv: StateStore) -> None:
        self.is_writing = True
        self._crash_points.reach("before_checkpoint")
        layer = frozen.layer

        def work() -> _Written | None:
            started = self._clock.monotonic()
            try:
                summary = kv.write_checkpoint(
                    layer.sorted_changes(),
                    is_cleared=layer.is_cleared,
                    applied=frozen.base,
                    membership=self._membership,
                    configuration=frozen.configuration,
                    version=frozen.version,
                    pause=self._pause,
                    size=_size_of(layer),
                )
            except DiskFull:
                return None
            self._crash_points.reach("after_checkpoint_persist")
            return _Written(self._clock.monotonic() - started, summary)

        self._worker.submit(work, self._written)

    def _written(self, written: _Written | None) -> None:
        """Let the machine read from the new checkpoint, and drop what it makes needless; None: there was no room."""
        if written is None:
            self.is_writing = False
            self.waits_for_room = True
            self._retry_at = self._clock.monotonic() + FULL_S
            return
        self.waits_for_room = False
        self.is_writing = False
        if not self._frozen or self._kv is None:
            return
        frozen = self._frozen.popleft()
        self.count += 1
        self.durations.add_sample(written.seconds)
        self._crash_points.reach("before_checkpoint_swap")
        needless = self._read_from(self._kv.view())
        self._note_pages(self._kv)
        self._raft.checkpointed(frozen.base.point)
        self._marks.append((frozen.base.point.index, frozen.applied_bytes))
        event(
            _logger,
            logging.DEBUG,
            "checkpoint",
            index=frozen.base.point.index,
            changes=len(frozen.layer.changes),
            seconds=round(written.seconds, 3),
        )
        self._worker.submit(lambda: needless.dissolve(self._pause), lambda _: None)
        self.settled = Settled(frozen.base.point, written.summary, frozen.version)
        self._on_written(self.settled)

    def _read_from(self, view: CheckpointView) -> Layer:
        """Have the machine read from ``view``; return the layer that nobody reads any more."""
        old, self._view = self._view, view
        needless = self._machine.checkpointed(view)
        if old is not None:
            old.close()
        return needless

    def _note_pages(self, kv: StateStore) -> None:
        self._pages = kv.room().used_bytes // PAGE_BYTES

    def _pause(self) -> None:
        """Leave interpreter and disk alone for a moment, unless the next is half due or waits; on the worker thread."""
        if len(self._frozen) <= 1 and self._due_share() < 0.5:
            self._clock.sleep(PAUSE_S)

    # -- compaction -----------------------------------------------------------------------------------------------

    def compact(self, held: Index | None) -> None:
        """Drop the log behind old checkpoints, but for the tail and what follows ``held``, a snapshot being fetched."""
        config, last = self._config, self._raft.log.last_applied
        upto: Index | None = None
        while self._marks:
            index, applied_bytes = self._marks[0]
            tail_bytes = self._applied_bytes - applied_bytes
            is_tail = tail_bytes < config.log_tail_bytes and last - index < config.log_tail_entries
            if is_tail or (held is not None and index > held):
                break
            upto = index
            self._marks.popleft()
        needless = self._raft.needless_prefix()
        if needless is not None:
            event(_logger, logging.WARNING, "wounds_compacted", index=needless)
            upto = max(needless, upto or needless)
        if upto is not None and upto > self._raft.log.base.index:
            self._crash_points.reach("before_compaction")
            self._raft.compact(upto)
            self._compact(upto)

    # -- another state --------------------------------------------------------------------------------------------

    def use_machine(self, machine: Machine, kv: StateStore | None, view: CheckpointView | None) -> None:
        """Go on with another machine, which reads from ``view`` of ``kv``; nothing may be under way at the disk."""
        self._machine, self._kv, self._view = machine, kv, view
        self._frozen.clear()
        self.settled = Settled()
        if kv is not None:
            self.settled = Settled(kv.checkpoint.applied.point, kv.checkpoint.summary, kv.checkpoint.version)
            self._note_pages(kv)
        self._marks.clear()
        self._begin_counting()
        snapshot = self._raft.snapshot.index
        if snapshot > self._raft.log.base.index:
            self._marks.append((snapshot, self._applied_bytes))

    def close(self) -> None:
        """End the view."""
        if self._view is not None:
            self._view.close()
            self._view = None


def _size_of(layer: Layer) -> ChangeSize:
    keys = len(layer.changes)
    return ChangeSize(keys, max(0, layer.size_bytes - keys * CHANGE_BYTES))
