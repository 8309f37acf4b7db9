"""Receiving a snapshot: records come in the order of keys into ``DIR/kv.partial``, beside the live state.

What is received is committed every megabyte, durably, so a restart goes on behind the last committed key, from
the same sender or another one: the state at an index is the same on every node. Commits in between are no dearer than
one large flush at the end, and the log's commits do not wait behind that one.

``DIR/kv.partial`` has the tables of a state but no ``meta``. In its place the table holds ``target``, what the whole
snapshot will be, and ``received``, the same with what was received so far as its summary; both packed as state/meta.py
does.
``complete`` writes ``meta`` and renames the directory to ``kv.new``; state/swap.py says how that becomes the state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import lmdb

from durable_raft.errors import CorruptRecord, DiskFull, UnknownFormatVersion
from durable_raft.kv.layer import Change
from durable_raft.kv.records import Record, StateSummary, order_key, record_crc
from durable_raft.storage.directory import environment_path, sync_path
from durable_raft.storage.environment import MAP_BYTES, disk_free_bytes, open_environment
from durable_raft.storage.headroom import COMMIT_BYTES, Headroom
from durable_raft.storage.poison import PoisonLatch
from durable_raft.storage.preflight import check_data_file, cover_last_page
from durable_raft.storage.state.change import no_pause, write_changes
from durable_raft.storage.state.meta import KvMeta, pack_kv_meta, put_kv_meta, unpack_kv_meta
from durable_raft.storage.state.records import KvTables, open_kv_tables, unpack_record
from durable_raft.storage.state.swap import NEW, PARTIAL, discard

if TYPE_CHECKING:
    from lmdb import Environment

_TARGET: Final = b"target"
_RECEIVED: Final = b"received"

_RECORD_BYTES: Final = 64
"""What a record takes beside key and value, about."""


class KvInstaller:
    """A snapshot that is being received."""

    COMMIT_BYTES: Final = 1 << 20
    """Records after which a commit is due: what a restart loses, and what a log on the same disk waits for."""

    def __init__(
        self,
        directory: Path,
        environment: Environment,
        tables: KvTables,
        target: KvMeta,
        received: StateSummary,
        last_key: bytes | None,
    ) -> None:
        self._directory = directory
        self._path = environment_path(directory, PARTIAL)
        self._environment = environment
        self._tables = tables
        self._target = target
        self._latch = PoisonLatch(self._path)
        self._headroom = Headroom(environment, self._path)
        self._committed = received
        self._waiting: list[Change] = []
        self._waiting_bytes = 0
        self.last_key = last_key
        """The last key received; the next record lies behind it. None before the first."""

    @classmethod
    def open(cls, directory: Path, target: KvMeta, *, map_bytes: int = MAP_BYTES) -> KvInstaller:
        """Go on with this snapshot if a part of it is there, or begin it; a part of another one is deleted.

        Args:
            directory: the node's data directory; its lock is held by the caller.
            target: what the snapshot is: its index, summary and configuration, and this node's identity and membership.
            map_bytes: bound of the file.

        Raises:
            DirectoryRefused: the part cannot be opened.
            DiskFull: there is no room to begin one.
            StoragePoisoned: the disk failed.
        """
        path = environment_path(directory, PARTIAL)
        try:
            return cls._resume(directory, target, map_bytes)
        except (CorruptRecord, UnknownFormatVersion, FileNotFoundError):
            discard(directory, PARTIAL)
        if disk_free_bytes(directory) < 2 * COMMIT_BYTES:
            raise DiskFull(f"{path}: no room for a snapshot")
        path.mkdir()
        environment = open_environment(path, map_bytes=map_bytes, create=True, readahead=False)
        try:
            installer = cls(
                directory, environment, open_kv_tables(environment, create=True), target, StateSummary(), None
            )
            installer._begin()
        except BaseException:
            environment.close()
            raise
        return installer

    @classmethod
    def _resume(cls, directory: Path, target: KvMeta, map_bytes: int) -> KvInstaller:
        """Open the part that is there.

        Raises:
            CorruptRecord: it is damaged, was never begun, or belongs to another snapshot.
            FileNotFoundError: there is none.
        """
        path = environment_path(directory, PARTIAL)
        check_data_file(path)
        environment = open_environment(path, map_bytes=map_bytes, readahead=False)
        try:
            tables = open_kv_tables(environment)
            with environment.begin() as transaction:
                stored = transaction.get(_TARGET, db=tables.meta) or b""
                if stored != pack_kv_meta(target):
                    raise CorruptRecord(f"{path} belongs to another snapshot")
                received = unpack_kv_meta(PARTIAL, transaction.get(_RECEIVED, db=tables.meta) or b"").summary
                with transaction.cursor(tables.keys) as cursor:
                    last_key = unpack_record(*cursor.item())[0] if cursor.last() else None
        except lmdb.Error as error:
            environment.close()
            raise CorruptRecord(f"{path}: {error}") from error
        except BaseException:
            environment.close()
            raise
        return cls(directory, environment, tables, target, received, last_key)

    @staticmethod
    def discard(directory: Path) -> None:
        """Delete what was received of a snapshot that is not wanted any more; its installer is closed."""
        discard(directory, PARTIAL)

    @property
    def target(self) -> KvMeta:
        """What the snapshot is."""
        return self._target

    @property
    def key_count(self) -> int:
        """Records received; the target's summary says how many there are."""
        return self._committed.key_count + len(self._waiting)

    def store_records(self, records: Sequence[tuple[bytes, Record]], pause: Callable[[], None] = no_pause) -> None:
        """Take the next records; they are durable with the next commit.

        Args:
            records: in the order of keys, behind ``last_key``.
            pause: called between chunks of a commit.

        Raises:
            CorruptRecord: the checksum of a record is wrong, or the order. That one and those behind it are not taken:
                they may be asked for again.
            DiskFull: there may be no room for what waits to be committed; close, and open again later.
            StoragePoisoned: the disk failed.
        """
        for key, record in records:
            if record_crc(key, record.deadline_ms, record.value) != record.crc:
                raise CorruptRecord(
                    f"snapshot: the record of key {key[:80]!r} does not give its crc {record.crc:#010x}"
                )
            if self.last_key is not None and order_key(key) <= order_key(self.last_key):
                raise CorruptRecord(f"snapshot: key {key[:80]!r} does not follow {self.last_key[:80]!r}")
            self._waiting.append((key, record))
            self._waiting_bytes += len(key) + len(record.value) + _RECORD_BYTES
            self.last_key = key
            if self._waiting_bytes >= self.COMMIT_BYTES:
                self._commit(pause)

    def complete(self, pause: Callable[[], None] = no_pause) -> None:
        """Check that the snapshot is whole, and let it wait for ``swap`` as ``kv.new``. The installer is closed.

        Raises:
            CorruptRecord: the records are not those of the target; they were deleted.
            DiskFull: there may be no room for the last of it; close, and open again later.
            StoragePoisoned: the disk failed.
        """
        self._commit(pause)
        received = self._committed
        if received != self._target.summary:
            self.close()
            discard(self._directory, PARTIAL)
            raise CorruptRecord(f"snapshot: received {received}, expected {self._target.summary}")
        self._headroom.require(COMMIT_BYTES)
        with self._latch.transaction(lambda: self._environment.begin(write=True)) as transaction:
            transaction.delete(_TARGET, db=self._tables.meta)
            transaction.delete(_RECEIVED, db=self._tables.meta)
            put_kv_meta(transaction, self._tables, self._target)
        cover_last_page(self._environment, self._path)
        self.close()
        for file in self._path.iterdir():
            sync_path(file)
        sync_path(self._path)
        discard(self._directory, NEW)
        self._path.rename(environment_path(self._directory, NEW))
        sync_path(self._directory)

    def close(self) -> None:
        """Stop; what is committed is kept for another ``open``."""
        self._environment.close()
        self._headroom.close()

    def _begin(self) -> None:
        with self._latch.transaction(lambda: self._environment.begin(write=True)) as transaction:
            for name, meta in ((_TARGET, self._target), (_RECEIVED, replace(self._target, summary=self._committed))):
                transaction.put(name, pack_kv_meta(meta), db=self._tables.meta)

    def _commit(self, pause: Callable[[], None]) -> None:
        if not self._waiting:
            return
        # New keys come behind all others: pages are filled one after the other.
        self._headroom.require(COMMIT_BYTES + self._waiting_bytes * 2)
        begin = lambda: self._environment.begin(write=True, buffers=True)  # noqa: E731
        with self._latch.transaction(begin) as transaction:
            received = write_changes(transaction, self._tables, self._committed, self._waiting, pause, is_append=True)
            packed = pack_kv_meta(replace(self._target, summary=received))
            transaction.put(_RECEIVED, packed, db=self._tables.meta)
        self._committed = received
        self._waiting, self._waiting_bytes = [], 0
