"""Writing changes into the KV state inside a transaction, and settling what the state is afterwards.

The machine sets keys without a look at what they held (kv/layer.py). Here the old record of each is read: its checksum
and its deadline are taken out of the summary, and the new ones put in. Both tables change together: what is known of a
key's old deadline comes from its old record, so nothing is searched.
Work is done in chunks of some keys, about a tenth of a millisecond, with ``pause`` between them: the transaction may
hold a million keys, and the event loop wants the interpreter meanwhile.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from durable_raft.errors import InvariantViolation
from durable_raft.kv.layer import Change
from durable_raft.kv.records import NO_DEADLINE, Record, StateSummary
from durable_raft.storage.state.records import (
    DEADLINES,
    HEADER,
    KEYS,
    KvTables,
    due_key,
    head_of,
    pack_due,
    pack_record,
    stored_key,
    wound,
)
from durable_raft.storage.wounds import WoundedState, WoundKind

if TYPE_CHECKING:
    from lmdb import Transaction

_CHUNK_KEYS: Final = 32
_CHUNK_BYTES: Final = 256 << 10
"""Values after which a chunk ends."""


_PAGE_BYTES: Final = 4096

Head = tuple[int, int]
"""Checksum and deadline_ms of a record."""


class ChangeSize(NamedTuple):
    """How much a checkpoint changes."""

    keys: int
    value_bytes: int
    """Keys and values that are put."""

    def touched_bytes(self, *, has_deadlines: bool) -> int:
        """Return what the pages take at worst that are there and change: each key's leaf, and a quarter for branches.

        A key whose deadline changes is taken out of one leaf of the other table and put into another.
        """
        leaves = 3 if has_deadlines else 1
        return self.keys * (leaves * 4 + 1) * _PAGE_BYTES // 4


def no_pause() -> None:
    """Go on at once."""


def write_changes(
    transaction: Transaction[memoryview],
    tables: KvTables,
    before: StateSummary,
    changes: Iterable[Change],
    pause: Callable[[], None],
    *,
    is_append: bool,
) -> StateSummary:
    """Make ``changes`` true inside ``transaction``.

    Args:
        transaction: reads return memoryviews.
        tables: of its environment.
        before: what the state is.
        changes: each key once, best in the order of keys.
        pause: called between chunks.
        is_append: every key lies behind all that are there, and they ascend; LMDB's pages are filled wholly then.

    Returns:
        What the state is now.

    Raises:
        WoundedState: an old record contradicts the table of deadlines.
        InvariantViolation: ``is_append`` was not true.
    """
    writer = _Writer(transaction, tables, before, is_append=is_append)
    for chunk in _chunks(changes):
        writer.write(chunk)
        pause()
    return writer.settlement.summary


def require_counted(transaction: Transaction[memoryview], tables: KvTables, summary: StateSummary) -> None:
    """Go on only if LMDB counts as many records and deadlines as ``summary``, which was settled from old records.

    Raises:
        InvariantViolation: it counts others.
    """
    found = transaction.stat(tables.keys)["entries"], transaction.stat(tables.deadlines)["entries"]
    if found != (summary.key_count, summary.expires_count):
        raise InvariantViolation(f"{found[0]} records and {found[1]} deadlines are stored, expected {summary}")


def _chunks(changes: Iterable[Change]) -> Iterator[list[Change]]:
    changes = iter(changes)
    while chunk := list(islice(changes, _CHUNK_KEYS)):
        if sum([len(record[0]) for _, record in chunk if record is not None]) <= _CHUNK_BYTES:
            yield chunk
        else:
            yield from _smaller(chunk)


def _smaller(chunk: Iterable[Change]) -> Iterator[list[Change]]:
    """Cut a chunk so that it ends as soon as its values are too large."""
    part: list[Change] = []
    size = 0
    for change in chunk:
        part.append(change)
        size += 0 if change[1] is None else len(change[1].value)
        if size >= _CHUNK_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


class Settlement:
    """The summary of a state while changes are put into it."""

    def __init__(self, before: StateSummary) -> None:
        """Begin with the state that is there."""
        self._key_count, self._expires_count, self._state_hash = before

    @property
    def summary(self) -> StateSummary:
        """What the state is now."""
        return StateSummary(self._key_count, self._expires_count, self._state_hash)

    def settle(self, old: Sequence[Head | None], new: Sequence[Record | None]) -> bool:
        """Count keys, each once; return whether one of them had a deadline, or has one now.

        Args:
            old: what was kept of each; None: nothing.
            new: what is kept now.
        """
        gone = [head for head in old if head is not None]
        come = [record for record in new if record is not None]
        self._key_count += len(come) - len(gone)
        self._state_hash += sum([record[2] for record in come]) - sum([head[0] for head in gone])
        gone_due = sum([head[1] != NO_DEADLINE for head in gone])
        come_due = sum([record[1] != NO_DEADLINE for record in come])
        self._expires_count += come_due - gone_due
        return bool(come_due or gone_due)


class _Writer:
    """Writes chunks and counts."""

    def __init__(
        self, transaction: Transaction[memoryview], tables: KvTables, before: StateSummary, *, is_append: bool
    ) -> None:
        self._transaction = transaction
        self._tables = tables
        self._is_append = is_append
        self.settlement = Settlement(before)

    def write(self, chunk: Sequence[Change]) -> None:
        transaction, tables = self._transaction, self._tables
        stored = [stored_key(key) for key, _ in chunk]
        heads = self._heads(stored)
        has_deadlines = self.settlement.settle(heads, [record for _, record in chunk])
        if puts := [
            (name, pack_record(key, record))
            for name, (key, record) in zip(stored, chunk, strict=True)
            if record is not None
        ]:
            self._put(puts)
        if len(puts) < len(chunk):
            for name, head, (_, record) in zip(stored, heads, chunk, strict=True):
                if record is None and head is not None:
                    transaction.delete(name, db=tables.keys)
        if has_deadlines:
            self._change_deadlines(heads, chunk)

    def _change_deadlines(self, heads: Sequence[Head | None], chunk: Sequence[Change]) -> None:
        """Take the old deadlines out of their table, and put the new ones in."""
        due_puts: list[tuple[bytes, bytes]] = []
        for head, (key, record) in zip(heads, chunk, strict=True):
            old_ms = NO_DEADLINE if head is None else head[1]
            new_ms = NO_DEADLINE if record is None else record[1]
            if old_ms != new_ms:
                if old_ms:
                    self._drop_due(old_ms, key)
                if new_ms:
                    due_puts.append(pack_due(new_ms, key))
        if due_puts:
            with self._transaction.cursor(self._tables.deadlines) as cursor:
                cursor.putmulti(due_puts)

    def _heads(self, stored: Sequence[bytes]) -> Sequence[Head | None]:
        """Return checksum and deadline of the old records; nothing of a value is read."""
        if self._is_append:
            return [None] * len(stored)
        with self._transaction.cursor(self._tables.keys) as cursor:
            values = [*map(cursor.get, stored)]
            try:
                return [None if value is None else HEADER.unpack_from(value) for value in values]
            except struct.error:
                return [
                    None if value is None else head_of(key, value) for key, value in zip(stored, values, strict=True)
                ]

    def _put(self, items: list[tuple[bytes, bytes]]) -> None:
        with self._transaction.cursor(self._tables.keys) as cursor:
            taken, added = cursor.putmulti(items, append=self._is_append)
        if added != len(items):
            raise InvariantViolation(f"{added} of {len(items)} keys added ({taken} taken): they do not ascend")

    def _drop_due(self, deadline_ms: int, key: bytes) -> None:
        if not self._transaction.delete(due_key(deadline_ms, key), db=self._tables.deadlines):
            expected = f"deadline {deadline_ms} as in {KEYS}"
            raise WoundedState([wound(DEADLINES, key, expected, "none", WoundKind.MISSING)])
