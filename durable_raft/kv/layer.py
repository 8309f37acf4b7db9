"""A layer of the overlay: what changed on top of a state, key by key.

The newest layer takes the changes. A *frozen* layer takes none: it is being written to the disk, and is read by that
thread and the event loop at once.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from sortedcontainers import SortedKeyList

from durable_raft.kv.records import SHORT_KEY_BYTES_MAX, Record, order_key
from durable_raft.kv.sorting import PIECE_KEYS, sorted_ranges

HEAP_SLACK: Final = 1024
"""Stale items that the heap of deadlines may hold beyond as many as there are keys with a deadline."""

CHANGE_BYTES: Final = 300
"""Memory that a change takes beside its key and value, about."""

ORDER_PIECE: Final = 256
"""Keys put in order at once for a scan, under a millisecond."""

FREE_PIECE: Final = 512
"""Changes freed at once, some tens of microseconds."""

Change = tuple[bytes, Record | None]
"""A key and what is kept of it now; None: it is gone."""

Due = tuple[int, bytes, bytes]
"""(deadline_ms, order key, key): the order in which keys expire, the same on every replica."""


class Layer:
    """Changes by key: a record, or None for a key that is gone."""

    __slots__ = ("_heap", "_order", "_shared_bytes", "_unordered", "changes", "is_cleared", "size_bytes")

    def __init__(self) -> None:
        self.changes: dict[bytes, Record | None] = {}
        self.is_cleared = False
        """Whether all that lies below is gone."""
        self.size_bytes = 0
        """Memory it takes, about."""
        self._shared_bytes = 0
        """Bytes of values that a layer below holds, too, and counts."""
        self._heap: list[Due] = []
        """Deadlines of records in ``changes``, smallest first; an item counts only while the record says the same."""
        self._order: SortedKeyList[bytes] = SortedKeyList(key=order_key)
        """The first so many keys of ``changes``, to which they are added and never taken away: only scans need it."""
        self._unordered: list[bytes] = []
        """Keys that follow those and are to be put in order next, the last one first."""

    def put(self, key: bytes, record: Record | None) -> None:
        """Note what became of ``key``."""
        changes = self.changes
        if key in changes:
            old = changes[key]
            if old is not None:
                self.size_bytes -= len(old.value)
        else:
            self.size_bytes += CHANGE_BYTES + len(key)
        changes[key] = record
        if record is not None:
            self.size_bytes += len(record.value)
            if record.deadline_ms:
                self._push((record.deadline_ms, order_key(key), key))

    def share(self, value_bytes: int) -> None:
        """Do not count so many bytes of the newest record: the layer below holds the same ones."""
        self.size_bytes -= value_bytes
        self._shared_bytes += value_bytes

    def share_no_more(self) -> None:
        """Count what was shared: the layer below is let go."""
        self.size_bytes += self._shared_bytes
        self._shared_bytes = 0

    def clear(self) -> None:
        """Note that every key is gone."""
        self.changes = {}
        self.is_cleared = True
        self.size_bytes = self._shared_bytes = 0
        self._heap = []
        self._order = SortedKeyList(key=order_key)
        self._unordered = []

    def order_more(self) -> bool:
        """Put some more keys in order, so that ``ordered`` need not; return whether there were any left."""
        if not self._unordered:
            missing = len(self.changes) - len(self._order)
            if not missing:
                return False
            self._unordered = list(islice(reversed(self.changes), missing))
        self._order.update(self._unordered[-ORDER_PIECE:])
        del self._unordered[-ORDER_PIECE:]
        return True

    def ordered(self, after: bytes | None) -> Iterator[bytes]:
        """Yield the changed keys behind ``after`` in the order of keys; for the event loop."""
        if unordered := len(self.changes) - len(self._order):
            self._order.update(islice(reversed(self.changes), unordered))
            self._unordered = []
        if after is None:
            return iter(self._order)
        found: Iterator[bytes] = self._order.irange_key(min_key=order_key(after), inclusive=(False, True))
        return found

    def sorted_changes(self) -> Iterator[Change]:
        """Yield all changes of a frozen layer in the order of keys, never busy long at one stretch; for a thread."""
        keys: list[bytes] = []
        changes, are_short = iter(self.changes), True
        while piece := list(islice(changes, PIECE_KEYS)):
            are_short = are_short and max(map(len, piece)) <= SHORT_KEY_BYTES_MAX
            keys += piece
        record_of = self.changes.__getitem__
        for found in sorted_ranges(keys, None if are_short else order_key):
            yield from zip(found, map(record_of, found), strict=True)

    def dissolve(self, pause: Callable[[], None]) -> None:
        """Let go of everything, little by little: freeing a million changes at once takes as long as a disk write."""
        self._order, self._unordered = SortedKeyList(key=order_key), []
        while self._heap:
            del self._heap[-PIECE_KEYS:]
        changes = self.changes
        while changes:
            for _ in range(min(len(changes), FREE_PIECE)):
                changes.popitem()
            pause()

    def earliest(self) -> Due | None:
        """Return the first deadline, or None; drops what no longer counts."""
        heap, changes = self._heap, self.changes
        while heap:
            record = changes.get(heap[0][2])
            if record is not None and record.deadline_ms == heap[0][0]:
                return heap[0]
            heapq.heappop(heap)
        return None

    def forget_earliest(self) -> None:
        """Drop the first deadline: a layer above says otherwise about its key."""
        heapq.heappop(self._heap)

    def _push(self, item: Due) -> None:
        heapq.heappush(self._heap, item)
        if len(self._heap) > 2 * len(self.changes) + HEAP_SLACK:
            # Deadlines that were replaced leave stale items behind; without this a key touched for ever fills memory.
            self._heap = [
                (record.deadline_ms, order_key(key), key)
                for key, record in self.changes.items()
                if record is not None and record.deadline_ms
            ]
            heapq.heapify(self._heap)
