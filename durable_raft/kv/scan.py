"""SCAN's cursors: numbers that stand for a place in the order of keys.

A key that is there during the whole scan is returned at least once, whatever else comes and goes: pages follow each
other in key order, and a cursor stands for "after this key". Cursors are this node's own and not part of the state. One
that is not known, because it was given out by another node, before a restart, or too long ago, begins at the first key
again: that repeats keys, which SCAN allows, and misses none.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import Final

from durable_raft.kv.records import SHORT_KEY_BYTES_MAX, Place, order_key

CURSORS_MAX: Final = 10_000
"""Scans that may be under way at one time before the oldest has to begin again."""

CURSOR_BITS: Final = 53
"""Some clients keep cursors in a double; a random number of that size is hardly ever given out twice."""


class ScanCursors:
    """The newest cursors and what each stands for."""

    def __init__(self, rng: random.Random, cursors_max: int = CURSORS_MAX) -> None:
        self._rng = rng
        self._cursors_max = cursors_max
        self._after: OrderedDict[int, bytes] = OrderedDict()

    def give_out(self, last_key: bytes) -> int:
        """Return a cursor that stands for "after ``last_key``"; of a long key only its place is kept."""
        cursor = 0
        while cursor == 0 or cursor in self._after:
            cursor = self._rng.getrandbits(CURSOR_BITS)
        self._after[cursor] = last_key if len(last_key) <= SHORT_KEY_BYTES_MAX else Place(order_key(last_key))
        if len(self._after) > self._cursors_max:
            self._after.popitem(last=False)
        return cursor

    def look_up(self, cursor: int) -> bytes | None:
        """Return the key, or its place, after which to go on; None: begin at the first.

        The cursor stays good, for a client that asks for the same page again.
        """
        after = self._after.get(cursor)
        if after is not None:
            self._after.move_to_end(cursor)
        return after
