"""The log store on a simulated disk (disk.py), for one life of a node: the real codec, planning and verifying walk.

It is the whole log, or the home of what the journal does not hold (journal_disk.py).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from durable_raft.errors import EntryUnavailable, InvariantViolation, StoragePoisoned
from durable_raft.raft.log import EntriesLost
from durable_raft.raft.ready import Write
from durable_raft.raft.types import (
    Base,
    Entry,
    HardState,
    Identity,
    Index,
    LogPoint,
    LostEntry,
    Membership,
    StoredLog,
    Term,
)
from durable_raft.storage.headroom import VOTE_BYTES
from durable_raft.storage.log.meta import JournalMark, Meta, choose_meta, pack_meta
from durable_raft.storage.log.plan import Plan, Stand, meta_after, plan_writes
from durable_raft.storage.log.records import (
    IDENT,
    IDENT_KEY,
    LOG,
    LOG_KEY,
    IdentRecord,
    disagreement,
    entry_of,
    pack_entries,
    piece_count,
    records_bytes,
    unpack_ident,
    unpack_log,
)
from durable_raft.storage.log.stored_log import StoredLogBuilder
from durable_raft.storage.log.walk import LogWalk
from durable_raft.storage.proven import META, META_COPY
from durable_raft.storage.wounds import Wound, WoundedLog
from tests.simulation.disk import DROP_ENTRIES, META_KEY, Change, Disk, Room


class SimStore:
    """A ``LogStore`` on a ``Disk``, for one life of a node."""

    def __init__(self, disk: Disk, on_flushed: Callable[[HardState], None], *, is_home: bool = False) -> None:
        """Open the disk; ``on_flushed`` is told the hard state that each transaction left.

        ``is_home``: the newest groups are in the journal, and what is promised is noted there.

        Raises:
            CorruptRecord: both copies of meta are damaged.
        """
        self.disk = disk
        self._on_flushed = on_flushed
        cached = disk.cached
        self._meta, self.tolerated = choose_meta(cached[META].get(META_KEY), cached[META_COPY].get(META_KEY))
        if is_home and (self._meta.journal is None or disk.held is None):
            disk.held = deepcopy(disk.promised)
        self.books = disk.held if is_home and disk.held is not None else disk.promised
        """What was flushed here."""
        self.healable: tuple[Wound, ...] = ()
        self._tail: Base | None = None
        self.number = 0
        """Number of the last write that was flushed."""
        self._poison: StoragePoisoned | None = None
        self.is_open = True

    path = Path("simulated")

    @property
    def identity(self) -> Identity:
        """Whose data this is."""
        return self._meta.identity

    @property
    def membership(self) -> Membership:
        """The cluster this disk was made for."""
        return self._meta.membership

    @property
    def mark(self) -> JournalMark | None:
        """What of the journal is here."""
        return self._meta.journal

    @property
    def base_index(self) -> Index:
        """Index before the first entry."""
        return self._meta.base.point.index

    @property
    def last_index(self) -> Index:
        """Index of the last entry."""
        return self._require_tail().point.index

    def load(self) -> StoredLog:
        """Verify everything; all of it is here."""
        assert self.mark is None, "a part of the log may be in the journal"
        stored = self.load_held()
        if self.disk.was_found(stored):
            self._on_flushed(stored.hard_state)
        return stored

    def load_held(self) -> StoredLog:
        """Verify everything with the real walk."""
        tables = self.disk.cached
        builder = StoredLogBuilder(self._meta)
        walk = LogWalk(self._meta.base)
        builder.take_walked(walk.run(sorted(tables[IDENT].items()), sorted(tables[LOG].items())))
        idents, pieces = self.disk.record_counts
        builder.check_counts(walk, idents=idents, pieces=pieces)
        stored, self._tail = builder.build()
        self.healable = tuple(builder.healable)
        self.number = 0
        return stored

    def persist(self, writes: Sequence[Write], compact_to: Index | None = None) -> None:
        """Write and flush a group as one transaction; errors poison the store, as LMDB's do."""
        self.commit(writes, compact_to, self._meta.journal)

    def is_quick(self, write: Write) -> bool:
        """Every write has its own transaction here."""
        del write
        return True

    def has_map(self, changed_bytes: int) -> bool:
        """A simulated map has no end."""
        del changed_bytes
        return True

    def require_room(self, changed_bytes: int) -> None:
        """Take the room for all that is pending, which is ``changed_bytes``; its transaction finds it taken."""
        disk = self.disk
        disk.require_room(max(0, changed_bytes - disk.pending_bytes))
        disk.pending_bytes = max(disk.pending_bytes, changed_bytes)

    def commit(self, writes: Sequence[Write], compact_to: Index | None, mark: JournalMark | None) -> None:
        """Persist ``writes`` and the mark."""
        if self._poison is not None:
            raise self._poison
        tail = self._require_tail()
        meta = self._meta
        plan = plan_writes(writes, Stand(meta.hard_state, meta.base.point.index, tail, self.number), self.base_at)
        meta = replace(meta_after(meta, plan), journal=mark)
        if plan.new_base is None and compact_to is not None and compact_to > meta.base.point.index:
            upto = Index(min(plan.kept_of(compact_to), meta.base.point.index + DROP_ENTRIES, tail.point.index))
            meta = meta.behind(self.base_at(upto))
        if meta != self._meta or self.tolerated:
            meta = replace(meta, sequence=meta.sequence + 1)
        disk = self.disk
        needed = records_bytes(plan.entries)
        taken = min(needed, disk.pending_bytes)
        disk.require_room(needed - taken)
        if meta.base != self._meta.base:
            disk.owned_bytes = disk.kept_bytes
        if disk.fails is not None:
            self._fail(plan, meta)
        disk.write(self.changes(plan, meta))
        disk.flush()
        self._keep(plan, meta)
        disk.pending_bytes -= taken
        self._tail = plan.tail or tail
        self.number = writes[-1].number if writes else self.number

    def changes(self, plan: Plan, meta: Meta) -> list[Change]:
        """Return the records that make ``plan`` true."""
        changes: list[Change] = []
        if meta != self._meta:
            record = pack_meta(meta)
            changes += (Change(META, META_KEY, record), Change(META_COPY, META_KEY, record))
        if meta.base != self._meta.base:
            first = meta.base.point.index + 1
            for table, end in ((IDENT, IDENT_KEY.pack(first)), (LOG, LOG_KEY.pack(first, 0))):
                is_all = plan.new_base is not None
                changes += [Change(table, key, None) for key in self.disk.cached[table] if is_all or key < end]
        mended = [entry for index, entry in plan.mended.items() if index > meta.base.point.index]
        for table, items in zip((IDENT, LOG), pack_entries(mended), strict=True):
            changes += [Change(table, key, bytes(value)) for key, value in items]
        if plan.cut_from is not None:
            for table, lo in ((IDENT, IDENT_KEY.pack(plan.cut_from)), (LOG, LOG_KEY.pack(plan.cut_from, 0))):
                keys = sorted(self.disk.cached[table])
                changes += [Change(table, key, None) for key in keys[bisect_left(keys, lo) :]]
        if plan.entries:
            for table, items in zip((IDENT, LOG), pack_entries(plan.entries), strict=True):
                changes += [Change(table, key, bytes(value)) for key, value in items]
        return changes

    def _fail(self, plan: Plan, meta: Meta) -> None:
        """Fail as the disk was told to; the transaction may be on the disk all the same (a false failure)."""
        disk = self.disk
        reason, disk.fails = disk.fails, None
        if disk.rng.random() < 0.5:
            disk.write(self.changes(plan, meta))
            disk.flush()
            self._keep(plan, meta)
        self._poison = StoragePoisoned(f"simulated {reason}")
        raise self._poison

    def _keep(self, plan: Plan, meta: Meta) -> None:
        """Note what is promised now."""
        books = self.books
        for entry in plan.mended.values():
            # It is written in the place of the one that was lost, whatever became of that entry elsewhere.
            if entry.index > books.base.index and not books.holds(entry.index, entry.chain):
                raise InvariantViolation(
                    f"Healed is what was lost: {entry.index} of term {entry.term} is another entry"
                )
        if plan.new_base is None and meta.base != self._meta.base:
            del books.chains[: meta.base.point.index - books.base.index]
            books.base = meta.base.point
        books.take(plan)
        self._meta, self.tolerated = meta, ()
        if plan.hard_state is not None:
            self._on_flushed(plan.hard_state)

    def entries(self, lo: Index, hi: Index, bytes_max: int) -> list[Entry]:
        """Read and verify flushed records."""
        found: list[Entry] = []
        size = 0
        for index in range(lo, min(hi, self.books.last_index + 1)):
            ident = self._ident(Index(index))
            size += ident.length
            if found and size > bytes_max:
                break
            keys = [LOG_KEY.pack(index, n) for n in range(piece_count(ident.length))]
            try:
                log = unpack_log(index, b"".join(self.disk.cached[LOG].get(key, b"") for key in keys))
                if (wound := disagreement(index, ident, log)) is not None:
                    raise WoundedLog([wound])
            except WoundedLog as error:
                if found:
                    break
                lost = LostEntry(Index(index), Term(ident.term), ident.crc, ident.chain)
                raise EntriesLost([lost]) from error
            found.append(entry_of(index, ident, log.payload))
        if not found:
            raise EntryUnavailable(f"index {lo} is not flushed")
        return found

    def payload_bytes_at(self, index: Index) -> int:
        """Return how long the payload of a flushed entry is."""
        return self._ident(index).length

    def chain_at(self, index: Index) -> int:
        """Return the chain value of a flushed entry or of the base."""
        return self.base_at(index).point.chain

    def compact(self, upto: Index, entries_max: int) -> Index:
        """Drop a piece of the prefix."""
        del entries_max
        if self._poison is not None:
            raise self._poison
        if upto > self._meta.base.point.index:
            end = Index(min(upto, self._meta.base.point.index + DROP_ENTRIES))
            meta = replace(self._meta.behind(self.base_at(end)), sequence=self._meta.sequence + 1)
            self.disk.write(self.changes(Plan(), meta))
            self.disk.flush()
            self._keep(Plan(), meta)
            self.disk.owned_bytes = self.disk.kept_bytes
        return self._meta.base.point.index

    def is_meta_wounded(self) -> bool:
        """Return whether one copy of meta is rotten."""
        cached = self.disk.cached
        self.tolerated = choose_meta(cached[META].get(META_KEY), cached[META_COPY].get(META_KEY))[1]
        return bool(self.tolerated)

    def space(self) -> Room:
        """Return the room left."""
        disk = self.disk
        owned_bytes = VOTE_BYTES + disk.owned_bytes
        return Room(disk.free_bytes + owned_bytes, disk.free_bytes, owned_bytes)

    is_reserve_kept = True

    def readers(self) -> dict[int, int]:
        """Nobody reads from another process."""
        return {}

    def require_present(self) -> None:
        """The directory is always there."""

    def close(self) -> None:
        """End this life."""
        self.is_open = False

    def _require_tail(self) -> Base:
        if self._tail is None or not self.is_open:
            raise InvariantViolation("written before load() or after the end of this life")
        return self._tail

    def _ident(self, index: Index) -> IdentRecord:
        key = IDENT_KEY.pack(index)
        value = self.disk.cached[IDENT].get(key)
        if value is None:
            if self._tail is not None and self._meta.base.point.index < index <= self._tail.point.index:
                raise InvariantViolation(f"Durability: index {index} was flushed and is not stored")
            raise EntryUnavailable(f"index {index} is not stored")
        return unpack_ident(key, value)

    def base_at(self, index: Index) -> Base:
        """Return point and timestamp of an entry or the base."""
        if index == self._meta.base.point.index:
            return self._meta.base
        ident = self._ident(index)
        return Base(LogPoint(index, Term(ident.term), ident.chain), ident.timestamp_ms)
