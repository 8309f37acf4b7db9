"""A read transaction over the KV state: it shows one checkpoint for as long as it is open, whatever is written later.

While it is open LMDB cannot reuse the pages that it shows, so the file grows by what later checkpoints replace: a view
is held for one checkpoint, or for one walk. It takes a reader slot, belongs to no thread, and must not be used by two
at once. It is closed before its store.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import lmdb

from durable_raft.errors import InvariantViolation
from durable_raft.kv.records import Record, StateSummary
from durable_raft.storage.directory import KV
from durable_raft.storage.environment import open_read_only, tree_wound
from durable_raft.storage.poison import begin_reading
from durable_raft.storage.state.meta import KvMeta, read_kv_meta
from durable_raft.storage.state.records import (
    DEADLINES,
    KEYS,
    KvTables,
    due_key,
    head_of,
    open_kv_tables,
    record_of,
    stored_key,
    unpack_due,
    unpack_record,
)
from durable_raft.storage.wounds import WoundedState

if TYPE_CHECKING:
    from lmdb import Cursor, Environment


class LmdbStateView:
    """A ``StateView`` (kv/records.py); every record is verified on each read."""

    def __init__(self, environment: Environment, tables: KvTables) -> None:
        """Begin the read transaction; raises as ``begin_reading`` and ``read_kv_meta``."""
        # Memoryviews of the pages: a value is copied once, when it is taken out behind its header.
        self._transaction = begin_reading(Path(environment.path()), lambda: environment.begin(buffers=True))
        self._tables = tables
        self._is_open = True
        try:
            self._meta, _ = read_kv_meta(self._transaction, tables)
            self._keys = self._transaction.cursor(tables.keys)
            self._deadlines = self._transaction.cursor(tables.deadlines)
        except lmdb.Error as error:
            # A cursor looks at the root of its tree, and one that cannot be read fails all that follows.
            self.close()
            raise WoundedState([tree_wound(KEYS, error)]) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the read transaction; a second time does nothing."""
        if self._is_open:
            self._is_open = False
            self._transaction.abort()

    def __enter__(self) -> LmdbStateView:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def meta(self) -> KvMeta:
        """Which state it is."""
        return self._meta

    @property
    def summary(self) -> StateSummary:
        """The state in numbers."""
        return self._meta.summary

    def get(self, key: bytes) -> Record | None:
        """Return the record of ``key``, or None.

        Raises:
            WoundedState: it is damaged.
        """
        try:
            value = self._keys.get(stored_key(key))
        except lmdb.Error as error:
            self._raise(KEYS, error)
        return None if value is None else record_of(key, value)

    def head(self, key: bytes) -> tuple[int, int] | None:
        """Return checksum and deadline_ms of the record of ``key``, or None; neither is verified, nor is its value.

        Raises:
            WoundedState: it is too short to have them.
        """
        try:
            value = self._keys.get(stored_key(key))
        except lmdb.Error as error:
            self._raise(KEYS, error)
        return None if value is None else head_of(key, value)

    def after(self, key: bytes | None, count: int, bytes_max: int) -> list[tuple[bytes, Record]]:
        """Return keys and records behind ``key``, as a ``StateView`` does.

        Raises:
            WoundedState: one of them is damaged.
        """
        found: list[tuple[bytes, Record]] = []
        size = 0
        try:
            if not _go_behind(self._keys, None if key is None else stored_key(key)):
                return found
            for stored, value in islice(self._keys.iternext(), count):
                size += len(stored) + len(value)
                if found and size > bytes_max:
                    break
                found.append(unpack_record(stored, value))
        except lmdb.Error as error:
            self._raise(KEYS, error)
        return found

    def piece(self, key: bytes | None, bytes_max: int) -> list[tuple[bytes, Record]]:
        """Return keys and records behind ``key``, as many as are in ``bytes_max``; otherwise as ``after``."""
        return self.after(key, sys.maxsize, bytes_max)

    def due(self, after: tuple[int, bytes] | None, count: int) -> list[tuple[int, bytes]]:
        """Return the next ``count`` (deadline_ms, key), by deadline and ``order_key``, behind ``after``.

        Raises:
            WoundedState: one of them is damaged.
        """
        try:
            if not _go_behind(self._deadlines, None if after is None else due_key(*after)):
                return []
            items = islice(self._deadlines.iternext(), count)
            return [unpack_due(bytes(stored), bytes(value)) for stored, value in items]
        except lmdb.Error as error:
            self._raise(DEADLINES, error)

    def counts(self) -> tuple[int, int]:
        """Return (keys, deadlines) as LMDB counts them."""
        return (
            self._transaction.stat(self._tables.keys)["entries"],
            self._transaction.stat(self._tables.deadlines)["entries"],
        )

    def _raise(self, table: str, error: lmdb.Error) -> NoReturn:
        if not self._is_open:
            raise InvariantViolation(f"a view of the KV state was used after its end: {error}") from error
        raise WoundedState([tree_wound(table, error)]) from error


def _go_behind(cursor: Cursor[memoryview], key: bytes | None) -> bool:
    """Put ``cursor`` on the first item behind ``key``; return whether there is one."""
    if key is None:
        return cursor.first()
    return cursor.set_range(key) and (cursor.key() != key or cursor.next())


@contextmanager
def open_view(directory: Path) -> Iterator[LmdbStateView]:
    """Open the state of a data directory that no process of ours has open, read-only, for as long as the block lasts.

    Raises:
        DirectoryRefused: there is no state.
        CorruptRecord: its meta pages or both copies of meta are damaged.
    """
    with open_read_only(directory, KV) as environment:
        view = LmdbStateView(environment, open_kv_tables(environment))
        try:
            yield view
        finally:
            view.close()
