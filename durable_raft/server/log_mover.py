"""Moves what the log's journal holds into LMDB, on a thread of its own, beside the writes (journaled_store.py).

It moves when no write came for a moment, when much has gathered, and at the latest a second after the first. So what is
acknowledged is in the journal at once, and in LMDB within ``LATEST_S`` and the time of one transaction. Nobody waits
for it, unless the journal is full. A full disk is no failure: what is pending stays where it is, and it is tried again.

It drops the prefix as well, behind each move. While writes never pause it drops twice as much as they bring: a log that
is compacted more slowly than it grows fills the disk. Groups that go to LMDB directly drop a piece along with them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from durable_raft.errors import DiskFull, DurableRaftError
from durable_raft.raft.types import Index
from durable_raft.server.clock import Clock
from durable_raft.server.crash_points import CrashPoints
from durable_raft.server.logs import event
from durable_raft.storage.log.journaled_store import JournaledLogStore

_logger = logging.getLogger(__name__)

IDLE_S = 0.02
"""After so long without a write what is pending is moved, and a piece of the prefix is dropped."""

LATEST_S = 1.0
"""So long after the first pending group all is moved in any case."""

FULL_S = 0.1
"""How long a move that found no room waits before it is tried again."""

DROP_ENTRIES = 1024
"""Entries dropped by one transaction at most; the store bounds the records."""


class LogMover:
    """Runs the thread; ``note`` is called by whoever persists, ``on_failed`` from the thread."""

    def __init__(
        self,
        store: JournaledLogStore,
        clock: Clock,
        crash_points: CrashPoints,
        on_failed: Callable[[BaseException], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._crash_points = crash_points
        self._on_failed = on_failed
        self._has_work = threading.Event()
        self._is_due = threading.Event()
        self._is_ending = False
        self._since = 0.0
        """When the first of what is pending was persisted, by the monotonic clock (s)."""
        self._groups = 0
        """Counts groups, so that a pause between them is seen."""
        self._seen_groups = 0
        self._compact_to = Index(0)
        """Up to where the log was last asked to be dropped."""
        self._is_out_of_room = False
        if store.has_pending:
            # The start found no room to move it.
            self._has_work.set()
        self._thread = threading.Thread(target=self._run, name="log-mover", daemon=True)

    @property
    def has_work(self) -> bool:
        """Whether ``work`` should be called in a moment."""
        return self._has_work.is_set()

    @property
    def compact_to(self) -> Index | None:
        """Up to where the log is to be dropped; None when it is."""
        upto = self._compact_to
        return upto if upto > self._store.home.base_index else None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def note(self) -> None:
        """A group was persisted; cheap."""
        self._groups += 1
        if not self._has_work.is_set():
            self._since = self._clock.monotonic()
            self._has_work.set()
        if not self._is_due.is_set() and self._store.is_move_due:
            self._is_due.set()

    def compact(self, upto: Index) -> None:
        """Drop the log up to ``upto`` in pieces."""
        self._compact_to = upto
        self._has_work.set()

    def stop(self, timeout_s: float) -> bool:
        """Move all at once, if there is room, and end the thread; return whether it ended in time."""
        self._is_ending = True
        self._is_due.set()
        self._has_work.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._is_ending:
                self._has_work.wait()
                self._is_due.wait(FULL_S if self._is_out_of_room else IDLE_S)
                self.work()
            self._move()
        except DurableRaftError as error:
            self._on_failed(error)
        except BaseException as error:
            # Whatever it is, nothing may be promised after it.
            self._on_failed(error)
            raise

    def work(self) -> None:
        """Move and drop what is due now, ``IDLE_S`` after the last look or because it is due at once."""
        is_idle, self._seen_groups = self._groups == self._seen_groups, self._groups
        if not (is_idle or self._is_due.is_set() or self._clock.monotonic() - self._since >= LATEST_S):
            return
        self._has_work.clear()
        self._is_due.clear()
        before = self._store.home.last_index
        if self._move():
            self._drop_prefix(2 * max(0, self._store.home.last_index - before))
        if self._store.has_pending or self.compact_to is not None:
            if not self._has_work.is_set():
                self._since = self._clock.monotonic()
            self._has_work.set()

    def _move(self) -> bool:
        """Move what is pending; return whether there was room."""
        if not self._store.has_pending:
            return True
        self._crash_points.reach("before_move")
        try:
            self._store.move()
        except DiskFull as error:
            if not self._is_out_of_room:
                event(_logger, logging.ERROR, "disk_full", reason=error)
            self._is_out_of_room = True
            return False
        self._is_out_of_room = False
        self._crash_points.reach("after_move")
        return True

    def _drop_prefix(self, entries: int) -> None:
        """Drop a piece of the prefix, and more pieces until so many entries are gone."""
        upto = self.compact_to
        if upto is None:
            return
        end = min(upto, self._store.home.base_index + entries)
        while True:
            self._crash_points.reach("before_prefix_dropped")
            try:
                base = self._store.compact(upto, DROP_ENTRIES)
            except DiskFull:
                return
            self._crash_points.reach("after_prefix_dropped")
            if base >= end:
                return
