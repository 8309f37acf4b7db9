"""The sender's side of snapshots: pieces of a checkpoint, for a follower that asks or for a backup.

Pieces are read on a thread of their own, which rests after each for longer than it worked: commands go first.

Whoever wants a snapshot asks for one piece after the other and says behind which key it begins. So the sender keeps
nothing for it but a view of one checkpoint; the asker sets the pace; and a broken connection costs one piece. While a
view is kept, the log behind it is (``held``): a snapshot that takes longer than a compaction still ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from durable_raft.raft.types import Index
from durable_raft.server.clock import Clock
from durable_raft.server.logs import event
from durable_raft.server.state.worker import Worker
from durable_raft.storage.environment import Room
from durable_raft.storage.state.state_store import CheckpointView, StateStore
from durable_raft.wire.messages import SNAPSHOT_RECORDS_MAX
from durable_raft.wire.peer import FetchSnapshot, SnapshotChunk

_logger = logging.getLogger(__name__)

PIECE_BYTES: Final = 64 << 10
"""Keys and values in one piece: half a millisecond of work, in which no command is answered."""

REST: Final = 2.0
"""How long the thread rests after a piece, in parts of the time that it took."""

KEPT_S: Final = 60.0
"""How long a view is kept after it was last asked for."""

VIEWS_MAX: Final = 4
"""Views kept at one time; the one that was asked for least recently goes first."""


class _Kept:
    """A view of one checkpoint."""

    __slots__ = ("file_bytes", "used_at", "users", "view")

    def __init__(self, view: CheckpointView, used_at: float, file_bytes: int) -> None:
        self.view = view
        self.file_bytes = file_bytes
        """Of the state's file when the view began."""
        self.used_at = used_at
        """Monotonic, seconds."""
        self.users = 0
        """Pieces that are being read from it."""


class SnapshotSource:
    """Answers for the checkpoints of one node; every method belongs to the event loop."""

    def __init__(self, worker: Worker, clock: Clock) -> None:
        """Read on ``worker``, which does nothing else."""
        self._worker = worker
        self._clock = clock
        self._kv: StateStore | None = None
        """What snapshots are taken of; None while there is no state."""
        self._kept: dict[Index, _Kept] = {}
        self.pieces = 0
        """Pieces given since the start."""

    def read_from(self, kv: StateStore | None) -> None:
        """Answer from ``kv`` from now on; ``close`` was called before."""
        self._kv = kv

    def answer(self, question: FetchSnapshot, done: Callable[[SnapshotChunk], None]) -> bool:
        """Have ``done`` called with the piece that is asked for.

        When that snapshot is gone, it is a piece of the newest, from its first key. A damaged record stops the node: it
        cannot say what it holds.

        Returns:
            False when this node has no state itself.
        """
        wanted = self._wanted(question)
        kept = None if wanted is None else self._kept.get(wanted)
        if kept is None:
            if self._kv is None:
                return False
            kept = self._newest(self._kv)
            if kept.view.meta.applied.point.index != question.last_included_index:
                question = question._replace(has_key=False, after_key=b"")
        kept.used_at = self._clock.monotonic()
        kept.users += 1

        def given(chunk: SnapshotChunk) -> None:
            kept.users -= 1
            self.pieces += 1
            done(chunk)

        self._worker.submit(lambda: self._read(kept.view, question), given)
        return True

    def held(self) -> Index | None:
        """Return the lowest index whose following entries somebody will need; None when nobody will."""
        return min(self._kept, default=None)

    def expire(self, room: Room | None = None) -> None:
        """Let go of views that nobody asks for any more, and of those under which the file has grown too much."""
        oldest = self._clock.monotonic() - KEPT_S
        for index, kept in list(self._kept.items()):
            has_grown = room is not None and room.has_grown(kept.file_bytes)
            if (kept.used_at < oldest or has_grown) and not kept.users:
                if has_grown:
                    event(_logger, logging.WARNING, "slow_reader_cut_off", index=index)
                self._kept.pop(index).view.close()

    def close(self) -> None:
        """Let go of every view, and answer no more; waits for the piece that is being read."""
        self._kv = None
        self._worker.settle()
        for kept in self._kept.values():
            kept.view.close()
        self._kept.clear()

    def _wanted(self, question: FetchSnapshot) -> Index | None:
        """Return the snapshot to give: whoever has none yet joins one that is being given. None: the newest.

        So a follower that was restarted goes on with what it has stored.
        """
        if question.last_included_index:
            return question.last_included_index
        return max((index for index in self._kept if index > question.floor), default=None)

    def _newest(self, kv: StateStore) -> _Kept:
        view = kv.view()
        index = view.meta.applied.point.index
        if index in self._kept:
            view.close()
            return self._kept[index]
        idle = [each for each, kept in self._kept.items() if not kept.users]
        if len(self._kept) >= VIEWS_MAX and idle:
            oldest = min(idle, key=lambda each: self._kept[each].used_at)
            self._kept.pop(oldest).view.close()
        kept = self._kept[index] = _Kept(view, self._clock.monotonic(), kv.room().file_bytes)
        return kept

    def _read(self, view: CheckpointView, question: FetchSnapshot) -> SnapshotChunk:
        """Read a piece, and rest; on the worker thread."""
        started = self._clock.monotonic()
        chunk = _piece_of(view, question)
        self._clock.sleep((self._clock.monotonic() - started) * REST)
        return chunk


def _piece_of(view: CheckpointView, question: FetchSnapshot) -> SnapshotChunk:
    meta = view.meta
    items = view.piece(question.after_key if question.has_key else None, PIECE_BYTES)[:SNAPSHOT_RECORDS_MAX]
    point = meta.applied.point
    return SnapshotChunk(
        last_included_index=point.index,
        last_included_term=point.term,
        last_included_chain=point.chain,
        timestamp_ms=meta.applied.timestamp_ms,
        key_count=meta.summary.key_count,
        expires_count=meta.summary.expires_count,
        state_hash=meta.summary.state_hash,
        has_key=question.has_key,
        after_key=question.after_key,
        keys=[key for key, _ in items],
        values=[bytes(record.value) for _, record in items],
        deadlines_ms=[record.deadline_ms for _, record in items],
        checksums=[record.crc for _, record in items],
        # An empty piece is the last: whether a full one is, only the next question tells.
        is_last=not items,
        configuration=meta.stored_configuration,
        version=meta.version,
    )
