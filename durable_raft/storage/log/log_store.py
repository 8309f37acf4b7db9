"""The protocol every log store keeps; ``tests/storage/test_log_store.py`` is its conformance suite.

A store is opened by one process and used from several threads. ``persist`` and ``compact`` run one at a time, on the
log-writer thread or, for a small write that is alone, on the event loop: ``server/log_writer.py`` holds the lock that
keeps them apart. ``entries`` is also called by the scrubber's thread while a write is under way. Nothing here decides
anything about Raft.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from durable_raft.raft.ready import Write
from durable_raft.raft.types import Base, Entry, Identity, Index, Membership, NodeId, StoredLog
from durable_raft.storage.log.meta import JournalMark
from durable_raft.storage.log.tables import Space
from durable_raft.storage.wounds import Wound


class LogStore(Protocol):
    """A durable log with its hard state, membership and identity."""

    @property
    def identity(self) -> Identity:
        """Whose data this is."""

    @property
    def membership(self) -> Membership:
        """The cluster this directory was made for."""

    def load(self) -> StoredLog:
        """Return what is stored, every checksum, chain value and order of the whole log verified.

        Entries of which one of the two records is rotten are told apart: ``StoredLog.lost`` and ``StoredLog.rebuilt``.

        A life of the store begins with it: nothing may be written before, and write numbers start again at 1.

        Raises:
            CorruptRecord: with every wound found, not only the first, when one of them is of another kind.
            UnknownFormatVersion: a record of a newer format.
        """

    def persist(self, writes: Sequence[Write], compact_to: Index | None = None) -> None:
        """Make ``writes`` durable, in order, all or none of them (a group commit).

        Along with them a piece of the prefix up to ``compact_to`` is dropped, as ``compact`` would: that costs no
        flush of its own. A store with a journal drops it when it moves these writes into LMDB.

        When it returns all of it survives a power cut; when it raises, none of it may be promised, though a power cut
        may still find it on the disk (a "false failure").

        Raises:
            DiskFull: there may be no room; nothing was begun, and the same call may be made again.
            StoragePoisoned: the transaction or its sync failed; every later call raises it too, with the first cause.
            InvariantViolation: writes that cannot follow what is stored; nothing is changed.
        """

    def entries(self, lo: Index, hi: Index, bytes_max: int) -> list[Entry]:
        """Return flushed entries of [lo, hi), at least one, at most about ``bytes_max`` bytes of payload.

        Raises:
            EntryUnavailable: ``lo`` is compacted away or not flushed.
            EntriesLost: the payload of ``lo`` fails its checksum, and who the entry is, is known.
            CorruptRecord: anything else is damaged.
        """

    def chain_at(self, index: Index) -> int:
        """Return the chain value of the flushed entry at ``index`` (or of the base).

        Raises:
            EntryUnavailable: as ``entries``.
            CorruptRecord: the ident record fails its checksum.
        """

    def payload_bytes_at(self, index: Index) -> int:
        """Return how long the payload of the flushed entry at ``index`` is; raises as ``chain_at``."""

    def base_at(self, index: Index) -> Base:
        """Return point and timestamp of the flushed entry at ``index`` (or the base); raises as ``chain_at``."""

    def compact(self, upto: Index, entries_max: int) -> Index:
        """Drop entries up to and including ``upto``, at most ``entries_max`` of them in one durable transaction.

        Returns:
            The base index afterwards: below ``upto`` while there is more to drop.

        Raises:
            DiskFull: as ``persist``.
            StoragePoisoned: as ``persist``.
            InvariantViolation: ``upto`` lies beyond the last entry.
        """

    def is_quick(self, write: Write) -> bool:
        """Return whether ``persist([write])`` waits for this write's own flushes only, not for work on other threads.

        To be asked by whoever may call ``persist`` next.
        """

    def close(self) -> None:
        """Release the directory; nothing is written."""


class DirectoryLogStore(LogStore, Protocol):
    """A ``LogStore`` in a data directory, and what its node asks of it beside the log."""

    @property
    def path(self) -> Path:
        """Where the environment lies."""

    @property
    def tolerated(self) -> tuple[Wound, ...]:
        """The wound of a rotten copy of meta, until the next write of meta mends it."""

    @property
    def healable(self) -> tuple[Wound, ...]:
        """The wounds of single records that ``load`` found and that did not stop it."""

    @property
    def is_reserve_kept(self) -> bool:
        """Whether the file system keeps for this log what is allocated for it."""

    def is_meta_wounded(self) -> bool:
        """Return whether one copy of meta is rotten; the next write of meta then mends it.

        Raises:
            WoundedLog: both are.
        """

    def space(self) -> Space:
        """Return how much room is left; cheap enough to be asked every second."""

    def readers(self) -> dict[int, int]:
        """Return how many transactions the readers of each process are behind; those that died are forgotten."""

    def require_present(self) -> None:
        """Go on only if the directory is still the one that was opened.

        Raises:
            DirectoryLost: it was removed, replaced, covered or unmounted.
        """

    def expect(self, cluster_id: bytes | None, node_id: NodeId) -> None:
        """Check whose data this is; ``cluster_id`` None accepts any cluster.

        Raises:
            DirectoryRefused: it belongs to another cluster or node.
        """


class HomeStore(DirectoryLogStore, Protocol):
    """The store of what has its home in LMDB."""

    @property
    def mark(self) -> JournalMark | None:
        """What of the journal it holds; None when all of the log is in it."""

    @property
    def base_index(self) -> Index:
        """Index before its first entry."""

    @property
    def last_index(self) -> Index:
        """Index of its last entry."""

    def load_held(self) -> StoredLog:
        """Verify what it holds; as ``load`` of a store without a journal."""

    def commit(self, writes: Sequence[Write], compact_to: Index | None, mark: JournalMark | None) -> None:
        """Persist ``writes``, and in the same transaction what it holds of the journal now; raises as ``persist``."""

    def require_room(self, changed_bytes: int) -> None:
        """Go on only if a transaction will find room whose records take so much.

        Raises:
            DiskFull: it might not; nothing was done.
        """

    def has_map(self, changed_bytes: int) -> bool:
        """Return whether its map has room for such a transaction behind another; as of the last ``require_room``."""
