"""Which keys of a layer expire next: a heap of deadlines that is tidied a little at a time.

A deadline that was replaced leaves its item behind. It is *stale*: the record says otherwise. Were stale items kept, a
key whose time to live is set again and again would fill the memory. Were they all taken out at once, the event loop
would stand for a second at a million keys. So each new item has a few of the old ones looked at. Those before the first
deadline, which may be a long row, are dropped in pieces, too (``tidy``).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import Final

from durable_raft.kv.records import Kept, deadline_of
from durable_raft.kv.sorting import PIECE_KEYS

HEAP_SLACK: Final = 1024
"""Stale items that may be there beyond as many as there are keys, before they are taken out."""

PASS_PIECE: Final = 4
"""Old items looked at for each new one. With one, they would be through no sooner than they are too many again."""

Due = tuple[int, bytes, bytes]
"""(deadline_ms, order key, key): the order in which keys expire, the same on every replica."""


class Deadlines:
    """Deadlines of the records in ``changes``; an item counts only while the record says the same."""

    __slots__ = ("_changes", "_heap", "_old", "_passed")

    def __init__(self, changes: Mapping[bytes, Kept | None]) -> None:
        self._changes = changes
        self._heap: list[Due] = []
        self._old: list[Due] = []
        """A heap, too: items that are to be looked at, from its end. The first so many items of a heap are a heap."""
        self._passed: dict[bytes, None] = {}
        """Keys of the items that were taken over from there: the same deadline may have been set twice."""

    def __len__(self) -> int:
        """Return how many items there are, stale ones included."""
        return len(self._heap) + len(self._old)

    def push(self, item: Due) -> None:
        """Note a deadline."""
        heapq.heappush(self._heap, item)
        if self._old or self._passed:
            self._pass_some()
        elif len(self._heap) > 2 * len(self._changes) + HEAP_SLACK:
            self._old, self._heap = self._heap, []

    def _pass_some(self) -> None:
        for _ in range(PASS_PIECE):
            if self._old:
                item = self._old.pop()
                if item[2] not in self._passed and self._counts(item):
                    heapq.heappush(self._heap, item)
                    self._passed[item[2]] = None
            elif self._passed:
                self._passed.popitem()

    def _counts(self, item: Due) -> bool:
        kept = self._changes.get(item[2])
        return kept is not None and deadline_of(kept) == item[0]

    def tidy(self, most: int, is_replaced: Callable[[bytes], bool]) -> int:
        """Drop what does not count from before the first deadline, up to ``most`` items.

        Args:
            most: this is how long it takes.
            is_replaced: whether a layer above says otherwise about a key.

        Returns:
            How many more might have been dropped; 0: perhaps it is not done.
        """
        for heap in (self._heap, self._old):
            while most and heap and not (self._counts(heap[0]) and not is_replaced(heap[0][2])):
                heapq.heappop(heap)
                most -= 1
        return most

    def first(self) -> Due | None:
        """Return the first item; none that counts comes before it, and it counts itself when all is tidy."""
        return min((heap[0] for heap in (self._heap, self._old) if heap), default=None)

    def dissolve(self) -> None:
        """Let go of everything in pieces; for a thread."""
        for needless in (self._heap, self._old):
            while needless:
                del needless[-PIECE_KEYS:]
        while self._passed:
            self._passed.popitem()
