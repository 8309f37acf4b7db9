"""The KV state at a checkpoint, on LMDB: ``DIR/kv`` (state/records.py says what it holds).

``write_checkpoint`` moves the changes since the last checkpoint into it, and the applied index with them, in one
durable transaction on the calling thread, always the same one (durability contract 5). Views read on other threads
meanwhile, and see the checkpoint before.

The node's lock on the directory is the log store's (directory.py); it is opened first and closed last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from durable_raft.errors import DirectoryRefused, InvariantViolation
from durable_raft.kv.layer import Change
from durable_raft.kv.records import StateSummary
from durable_raft.raft.types import Base, Configuration, Identity, Membership
from durable_raft.raft.versions import FIRST
from durable_raft.storage.directory import KV, create_environment, environment_path, require_environment
from durable_raft.storage.environment import MAP_BYTES, Room, disk_free_bytes, measure, open_environment, readers_of
from durable_raft.storage.headroom import COMMIT_BYTES, Headroom, free_list_bytes
from durable_raft.storage.poison import PoisonLatch, begin_reading
from durable_raft.storage.preflight import check_data_file, cover_last_page
from durable_raft.storage.state.change import ChangeSize, no_pause, require_counted, write_changes
from durable_raft.storage.state.meta import KvMeta, first_meta, put_kv_meta, read_kv_meta
from durable_raft.storage.state.records import KvTables, open_kv_tables
from durable_raft.storage.state.swap import complete_swap, state_exists
from durable_raft.storage.state.verify import ignore_progress, walk_state
from durable_raft.storage.state.view import LmdbStateView
from durable_raft.storage.wounds import Wound

if TYPE_CHECKING:
    from lmdb import Environment


class LmdbKvStore:
    """The state in ``DIR/kv``."""

    def __init__(self, directory: Path, environment: Environment, tables: KvTables, reserve_bytes: int) -> None:
        self._directory = directory
        self._path = environment_path(directory, KV)
        self._environment = environment
        self._tables = tables
        self._latch = PoisonLatch(self._path)
        self._headroom = Headroom(environment, self._path, reserve_bytes)
        with environment.begin() as transaction:
            meta, tolerated = read_kv_meta(transaction, tables)
        self._meta = meta
        """What the newest valid copy says; replaced after each commit."""
        self.tolerated: tuple[Wound, ...] = tolerated
        """The wound of a rotten copy of meta, until the next checkpoint mends it."""

    # -- the directory ------------------------------------------------------------------------------------------

    @staticmethod
    def exists(directory: Path) -> bool:
        """Return whether ``directory`` holds a state, if only one whose swap was interrupted."""
        return state_exists(directory)

    @staticmethod
    def create(
        directory: Path,
        identity: Identity,
        membership: Membership,
        *,
        map_bytes: int = MAP_BYTES,
        is_locked: bool = False,
    ) -> None:
        """Create the state before the first entry, whole and durable, or leave nothing that opens.

        Args:
            directory: made when missing.
            identity: the same as the log's.
            membership: the same as the log's.
            map_bytes: bound of the file.
            is_locked: the log store is open, and holds the directory's lock.

        Raises:
            DirectoryRefused: there is a state already, or the directory is in use.
        """
        if state_exists(directory):
            raise DirectoryRefused(f"{directory} holds a KV state already")

        def build(path: Path) -> None:
            with open_environment(path, map_bytes=map_bytes, create=True) as environment:
                tables = open_kv_tables(environment, create=True)
                with environment.begin(write=True) as transaction:
                    put_kv_meta(transaction, tables, first_meta(identity, membership))

        create_environment(directory, KV, build, is_locked=is_locked)

    @classmethod
    def open(cls, directory: Path, *, map_bytes: int = MAP_BYTES, reserve_bytes: int = 0) -> LmdbKvStore:
        """Finish or remove what an interrupted installation left, check the data file, and open it.

        Takes the same time whatever the size of the state; ``verify`` walks it.

        Args:
            directory: the node's data directory; its lock is held by the caller.
            map_bytes: bound of the file; a larger existing file stays readable.
            reserve_bytes: kept allocated behind the end of the file (headroom.py).

        Raises:
            DirectoryRefused: there is no state.
            CorruptRecord: the data file is cut or its meta pages are damaged, or both copies of meta are.
            UnknownFormatVersion: meta is of a newer format.
        """
        complete_swap(directory)
        path = require_environment(directory, KV)
        check_data_file(path)
        environment = open_environment(path, map_bytes=map_bytes, readahead=False)
        try:
            environment.reader_check()
            return cls(directory, environment, open_kv_tables(environment), reserve_bytes)
        except BaseException:
            environment.close()
            raise

    def expect(self, identity: Identity) -> None:
        """Check that the state belongs to the log beside it.

        Raises:
            DirectoryRefused: it is another node's, or another cluster's.
        """
        found = self._meta.identity
        if found != identity:
            raise DirectoryRefused(
                f"{self._path} belongs to node {found.node_id!r} ({found.node_uuid.hex()}) of cluster"
                f" {found.cluster_id.hex()}, the log beside it to {identity.node_id!r} ({identity.node_uuid.hex()}) of"
                f" {identity.cluster_id.hex()}"
            )

    def require_present(self) -> None:
        """Go on only if the state is still where it was opened; raises ``DirectoryLost``."""
        self._latch.require_present()

    def close(self) -> None:
        """Release the environment; nothing is written. Views end with it."""
        self._environment.close()
        self._headroom.close()

    # -- reading ------------------------------------------------------------------------------------------------

    @property
    def checkpoint(self) -> KvMeta:
        """What the last durable transaction says."""
        return self._meta

    @property
    def commits(self) -> int:
        """Checkpoints written since the store was opened."""
        return self._latch.commits

    def view(self) -> LmdbStateView:
        """Return a view of the last checkpoint; to be closed by the caller. Raises as ``open``."""
        return LmdbStateView(self._environment, self._tables)

    def verify(self, progress: Callable[[int], None] = ignore_progress) -> StateSummary:
        """Walk the last checkpoint wholly: every checksum, the order, both tables against each other, the summary.

        It holds a view for as long as it takes, on any thread.

        Args:
            progress: called with the number of records checked, every quarter of a millisecond or so; what it raises
                ends the walk.

        Returns:
            What the state is.

        Raises:
            WoundedState: with every wound that was found.
        """
        with begin_reading(self._path, lambda: self._environment.begin(buffers=True)) as transaction:
            return walk_state(transaction, self._tables, progress)

    def room(self) -> Room:
        """Return how much room is left; cheap enough to be asked every second."""
        with begin_reading(self._path, self._environment.begin) as transaction:
            used, file, map_bytes = measure(self._environment, transaction, self._tables)
        free = disk_free_bytes(self._directory)
        self._headroom.top_up(free)
        return Room(used, file, map_bytes, free, owned_bytes=self._headroom.owned_bytes)

    def needed_bytes(self, size: ChangeSize) -> int:
        """Return what a checkpoint of so many changes may take at worst."""
        return self._needed_bytes(size, is_cleared=False)

    def _needed_bytes(self, size: ChangeSize, *, is_cleared: bool) -> int:
        with begin_reading(self._path, self._environment.begin) as transaction:
            used, file, _ = measure(self._environment, transaction, self._tables)
        has_deadlines = bool(self._meta.summary.expires_count)
        touched = 0 if is_cleared else min(used, size.touched_bytes(has_deadlines=has_deadlines))
        free = file if is_cleared else file - used + touched
        return COMMIT_BYTES + touched + size.value_bytes * 3 // 2 + free_list_bytes(free)

    def readers(self) -> dict[int, int]:
        """Return how many checkpoints the readers of each process are behind; those that died are forgotten."""
        return readers_of(self._environment)

    # -- writing (checkpoint thread) ----------------------------------------------------------------------------

    def write_checkpoint(
        self,
        changes: Iterable[Change],
        *,
        is_cleared: bool,
        applied: Base,
        membership: Membership,
        configuration: Configuration | None = None,
        version: int = FIRST,
        summary: StateSummary | None = None,
        pause: Callable[[], None] = no_pause,
        size: ChangeSize | None = None,
    ) -> StateSummary:
        """Move the changes since the last checkpoint into the state, as one durable transaction.

        When it raises, nothing of it may be relied on, though a power cut may still find it on the disk.

        Args:
            changes: each key once, in the order of keys.
            is_cleared: whether all that was there is gone first.
            applied: the last entry whose effect is in it, and the cluster time.
            membership: the cluster's voters at its first start.
            configuration: the one that counts at ``applied``; None: the fixed one of the first start.
            version: of the cluster, at ``applied``.
            summary: what the state must be then; None: what it is said to be.
            pause: called between chunks of about a tenth of a millisecond; the disk and the interpreter are shared.
            size: of the changes; None: whether there is room for them is not looked at.

        Returns:
            What the state is now: the old records of the changed keys are taken out, the new ones put in.

        Raises:
            DiskFull: there may be no room; nothing was begun, and the same call may be made again.
            StoragePoisoned: anything failed, now or before: final. Its cause is an ``InvariantViolation`` when what was
                written does not add up, and a ``WoundedState`` when an old record is damaged.
            InvariantViolation: ``applied`` lies before the last checkpoint, or ``configuration`` before that one's or
                behind ``applied``, or ``version`` is below that one's.
        """
        self._latch.require_sound()
        before = self._meta
        if applied.point.index < before.applied.point.index:
            raise InvariantViolation(f"checkpoint at {applied} after one at {before.applied}")
        members_at = 0 if configuration is None else configuration.index
        if not before.configuration.index <= members_at <= applied.point.index:
            raise InvariantViolation(
                f"checkpoint at {applied} with the configuration at {members_at}, after {before.configuration.index}"
            )
        if version < before.version:
            raise InvariantViolation(f"checkpoint at {applied} of version {version}, after one of {before.version}")
        if size is not None:
            self._headroom.require(self._needed_bytes(size, is_cleared=is_cleared))
        with self._latch.transaction(lambda: self._environment.begin(write=True, buffers=True)) as transaction:
            old = before.summary
            if is_cleared:
                transaction.drop(self._tables.keys, delete=False)
                transaction.drop(self._tables.deadlines, delete=False)
                old = StateSummary()
            is_append = not old.key_count
            written = write_changes(transaction, self._tables, old, changes, pause, is_append=is_append)
            if summary is not None and written != summary:
                raise InvariantViolation(f"{self._path}: written {written}, expected {summary} at {applied.point}")
            require_counted(transaction, self._tables, written)
            meta = KvMeta(before.sequence + 1, before.identity, membership, applied, written, configuration, version)
            put_kv_meta(transaction, self._tables, meta)
        self._meta, self.tolerated = meta, ()
        cover_last_page(self._environment, self._path)
        return written
