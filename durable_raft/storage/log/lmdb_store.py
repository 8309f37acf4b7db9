"""The log store on LMDB: one transaction makes a group of writes durable (durability contracts 1, 6, 7).

``persist`` and ``compact`` run begin, changes and commit on the calling thread, one call at a time; readers use short
read transactions of their own. Nothing is written before ``load`` has verified the whole log.

The first failed write is final (poison.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import lmdb

from durable_raft.errors import DirectoryRefused, InvariantViolation
from durable_raft.raft.ready import Write
from durable_raft.raft.types import (
    ORIGIN,
    Base,
    Configuration,
    Entry,
    HardState,
    Identity,
    Index,
    LogPoint,
    Membership,
    NodeId,
    Standing,
    StoredLog,
    Term,
)
from durable_raft.storage.directory import (
    DATA_FILE,
    RAFT,
    DirectoryLock,
    create_environment,
    environment_path,
    holds_environment,
    refuse_network_file_system,
    require_environment,
)
from durable_raft.storage.environment import (
    MAP_BYTES,
    disk_free_bytes,
    measure,
    open_environment,
    readers_of,
    tree_wound,
)
from durable_raft.storage.headroom import COMMIT_BYTES, Headroom
from durable_raft.storage.log import access
from durable_raft.storage.log.meta import VOTER, JournalMark, Meta, configurations_bytes, pack_meta
from durable_raft.storage.log.plan import Plan, Stand, meta_after, plan_writes
from durable_raft.storage.log.records import (
    IDENT,
    IDENT_KEY,
    LOG_KEY,
    pack_entries,
    piece_count,
    records_bytes,
    unpack_ident,
)
from durable_raft.storage.log.stored_log import StoredLogBuilder
from durable_raft.storage.log.tables import Space, Tables, delete_range, open_tables
from durable_raft.storage.log.walk import LogWalk
from durable_raft.storage.poison import PoisonLatch, begin_reading
from durable_raft.storage.preflight import check_data_file
from durable_raft.storage.proven import META_KEY
from durable_raft.storage.wounds import Wound, WoundedLog

if TYPE_CHECKING:
    from lmdb import Environment, Transaction

DROP_PIECES: Final = 256
"""Payload records deleted by one transaction, about: half a millisecond, so that no commit waits for a compaction."""

DROP_ENTRIES: Final = 1024
"""Entries dropped along with one group of writes."""


_BEGINNING: Final = Base(ORIGIN, 0)


class LmdbLogStore:
    """A ``LogStore`` in ``DIR/raft``; see log_store.py for what each call promises."""

    def __init__(
        self, directory: Path, lock: DirectoryLock, environment: Environment, tables: Tables, reserve_bytes: int
    ) -> None:
        self._directory = directory
        self._lock = lock
        self._environment = environment
        self._tables = tables
        with environment.begin() as transaction:
            meta, tolerated = access.read_meta(transaction, tables)
        self._meta = meta
        """What the newest valid copy says; replaced after each commit that changed it."""
        self.tolerated: tuple[Wound, ...] = tolerated
        """The wound of a rotten copy of meta, until the next write of meta mends it."""
        self.healable: tuple[Wound, ...] = ()
        """The wounds of single records that ``load`` found and that did not stop it."""
        self._tail: Base | None = None
        """The last entry; None until ``load`` verified the log."""
        self._number = 0
        self._latch = PoisonLatch(environment_path(directory))
        self._headroom = Headroom(environment, environment_path(directory), reserve_bytes)
        self._entries = self._entry_bytes = 0

    # -- the directory ------------------------------------------------------------------------------------------

    @staticmethod
    def exists(directory: Path) -> bool:
        """Return whether ``directory`` holds a log that was created whole."""
        return holds_environment(directory)

    @staticmethod
    def create(
        directory: Path,
        identity: Identity,
        membership: Membership,
        *,
        map_bytes: int = MAP_BYTES,
        base: Base = _BEGINNING,
        standing: Standing = VOTER,
        configuration: Configuration | None = None,
    ) -> None:
        """Create an empty log in ``directory`` (made when missing), whole and durable, or leave nothing that opens.

        It begins behind ``base``, in its term: at the beginning, unless a state was put there before. There
        ``configuration`` counts, or ``membership``, the fixed one of the first start. A directory that a node will run
        on begins with a ``standing`` that is no voter's (raft/admission.py).

        Raises:
            DirectoryRefused: there is a log already, or the directory is in use.
        """
        configurations = () if configuration is None else (configuration,)
        meta = Meta(1, HardState(base.point.term), identity, membership, base, standing, configurations=configurations)

        def build(path: Path) -> None:
            with open_environment(path, map_bytes=map_bytes, create=True) as environment:
                tables = open_tables(environment, create=True)
                with environment.begin(write=True) as transaction:
                    _put_meta(transaction, tables, meta)

        create_environment(directory, RAFT, build)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        map_bytes: int = MAP_BYTES,
        allow_network_file_system: bool = False,
        reserve_bytes: int = 0,
    ) -> LmdbLogStore:
        """Take the directory's lock, check the data file, and open it; ``load`` then verifies what is in it.

        Args:
            directory: the node's data directory.
            map_bytes: bound of the file; a larger existing file stays readable.
            allow_network_file_system: open even where locks and maps may lie; acknowledged writes may then be lost.
            reserve_bytes: kept allocated behind the end of the file (headroom.py).

        Raises:
            DirectoryRefused: not a data directory, in use, or on a network file system.
            CorruptRecord: the data file is cut or its meta pages are damaged, or both copies of meta are.
            UnknownFormatVersion: meta is of a newer format.
        """
        path = require_environment(directory)
        if not allow_network_file_system:
            refuse_network_file_system(directory)
        lock = DirectoryLock(directory)
        try:
            lock.hold(path / DATA_FILE)
            check_data_file(path)
            environment = open_environment(path, map_bytes=map_bytes)
            try:
                environment.reader_check()
                store = cls(directory, lock, environment, open_tables(environment), reserve_bytes)
            except BaseException:
                environment.close()
                raise
        except BaseException:
            lock.release()
            raise
        lock.describe(store.identity.node_id)
        return store

    def require_present(self) -> None:
        """Go on only if the directory is still the one that was opened.

        Raises:
            DirectoryLost: it was removed, replaced, covered or unmounted.
        """
        self._latch.require_present()

    def expect(self, cluster_id: bytes | None, node_id: NodeId) -> None:
        """Check whose data this is; ``cluster_id`` None accepts any cluster.

        Raises:
            DirectoryRefused: it belongs to another cluster or node.
        """
        found = self.identity
        if found.node_id != node_id:
            raise DirectoryRefused(f"{self._directory} belongs to node {found.node_id!r}, expected {node_id!r}")
        if cluster_id is not None and found.cluster_id != cluster_id:
            raise DirectoryRefused(
                f"{self._directory} belongs to cluster {found.cluster_id.hex()}, expected {cluster_id.hex()}"
            )

    def close(self) -> None:
        """Release the directory; nothing is written."""
        self._environment.close()
        self._headroom.close()
        self._lock.release()

    # -- reading ------------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """Where the environment lies."""
        return environment_path(self._directory)

    @property
    def identity(self) -> Identity:
        """Whose data this is."""
        return self._meta.identity

    @property
    def membership(self) -> Membership:
        """The cluster this directory was made for."""
        return self._meta.membership

    @property
    def mark(self) -> JournalMark | None:
        """What of the journal LMDB holds; None when all of the log is in LMDB."""
        return self._meta.journal

    @property
    def base_index(self) -> Index:
        """Index before the first stored entry."""
        return self._meta.base.point.index

    @property
    def last_index(self) -> Index:
        """Index of the last stored entry; to be asked after ``load``."""
        return self._writable_tail().point.index

    def load(self) -> StoredLog:
        """See the protocol.

        Raises:
            DirectoryRefused: a part of the log may be in its journal: it is to be opened as a ``JournaledLogStore``.
        """
        if self._meta.journal is not None:
            raise DirectoryRefused(f"{self._directory}: a part of the log may be in {self.path}/journal")
        return self.load_held()

    def load_held(self) -> StoredLog:
        """Verify in one pass all of the log that LMDB holds. Write numbers start again after it.

        ``tolerated`` tells of a wound that does not stop it.
        """
        builder = StoredLogBuilder(self._meta)
        walk = LogWalk(self._meta.base)
        tables = self._tables
        with self._reading() as transaction:
            try:
                with transaction.cursor(tables.ident) as idents, transaction.cursor(tables.log) as pieces:
                    builder.take_walked(walk.run(idents, pieces))
            except lmdb.Error as error:
                raise WoundedLog([*builder.wounds, tree_wound(IDENT, error)]) from error
            builder.check_counts(
                walk, idents=transaction.stat(tables.ident)["entries"], pieces=transaction.stat(tables.log)["entries"]
            )
        stored, self._tail = builder.build()
        self.healable = tuple(builder.healable)
        self._number = 0
        return stored

    def entries(self, lo: Index, hi: Index, bytes_max: int) -> list[Entry]:
        """See the protocol; one read transaction on the calling thread."""
        with self._reading() as transaction:
            return access.read_entries(transaction, self._tables, lo, hi, bytes_max)

    def chain_at(self, index: Index) -> int:
        """See the protocol; one read transaction on the calling thread, none for the base."""
        return self.base_at(index).point.chain

    def payload_bytes_at(self, index: Index) -> int:
        """See the protocol; one read transaction on the calling thread."""
        with self._reading() as transaction:
            return access.read_ident(transaction, self._tables, index).length

    def is_meta_wounded(self) -> bool:
        """Return whether one copy of meta is rotten; the next write of meta then mends it.

        Raises:
            WoundedLog: both are.
        """
        with self._reading() as transaction:
            self.tolerated = access.read_meta(transaction, self._tables)[1]
        return bool(self.tolerated)

    def base_at(self, index: Index) -> Base:
        """See the protocol; one read transaction on the calling thread, none for the base."""
        base = self._meta.base  # Once: another thread may replace it between two looks.
        if index == base.point.index:
            return base
        with self._reading() as transaction:
            return access.read_point_or_base(transaction, self._tables, index)

    def _reading(self) -> Transaction[bytes]:
        return begin_reading(environment_path(self._directory), self._environment.begin)

    def space(self) -> Space:
        """See the protocol."""
        with self._reading() as transaction:
            used, file, map_bytes = measure(self._environment, transaction, self._tables)
        free = disk_free_bytes(self._directory)
        self._headroom.top_up(free)
        owned = self._headroom.owned_bytes
        counts = (self._latch.commits, self._entries, self._entry_bytes)
        return Space(used, file, map_bytes, free, *counts, owned_bytes=owned)

    def readers(self) -> dict[int, int]:
        """Return how many transactions the readers of each process are behind; those that died are forgotten."""
        return readers_of(self._environment)

    @property
    def is_reserve_kept(self) -> bool:
        """Whether the file system keeps for this log what is allocated for it."""
        return self._headroom.is_kept

    def _require_room(self, meta: Meta, entries: Sequence[Entry] = (), mended: Sequence[Entry] = ()) -> None:
        """Go on only if a transaction will find room that puts ``meta``, appends ``entries`` and replaces ``mended``.

        Raises:
            DiskFull: it might not; nothing was done.
        """
        self.require_room(configurations_bytes(meta) + records_bytes(entries) + 2 * records_bytes(mended))

    def require_room(self, changed_bytes: int) -> None:
        """Go on only if a transaction will find room whose records take so much (``records_bytes``).

        Raises:
            DiskFull: it might not; nothing was done.
        """
        # A snapshot that comes in drops the whole log.
        self._headroom.require(COMMIT_BYTES + changed_bytes, may_free_all=True)

    def has_map(self, changed_bytes: int) -> bool:
        """Return whether the map certainly has room for a transaction whose records take so much, behind another one.

        As of the last ``require_room``.
        """
        return self._headroom.is_in_map(2 * COMMIT_BYTES + changed_bytes)

    # -- writing (one thread at a time) --------------------------------------------------------------------------

    def persist(self, writes: Sequence[Write], compact_to: Index | None = None) -> None:
        """See the protocol; the commit is the flush.

        Raises:
            DiskFull: there may be no room; nothing was done, and the same call may be made again.
            StoragePoisoned: anything failed, now or before: final.
        """
        self.commit(writes, compact_to, self._meta.journal)

    def is_quick(self, write: Write) -> bool:
        """Every write has its own transaction here."""
        del write
        return True

    def commit(self, writes: Sequence[Write], compact_to: Index | None, mark: JournalMark | None) -> None:
        """Persist ``writes``, and in the same transaction what LMDB holds of the journal now; raises as ``persist``."""
        tail = self._writable_tail()
        meta = self._meta
        stand = Stand(meta.hard_state, meta.base.point.index, tail, self._number)
        plan = plan_writes(writes, stand, self.base_at)
        entry_bytes = 0
        if not plan.is_empty or mark != meta.journal:
            meta = replace(meta_after(meta, plan), journal=mark)
            self._require_room(meta, plan.entries, list(plan.mended.values()))
            with self._transaction() as transaction:
                if compact_to is not None and plan.new_base is None:
                    upto = plan.kept_of(compact_to)
                    meta = meta.behind(self._drop_prefix(transaction, upto, DROP_ENTRIES))
                if meta != self._meta or self.tolerated:
                    meta = replace(meta, sequence=meta.sequence + 1)
                    _put_meta(transaction, self._tables, meta)
                self._mend(transaction, [entry for i, entry in plan.mended.items() if i > meta.base.point.index])
                entry_bytes = self._apply(transaction, plan)
        self._replace_meta(meta)
        self._tail = plan.tail or tail
        self._number = writes[-1].number if writes else self._number
        self._entries += len(plan.entries)
        self._entry_bytes += entry_bytes

    def compact(self, upto: Index, entries_max: int) -> Index:
        """See the protocol.

        Raises:
            InvariantViolation: ``upto`` lies beyond the last entry.
        """
        tail = self._writable_tail()
        if upto > tail.point.index:
            raise InvariantViolation(f"compact up to {upto}, but the last entry is {tail.point.index}")
        if upto > self._meta.base.point.index:
            self._require_room(self._meta)
            with self._transaction() as transaction:
                base = self._drop_prefix(transaction, upto, entries_max)
                meta = replace(self._meta.behind(base), sequence=self._meta.sequence + 1)
                _put_meta(transaction, self._tables, meta)
            self._replace_meta(meta)
        return self._meta.base.point.index

    def _drop_prefix(self, transaction: Transaction[bytes], upto: Index, entries_max: int) -> Base:
        """Delete the first entries, not beyond ``upto`` and about ``DROP_PIECES`` records; return the new base."""
        base, pieces = self._meta.base, 0
        end = min(upto, base.point.index + entries_max)
        tables = self._tables
        with transaction.cursor(tables.ident) as idents:
            for key, value in idents.iternext() if idents.first() else ():
                index = Index(int.from_bytes(key, "big"))
                if index > end or pieces >= DROP_PIECES:
                    break
                ident = unpack_ident(key, value)
                pieces += piece_count(ident.length)
                base = Base(LogPoint(index, Term(ident.term), ident.chain), ident.timestamp_ms)
        if base is not self._meta.base:
            delete_range(transaction, tables.ident, b"", IDENT_KEY.pack(base.point.index + 1))
            delete_range(transaction, tables.log, b"", LOG_KEY.pack(base.point.index + 1, 0))
        return base

    def _replace_meta(self, meta: Meta) -> None:
        if meta.sequence != self._meta.sequence:
            self._meta, self.tolerated = meta, ()

    def _writable_tail(self) -> Base:
        """Return the last entry's point, if this store may be written at all."""
        self._latch.require_sound()
        if self._tail is None:
            raise InvariantViolation(f"{self._directory}: written before load() verified it")
        return self._tail

    def _transaction(self) -> AbstractContextManager[Transaction[bytes]]:
        """Run a durable transaction; see poison.py."""
        return self._latch.transaction(lambda: self._environment.begin(write=True))

    def _mend(self, transaction: Transaction[bytes], entries: Sequence[Entry]) -> None:
        """Write the records of stored entries again."""
        tables = self._tables
        for entry in entries:
            delete_range(transaction, tables.log, LOG_KEY.pack(entry.index, 0), LOG_KEY.pack(entry.index + 1, 0))
            for table, items in zip((tables.ident, tables.log), pack_entries([entry]), strict=True):
                for key, value in items:
                    transaction.put(key, value, db=table)

    def _apply(self, transaction: Transaction[bytes], plan: Plan) -> int:
        """Cut and append inside ``transaction`` as ``plan`` says; return the bytes of the records of its entries."""
        tables = self._tables
        if plan.new_base is not None:
            for table in (tables.ident, tables.log):
                transaction.drop(table, delete=False)
        if plan.cut_from is not None:
            delete_range(transaction, tables.ident, IDENT_KEY.pack(plan.cut_from), None)
            delete_range(transaction, tables.log, LOG_KEY.pack(plan.cut_from, 0), None)
        size = 0
        if plan.entries:
            for table, items in zip((tables.ident, tables.log), pack_entries(plan.entries), strict=True):
                size += sum(len(value) for _, value in items)
                with transaction.cursor(table) as cursor:
                    # Keys ascend beyond the last one: LMDB fills each page before it takes the next.
                    consumed, added = cursor.putmulti(items, dupdata=False, overwrite=False, append=True)
                if added != len(items):
                    raise InvariantViolation(f"{added} of {len(items)} records added ({consumed} taken)")
        return size


def _put_meta(transaction: Transaction[bytes], tables: Tables, meta: Meta) -> None:
    value = pack_meta(meta)
    transaction.put(META_KEY, value, db=tables.meta)
    transaction.put(META_KEY, value, db=tables.meta_copy)
