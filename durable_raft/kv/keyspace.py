"""Keys in order, their values, and when they expire: an overlay of changes on a state that lies on the disk.

A read looks in the newest layer, in the frozen one while a checkpoint writes it, and then in the *base*, the state at
the last checkpoint. ``freeze`` begins a checkpoint, ``checkpointed`` ends it; neither changes what is read.

A key is gone as soon as the cluster time reaches its deadline. Redis keeps it for that millisecond (``PTTL`` is 0 then;
db.c keyIsExpired, ``now > when``), but takes a deadline set to the present as past (expire.c checkAlreadyExpired). Here
one rule serves both, so ``PTTL`` is never 0. What is gone is *dropped* at most ``DROP_MAX`` keys an entry, in an order
that is the same on every replica: until then it is counted, as Redis counts it, but never seen.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from operator import length_hint
from typing import Final

from durable_raft.kv.layer import CHANGE_BYTES, Due, Layer
from durable_raft.kv.long_values import Value
from durable_raft.kv.records import (
    EMPTY_STATE,
    NO_DEADLINE,
    Record,
    StateSummary,
    StateView,
    extended,
    make_record,
    order_key,
)
from durable_raft.kv.steps import BYTES_A_STEP

DROP_MAX: Final = 200
"""Expired keys dropped with one entry, about a millisecond of work. Replicas must agree on it."""

DROP_MAX_BEFORE: Final = 1000
"""The same for entries that were written before payload version 2, and for those that have no commands."""

DROPS_A_STEP: Final = 100
"""Of them in one step."""

PAGE_KEYS: Final = 256
"""Keys in a page of a long scan, at most: there are fewer when their values are large."""

DUE_CHUNK: Final = 256
"""Deadlines read from the base at once."""

_ABSENT: Final = Record(b"", -1, 0)
"""In place of "a layer knows nothing of this key"."""


class Keyspace:
    """The state; see the module docstring."""

    def __init__(self, base: StateView = EMPTY_STATE, time_ms: int = 0) -> None:
        self._base = base
        self._frozen: Layer | None = None
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
        self._key_count, self._expires_count, self._state_hash = base.summary
        self._base_due: deque[Due] = deque()
        """The base's next deadlines."""
        self._base_due_after: tuple[int, bytes] | None = None
        self._is_base_due_read = not self._expires_count
        """Whether all of the base's deadlines were taken into ``_base_due``."""

    # -- reading ----------------------------------------------------------------------------------------------------

    @property
    def summary(self) -> StateSummary:
        """The state in numbers: what is expired and not dropped yet is counted."""
        return StateSummary(self._key_count, self._expires_count, self._state_hash)

    @property
    def overlay_bytes(self) -> int:
        """Memory that the changes since the last checkpoint take, about."""
        return self._active.size_bytes + (self._frozen.size_bytes if self._frozen is not None else 0)

    @property
    def active_bytes(self) -> int:
        """Memory that the changes since the last checkpoint began take, about."""
        return self._active.size_bytes

    @property
    def overlay_changes(self) -> int:
        """Number of keys changed since the last checkpoint began."""
        return len(self._active.changes)

    def get(self, key: bytes) -> Value | None:
        """Return the value of a key, or None."""
        record = self.find(key)
        return None if record is None else record.value

    def find(self, key: bytes) -> Record | None:
        """Return the record of a key that is there and not expired, or None; raises CorruptRecord from the base."""
        record = self._kept(key)
        if record is None or NO_DEADLINE < record.deadline_ms <= self.time_ms:
            return None
        return record

    def after(self, key: bytes | None, chunk: int = 64) -> Iterator[tuple[bytes, Record]]:
        """Yield every key behind ``key`` in the order of keys, with its record; None begins at the first.

        Args:
            key: need not be there.
            chunk: how many at most are read from the base at a time.
        """
        for page in self.pages(key, chunk):
            yield from page

    def pages(self, key: bytes | None, size: int = PAGE_KEYS) -> Iterator[list[tuple[bytes, Record]]]:
        """Yield what ``after`` yields, in pages of what a step can do, some of them empty.

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
            yield [(each, record) for each, record in found if record is not None and self._is_seen(record)]
            key = found[-1][0] if found else None

    def _page(self, after: bytes | None, size: int) -> tuple[list[tuple[bytes, Record | None]], bool]:
        """Merge the layers and what a step may read of the base; return what is there, and whether that is all.

        Of several that know a key the uppermost counts; None where it is gone.
        """
        layers = self._layers()
        is_hidden = any(layer.is_cleared for layer in layers)
        base = () if is_hidden else self._base.after(after, size, BYTES_A_STEP)
        self.bytes_read += sum(len(record.value) for _, record in base)
        sources: list[Iterable[tuple[bytes, int, bytes, Record | None]]] = [
            _in_layer(layer, rank, after) for rank, layer in enumerate(layers)
        ]
        sources.append((order_key(key), len(layers), key, record) for key, record in base)
        until = order_key(base[-1][0]) if base else None
        found: list[tuple[bytes, Record | None]] = []
        previous: bytes | None = None
        for order, _, key, record in heapq.merge(*sources):
            if len(found) == size or (until is not None and order > until):
                return found, False
            if order != previous:
                found.append((key, record))
            previous = order
        return found, not base

    def _kept(self, key: bytes) -> Record | None:
        """Return what is kept of ``key``, expired or not."""
        record = self._active.changes.get(key, _ABSENT)
        if record is not _ABSENT:
            return record
        return self._kept_below(key)

    def _kept_below(self, key: bytes) -> Record | None:
        """Return what is kept of ``key``, of which the newest layer knows nothing."""
        if self._active.is_cleared:
            return None
        if self._frozen is not None:
            record = self._frozen.changes.get(key, _ABSENT)
            if record is not _ABSENT:
                return record
            if self._frozen.is_cleared:
                return None
        record = self._written.changes.get(key, _ABSENT)
        if record is _ABSENT:
            record = self._base.get(key)
            if record is not None:
                self.bytes_read += len(record.value)
        return record

    def _is_seen(self, record: Record) -> bool:
        return not NO_DEADLINE < record.deadline_ms <= self.time_ms

    def _layers(self) -> list[Layer]:
        """Return the layers that can be seen, the uppermost first."""
        if self._frozen is None or self._active.is_cleared:
            return [self._active]
        return [self._active, self._frozen]

    # -- changing ---------------------------------------------------------------------------------------------------

    def put(self, key: bytes, value: Value, deadline_ms: int | None) -> None:
        """Set a key to a value; a deadline that is None or not in the future means: none, or gone at once."""
        if deadline_ms is None:
            self.put_for_ever(key, value)
        elif deadline_ms <= self.time_ms:
            self.remove(key)
        else:
            self._keep(key, make_record(key, value, deadline_ms))

    def put_for_ever(self, key: bytes, value: Value) -> None:
        """Set a key to a value, without a deadline."""
        self.put_all_for_ever((key,), (value,))

    def put_all_for_ever(self, keys: Sequence[bytes], values: Sequence[Value], until: int | None = None) -> int:
        """Set keys to values, in order, without deadlines: what most writes do.

        Args:
            keys: of which one may come twice.
            values: one for each.
            until: end before anything is read when ``bytes_read`` has come so far; None: do not.

        Returns:
            How many were set.
        """
        # What ``_keep`` does, without looking again for what was just looked for.
        layer = self._active
        changes = layer.changes
        coming = iter(keys)
        for key, value, record in zip(coming, values, map(make_record, keys, values), strict=True):
            old = changes.get(key, _ABSENT)
            if old is _ABSENT:
                if until is not None and self.bytes_read >= until:
                    return len(keys) - length_hint(coming) - 1  # This one has come, and is not set.
                old = self._kept_below(key)
                layer.size_bytes += CHANGE_BYTES + len(key) + len(value)
            else:
                layer.size_bytes += len(value) if old is None else len(value) - len(old[0])
            if old is None:
                self._key_count += 1
                self._state_hash += record[2]
            else:
                self._expires_count -= old[1] != NO_DEADLINE
                self._state_hash += record[2] - old[2]
            changes[key] = record
        return len(keys)

    def replace(self, key: bytes, value: bytes) -> None:
        """Set a key to a value and leave its deadline as it is."""
        old = self._kept(key)
        deadline_ms = NO_DEADLINE if old is None or not self._is_seen(old) else old.deadline_ms
        self._exchange(key, old, make_record(key, value, deadline_ms))

    def extend(self, key: bytes, record: Record, suffix: bytes) -> None:
        """Put ``suffix`` behind the value of a key, whose record this is; takes the same time however long that is."""
        is_shared = key not in self._active.changes and self._frozen is not None and key in self._frozen.changes
        self._exchange(key, record, extended(record, suffix))
        if is_shared:
            self._active.share(len(record.value))

    def remove(self, key: bytes) -> Record | None:
        """Remove a key; return its record if it was there and not expired."""
        old = self._kept(key)
        self._exchange(key, old, None)
        return old if old is not None and self._is_seen(old) else None

    def clear(self) -> None:
        """Remove every key; the time stays."""
        self._active.clear()
        self._key_count = self._expires_count = self._state_hash = 0
        self._forget_base_due(is_read=True)

    def expire_at(self, key: bytes, record: Record, deadline_ms: int) -> None:
        """Give a key, whose record this is, a deadline; one that is not in the future removes the key."""
        is_past = deadline_ms <= self.time_ms
        self._exchange(key, record, None if is_past else make_record(key, record.value, deadline_ms))

    def persist(self, key: bytes) -> bool:
        """Take a key's deadline away; return whether it had one."""
        record = self.find(key)
        if record is None or not record.deadline_ms:
            return False
        self._exchange(key, record, make_record(key, record.value))
        return True

    def _keep(self, key: bytes, record: Record | None) -> None:
        """Make ``record`` what is kept of ``key``, and count."""
        self._exchange(key, self._kept(key), record)

    def _exchange(self, key: bytes, old: Record | None, record: Record | None) -> None:
        """Do the same where it is known what is kept: to read it again may be to copy and verify many megabytes."""
        if old is not None:
            self._key_count -= 1
            self._expires_count -= old.deadline_ms != NO_DEADLINE
            self._state_hash -= old.crc
        elif record is None:
            return
        if record is not None:
            self._key_count += 1
            self._expires_count += record.deadline_ms != NO_DEADLINE
            self._state_hash += record.crc
        self._active.put(key, record)

    # -- expiry -----------------------------------------------------------------------------------------------------

    def advance_time(self, time_ms: int, drop_max: int = DROP_MAX) -> None:
        """Move the time forward, never back, and drop keys whose deadline it has reached, at most ``drop_max``."""
        for _ in self.advance_time_in_steps(time_ms, drop_max):
            pass

    def advance_time_in_steps(self, time_ms: int, drop_max: int = DROP_MAX) -> Generator[None, None, None]:
        """Do the same, the dropping in steps; what is expired is hidden from the first of them on."""
        self.time_ms = max(self.time_ms, time_ms)
        if not self._expires_count:
            return
        in_step, until = 0, self.bytes_read + BYTES_A_STEP
        for _ in range(drop_max):
            due = self._earliest()
            if due is None or due[0] > self.time_ms:
                return
            self._keep(due[2], None)
            in_step += 1
            if in_step == DROPS_A_STEP or self.bytes_read >= until:
                yield
                in_step, until = 0, self.bytes_read + BYTES_A_STEP

    def reset_time(self, time_ms: int) -> None:
        """Set the time, back or forward. What was hidden and is not dropped yet may be seen again, on every replica."""
        self.time_ms = 0
        self.advance_time(time_ms, DROP_MAX_BEFORE)

    @property
    def is_dropping(self) -> bool:
        """Whether keys are hidden that are still to be dropped."""
        due = self._earliest() if self._expires_count else None
        return due is not None and due[0] <= self.time_ms

    def next_deadline_ms(self) -> int | None:
        """Return when the next key that can be seen expires, or None.

        While expired keys are still to be dropped it is the next millisecond: an entry is wanted now.
        """
        due = self._earliest() if self._expires_count else None
        return None if due is None else max(due[0], self.time_ms + 1)

    def _earliest(self) -> Due | None:
        """Return the first deadline of all that is kept."""
        found = self._active.earliest()
        if self._active.is_cleared:
            return found
        active, frozen = self._active.changes, self._frozen
        if frozen is not None:
            below = frozen.earliest()
            while below is not None and below[2] in active:
                frozen.forget_earliest()
                below = frozen.earliest()
            found = below if found is None else found if below is None else min(found, below)
            if frozen.is_cleared:
                return found
        while (below := self._next_base_due()) is not None:
            if below[2] not in active and (frozen is None or below[2] not in frozen.changes):
                return below if found is None else min(found, below)
            self._base_due.popleft()
        return found

    def _next_base_due(self) -> Due | None:
        if not self._base_due and not self._is_base_due_read:
            chunk = self._base.due(self._base_due_after, DUE_CHUNK)
            self._base_due.extend((deadline_ms, order_key(key), key) for deadline_ms, key in chunk)
            self._is_base_due_read = len(chunk) < DUE_CHUNK
            if chunk:
                self._base_due_after = chunk[-1]
        return self._base_due[0] if self._base_due else None

    def _forget_base_due(self, *, is_read: bool) -> None:
        self._base_due.clear()
        self._base_due_after = None
        self._is_base_due_read = is_read

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def freeze(self) -> Layer:
        """Begin a checkpoint: return the changes since the last one, which from now on change no more.

        Raises:
            RuntimeError: one is under way.
        """
        if self._frozen is not None:
            raise RuntimeError("a checkpoint is under way")
        self._frozen, self._active = self._active, Layer()
        return self._frozen

    def checkpointed(self, base: StateView) -> Layer:
        """End a checkpoint: ``base`` is the state with the frozen layer in it; return a layer that nobody reads now.

        Raises:
            RuntimeError: none is under way.
        """
        if self._frozen is None:
            raise RuntimeError("no checkpoint is under way")
        needless, self._written, self._frozen = self._written, self._frozen, None
        self._active.share_no_more()
        self._base = base
        self._forget_base_due(is_read=self._active.is_cleared)
        return needless


def _in_layer(layer: Layer, rank: int, after: bytes | None) -> Iterator[tuple[bytes, int, bytes, Record | None]]:
    for key in layer.ordered(after):
        yield order_key(key), rank, key, layer.changes[key]
