"""What the core reads of the log: a large entry is read on a worker's thread, everything else at once.

An entry of 40 MB is twenty thousand records. To put it together takes longer than the event loop may stand still. So
the core is told to ask again (``EntryUnread``), as etcd/raft is while its storage prepares a snapshot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from durable_raft.errors import CorruptRecord, EntryUnavailable, EntryUnread
from durable_raft.raft.types import Base, Entry, Index
from durable_raft.server.state.worker import Worker
from durable_raft.storage.log.log_store import LogStore

LARGE_BYTES: Final = 1 << 20
"""Payload bytes above which an entry is read on the worker; about two milliseconds of work."""

KEPT_MAX: Final = 4
"""Entries that were read and not asked for again since: the oldest is forgotten. Each is as large as a request."""


class LargeEntries:
    """A ``LogView`` of a store; belongs to the event loop."""

    def __init__(self, store: LogStore, worker: Worker, large_bytes: int, entries_read: Callable[[], None]) -> None:
        """Read ``store``.

        Args:
            large_bytes: payload bytes above which an entry is read on the worker.
            entries_read: is called on the loop when one can be had that could not before.
        """
        self._store = store
        self._large_bytes = large_bytes
        self._worker = worker
        self._entries_read = entries_read
        self._underway: set[Index] = set()
        self._kept: dict[Index, Entry | None] = {}
        """What was read, the oldest first; None: it could not be, and why is found when it is asked for."""

    def entries(self, lo: Index, hi: Index, bytes_max: int) -> list[Entry]:
        """Return entries of [lo, hi): at least one, at most about ``bytes_max`` bytes of payload; raises as the store.

        Raises:
            EntryUnread: the one at ``lo`` is large, and on its way.
        """
        if lo in self._kept:
            kept = self._kept.pop(lo)
            # Another one may have taken its place since it was read.
            if kept is None or kept.chain == self._store.chain_at(lo):
                return self._store.entries(lo, Index(lo + 1), 0) if kept is None else [kept]
        if self._store.payload_bytes_at(lo) <= self._large_bytes:
            return self._store.entries(lo, hi, min(bytes_max, self._large_bytes))
        if lo not in self._underway:
            self._underway.add(lo)
            self._worker.submit(lambda: self._read(lo), self._keep)
        raise EntryUnread(f"index {lo} is being read")

    def chain_at(self, index: Index) -> int:
        """Return the chain value at ``index``; raises as the store."""
        return self._store.chain_at(index)

    def base_at(self, index: Index) -> Base:
        """Return point and timestamp of the entry at ``index``; raises as the store."""
        return self._store.base_at(index)

    def _read(self, index: Index) -> tuple[Index, Entry | None]:
        try:
            (entry,) = self._store.entries(index, Index(index + 1), 0)
        except (CorruptRecord, EntryUnavailable):
            return index, None
        return index, entry

    def _keep(self, read: tuple[Index, Entry | None]) -> None:
        index, entry = read
        self._underway.discard(index)
        self._kept[index] = entry
        while len(self._kept) > KEPT_MAX:
            del self._kept[next(iter(self._kept))]
        self._entries_read()
