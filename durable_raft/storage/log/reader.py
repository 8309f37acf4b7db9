"""Looking at a log without holding it: no lock, no write, also while a node runs on it.

A read transaction that stays open keeps LMDB from reusing pages, and a node's file would grow for as long as somebody
looks. So a walk reads in batches, each in a short transaction of its own whose result is complete before any of it is
handed out. What the node compacts or cuts between two batches is noticed and is not a wound.

What the journal holds and LMDB does not is read along with each batch (glance.py): the reader sees one log.

Damage comes out as wounds. A damaged page can still kill the process that maps the file: run this in a child process
when that matters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import lmdb

from durable_raft.errors import CorruptRecord, EntryUnavailable
from durable_raft.raft.types import Base, Index, LogPoint, Term
from durable_raft.storage.directory import RAFT, require_environment
from durable_raft.storage.environment import measure, open_read_only, tree_wound
from durable_raft.storage.log import access
from durable_raft.storage.log.glance import glance_at_journal, pending_in
from durable_raft.storage.log.meta import Meta
from durable_raft.storage.log.pending import ANY_INDEX, Pending
from durable_raft.storage.log.plan import configurations_with, point_of
from durable_raft.storage.log.records import IDENT, IDENT_KEY, LOG_KEY, Items, pack_entries
from durable_raft.storage.log.tables import Tables, open_tables
from durable_raft.storage.log.walk import LogWalk, Walked
from durable_raft.storage.preflight import check_data_file, page_problems
from durable_raft.storage.wounds import NewerFormat, Wound, WoundedLog

if TYPE_CHECKING:
    from lmdb import Cursor, Environment, Transaction

_BATCH_ENTRIES_MAX: Final = 2000
_BATCH_BYTES_MAX: Final = 8 << 20
"""Payload after which a batch ends: a few milliseconds of one read transaction."""

_GLANCES_MAX: Final = 3
"""A node that starts may begin another generation of its journal between two looks; another look then finds both."""


@dataclass(frozen=True, slots=True)
class Overview:
    """What can be said of a log without walking it."""

    meta: Meta | None
    """None when neither copy is valid."""
    wounds: tuple[Wound, ...]
    """Of meta; a walk tells those of the journal."""
    first_index: int
    """0 when the log is empty."""
    last_index: int
    entries: int
    used_bytes: int
    """Pages in use."""
    file_bytes: int
    """Pages ever used: the size of the file."""
    pending_groups: int
    """Groups that are in the journal and not in LMDB yet."""
    pending_entries: int
    """Entries of these that were not cut since; they count in all above but the bytes."""


class _Moment(NamedTuple):
    """One read transaction, and what the journal adds to what it sees."""

    transaction: Transaction[bytes]
    meta: Meta | None
    """With the hard state, the standing and the configurations that are pending."""
    meta_wounds: tuple[Wound, ...]
    last: Index
    """Of LMDB's last entry; the base's when it has none; ``ANY_INDEX`` when that cannot be told."""
    pending: Pending
    journal_wounds: tuple[Wound, ...]


class LogReader:
    """The log of one data directory, read-only."""

    def __init__(self, environment: Environment, tables: Tables) -> None:
        self._environment = environment
        self._tables = tables
        self._path = Path(environment.path())

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
            with self._moment() as moment:
                transaction, pending = moment.transaction, moment.pending
                used, file, _ = measure(self._environment, transaction, self._tables)
                entries = transaction.stat(self._tables.ident)["entries"]
                with transaction.cursor(self._tables.ident) as idents:
                    first = int.from_bytes(idents.key(), "big") if idents.first() else 0
                    last = int.from_bytes(idents.key(), "big") if idents.last() else 0
        except lmdb.Error as error:
            raise WoundedLog([tree_wound(IDENT, error)]) from error
        if pending.groups:
            # Those that a pending cut takes are still there.
            entries += len(pending.entries) - (int(moment.last) + 1 - pending.first)
            last = pending.end - 1 if entries else 0
            first = (first if 0 < first < pending.first else int(pending.first)) if entries else 0
        counts = (len(pending.groups), len(pending.entries))
        return Overview(moment.meta, moment.meta_wounds, first, last, entries, used, file, *counts)

    def walk(self, lo: int = 0, hi: int | None = None) -> Iterator[Walked]:
        """Yield what is known of each index of [lo, hi), ascending, going on past damage.

        A page that LMDB cannot walk ends it, with a wound that says so. Where that is the end of the log, the wounds of
        the journal come last.
        """
        walk: LogWalk | None = None
        finished = False
        while not finished:
            with self._moment() as moment:
                if walk is None:
                    walk = self._first_walk(moment, lo)
                    start = lo
                else:
                    start = self._resume(moment, walk)
                batch, finished = self._batch(moment, walk, start, hi)
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
        with self._moment() as moment:
            if moment.meta is not None and index == moment.meta.base.point.index:
                return moment.meta.base
            try:
                return self._read_point(moment, index)
            except EntryUnavailable:
                return None
            except lmdb.Error as error:
                raise WoundedLog([tree_wound(IDENT, error)]) from error

    # -- inside one read transaction ----------------------------------------------------------------------------

    @contextmanager
    def _moment(self) -> Iterator[_Moment]:
        for left in range(_GLANCES_MAX - 1, -1, -1):
            image = glance_at_journal(self._path)
            with self._environment.begin() as transaction:
                moment = self._at(transaction, image)
                if left and moment.journal_wounds:
                    continue
                yield moment
                return

    def _at(self, transaction: Transaction[bytes], image: bytes | None) -> _Moment:
        """Read what there is; where meta or LMDB's pages do not tell, nothing counts as pending."""
        try:
            meta, wounds = access.read_meta(transaction, self._tables)
            with transaction.cursor(self._tables.ident) as idents:
                has_entries = idents.last()
                last = Index(int.from_bytes(idents.key(), "big")) if has_entries else meta.base.point.index
        except (WoundedLog, NewerFormat) as error:
            return _Moment(transaction, None, error.wounds, ANY_INDEX, Pending(ANY_INDEX), ())
        except lmdb.Error:
            return _Moment(transaction, meta, wounds, ANY_INDEX, Pending(ANY_INDEX), ())
        pending, journal_wounds = pending_in(image, meta.journal, last)
        for group in pending.groups:
            meta = replace(
                meta,
                hard_state=group.write.hard_state or meta.hard_state,
                standing=group.write.standing or meta.standing,
                configurations=configurations_with(meta.configurations, group.write.truncate_from, group.write.entries),
            )
        return _Moment(transaction, meta, wounds, last, pending, journal_wounds)

    def _read_point(self, moment: _Moment, index: int) -> Base:
        """Return point and timestamp of an entry; raises as ``access.read_point``."""
        if (entry := moment.pending.get(Index(index))) is not None:
            return point_of(entry)
        if index >= moment.pending.first:
            raise EntryUnavailable(f"index {index} is not stored")
        return access.read_point(moment.transaction, self._tables, Index(index))

    def _first_walk(self, moment: _Moment, lo: int) -> LogWalk:
        """Return a walk that expects the entry at ``lo``, or the first one when that is later."""
        meta, transaction = moment.meta, moment.transaction
        if meta is not None and lo <= meta.base.point.index + 1:
            return LogWalk(meta.base)
        before = max(lo - 1, 0)
        try:
            with transaction.cursor(self._tables.ident) as idents:
                if idents.set_range(IDENT_KEY.pack(lo)):
                    before = max(int.from_bytes(idents.key(), "big") - 1, 0)
            return LogWalk(self._read_point(moment, before))
        except (WoundedLog, NewerFormat, EntryUnavailable, lmdb.Error):
            # Pages that LMDB cannot walk are met again, and told, when the entries are read.
            return LogWalk(Base(LogPoint(Index(before), Term(0), 0), 0), chain_known=False)

    def _resume(self, moment: _Moment, walk: LogWalk) -> int:
        """Return the index to go on from, after the node may have compacted or cut the log since the last batch."""
        following = walk.index + 1
        meta = moment.meta
        if meta is not None and following <= meta.base.point.index + 1:
            walk.restart(meta.base)
            return meta.base.point.index + 1
        try:
            before = self._read_point(moment, walk.index)
        except (WoundedLog, NewerFormat, EntryUnavailable, lmdb.Error):
            return following
        if before.point.chain != walk.chain:
            walk.restart(before)
        return following

    def _batch(self, moment: _Moment, walk: LogWalk, lo: int, hi: int | None) -> tuple[list[Walked], bool]:
        """Return the next entries from ``lo`` on and whether they are the last ones."""
        batch: list[Walked] = []
        size = 0
        transaction, pending = moment.transaction, moment.pending
        end = pending.first if hi is None else min(hi, pending.first)
        ident_end, log_end = (IDENT_KEY.pack(end), LOG_KEY.pack(end, 0)) if end <= moment.last else (None, None)
        more_idents, more_pieces = _pending_items(pending, lo, hi)
        try:
            with transaction.cursor(self._tables.ident) as idents, transaction.cursor(self._tables.log) as pieces:
                from_idents = chain(_items(idents, IDENT_KEY.pack(lo), ident_end), more_idents)
                from_pieces = chain(_items(pieces, LOG_KEY.pack(lo, 0), log_end), more_pieces)
                for walked in walk.run(from_idents, from_pieces):
                    batch.append(walked)
                    size += len(walked.payload or b"")
                    if len(batch) >= _BATCH_ENTRIES_MAX or size >= _BATCH_BYTES_MAX:
                        return batch, False
        except lmdb.Error as error:
            batch.append(Walked(walk.index, None, None, (tree_wound(IDENT, error),)))
        if moment.journal_wounds and (hi is None or hi > pending.end):
            batch.append(Walked(walk.index, None, None, moment.journal_wounds))
        return batch, True


def _pending_items(pending: Pending, lo: int, hi: int | None) -> tuple[Iterator[tuple[bytes, bytes]], ...]:
    """Return the records that the pending entries of [lo, hi) will have."""
    end = pending.end if hi is None else min(hi, pending.end)
    tables: tuple[Items, Items] = pack_entries([entry for entry in pending.entries if lo <= entry.index < end])
    return tuple(((key, bytes(value)) for key, value in items) for items in tables)


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
