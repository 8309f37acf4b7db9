"""The giving side of snapshots: pieces of a checkpoint, for a follower that asks or for a backup.

Whoever wants a snapshot asks for one piece after the other and says behind which key it begins. So the giver keeps
nothing for it but a view of one checkpoint; the asker sets the pace; and a broken connection costs one piece. While a
view is kept, the log behind it is (``held``): a snapshot that takes longer than a compaction still ends.
"""

from __future__ import annotations

import time
from typing import Final

from durable_raft.raft.types import Index
from durable_raft.storage.kv_store import LmdbKvStore
from durable_raft.storage.kv_view import LmdbStateView
from durable_raft.wire.peer import FetchSnapshot, SnapshotChunk

PIECE_BYTES: Final = 256 << 10
"""Keys and values in one piece; about a millisecond of the event loop."""

KEPT_S: Final = 60.0
"""How long a view is kept after it was last asked for."""

VIEWS_MAX: Final = 4
"""Views kept at one time; the one that was asked for least recently goes first."""


class _Kept:
    """A view of one checkpoint."""

    __slots__ = ("used_at", "view")

    def __init__(self, view: LmdbStateView) -> None:
        self.view = view
        self.used_at = time.monotonic()


class SnapshotSource:
    """Answers for the checkpoints of one node."""

    def __init__(self) -> None:
        self._kv: LmdbKvStore | None = None
        """What snapshots are taken of; None while there is no state."""
        self._kept: dict[Index, _Kept] = {}
        self.pieces = 0
        """Pieces given since the start."""

    def begin_with(self, kv: LmdbKvStore | None) -> None:
        """Answer from ``kv`` from now on; views of another must be closed before."""
        self._kv = kv

    def answer(self, question: FetchSnapshot) -> SnapshotChunk | None:
        """Return the piece that is asked for; of the newest checkpoint, from its first key, when that one is gone.

        None: this node has no state itself.

        Raises:
            CorruptRecord: a record of it is damaged.
        """
        wanted = question.last_included_index
        if not wanted:
            # Whoever has no snapshot yet joins one that is being given: a follower that was restarted goes on with it.
            wanted = max((index for index in self._kept if index > question.floor), default=wanted)
        kept = self._kept.get(wanted)
        if kept is None:
            if self._kv is None:
                return None
            kept = self._newest(self._kv)
            if kept.view.meta.applied.point.index != question.last_included_index:
                question = question._replace(has_key=False, after_key=b"")
        kept.used_at = time.monotonic()
        self.pieces += 1
        return _piece_of(kept.view, question)

    def held(self) -> Index | None:
        """Return the lowest index whose following entries somebody will need; None when nobody will."""
        return min(self._kept, default=None)

    def expire(self) -> None:
        """Let go of views that nobody asks for any more."""
        oldest = time.monotonic() - KEPT_S
        for index in [index for index, kept in self._kept.items() if kept.used_at < oldest]:
            self._kept.pop(index).view.close()

    def close(self) -> None:
        """Let go of every view, and answer no more."""
        self._kv = None
        for kept in self._kept.values():
            kept.view.close()
        self._kept.clear()

    def _newest(self, kv: LmdbKvStore) -> _Kept:
        view = kv.view()
        index = view.meta.applied.point.index
        if index in self._kept:
            view.close()
            return self._kept[index]
        if len(self._kept) >= VIEWS_MAX:
            oldest = min(self._kept, key=lambda each: self._kept[each].used_at)
            self._kept.pop(oldest).view.close()
        kept = self._kept[index] = _Kept(view)
        return kept


def _piece_of(view: LmdbStateView, question: FetchSnapshot) -> SnapshotChunk:
    meta = view.meta
    items = view.piece(question.after_key if question.has_key else None, PIECE_BYTES)
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
        values=[record.value for _, record in items],
        deadlines_ms=[record.deadline_ms for _, record in items],
        checksums=[record.crc for _, record in items],
        # An empty piece is the last: whether a full one is, only the next question tells.
        is_last=not items,
    )
