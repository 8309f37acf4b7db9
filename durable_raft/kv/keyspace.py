"""Keys in order, their values, and when they expire.

A key is gone as soon as the cluster time reaches its deadline. Redis keeps it for that millisecond (``PTTL`` is 0 then;
db.c keyIsExpired, ``now > when``), but takes a deadline set to the present as past (expire.c checkAlreadyExpired). Here
one rule serves both, so ``PTTL`` is never 0.
"""

from __future__ import annotations

import heapq

from sortedcontainers import SortedDict

HEAP_SLACK = 1024
"""Stale items that the heap of deadlines may hold beyond as many as there are keys with a deadline."""


class Keyspace:
    """The state. ``values`` is read freely; changes go through the methods, which keep the deadlines with it."""

    def __init__(self) -> None:
        self.values: SortedDict[bytes, bytes] = SortedDict()
        self.deadlines: dict[bytes, int] = {}
        """Deadline of each key that has one, ms since the Unix epoch. Invariant: its keys are keys of ``values``."""
        self.time_ms = 0
        self.shown_ms = 0
        """Time of day as far as TTL and PTTL show it: no part of the state, and nothing is decided by it."""
        self._heap: list[tuple[int, bytes]] = []
        """(deadline, key), smallest first; an item counts only while ``deadlines`` says the same."""

    def put(self, key: bytes, value: bytes, deadline_ms: int | None) -> None:
        """Set a key to a value; a deadline that is None or not in the future means: none, or gone at once."""
        if deadline_ms is not None and deadline_ms <= self.time_ms:
            self.remove(key)
            return
        self.values[key] = value
        if deadline_ms is not None:
            self._set_deadline(key, deadline_ms)
        elif self.deadlines:
            self.deadlines.pop(key, None)

    def replace(self, key: bytes, value: bytes) -> None:
        """Set a key to a value and leave its deadline as it is."""
        self.values[key] = value

    def remove(self, key: bytes) -> bool:
        """Remove a key; return whether it was there."""
        if self.values.pop(key, None) is None:
            return False
        self.deadlines.pop(key, None)
        return True

    def clear(self) -> None:
        """Remove every key; the time stays."""
        self.values.clear()
        self.deadlines.clear()
        self._heap.clear()

    def expire_at(self, key: bytes, deadline_ms: int) -> None:
        """Give a key that is there a deadline; one that is not in the future removes the key."""
        if deadline_ms <= self.time_ms:
            self.remove(key)
        else:
            self._set_deadline(key, deadline_ms)

    def persist(self, key: bytes) -> bool:
        """Take a key's deadline away; return whether it had one."""
        return self.deadlines.pop(key, None) is not None

    def advance_time(self, time_ms: int) -> None:
        """Move the time forward, never back; drop the keys whose deadline it reaches."""
        if time_ms <= self.time_ms:
            return
        self.time_ms = time_ms
        heap = self._heap
        while heap and heap[0][0] <= time_ms:
            deadline, key = heapq.heappop(heap)
            if self.deadlines.get(key) == deadline:
                self.remove(key)

    def next_deadline_ms(self) -> int | None:
        """Return the earliest deadline, or None."""
        heap = self._heap
        while heap and self.deadlines.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def _set_deadline(self, key: bytes, deadline_ms: int) -> None:
        if self.deadlines.get(key) == deadline_ms:
            return
        self.deadlines[key] = deadline_ms
        heapq.heappush(self._heap, (deadline_ms, key))
        if len(self._heap) > 2 * len(self.deadlines) + HEAP_SLACK:
            # Deadlines that were replaced leave stale items behind; without this a key touched for ever fills memory.
            self._heap = [(deadline, key) for key, deadline in self.deadlines.items()]
            heapq.heapify(self._heap)
