"""A layer of the overlay: what changed on top of a state, key by key.

The newest layer takes the changes. A *frozen* layer takes none: it waits for the disk or is being written to it, and is
read by that thread and the event loop at once.

Of a key without a deadline a layer keeps the bare value: its record, with the checksum, is made by whoever writes it to
the disk. So to set keys is to update a dict (``put_all``). What lies below is not looked at for that, so the layer does
not know which of them are new. They are *unsettled*, and count as new until somebody wants the number of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, repeat
from typing import Final

from sortedcontainers import SortedKeyList

from durable_raft.kv.deadlines import Deadlines
from durable_raft.kv.records import (
    NO_DEADLINE,
    SHORT_KEY_BYTES_MAX,
    Kept,
    Record,
    deadline_of,
    make_record,
    order_key,
    value_of,
)
from durable_raft.kv.sorting import PIECE_KEYS, sorted_ranges

CHANGE_BYTES: Final = 300
"""Memory that a change takes beside its key and value, about."""

ORDER_PIECE: Final = 256
"""Keys put in order at once for a scan, under a millisecond."""

FREE_PIECE: Final = 512
"""Changes freed at once, some tens of microseconds."""

Change = tuple[bytes, Record | None]
"""A key and its record now; None: it is gone."""

NOT_LOOKED_AT: Final = Record(b"", -1, 0)
"""In place of what a layer says of a key of which it knows nothing."""


class Layer:
    """Changes by key: what is kept, or None for a key that is gone."""

    __slots__ = (
        "_is_plain",
        "_order",
        "_shared",
        "_unordered",
        "changes",
        "deadlines",
        "due",
        "is_cleared",
        "keys",
        "size_bytes",
        "unsettled",
    )

    def __init__(self) -> None:
        self.changes: dict[bytes, Kept | None] = {}
        self.is_cleared = False
        """Whether all that lies below is gone."""
        self.size_bytes = 0
        """Memory it takes, about."""
        self.keys = 0
        """How many keys more there are than below, if every key of ``unsettled`` is new."""
        self.deadlines = 0
        """How many more of them have a deadline, if no key of ``unsettled`` had one."""
        self.unsettled: list[bytes] = []
        """Changed keys of which nobody has looked yet what is kept below."""
        self._is_plain = True
        """Whether ``changes`` holds nothing but bare values."""
        self._shared: list[tuple[Layer, int]] = []
        """Layers below, and bytes of values that each of them holds, too, and counts."""
        self.due = Deadlines(self.changes)
        """When which key expires."""
        self._order: SortedKeyList[bytes] = SortedKeyList(key=order_key)
        """The first so many keys of ``changes``, to which they are added and never taken away: only scans need it."""
        self._unordered: list[bytes] = []
        """Keys that follow those and are to be put in order next, the last one first."""

    @property
    def has_deadlines(self) -> bool:
        """Whether a key of this layer may have a deadline."""
        return len(self.due) > 0

    def exchange(self, key: bytes, old_ms: int | None, new: Kept | None) -> None:
        """Note what became of ``key``.

        Args:
            old_ms: the deadline of what was kept of it, here or below; None: nothing was.
            new: what is kept now; None: nothing.
        """
        if old_ms is not None:
            self.keys -= 1
            self.deadlines -= old_ms != NO_DEADLINE
        if new is not None:
            self.keys += 1
            self.deadlines += deadline_of(new) != NO_DEADLINE
        self._put(key, new)

    def put(self, key: bytes, new: Kept) -> None:
        """Note what is kept of ``key`` now, whatever was before; what lies below is not looked at."""
        old = self.changes.get(key, NOT_LOOKED_AT)
        if old is NOT_LOOKED_AT and not self.is_cleared:
            self.unsettled.append(key)
        self.exchange(key, None if old is None or old is NOT_LOOKED_AT else deadline_of(old), new)

    def _put(self, key: bytes, new: Kept | None) -> None:
        changes = self.changes
        if key in changes:
            replaced = changes[key]
            if replaced is not None:
                self.size_bytes -= len(value_of(replaced))
        else:
            self.size_bytes += CHANGE_BYTES + len(key)
        changes[key] = new
        if type(new) is bytes:
            self.size_bytes += len(new)
            return
        self._is_plain = False
        if new is not None:
            self.size_bytes += len(value_of(new))
            if deadline_ms := deadline_of(new):
                self.due.push((deadline_ms, order_key(key), key))

    def put_all(self, new: dict[bytes, bytes]) -> None:
        """Set keys to values without deadlines, whatever is kept of them: nothing is read, and nothing computed."""
        changes = self.changes
        size = -self._count_out(new)
        before = len(changes)
        changes.update(new)
        size += sum(map(len, new.values()))
        if added := len(changes) - before:
            # A dict keeps its keys in the order in which they came.
            keys = [*islice(reversed(changes), added)]
            self.keys += added
            size += added * CHANGE_BYTES + sum(map(len, keys))
            if not self.is_cleared:
                self.unsettled += keys
        self.size_bytes += size

    def _count_out(self, new: dict[bytes, bytes]) -> int:
        """Count what ``new`` replaces in this layer as gone, each key as there; return the bytes of its values."""
        if self._is_plain:
            return sum(map(len, map(self.changes.get, new, repeat(b""))))  # type: ignore[arg-type]
        size = 0
        for replaced in map(self.changes.get, new, repeat(b"")):
            if type(replaced) is bytes:
                size += len(replaced)
            elif replaced is None:
                self.keys += 1
            else:
                size += len(value_of(replaced))
                self.deadlines -= deadline_of(replaced) != NO_DEADLINE
        return size

    def settle(self, deadline_ms: int | None) -> None:
        """Take the last key of ``unsettled`` as settled.

        Args:
            deadline_ms: what is kept of it below; None: nothing, it is new.
        """
        del self.unsettled[-1]
        if deadline_ms is not None:
            self.keys -= 1
            self.deadlines -= deadline_ms != NO_DEADLINE

    @property
    def shared_bytes(self) -> int:
        """Bytes that count in a layer below."""
        return sum([value_bytes for _, value_bytes in self._shared])

    def share(self, below: Layer, value_bytes: int) -> None:
        """Do not count so many bytes of the newest record: ``below`` holds the same ones."""
        self.size_bytes -= value_bytes
        self._shared.append((below, value_bytes))

    def share_no_more(self, below: Layer) -> None:
        """Count what was shared with ``below``: it is let go."""
        before = self.shared_bytes
        self._shared = [(layer, value_bytes) for layer, value_bytes in self._shared if layer is not below]
        self.size_bytes += before - self.shared_bytes

    def clear(self) -> None:
        """Note that every key is gone."""
        self.changes = {}
        self.is_cleared = self._is_plain = True
        self.size_bytes = self.keys = self.deadlines = 0
        self._shared = []
        self.unsettled = []
        self.due = Deadlines(self.changes)
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
        kept_of = self.changes.__getitem__
        for found in sorted_ranges(keys, None if are_short else order_key):
            for key, kept in zip(found, map(kept_of, found), strict=True):
                yield key, make_record(key, kept) if type(kept) is bytes else kept  # type: ignore[misc]

    def dissolve(self, pause: Callable[[], None]) -> None:
        """Let go of everything, little by little: freeing a million changes at once takes as long as a disk write."""
        self._order, self._unordered = SortedKeyList(key=order_key), []
        self.due.dissolve()
        while self.unsettled:
            del self.unsettled[-PIECE_KEYS:]
        changes = self.changes
        while changes:
            for _ in range(min(len(changes), FREE_PIECE)):
                changes.popitem()
            pause()
