"""Looking at a log without holding it: no lock, no write, also while a node runs on it.

A read transaction that stays open keeps LMDB from reusing pages, and a node's file would grow for as long as somebody
looks. So a walk reads in batches, each in a short transaction of its own whose result is complete before any of it is
handed out. What the node compacts or cuts between two batches is noticed and is not a wound.

Damage comes out as wounds. A damaged page can still kill the process that maps the file: run this in a child process
when that matters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import lmdb

from durable_raft.errors import CorruptRecord, EntryUnavailable
from durable_raft.raft.types import Base, Index, LogPoint, Term
from durable_raft.storage.directory import RAFT, require_environment
from durable_raft.storage.environment import measure, open_read_only, tree_wound
from durable_raft.storage.log import access
from durable_raft.storage.log.meta import Meta
from durable_raft.storage.log.records import IDENT, IDENT_KEY, LOG_KEY
from durable_raft.storage.log.tables import Tables, open_tables
from durable_raft.storage.log.walk import LogWalk, Walked
from durable_raft.storage.preflight import check_data_file, page_problems
from durable_raft.storage.wounds import NewerFormat, Wound, WoundedLog

if TYPE_CHECKING:
    from lmdb import Cursor, Environment, Transaction

_BATCH_ENTRIES_MAX: Final = 2000
_BATCH_BYTES_MAX: Final = 8 << 20
"""Payload after which a batch ends: a few milliseconds of one read transaction."""


@dataclass(frozen=True, slots=True)
class Overview:
    """What can be said of a log without walking it."""

    meta: Meta | None
    """None when neither copy is valid."""
    wounds: tuple[Wound, ...]
    """Of meta."""
    first_index: int
    """0 when the log is empty."""
    last_index: int
    entries: int
    used_bytes: int
    """Pages in use."""
    file_bytes: int
    """Pages ever used: the size of the file."""


class LogReader:
    """The log of one data directory, read-only."""

    def __init__(self, environment: Environment, tables: Tables) -> None:
        self._environment = environment
        self._tables = tables

    @classmethod
    def open(cls, directory: Path) -> LogReader:
        """Open the log in ``directory``.

        Raises:
            DirectoryRefused: not a data directory.
            CorruptRecord: the meta pages are damaged, or a table is missing.
            UnknownFormatVersion: a data file of another LMDB format.
        """
        environment = open_read_only(directory)
        try:
            return cls(environment, open_tables(environment))
        except BaseException:
            environment.close()
            raise

    def close(self) -> None:
        """Give the reader slot back."""
        self._environment.close()

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def overview(self) -> Overview:
        """Return what meta and the tree's own counts say.

        Raises:
            CorruptRecord: LMDB cannot walk its own pages.
        """
        try:
            with self._environment.begin() as transaction:
                meta, wounds = self._meta(transaction)
                used, file, _ = measure(self._environment, transaction, self._tables)
                entries = transaction.stat(self._tables.ident)["entries"]
                with transaction.cursor(self._tables.ident) as idents:
                    first = int.from_bytes(idents.key(), "big") if idents.first() else 0
                    last = int.from_bytes(idents.key(), "big") if idents.last() else 0
        except lmdb.Error as error:
            raise WoundedLog([tree_wound(IDENT, error)]) from error
        return Overview(meta, wounds, first, last, entries, used, file)

    def walk(self, lo: int = 0, hi: int | None = None) -> Iterator[Walked]:
        """Yield what is known of each index of [lo, hi), ascending, going on past damage.

        A page that LMDB cannot walk ends it, with a wound that says so.
        """
        walk: LogWalk | None = None
        finished = False
        while not finished:
            with self._environment.begin() as transaction:
                if walk is None:
                    walk = self._first_walk(transaction, lo)
                    start = lo
                else:
                    start = self._resume(transaction, walk)
                batch, finished = self._batch(transaction, walk, start, hi)
            yield from batch

    def touch(self) -> None:
        """Read every record and judge none: a page that kills the process that maps it does so here.

        What LMDB itself finds wrong is left to whoever loads the log.
        """
        with contextlib.suppress(lmdb.Error), self._environment.begin() as transaction:
            for table in (self._tables.ident, self._tables.log):
                with transaction.cursor(table) as cursor:
                    for _ in cursor.iternext():
                        pass

    def point_at(self, index: int) -> Base | None:
        """Return point and timestamp of the entry at ``index``, or of the base when that is there; None: not stored.

        Raises:
            CorruptRecord: its ident record is damaged.
        """
        with self._environment.begin() as transaction:
            meta, _ = self._meta(transaction)
            if meta is not None and index == meta.base.point.index:
                return meta.base
            try:
                return access.read_point(transaction, self._tables, Index(index))
            except EntryUnavailable:
                return None
            except lmdb.Error as error:
                raise WoundedLog([tree_wound(IDENT, error)]) from error

    # -- inside one read transaction ----------------------------------------------------------------------------

    def _meta(self, transaction: Transaction[bytes]) -> tuple[Meta | None, tuple[Wound, ...]]:
        try:
            return access.read_meta(transaction, self._tables)
        except (WoundedLog, NewerFormat) as error:
            return None, error.wounds

    def _first_walk(self, transaction: Transaction[bytes], lo: int) -> LogWalk:
        """Return a walk that expects the entry at ``lo``, or the first one when that is later."""
        meta, _ = self._meta(transaction)
        if meta is not None and lo <= meta.base.point.index + 1:
            return LogWalk(meta.base)
        before = max(lo - 1, 0)
        try:
            with transaction.cursor(self._tables.ident) as idents:
                if idents.set_range(IDENT_KEY.pack(lo)):
                    before = max(int.from_bytes(idents.key(), "big") - 1, 0)
            return LogWalk(access.read_point(transaction, self._tables, Index(before)))
        except (WoundedLog, NewerFormat, EntryUnavailable, lmdb.Error):
            # Pages that LMDB cannot walk are met again, and told, when the entries are read.
            return LogWalk(Base(LogPoint(Index(before), Term(0), 0), 0), chain_known=False)

    def _resume(self, transaction: Transaction[bytes], walk: LogWalk) -> int:
        """Return the index to go on from, after the node may have compacted or cut the log since the last batch."""
        following = walk.index + 1
        meta, _ = self._meta(transaction)
        if meta is not None and following <= meta.base.point.index + 1:
            walk.restart(meta.base)
            return meta.base.point.index + 1
        try:
            before = access.read_point(transaction, self._tables, Index(walk.index))
        except (WoundedLog, NewerFormat, EntryUnavailable, lmdb.Error):
            return following
        if before.point.chain != walk.chain:
            walk.restart(before)
        return following

    def _batch(
        self, transaction: Transaction[bytes], walk: LogWalk, lo: int, hi: int | None
    ) -> tuple[list[Walked], bool]:
        """Return the next entries from ``lo`` on and whether they are the last ones."""
        batch: list[Walked] = []
        size = 0
        ident_end, log_end = (None, None) if hi is None else (IDENT_KEY.pack(hi), LOG_KEY.pack(hi, 0))
        try:
            with transaction.cursor(self._tables.ident) as idents, transaction.cursor(self._tables.log) as pieces:
                from_idents = _items(idents, IDENT_KEY.pack(lo), ident_end)
                for walked in walk.run(from_idents, _items(pieces, LOG_KEY.pack(lo, 0), log_end)):
                    batch.append(walked)
                    size += len(walked.payload or b"")
                    if len(batch) >= _BATCH_ENTRIES_MAX or size >= _BATCH_BYTES_MAX:
                        return batch, False
        except lmdb.Error as error:
            batch.append(Walked(walk.index, None, None, (tree_wound(IDENT, error),)))
        return batch, True


def _items(cursor: Cursor[bytes], lo: bytes, hi: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    """Yield the items of [lo, hi)."""
    if cursor.set_range(lo):
        for key, value in cursor.iternext():
            if hi is not None and key >= hi:
                return
            yield key, value


def structure_problems(directory: Path, name: str = RAFT) -> list[str]:
    """Return what is wrong with the pages of environment ``name``, as ``page_problems`` does.

    Raises:
        DirectoryRefused: there is no such environment.
        CorruptRecord: not even the meta pages can be read, or the disk fails.
        UnknownFormatVersion: a data file of another LMDB format.
    """
    path = require_environment(directory, name)
    check_data_file(path, is_live=True)
    try:
        return page_problems(path)
    except OSError as error:
        raise CorruptRecord(f"{path}: {error}") from error
