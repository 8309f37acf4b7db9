"""Pieces of a checkpoint for clients (RAFT SNAPSHOT): small ones, read on the event loop between other commands."""

from __future__ import annotations

import logging
from typing import Final

from durable_raft.kv.records import Record
from durable_raft.raft.types import Index
from durable_raft.server.clock import Clock
from durable_raft.server.logs import event
from durable_raft.storage.environment import Room
from durable_raft.storage.state.meta import KvMeta
from durable_raft.storage.state.state_store import CheckpointView, StateStore

_logger = logging.getLogger(__name__)

PIECE_BYTES: Final = 32 << 10
"""Keys and values in one piece: half a millisecond."""

KEPT_S: Final = 60.0
"""How long a view is kept after it was last asked for."""

VIEWS_MAX: Final = 4


class BackupSource:
    """Gives pieces of the newest checkpoint, and of those that somebody has begun to read."""

    def __init__(self, clock: Clock) -> None:
        """Keep views for as long as ``clock`` says."""
        self._clock = clock
        self._kv: StateStore | None = None
        self._kept: dict[Index, tuple[CheckpointView, float, int]] = {}
        """By index: a view, when it was last asked for, and the size of the state's file when it began."""

    def read_from(self, kv: StateStore | None) -> None:
        """Answer from ``kv`` from now on; ``close`` was called before."""
        self._kv = kv

    def piece(self, index: Index, after: bytes | None) -> tuple[KvMeta, list[tuple[bytes, Record]]] | None:
        """Return which state it is, and its next records behind ``after``.

        When the checkpoint at ``index`` is gone, it is the newest from its first key. None: there is no state.

        Raises:
            CorruptRecord: a record is damaged.
        """
        if self._kv is None:
            return None
        kept = self._kept.get(index)
        view = kept[0] if kept is not None else self._kv.view()
        found = view.meta.applied.point.index
        if kept is None and found in self._kept:
            view.close()
            view = self._kept[found][0]
        began = self._kept[found][2] if found in self._kept else self._kv.room().file_bytes
        self._kept[found] = view, self._clock.monotonic(), began
        self._make_room()
        return view.meta, view.piece(after if found == index else None, PIECE_BYTES)

    def expire(self, room: Room | None = None) -> None:
        """Let go of views that nobody asks for any more, and of those under which the file has grown too much."""
        oldest = self._clock.monotonic() - KEPT_S
        for index, (view, used_at, began) in list(self._kept.items()):
            has_grown = room is not None and room.has_grown(began)
            if has_grown:
                event(_logger, logging.WARNING, "slow_reader_cut_off", index=index)
            if used_at < oldest or has_grown:
                del self._kept[index]
                view.close()

    def close(self) -> None:
        """Let go of every view, and answer no more."""
        self._kv = None
        for view, _, _ in self._kept.values():
            view.close()
        self._kept.clear()

    def _make_room(self) -> None:
        if len(self._kept) > VIEWS_MAX:
            self._kept.pop(min(self._kept, key=lambda each: self._kept[each][1]))[0].close()
