"""The receiver's side of snapshots: a follower asks for one piece by piece and stores it beside its own state.

A piece that does not come is asked for again, from whoever leads then; a piece that is not expected is dropped. What
was stored survives a restart. When all of it is there and its numbers are right, ``on_ready`` is told: only then does
the node let go of the state it has.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Final, NamedTuple

from durable_raft.errors import CorruptRecord, DiskFull
from durable_raft.kv.records import Record, StateSummary
from durable_raft.raft.core import Raft
from durable_raft.raft.types import Base, Configuration, Index, LogPoint, NodeId
from durable_raft.server.clock import Clock
from durable_raft.server.crash_points import CrashPoints
from durable_raft.server.logs import event
from durable_raft.server.state.worker import Worker
from durable_raft.storage.state.state_store import StateInstaller
from durable_raft.wire.peer import FetchSnapshot, NodeMessage, SnapshotChunk

_logger = logging.getLogger(__name__)

FULL_S: Final = 2.0
"""How long nothing is fetched after the disk had no room for it."""

REFUSED_S: Final = 2.0
"""How long nothing is fetched after a snapshot was refused."""

PATIENCE_S: Final = 1.0
"""How long a piece is waited for before it is asked for again."""


class Snapshot(NamedTuple):
    """Which snapshot it is: what each of its pieces says of the whole."""

    base: Base
    """Where it was taken."""
    summary: StateSummary
    configuration: Configuration | None
    """The one that counts there; None: the fixed one of the first start."""
    version: int
    """Of the cluster there."""


class SnapshotFetcher:
    """Fetches at most one snapshot at a time; every method belongs to the event loop."""

    def __init__(
        self,
        begin: Callable[[Snapshot], StateInstaller],
        worker: Worker,
        clock: Clock,
        crash_points: CrashPoints,
        send: Callable[[NodeId, NodeMessage], None],
        raft: Raft,
        on_ready: Callable[[Snapshot], None],
    ) -> None:
        """Bind the parts.

        Args:
            begin: begins a snapshot, or goes on with the part of it that is there; on the worker thread.
            worker: does what touches the disk.
            clock: of this node.
            crash_points: named places for tests.
            send: sends a question to a node.
            raft: says which snapshots would help.
            on_ready: is told which snapshot is ready to be swapped in.
        """
        self._begin_installation = begin
        self._worker = worker
        self._clock = clock
        self._crash_points = crash_points
        self._send = send
        self._raft = raft
        self._on_ready = on_ready
        self._source: NodeId | None = None
        """Whom to ask; None while nothing is fetched."""
        self._installation: StateInstaller | None = None
        self._snapshot: Snapshot | None = None
        """Which one is being fetched."""
        self._is_busy = False
        """Whether the worker has a piece."""
        self._asked_at = 0.0
        self._rests_until = -math.inf
        self.is_finishing = False
        """Whether the whole snapshot is being checked: nothing else may touch the KV state then."""
        self.pieces = self.installed = 0

    @property
    def is_active(self) -> bool:
        """Whether a snapshot is being fetched."""
        return self._source is not None

    def fetch(self, source: NodeId) -> None:
        """Fetch a snapshot from ``source``; one that is being fetched goes on there."""
        if self._clock.monotonic() < self._rests_until:
            return
        was_active, self._source = self.is_active, source
        if not was_active:
            event(_logger, logging.INFO, "snapshot_wanted", source=source)
            self._ask()

    def is_overdue(self) -> bool:
        """Return whether a piece was asked for and did not come."""
        return self.is_active and not self._is_busy and self._clock.monotonic() - self._asked_at > PATIENCE_S

    def tick(self) -> None:
        """Ask again for a piece that did not come."""
        if self.is_overdue():
            self._ask()

    def received(self, source: NodeId, chunk: SnapshotChunk) -> None:
        """Take a piece from whoever was asked, if it is the next one or the first of another snapshot."""
        if self._source != source or self._is_busy:
            return
        snapshot = _snapshot_of(chunk)
        point = snapshot.base.point
        if not self._raft.wants_snapshot(point):
            event(_logger, logging.INFO, "snapshot_needless", index=point.index)
            self._stop()
            return
        if not self._raft.may_count_at(point, snapshot.configuration):
            self._refuse(source, snapshot)
            return
        found = chunk.after_key if chunk.has_key else None
        if self._installation is not None and snapshot == self._snapshot:
            if found == self._installation.last_key:
                self._store(self._installation, snapshot, chunk)
        elif found is None:
            self._begin(snapshot, chunk)

    def _refuse(self, source: NodeId, snapshot: Snapshot) -> None:
        """Leave a snapshot alone whose configuration cannot be right, and ask for no other for a while."""
        members_at = 0 if snapshot.configuration is None else snapshot.configuration.index
        event(
            _logger,
            logging.ERROR,
            "snapshot_refused",
            source=source,
            index=snapshot.base.point.index,
            reason=f"it names the configuration at {members_at}, and this log has another one there",
        )
        self._pause(REFUSED_S)

    def _ask(self) -> None:
        if self._source is None:
            return
        self._asked_at = self._clock.monotonic()
        index = Index(0) if self._snapshot is None else self._snapshot.base.point.index
        key = None if self._installation is None else self._installation.last_key
        self._send(
            self._source, FetchSnapshot(index, key is not None, key or b"", max(self._raft.snapshot_floor(), Index(0)))
        )

    def _begin(self, snapshot: Snapshot, chunk: SnapshotChunk) -> None:
        old = self._installation
        self._is_busy = True

        def work() -> StateInstaller | None:
            if old is not None:
                old.close()
            try:
                return self._begin_installation(snapshot)
            except DiskFull:
                return None

        def begun(installation: StateInstaller | None) -> None:
            if installation is None:
                self._rest()
                return
            self._installation, self._snapshot = installation, snapshot
            is_resumed = installation.last_key is not None
            event(
                _logger,
                logging.INFO,
                "snapshot_resumed" if is_resumed else "snapshot_begun",
                index=snapshot.base.point.index,
                keys=snapshot.summary.key_count,
            )
            if is_resumed:
                self._stored(None)
            else:
                self._store(installation, snapshot, chunk)

        self._worker.submit(work, begun)

    def _store(self, installation: StateInstaller, snapshot: Snapshot, chunk: SnapshotChunk) -> None:
        self._is_busy = True
        self.pieces += 1
        if chunk.is_last:
            self.is_finishing = True
            self._crash_points.reach("before_snapshot_finish")
            self._worker.submit(lambda: _tried(installation.complete), lambda error: self._finished(snapshot, error))
            return
        records = zip(chunk.values, chunk.deadlines_ms, chunk.checksums, strict=True)
        items = [(key, Record(*record)) for key, record in zip(chunk.keys, records, strict=True)]
        self._worker.submit(lambda: _tried(lambda: installation.store_records(items)), self._stored)

    def _stored(self, error: CorruptRecord | DiskFull | None) -> None:
        self._crash_points.reach("after_snapshot_piece")
        self._is_busy = False
        if isinstance(error, DiskFull):
            self._rest()
        elif error is not None:
            self._start_over(error)
        elif self.is_active:
            self._ask()

    def _finished(self, snapshot: Snapshot, error: CorruptRecord | DiskFull | None) -> None:
        self._crash_points.reach("after_snapshot_finish")
        if isinstance(error, DiskFull):
            self._rest()
            return
        if error is not None:
            self._is_busy = self.is_finishing = False
            self._installation = None
            self._start_over(error)
            return
        self.installed += 1
        self._installation = None
        self._stop()
        self._on_ready(snapshot)

    def _start_over(self, error: CorruptRecord) -> None:
        """Fetch from the first key again: what was put together is not what was announced."""
        event(_logger, logging.ERROR, "snapshot_damaged", error=error)
        self._stop()

    def _rest(self) -> None:
        """Stop for a while, as the disk has no room; what is stored is gone on with."""
        event(_logger, logging.WARNING, "snapshot_waits_for_room")
        self._pause(FULL_S)

    def _pause(self, seconds: float) -> None:
        """Stop, and begin no other for so long."""
        self._rests_until = self._clock.monotonic() + seconds
        self._stop()

    def _stop(self) -> None:
        installation, self._installation = self._installation, None
        self._source = self._snapshot = None
        self._is_busy = self.is_finishing = False
        if installation is not None:
            self._worker.submit(installation.close, lambda _: None)


def _tried(work: Callable[[], None]) -> CorruptRecord | DiskFull | None:
    """Do ``work``; return what showed the snapshot to be damaged, or that there is no room for it, if anything did."""
    try:
        work()
    except (CorruptRecord, DiskFull) as error:
        return error
    return None


def _snapshot_of(chunk: SnapshotChunk) -> Snapshot:
    point = LogPoint(chunk.last_included_index, chunk.last_included_term, chunk.last_included_chain)
    summary = StateSummary(chunk.key_count, chunk.expires_count, chunk.state_hash)
    return Snapshot(Base(point, chunk.timestamp_ms), summary, chunk.configuration, chunk.version)
