"""The walk over a whole KV state, going on past damage.

Every record with a deadline is looked up in the table of deadlines. As many items there as such records, and each one
found: then the two tables say the same, and only if the numbers differ is the second table walked for what is too much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import lmdb

from durable_raft.kv.records import StateSummary
from durable_raft.storage.directory import KV
from durable_raft.storage.environment import open_read_only, tree_wound
from durable_raft.storage.proven import META
from durable_raft.storage.state.meta import KvMeta, read_kv_meta
from durable_raft.storage.state.records import (
    DEADLINES,
    HEADER,
    KEYS,
    KvTables,
    open_kv_tables,
    pack_due,
    plain_crc,
    stored_key,
    unpack_due,
    unpack_record,
    wound,
)
from durable_raft.storage.wounds import Wound, WoundedState, WoundKind

if TYPE_CHECKING:
    from lmdb import Transaction

_PROGRESS_EVERY: Final = 64

WOUNDS_MAX: Final = 1000
"""Wounds after which the walk ends: the state is lost then, and the list would fill memory."""


def ignore_progress(records: int) -> None:
    """Take no note of it."""
    del records


def walk_state(transaction: Transaction[memoryview], tables: KvTables, progress: Callable[[int], None]) -> StateSummary:
    """Check all that ``transaction`` shows.

    Args:
        transaction: reads return memoryviews.
        tables: of its environment.
        progress: called with the number of records checked, often; what it raises ends the walk.

    Returns:
        What the state is: what its meta says.

    Raises:
        WoundedState: with every wound that was found, up to ``WOUNDS_MAX``.
    """
    meta, tolerated = read_kv_meta(transaction, tables)
    walk = _Walk(transaction, tables, progress)
    try:
        walk.keys()
        if transaction.stat(tables.deadlines)["entries"] != walk.due_found:
            walk.deadlines()
    except lmdb.Error as error:
        walk.wounds.append(tree_wound(walk.table, error))
    found = StateSummary(walk.key_count, walk.expires_count, walk.state_hash)
    if found != meta.summary:
        walk.wounds.append(wound(META, None, f"{meta.summary}", f"{found}", WoundKind.DISAGREES))
    if walk.wounds:
        raise WoundedState([*tolerated, *walk.wounds])
    return found


class _Walk:
    """What was counted and what was found wrong."""

    def __init__(self, transaction: Transaction[memoryview], tables: KvTables, progress: Callable[[int], None]) -> None:
        self._transaction = transaction
        self._tables = tables
        self._progress = progress
        self.table = KEYS
        """Which one is walked."""
        self.key_count = self.expires_count = self.state_hash = 0
        self.due_found = 0
        self.wounds: list[Wound] = []

    def keys(self) -> None:
        """Walk the records."""
        previous = b""
        with self._transaction.cursor(self._tables.keys) as cursor:
            for name, value in cursor.iternext():
                stored = bytes(name)
                if stored <= previous:
                    expected = f"behind 0x{previous[:40].hex()}"
                    self.wounds.append(wound(KEYS, stored[1:], expected, "before it", WoundKind.ORDER))
                previous = stored
                crc = plain_crc(stored, bytes(value))
                if crc is None:
                    self._check_record(stored, value)
                else:
                    self.state_hash += crc
                self.key_count += 1
                if self.key_count % _PROGRESS_EVERY == 0:
                    self._progress(self.key_count)
                if len(self.wounds) >= WOUNDS_MAX:
                    return
        self._progress(self.key_count)

    def _check_record(self, stored: bytes, value: memoryview) -> None:
        try:
            key, record = unpack_record(stored, value)
        except WoundedState as error:
            self.wounds += error.wounds
            return
        self.state_hash += record.crc
        if not record.deadline_ms:
            return
        self.expires_count += 1
        name, expected = pack_due(record.deadline_ms, key)
        found = self._transaction.get(name, db=self._tables.deadlines)
        if found is None:
            self.wounds.append(wound(DEADLINES, key, f"deadline {record.deadline_ms}", "none", WoundKind.MISSING))
            return
        self.due_found += 1
        if found != expected:
            shown = bytes(found[:40]).hex()
            self.wounds.append(wound(DEADLINES, key, f"0x{expected[:40].hex()}", f"0x{shown}", WoundKind.CHECKSUM))

    def deadlines(self) -> None:
        """Walk the deadlines for those that no record has."""
        self.table = DEADLINES
        with self._transaction.cursor(self._tables.deadlines) as cursor:
            for number, (name, value) in enumerate(cursor.iternext()):
                try:
                    deadline_ms, key = unpack_due(bytes(name), bytes(value))
                    self._check_owned(deadline_ms, key)
                except WoundedState as error:
                    self.wounds += error.wounds
                if number % _PROGRESS_EVERY == 0:
                    self._progress(self.key_count)
                if len(self.wounds) >= WOUNDS_MAX:
                    return

    def _check_owned(self, deadline_ms: int, key: bytes) -> None:
        value = self._transaction.get(stored_key(key), db=self._tables.keys)
        found = None if value is None or len(value) < HEADER.size else HEADER.unpack_from(value)[1]
        if found != deadline_ms:
            expected = f"deadline {found} as in {KEYS}" if found else "none"
            self.wounds.append(wound(DEADLINES, key, expected, f"{deadline_ms}", WoundKind.ORPHAN))


@dataclass(frozen=True, slots=True)
class StateFound:
    """What a walk over ``DIR/kv`` found."""

    meta: KvMeta | None
    """None when neither copy is valid; nothing was walked then."""
    wounds: tuple[Wound, ...]
    is_sound: bool
    """Whether all of it is what meta says; wounds are then of one copy of meta, for which the other stands."""


def verify_state(directory: Path, progress: Callable[[int], None] = ignore_progress) -> StateFound:
    """Walk the KV state of a data directory read-only, without its lock, also while a node runs on it.

    It holds a read transaction for as long as it takes; a running node's file grows meanwhile by what is replaced. A
    damaged page can kill the process that maps it.

    Args:
        directory: the node's data directory.
        progress: as in ``walk_state``.

    Raises:
        DirectoryRefused: there is no state.
        CorruptRecord: the meta pages are damaged, or a table is missing.
        UnknownFormatVersion: meta is of a newer format.
    """
    with open_read_only(directory, KV) as environment:
        tables = open_kv_tables(environment)
        with environment.begin(buffers=True) as transaction:
            try:
                meta, tolerated = read_kv_meta(transaction, tables)
            except WoundedState as error:
                return StateFound(None, error.wounds, is_sound=False)
            try:
                walk_state(transaction, tables, progress)
            except WoundedState as error:
                return StateFound(meta, error.wounds, is_sound=False)
            return StateFound(meta, tolerated, is_sound=True)


def read_checkpoint(directory: Path) -> KvMeta:
    """Return which state ``DIR/kv`` holds, without its lock and without walking it.

    Raises:
        DirectoryRefused: there is no state.
        CorruptRecord: the meta pages or both copies of meta are damaged, or a table is missing.
        UnknownFormatVersion: meta is of a newer format.
    """
    with open_read_only(directory, KV) as environment:
        tables = open_kv_tables(environment)
        with environment.begin() as transaction:
            return read_kv_meta(transaction, tables)[0]
