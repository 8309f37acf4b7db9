"""Makes writes of the log durable: on a thread of its own, or on the calling thread when a small write is alone.

One lock keeps the two threads from persisting at the same time. Without a journal each group is one LMDB transaction,
which runs on one thread from begin to commit. With one it is a flush of the journal, and a third thread moves what has
gathered into LMDB (log_mover.py).

Writes are handed over whole and acknowledged in order. All that wait when a flush ends go into the next group together
(group commit). The first failure is final: the thread says so once and takes no more (durability contract 6). A full
disk is no failure: nothing was begun. The write waits for room, and to the core that is a disk that hangs.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from durable_raft.errors import DiskFull, DurableRaftError
from durable_raft.raft.ready import Write
from durable_raft.raft.types import Index
from durable_raft.server.clock import Clock
from durable_raft.server.crash_points import CrashPoints
from durable_raft.server.log_mover import DROP_ENTRIES, FULL_S, IDLE_S, LogMover
from durable_raft.server.logs import event
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.log_store import LogStore

_logger = logging.getLogger(__name__)

GROUP_BYTES_MAX = 8 << 20
"""Payload bytes after which a group is closed, so that one transaction does not hold up the next write for long."""


@dataclass(frozen=True, slots=True)
class _Compaction:
    """Asks for the prefix up to an index to be dropped."""

    upto: Index


@dataclass(frozen=True, slots=True)
class Flushed:
    """A group of writes is durable."""

    numbers: tuple[int, ...]
    """Write numbers, ascending."""
    seconds: float
    """How long the flush took, or the transaction with it."""


class LogWriter:
    """Runs the thread; ``submit`` and ``persist_now`` are called from the event loop, the callbacks from the thread."""

    def __init__(
        self,
        store: LogStore,
        clock: Clock,
        crash_points: CrashPoints,
        on_flushed: Callable[[Flushed], None],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._crash_points = crash_points
        self._on_flushed = on_flushed
        self._on_failed = on_failed
        self._queue: queue.SimpleQueue[Write | _Compaction | None] = queue.SimpleQueue()
        self._compact_to: Index | None = None
        """Up to where the log is to be dropped; None when it is."""
        self._at_work = threading.Lock()
        """Held while the store is written to."""
        self._is_ending = threading.Event()
        self.is_waiting_for_room = False
        """Whether a write waits because the disk is full."""
        self.failure: BaseException | None = None
        """What ended the thread; whoever stops it must look, because then nobody is told any more."""
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._mover: LogMover | None = None
        if isinstance(store, JournaledLogStore) and store.is_journaled:
            self._mover = LogMover(store, clock, crash_points, self._fail)

    def start(self) -> None:
        """Start the thread, and the one that moves what is in the journal."""
        self._thread.start()
        if self._mover is not None:
            self._mover.start()

    def submit(self, write: Write) -> None:
        """Queue ``write``; it becomes durable after all submitted before it."""
        self._queue.put(write)

    def persist_now(self, write: Write) -> Flushed | None:
        """Make ``write`` durable on the calling thread, if all submitted before it is and the thread is at rest.

        A lone small write takes as long as two changes of threads. Whoever calls this waits for the disk, so it must
        be one that has been quick.

        Returns:
            None when the thread is at work, or the disk is full, or the store would wait for another thread: the write
            was not taken.

        Raises:
            StoragePoisoned: as the store does; final.
        """
        if not self._at_work.acquire(blocking=False):
            return None
        try:
            return self._persisted([write]) if self._store.is_quick(write) else None
        except DiskFull:
            return None
        finally:
            self._at_work.release()

    def compact(self, upto: Index) -> None:
        """Drop the log up to ``upto`` from the disk in pieces: along with the next writes, or by itself when idle."""
        self._queue.put(_Compaction(upto))

    def stop(self, timeout_s: float) -> bool:
        """Flush what was submitted, if there is room, and move it; end the threads; return whether they ended in time.

        Each of them is waited for that long.
        """
        self._is_ending.set()
        self._queue.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        return self._mover is None or self._mover.stop(timeout_s)

    def _run(self) -> None:
        try:
            while self._flush_next_group():
                pass
        except DurableRaftError as error:
            self._fail(error)
        except BaseException as error:
            # Whatever it is, nothing may be promised after it.
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
            self._on_failed(error)

    def _flush_next_group(self) -> bool:
        """Wait for a write, take all that wait with it, make them durable; return False when told to stop."""
        try:
            item = self._queue.get(timeout=None if self._compact_to is None else IDLE_S)
        except queue.Empty:
            self._drop_prefix()
            return True
        group: list[Write] = []
        group_bytes = 0
        while item is not None:
            if isinstance(item, _Compaction):
                self._note_compaction(item.upto)
            else:
                group.append(item)
                group_bytes += sum(len(entry.payload) for entry in item.entries)
            if group_bytes >= GROUP_BYTES_MAX or self._queue.empty():
                break
            item = self._queue.get()
        if group:
            self._persist(group)
        return item is not None

    def _persist(self, group: list[Write]) -> None:
        flushed = self._tried(group)
        while flushed is None and self._wait_for_room():
            flushed = self._tried(group)
        if flushed is not None:
            self._on_flushed(flushed)

    def _tried(self, group: list[Write]) -> Flushed | None:
        """Make a group durable; None: the disk has no room, and nothing was done."""
        try:
            with self._at_work:
                return self._persisted(group)
        except DiskFull as error:
            if not self.is_waiting_for_room:
                event(_logger, logging.ERROR, "disk_full", reason=error)
            self.is_waiting_for_room = True
            return None

    def _wait_for_room(self) -> bool:
        """Wait a moment for somebody to make room; return whether to try again, rather than to end."""
        return not self._is_ending.wait(FULL_S)

    def _persisted(self, group: list[Write]) -> Flushed:
        self._crash_points.reach("before_persist")
        started = self._clock.monotonic()
        self._store.persist(group, self._compact_to if self._mover is None else self._mover.compact_to)
        seconds = self._clock.monotonic() - started
        if self._mover is not None:
            self._mover.note()
        if self.is_waiting_for_room:
            self.is_waiting_for_room = False
            event(_logger, logging.INFO, "disk_has_room")
        self._crash_points.reach("after_persist")
        return Flushed(tuple(write.number for write in group), seconds)

    def _note_compaction(self, upto: Index) -> None:
        """Have the prefix dropped: by the thread that moves what is in the journal, else by this one."""
        if self._mover is None:
            self._compact_to = upto
        else:
            self._mover.compact(upto)

    def _drop_prefix(self) -> None:
        """Drop a piece of the prefix while nobody waits for a write."""
        if self._compact_to is None:
            return
        with self._at_work, contextlib.suppress(DiskFull):
            self._crash_points.reach("before_prefix_dropped")
            if self._store.compact(self._compact_to, DROP_ENTRIES) >= self._compact_to:
                self._compact_to = None
            self._crash_points.reach("after_prefix_dropped")
