"""Reads everything that is stored again, slowly, so that rot is found while other nodes still hold what it took.

Pass after pass, in pieces on the thread that gives snapshots: every record of the state and of the log, both copies of
meta. What is read is verified by the reading itself. A lost payload is healed while the node runs; what needs more than
that ends this life of the node, and the next one deals with it (process.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from durable_raft.errors import EntryUnavailable
from durable_raft.raft.core import Raft
from durable_raft.raft.log import EntriesLost
from durable_raft.raft.types import Index, LostEntry
from durable_raft.server.clock import Clock
from durable_raft.server.state.worker import Worker
from durable_raft.storage.log.log_store import DirectoryLogStore
from durable_raft.storage.state.state_store import StateStore

_END: Final = Index(0)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one piece of work found."""

    lost: Sequence[LostEntry] = ()
    next_index: Index = _END
    """Log: where to go on; 0 when its end is reached."""
    next_key: bytes | None = None
    """State: behind which key to go on; None when its end is reached."""
    is_meta_wounded: bool = False


class Scrubber:
    """Scrubs one node's disk; every method belongs to the event loop."""

    def __init__(
        self,
        store: DirectoryLogStore,
        raft: Raft,
        worker: Worker,
        clock: Clock,
        bytes_per_second: int,
        on_wounds: Callable[[Sequence[LostEntry], bool], None],
    ) -> None:
        """Read on ``worker``; ``on_wounds`` is told of rotten payloads, and whether one copy of meta is rotten."""
        self._store = store
        self._raft = raft
        self._worker = worker
        self._clock = clock
        self._bytes_per_second = bytes_per_second
        self._on_wounds = on_wounds
        self._kv: StateStore | None = None
        self._is_busy = False
        self._budget = 0.0
        self._ticked_at = self._clock.monotonic()
        self._index = Index(0)
        """The next entry to be read; 0: the state is being read."""
        self._key: bytes | None = None
        """The last key that was read."""
        self.passes = 0

    def read_from(self, kv: StateStore | None) -> None:
        """Read ``kv`` from its first key from now on; ``close`` was called before."""
        self._kv, self._key = kv, None

    def close(self) -> None:
        """Let go of the state; waits for the piece that is being read."""
        self._kv = None
        self._worker.settle()

    def tick(self) -> None:
        """Have the next piece read, as large as the time since the last one allows."""
        now = self._clock.monotonic()
        second = float(self._bytes_per_second)
        self._budget = min(self._budget + (now - self._ticked_at) * second, second)
        self._ticked_at = now
        if self._is_busy or self._budget < min(second, 4096.0) or not self._bytes_per_second:
            return
        self._is_busy = True
        size, self._budget = int(self._budget), 0.0
        kv, key = self._kv, self._key
        if self._index:
            index, end = self._index, Index(self._raft.log.flushed + 1)
            self._worker.submit(lambda: self._read_log(index, end, size), self._done)
        elif kv is not None:
            self._worker.submit(lambda: _read_state(kv, key, size), self._done)
        else:
            self._done(_Piece())

    def _read_log(self, lo: Index, end: Index, size: int) -> _Piece:
        try:
            entries = self._store.entries(lo, end, size) if lo < end else []
        except EntriesLost as error:
            return _Piece(error.lost, next_index=Index(lo + 1))
        except EntryUnavailable:
            # Compacted or cut meanwhile: the next pass sees what is there then.
            return _Piece(is_meta_wounded=self._store.is_meta_wounded())
        if entries:
            return _Piece(next_index=Index(entries[-1].index + 1))
        return _Piece(is_meta_wounded=self._store.is_meta_wounded())

    def _done(self, piece: _Piece) -> None:
        self._is_busy = False
        if piece.lost or piece.is_meta_wounded:
            self._on_wounds(piece.lost, piece.is_meta_wounded)
        if self._index:
            self._index = piece.next_index
        elif piece.next_key is not None:
            self._key = piece.next_key
        else:
            # The state is read through: on to the log, and the next pass begins behind it.
            self.passes += 1
            self._key, self._index = None, self._raft.log.first_index


def _read_state(kv: StateStore, after: bytes | None, size: int) -> _Piece:
    with closing(kv.view()) as view:
        items = view.piece(after, size)
    return _Piece(next_key=items[-1][0] if items else None)
