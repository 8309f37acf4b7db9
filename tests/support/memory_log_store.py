"""A log store in memory that keeps every promise but the power cut: it holds the *bytes* of the records.

So whatever runs on it exercises the codec, the planning of writes and the verifying walk of the real store. It is
synchronous: what ``persist`` returned from is kept, and a crash can lose nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from durable_raft.errors import CorruptRecord, EntryUnavailable, InvariantViolation, StoragePoisoned
from durable_raft.raft.ready import Write
from durable_raft.raft.types import (
    ORIGIN,
    Base,
    Entry,
    HardState,
    Identity,
    Index,
    LogPoint,
    Membership,
    StoredLog,
    Term,
)
from durable_raft.storage.log.lmdb_store import DROP_ENTRIES
from durable_raft.storage.log.meta import Meta, choose_meta, pack_meta
from durable_raft.storage.log.plan import Stand, meta_after, plan_writes
from durable_raft.storage.log.records import (
    IDENT_KEY,
    LOG_KEY,
    IdentRecord,
    entry_of,
    pack_entries,
    piece_count,
    unpack_ident,
    unpack_log,
)
from durable_raft.storage.log.stored_log import StoredLogBuilder
from durable_raft.storage.log.walk import LogWalk


class MemoryLogStore:
    """A ``LogStore``; ``crash`` gives the store that the next life of the node finds."""

    def __init__(self, identity: Identity, membership: Membership) -> None:
        self.meta_record = pack_meta(Meta(1, HardState(), identity, membership, Base(ORIGIN, 0)))
        self.ident_records: dict[bytes, bytes] = {}
        self.log_records: dict[bytes, bytes] = {}
        self._tail: Base | None = None
        self._number = 0
        self._open = True

    def crash(self) -> MemoryLogStore:
        """End this life: calls to this store fail from now on; the returned one holds the same records."""
        meta = self._meta
        survivor = MemoryLogStore(meta.identity, meta.membership)
        survivor.meta_record = self.meta_record
        survivor.ident_records = self.ident_records
        survivor.log_records = self.log_records
        self._open = False
        return survivor

    @property
    def _tables(self) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
        return self.ident_records, self.log_records

    @property
    def _meta(self) -> Meta:
        return choose_meta(self.meta_record, self.meta_record)[0]

    @property
    def identity(self) -> Identity:
        """Whose data this is."""
        return self._meta.identity

    @property
    def membership(self) -> Membership:
        """The cluster this store was made for."""
        return self._meta.membership

    def load(self) -> StoredLog:
        """Verify everything, as the real store does."""
        self._check_open()
        meta = self._meta
        builder = StoredLogBuilder(meta)
        builder.take_walked(
            LogWalk(meta.base).run(sorted(self.ident_records.items()), sorted(self.log_records.items()))
        )
        stored, self._tail = builder.build()
        self._number = 0
        return stored

    def persist(self, writes: Sequence[Write], compact_to: Index | None = None) -> None:
        """Apply ``writes`` at once."""
        tail = self._writable_tail()
        meta = self._meta
        plan = plan_writes(writes, Stand(meta.hard_state, meta.base.point.index, tail, self._number), self.base_at)
        if not plan.is_empty and plan.new_base is None and compact_to is not None:
            self.compact(compact_to, DROP_ENTRIES)
            meta = self._meta
        if plan.hard_state is not None:
            self.meta_record = pack_meta(replace(meta, sequence=meta.sequence + 1, hard_state=plan.hard_state))
        if plan.standing is not None:
            self.meta_record = pack_meta(replace(self._meta, standing=plan.standing))
        for items, records in zip(pack_entries(list(plan.mended.values())), self._tables, strict=True):
            records.update((key, bytes(value)) for key, value in items)
        if plan.new_base is not None:
            self.ident_records.clear()
            self.log_records.clear()
            self.meta_record = pack_meta(replace(self._meta, base=plan.new_base))
        if plan.cut_from is not None:
            self._delete(plan.cut_from, tail.point.index)
        self.meta_record = pack_meta(replace(self._meta, configurations=meta_after(meta, plan).configurations))
        ident_items, log_items = pack_entries(plan.entries)
        self.ident_records.update((key, bytes(value)) for key, value in ident_items)
        self.log_records.update((key, bytes(value)) for key, value in log_items)
        self._tail = plan.tail or tail
        self._number = writes[-1].number if writes else self._number

    def is_quick(self, write: Write) -> bool:
        """Nothing waits here."""
        del write
        return True

    def entries(self, lo: Index, hi: Index, bytes_max: int) -> list[Entry]:
        """Read and verify each record again."""
        self._check_open()
        found: list[Entry] = []
        size = 0
        self._ident(lo)
        for index in range(lo, hi):
            if IDENT_KEY.pack(index) not in self.ident_records:
                break
            ident = self._ident(index)
            size += ident.length
            if found and size > bytes_max:
                break
            pieces = (self.log_records[LOG_KEY.pack(index, n)] for n in range(piece_count(ident.length)))
            found.append(entry_of(index, ident, unpack_log(index, b"".join(pieces)).payload))
        return found

    def chain_at(self, index: Index) -> int:
        """Return the chain value of an entry or of the base."""
        self._check_open()
        return self.base_at(index).point.chain

    def compact(self, upto: Index, entries_max: int) -> Index:
        """Drop a bounded part of the prefix."""
        tail = self._writable_tail()
        meta = self._meta
        base = meta.base.point.index
        if upto > tail.point.index:
            raise InvariantViolation(f"compact up to {upto}, but the last entry is {tail.point.index}")
        new_base = Index(min(upto, base + entries_max))
        if new_base <= base:
            return base
        moved = replace(meta.behind(self.base_at(new_base)), sequence=meta.sequence + 1)
        self._delete(base + 1, new_base)
        self.meta_record = pack_meta(moved)
        return new_base

    def close(self) -> None:
        """End this life."""
        self._open = False

    def _writable_tail(self) -> Base:
        self._check_open()
        if self._tail is None:
            raise InvariantViolation("written before load() verified it")
        return self._tail

    def _check_open(self) -> None:
        if not self._open:
            raise StoragePoisoned("this life of the store is over")

    def _ident(self, index: int) -> IdentRecord:
        key = IDENT_KEY.pack(index)
        value = self.ident_records.get(key)
        if value is None:
            raise EntryUnavailable(f"index {index} is not stored")
        return unpack_ident(key, value)

    def payload_bytes_at(self, index: Index) -> int:
        """Return how long an entry's payload is."""
        self._check_open()
        return self._ident(index).length

    def base_at(self, index: Index) -> Base:
        """Return point and timestamp of an entry or the base."""
        base = self._meta.base
        if index == base.point.index:
            return base
        ident = self._ident(index)
        return Base(LogPoint(index, Term(ident.term), ident.chain), ident.timestamp_ms)

    def _delete(self, first: int, last: int) -> None:
        """Delete the entries of [first, last]."""
        for index in range(first, last + 1):
            length = unpack_ident(IDENT_KEY.pack(index), self.ident_records.pop(IDENT_KEY.pack(index))).length
            for number in range(piece_count(length)):
                if self.log_records.pop(LOG_KEY.pack(index, number), None) is None:
                    raise CorruptRecord(f"log index {index} piece {number} is missing")
