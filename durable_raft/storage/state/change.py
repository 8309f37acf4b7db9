"""Writing changes into the KV state inside a transaction, and counting what the state is afterwards.

Both tables change together: what is known of a key's old deadline comes from its old record, so nothing is searched.
Work is done in chunks of some keys, about a tenth of a millisecond, with ``pause`` between them: the transaction may
hold a million keys, and the event loop wants the interpreter meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from durable_raft.errors import InvariantViolation
from durable_raft.kv.layer import Change
from durable_raft.kv.records import StateSummary
from durable_raft.storage.state.records import (
    DEADLINES,
    HEADER,
    KEYS,
    KvTables,
    due_key,
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
    return StateSummary(writer.key_count, writer.expires_count, writer.state_hash)


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


class _Writer:
    """Writes chunks and counts."""

    def __init__(
        self, transaction: Transaction[memoryview], tables: KvTables, before: StateSummary, *, is_append: bool
    ) -> None:
        self._transaction = transaction
        self._tables = tables
        self._is_append = is_append
        self.key_count, self.expires_count, self.state_hash = before

    def write(self, chunk: Sequence[Change]) -> None:
        transaction, tables = self._transaction, self._tables
        stored = [stored_key(key) for key, _ in chunk]
        puts: list[tuple[bytes, bytes]] = []
        gone: list[bytes] = []
        due_puts: list[tuple[bytes, bytes]] = []
        key_change = hash_change = 0
        for name, (key, record), (old_crc, old_deadline_ms, is_there) in zip(
            stored, chunk, self._old(stored), strict=True
        ):
            new_deadline_ms = 0
            if is_there:
                key_change -= 1
                hash_change -= old_crc
                if record is None:
                    gone.append(name)
            if record is not None:
                _, new_deadline_ms, crc = record
                key_change += 1
                hash_change += crc
                puts.append((name, pack_record(key, record)))
            if old_deadline_ms != new_deadline_ms:
                if old_deadline_ms:
                    self._drop_due(old_deadline_ms, key)
                if new_deadline_ms:
                    self.expires_count += 1
                    due_puts.append(pack_due(new_deadline_ms, key))
        self.key_count += key_change
        self.state_hash += hash_change
        if puts:
            self._put(puts)
        for name in gone:
            transaction.delete(name, db=tables.keys)
        if due_puts:
            with transaction.cursor(tables.deadlines) as cursor:
                cursor.putmulti(due_puts)

    def _old(self, stored: Sequence[bytes]) -> list[tuple[int, int, bool]]:
        """Return (crc, deadline_ms, is there) of the old records; nothing of a value is read."""
        if self._is_append:
            return [(0, 0, False)] * len(stored)
        with self._transaction.cursor(self._tables.keys) as cursor:
            values = map(cursor.get, stored)
            return [(0, 0, False) if value is None else (*HEADER.unpack_from(value), True) for value in values]

    def _put(self, items: list[tuple[bytes, bytes]]) -> None:
        with self._transaction.cursor(self._tables.keys) as cursor:
            taken, added = cursor.putmulti(items, append=self._is_append)
        if added != len(items):
            raise InvariantViolation(f"{added} of {len(items)} keys added ({taken} taken): they do not ascend")

    def _drop_due(self, deadline_ms: int, key: bytes) -> None:
        self.expires_count -= 1
        if not self._transaction.delete(due_key(deadline_ms, key), db=self._tables.deadlines):
            expected = f"deadline {deadline_ms} as in {KEYS}"
            raise WoundedState([wound(DEADLINES, key, expected, "none", WoundKind.MISSING)])
