"""Keys in order, their values, and when they expire: an overlay of changes on a state that lies on the disk.

A read looks in the newest layer, in the frozen ones while they wait for the disk or are written to it, and then in the
*base*, the state at the last checkpoint. ``freeze`` begins a checkpoint, ``checkpointed`` ends it; neither changes what
is read.

Keys are set without a look at what is kept of them (layer.py). Whoever wants to know how many keys there are has the
keyspace *settle* first: look in the base for those that changed, each of them once. The state hash is settled by
whoever writes the layer to the disk.

A key is gone as soon as the cluster time reaches its deadline. Redis keeps it for that millisecond (``PTTL`` is 0 then;
db.c keyIsExpired, ``now > when``), but takes a deadline set to the present as past (expire.c checkAlreadyExpired). Here
one rule serves both, so ``PTTL`` is never 0. What is gone is *dropped* at most ``DROP_MAX`` keys an entry, in an order
that is the same on every replica: until then it is counted, as Redis counts it, but never seen.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import Final

from durable_raft.kv.deadlines import Due
from durable_raft.kv.layer import NOT_LOOKED_AT, Layer
from durable_raft.kv.long_values import Value
from durable_raft.kv.records import (
    EMPTY_STATE,
    NO_DEADLINE,
    Kept,
    Record,
    StateSummary,
    StateView,
    deadline_of,
    extended,
    make_record,
    order_key,
    record_of,
    value_of,
)
from durable_raft.kv.steps import BYTES_A_STEP

DROP_MAX: Final = 200
"""Expired keys dropped with one entry, about a millisecond of work. Replicas must agree on it."""

DROP_MAX_BEFORE: Final = 1000
"""The same for entries that were written before payload version 2, and for those that have no commands."""

TIDY_PIECE: Final = 1000
"""Deadlines that count no more and are dropped in one go: about a millisecond of work."""

DROPS_A_STEP: Final = 100
"""Of them in one step."""

PAGE_KEYS: Final = 256
"""Keys in a page of a long scan, at most: there are fewer when their values are large."""

DUE_CHUNK: Final = 256
"""Deadlines read from the base at once."""

SETTLED_A_STEP: Final = 32
"""Keys looked for in the base in one step: less than a tenth of a millisecond, and some where the disk is read."""

FROZEN_MAX: Final = 2
"""Layers that may wait for the disk: one that is being written, and one behind it."""


class Keyspace:
    """The state; see the module docstring."""

    def __init__(self, base: StateView = EMPTY_STATE, time_ms: int = 0) -> None:
        self._base = base
        self._frozen: list[Layer] = []
        """The newest first; the last one is written to the disk next."""
        self._active = Layer()
        self._written = Layer()
        """What the last checkpoint wrote: a part of the base that is still in memory. What was written a moment ago is
        often written again, and what it replaces has to be known."""
        self.time_ms = time_ms
        self.shown_ms = 0
        """The present time as far as TTL and PTTL show it: no part of the state, and nothing is decided by it."""
        self.bytes_read = 0
        """Bytes of values that were read from the base so far, each of them copied and verified. Work in steps looks
        at it: a key is named in a few bytes, and its value may be large."""
        self._base_due: deque[Due] = deque()
        """The base's next deadlines."""
        self._base_due_after: tuple[int, bytes] | None = None
        self._base_due_passed: tuple[int, bytes] | None = None
        """The last of the base's deadlines that does not count, nor does any before it: layers above know its key."""
        self._is_base_due_read = not base.summary.expires_count
        """Whether all of the base's deadlines were taken into ``_base_due``."""

    # -- reading ----------------------------------------------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """Whether ``counts`` are right."""
        return not self._active.unsettled and not any(layer.unsettled for layer in self._layers())

    @property
    def counts(self) -> tuple[int, int]:
        """How many keys there are, and how many of them have a deadline: at most, while not all is settled.

        What is expired and not dropped yet is counted.
        """
        layers = self._layers()
        keys, deadlines = sum([layer.keys for layer in layers]), sum([layer.deadlines for layer in layers])
        if layers[-1].is_cleared:
            return keys, deadlines
        return keys + self._base.summary.key_count, deadlines + self._base.summary.expires_count

    def settle(self, count: int = SETTLED_A_STEP) -> bool:
        """Look for so many keys that changed below the layer that they changed in; return whether all are settled."""
        layers = self._layers()
        for position, layer in enumerate(layers):
            below = [*layers[position + 1 :], self._written]
            if not self._base.summary.key_count and not any(each.changes for each in below):
                layer.unsettled = []
            while layer.unsettled:
                if not count:
                    return False
                count -= 1
                layer.settle(self._deadline_below(below, layer.unsettled[-1]))
        return True

    def settle_in_steps(self) -> Generator[None, None, None]:
        """Settle all."""
        while not self.settle():
            yield

    def _deadline_below(self, below: Sequence[Layer], key: bytes) -> int | None:
        """Return the deadline of a key in ``below`` and the base, ``NO_DEADLINE`` included; None where it is gone."""
        for layer in below:
            kept = layer.changes.get(key, NOT_LOOKED_AT)
            if kept is not NOT_LOOKED_AT:
                return None if kept is None else deadline_of(kept)
            if layer.is_cleared:
                return None
        head = self._base.head(key)
        return None if head is None else head[1]

    def summary(self) -> StateSummary:
        """Return the state in numbers; looks at every change, so it is for tools and tests."""
        while not self.settle():
            pass
        layers = self._layers()
        is_hidden = layers[-1].is_cleared
        state_hash = 0 if is_hidden else self._base.summary.state_hash
        changes: dict[bytes, Kept | None] = {}
        for layer in reversed(layers):
            changes |= layer.changes
        for key, kept in changes.items():
            head = None if is_hidden else self._base.head(key)
            state_hash -= 0 if head is None else head[0]
            state_hash += 0 if kept is None else record_of(key, kept).crc
        return StateSummary(*self.counts, state_hash)

    @property
    def overlay_bytes(self) -> int:
        """Memory that the changes since the last checkpoint take, about."""
        return self._active.size_bytes + sum([layer.size_bytes for layer in self._frozen])

    @property
    def active_bytes(self) -> int:
        """Memory that the changes since the last checkpoint began take, about."""
        return self._active.size_bytes

    @property
    def overlay_changes(self) -> int:
        """Number of keys changed since the last checkpoint began."""
        return len(self._active.changes)

    @property
    def new_keys_max(self) -> int:
        """How many keys more there are than when the last checkpoint began, at most; exact while all is settled."""
        return self._active.keys

    def get(self, key: bytes) -> Value | None:
        """Return the value of a key, or None; raises CorruptRecord from the base."""
        kept = self._active.changes.get(key, NOT_LOOKED_AT)
        if type(kept) is bytes:
            return kept
        kept = self.look_up(key)
        return None if kept is None else value_of(kept)

    def look_up(self, key: bytes) -> Kept | None:
        """Return what is kept of a key that is there and not expired, or None; raises CorruptRecord from the base."""
        kept = self._kept(key)
        return kept if kept is None or self._is_seen(kept) else None

    def find(self, key: bytes) -> Record | None:
        """Return the record of a key that is there and not expired, or None; raises CorruptRecord from the base."""
        kept = self.look_up(key)
        return None if kept is None else record_of(key, kept)

    def after(self, key: bytes | None, chunk: int = 64) -> Iterator[tuple[bytes, Record]]:
        """Yield every key behind ``key`` in the order of keys, with its record; None begins at the first.

        Args:
            key: need not be there.
            chunk: how many at most are read from the base at a time.
        """
        for page in self.pages(key, chunk):
            for found, kept in page:
                yield found, record_of(found, kept)

    def pages(self, key: bytes | None, size: int = PAGE_KEYS) -> Iterator[list[tuple[bytes, Kept]]]:
        """Yield the keys that ``after`` yields, and what is kept of them, in pages of what a step can do, some empty.

        Between two pages a checkpoint may end; nothing else may happen to the state.

        Args:
            key: as of ``after``.
            size: of a page, in keys at most.
        """
        for layer in self._layers():
            while layer.order_more():
                yield []
        is_last = False
        while not is_last:
            found, is_last = self._page(key, size)
            yield [(each, kept) for each, kept in found if kept is not None and self._is_seen(kept)]
            key = found[-1][0] if found else None

    def _page(self, after: bytes | None, size: int) -> tuple[list[tuple[bytes, Kept | None]], bool]:
        """Merge the layers and what a step may read of the base; return what is there, and whether that is all.

        Of several that know a key the uppermost counts; None where it is gone.
        """
        layers = self._layers()
        is_hidden = any(layer.is_cleared for layer in layers)
        base = () if is_hidden else self._base.after(after, size, BYTES_A_STEP)
        self.bytes_read += sum(len(record.value) for _, record in base)
        sources: list[Iterable[tuple[bytes, int, bytes, Kept | None]]] = [
            _in_layer(layer, rank, after) for rank, layer in enumerate(layers)
        ]
        sources.append((order_key(key), len(layers), key, record) for key, record in base)
        until = order_key(base[-1][0]) if base else None
        found: list[tuple[bytes, Kept | None]] = []
        previous: bytes | None = None
        for order, _, key, kept in heapq.merge(*sources):
            if len(found) == size or (until is not None and order > until):
                return found, False
            if order != previous:
                found.append((key, kept))
            previous = order
        return found, not base

    def _kept(self, key: bytes) -> Kept | None:
        """Return what is kept of ``key``, expired or not."""
        kept = self._active.changes.get(key, NOT_LOOKED_AT)
        if kept is not NOT_LOOKED_AT:
            return kept
        if self._active.is_cleared:
            return None
        for layer in self._frozen:
            kept = layer.changes.get(key, NOT_LOOKED_AT)
            if kept is not NOT_LOOKED_AT:
                return kept
            if layer.is_cleared:
                return None
        kept = self._written.changes.get(key, NOT_LOOKED_AT)
        if kept is NOT_LOOKED_AT:
            kept = self._base.get(key)
            if kept is not None:
                self.bytes_read += len(kept.value)
        return kept

    def _is_seen(self, kept: Kept) -> bool:
        return not NO_DEADLINE < deadline_of(kept) <= self.time_ms

    def _layers(self) -> list[Layer]:
        """Return the layers that can be seen, the uppermost first."""
        found = [self._active]
        for layer in self._frozen:
            if found[-1].is_cleared:
                break
            found.append(layer)
        return found

    # -- changing ---------------------------------------------------------------------------------------------------

    def put(self, key: bytes, value: Value, deadline_ms: int | None) -> None:
        """Set a key to a value; a deadline that is None or not in the future means: none, or gone at once."""
        if deadline_ms is None:
            self.put_for_ever(key, value)
        elif deadline_ms <= self.time_ms:
            self.remove(key)
        else:
            self._active.put(key, make_record(key, value, deadline_ms))

    def put_for_ever(self, key: bytes, value: Value) -> None:
        """Set a key to a value, without a deadline."""
        if type(value) is bytes:
            self._active.put_all({key: value})
        else:
            self._active.put(key, make_record(key, value))

    def put_all_for_ever(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Set keys, of which one may come twice, to values, in order, without deadlines: what most writes do."""
        self._active.put_all(dict(zip(keys, values, strict=True)))

    def replace(self, key: bytes, old: Kept | None, value: bytes) -> None:
        """Set a key, of which ``look_up`` said ``old``, to a value and leave its deadline as it is."""
        if old is None:
            self._active.put(key, value)
        else:
            deadline_ms = deadline_of(old)
            self._exchange(key, old, make_record(key, value, deadline_ms) if deadline_ms else value)

    def extend(self, key: bytes, record: Record, suffix: bytes) -> None:
        """Put ``suffix`` behind the value of a key, whose record this is; takes the same time however long that is."""
        holder = next((layer for layer in (self._active, *self._frozen) if key in layer.changes), self._active)
        self._exchange(key, record, extended(record, suffix))
        if holder is not self._active:
            self._active.share(holder, len(record.value))

    def remove(self, key: bytes) -> Value | None:
        """Remove a key; return its value if it was there and not expired."""
        old = self._kept(key)
        if old is None:
            return None
        self._exchange(key, old, None)
        return value_of(old) if self._is_seen(old) else None

    def clear(self) -> None:
        """Remove every key; the time stays."""
        self._active.clear()
        self._forget_base_due(is_read=True)

    def expire_at(self, key: bytes, record: Record, deadline_ms: int) -> None:
        """Give a key, whose record this is, a deadline; one that is not in the future removes the key."""
        is_past = deadline_ms <= self.time_ms
        self._exchange(key, record, None if is_past else make_record(key, record.value, deadline_ms))

    def persist(self, key: bytes) -> bool:
        """Take a key's deadline away; return whether it had one."""
        kept = self.look_up(key)
        if kept is None or not deadline_of(kept):
            return False
        self._exchange(key, kept, _for_ever(key, value_of(kept)))
        return True

    def _exchange(self, key: bytes, old: Kept | None, new: Kept | None) -> None:
        """Keep ``new`` of a key of which ``old`` is kept: to read that again may be to copy many megabytes."""
        self._active.exchange(key, None if old is None else deadline_of(old), new)

    # -- expiry -----------------------------------------------------------------------------------------------------

    def advance_time(self, time_ms: int, drop_max: int = DROP_MAX) -> None:
        """Move the time forward, never back, and drop keys whose deadline it has reached, at most ``drop_max``."""
        for _ in self.advance_time_in_steps(time_ms, drop_max):
            pass

    def advance_time_in_steps(self, time_ms: int, drop_max: int = DROP_MAX) -> Generator[None, None, None]:
        """Do the same, the dropping in steps; what is expired is hidden from the first of them on."""
        self.time_ms = max(self.time_ms, time_ms)
        if not self._has_deadlines:
            return
        for number in range(drop_max):
            while not self._tidy():
                yield
            due = self._first()
            if due is None or due[0] > self.time_ms:
                return
            if number and not number % DROPS_A_STEP:
                yield
            # Its deadline is all that has to be known of it.
            self._active.exchange(due[2], due[0], None)

    def reset_time(self, time_ms: int) -> None:
        """Set the time, back or forward. What was hidden and is not dropped yet may be seen again, on every replica."""
        self.time_ms = 0
        self.advance_time(time_ms, DROP_MAX_BEFORE)

    @property
    def is_dropping(self) -> bool:
        """Whether keys are hidden that are still to be dropped."""
        due = self._first()
        return due is not None and due[0] <= self.time_ms

    def next_deadline_ms(self) -> int | None:
        """Return when the next key that can be seen expires, or None.

        While expired keys are still to be dropped it is the next millisecond: an entry is wanted now. It may be earlier
        than any key expires, while there is a long row of deadlines that count no more: an entry comes to its end.
        """
        due = self._first()
        return None if due is None else max(due[0], self.time_ms + 1)

    @property
    def _has_deadlines(self) -> bool:
        """Whether a key may have a deadline."""
        if self._active.has_deadlines or self._base_due or not self._is_base_due_read:
            return True
        return bool(self._frozen) and any(layer.has_deadlines for layer in self._frozen)

    def _first(self) -> Due | None:
        """Return the first deadline, or one before it that counts no more if that is not known at once."""
        if not self._has_deadlines:
            return None
        self._tidy()
        firsts = [first for layer in self._layers() if (first := layer.due.first()) is not None]
        if self._is_base_seen and (below := self._next_base_due()) is not None:
            firsts.append(below)
        return min(firsts, default=None)

    def _tidy(self) -> bool:
        """Drop some of what comes before the first deadline and counts no more; return whether there is nothing left.

        It is done in no entry's name, and changes nothing that can be seen.
        """
        left, above = TIDY_PIECE, list[Layer]()
        for layer in self._layers():
            left = layer.due.tidy(left, partial(_is_known, above))
            if not left:
                return False
            above.append(layer)
        while self._is_base_seen and (below := self._next_base_due()) is not None and _is_known(above, below[2]):
            self._base_due_passed = (below[0], below[2])
            self._base_due.popleft()
            left -= 1
            if not left:
                return False
        return True

    @property
    def _is_base_seen(self) -> bool:
        """Whether no layer says that all below it is gone."""
        return not self._layers()[-1].is_cleared

    def _next_base_due(self) -> Due | None:
        if not self._base_due and not self._is_base_due_read:
            chunk = self._base.due(self._base_due_after, DUE_CHUNK)
            self._base_due.extend((deadline_ms, order_key(key), key) for deadline_ms, key in chunk)
            self._is_base_due_read = len(chunk) < DUE_CHUNK
            if chunk:
                self._base_due_after = chunk[-1]
        return self._base_due[0] if self._base_due else None

    def _forget_base_due(self, *, is_read: bool, passed: tuple[int, bytes] | None = None) -> None:
        self._base_due.clear()
        self._base_due_after = self._base_due_passed = passed
        self._is_base_due_read = is_read

    # -- checkpoints ------------------------------------------------------------------------------------------------

    @property
    def may_freeze(self) -> bool:
        """Whether there are fewer frozen layers than ``FROZEN_MAX``."""
        return len(self._frozen) < FROZEN_MAX

    def freeze(self) -> Layer:
        """Begin a checkpoint: return the changes since the last one, which from now on change no more.

        Raises:
            RuntimeError: as many as may be are under way.
        """
        if not self.may_freeze:
            raise RuntimeError(f"{FROZEN_MAX} checkpoints are under way")
        self._frozen.insert(0, self._active)
        self._active = Layer()
        return self._frozen[0]

    def checkpointed(self, base: StateView) -> Layer:
        """End the oldest checkpoint: ``base`` is the state with its layer in it; return one that nobody reads now.

        Raises:
            RuntimeError: none is under way.
        """
        if not self._frozen:
            raise RuntimeError("no checkpoint is under way")
        needless, self._written = self._written, self._frozen.pop()
        for layer in [self._active, *self._frozen]:
            layer.share_no_more(self._written)
        self._base = base
        is_read = not base.summary.expires_count or not self._is_base_seen
        # What was passed is gone, or the layers that are left know it still.
        passed, new = self._base_due_passed, self._written.due.first()
        if passed is not None and new is not None and new[:2] <= (passed[0], order_key(passed[1])):
            passed = None
        self._forget_base_due(is_read=is_read, passed=passed)
        return needless


def _for_ever(key: bytes, value: Value) -> Kept:
    """Return what is kept of a key without a deadline."""
    return value if type(value) is bytes else make_record(key, value)


def _is_known(layers: Iterable[Layer], key: bytes) -> bool:
    return any(key in layer.changes for layer in layers)


def _in_layer(layer: Layer, rank: int, after: bytes | None) -> Iterator[tuple[bytes, int, bytes, Kept | None]]:
    for key in layer.ordered(after):
        yield order_key(key), rank, key, layer.changes[key]
