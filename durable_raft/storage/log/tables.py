"""The four tables of the log's environment, and how much room the log has left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from durable_raft.storage.environment import Room, open_handles
from durable_raft.storage.log.records import IDENT, LOG
from durable_raft.storage.proven import META, META_COPY

if TYPE_CHECKING:
    from lmdb import Environment, Transaction, _Database

_DELETE_BATCH: Final = 1024
"""Keys collected before they are deleted: deleting under a moving cursor had bugs (LMDB ITS#9461), and the bound keeps
memory flat however long the cut is."""

TABLES: Final = (META, META_COPY, IDENT, LOG)


@dataclass(frozen=True, slots=True)
class Tables:
    """Handles of the four tables of the log."""

    meta: _Database
    meta_copy: _Database
    ident: _Database
    log: _Database

    def named(self) -> dict[str, _Database]:
        """Return the handles by the names of the tables."""
        return {META: self.meta, META_COPY: self.meta_copy, IDENT: self.ident, LOG: self.log}


@dataclass(frozen=True, slots=True)
class Space(Room):
    """The room of the log, and what was written since its store was opened."""

    commits: int
    """Durable transactions, each with its flushes."""
    entries: int
    """Entries persisted."""
    entry_bytes: int
    """Bytes of the records of those entries."""


def open_tables(environment: Environment, *, create: bool = False) -> Tables:
    """Open the four tables of the log; raises as ``open_handles``."""
    return Tables(*open_handles(environment, TABLES, create=create))


def delete_range(transaction: Transaction[bytes], table: _Database, lo: bytes, hi: bytes | None) -> None:
    """Delete the keys of [lo, hi); of all from ``lo`` on when ``hi`` is None."""
    while keys := _keys(transaction, table, lo, hi):
        for key in keys:
            transaction.delete(key, db=table)


def _keys(transaction: Transaction[bytes], table: _Database, lo: bytes, hi: bytes | None) -> list[bytes]:
    """Return the first keys of [lo, hi)."""
    keys: list[bytes] = []
    with transaction.cursor(table) as cursor:
        if not (cursor.set_range(lo) if lo else cursor.first()):
            return keys
        for key in cursor.iternext(values=False):
            if hi is not None and key >= hi:
                break
            keys.append(key)
            if len(keys) == _DELETE_BATCH:
                break
    return keys
