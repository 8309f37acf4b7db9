"""A disk with explicit flushes, and the log store on it: the real codec, planning and verifying walk over its bytes.

A transaction's records are written to the page cache and count only once flushed. Power fails between the two: what
was not flushed is dropped. A transaction is there wholly or not at all, because LMDB flips one meta page last, which a
crash may find on the disk though nobody was told (``reaches_disk``).

The disk may also lie: a bit rots, one record's write is lost, or goes to another place. Then the codec must say so at
the next start, which heals it or sets it aside; ``promised`` is what it is judged by. ``replace`` puts a new disk in
its place.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple

from durable_raft.errors import DiskFull, EntryUnavailable, InvariantViolation, StoragePoisoned
from durable_raft.raft.log import EntriesLost
from durable_raft.raft.ready import Write
from durable_raft.raft.types import (
    ORIGIN,
    Base,
    Entry,
    HardState,
    Identity,
    Index,
    LogPoint,
    LostEntry,
    Membership,
    Standing,
    StoredLog,
    Term,
)
from durable_raft.storage.headroom import VOTE_BYTES
from durable_raft.storage.log.meta import Meta, choose_meta, pack_meta
from durable_raft.storage.log.plan import Plan, Stand, plan_writes
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
from tests.simulation.state_disk import StateDisk

Tables = dict[str, dict[bytes, bytes]]
META_KEY: Final = b"meta"
DROP_ENTRIES: Final = 5
"""Entries of the prefix that go at once: few, so that a crash finds a compaction half done."""
LIES: Final = ("bit_rot", "lost_write", "misdirected_write")


class Change(NamedTuple):
    """One record put (or deleted: value None) by a transaction."""

    table: str
    key: bytes
    value: bytes | None


OWNED_BYTES: Final = 16_384
"""What a disk keeps for its node's entries when others have taken the rest; what votes need comes on top."""


class Room(NamedTuple):
    """What the node asks of ``space``."""

    writable_bytes: int
    disk_free_bytes: int
    owned_bytes: int


@dataclass(slots=True)
class Promised:
    """What the disk said is flushed; compared with what it holds."""

    hard_state: HardState = field(default_factory=HardState)
    base: LogPoint = ORIGIN
    chains: list[int] = field(default_factory=list)
    """Of the entries behind ``base``."""

    @property
    def last_index(self) -> int:
        """Index of the last flushed entry."""
        return self.base.index + len(self.chains)

    @property
    def last_chain(self) -> int:
        """Its chain value."""
        return self.chains[-1] if self.chains else self.base.chain

    def holds(self, index: int, chain: int) -> bool:
        """Return whether the entry at ``index`` is flushed with this chain value; before the base it was."""
        if index <= self.base.index:
            return index < self.base.index or chain == self.base.chain
        return index <= self.last_index and self.chains[index - self.base.index - 1] == chain


class Image(NamedTuple):
    """All that a disk held at one moment."""

    durable: Tables
    record_counts: tuple[int, int]
    promised: Promised
    kv: StateDisk
    node_uuid: bytes

    @property
    def standing(self) -> Standing:
        """What the directory says of itself and of others; nothing when that is damaged."""
        try:
            return choose_meta(self.durable[META].get(META_KEY), self.durable[META_COPY].get(META_KEY))[0].standing
        except WoundedLog:
            return Standing()


class Disk:
    """One node's disk; it outlives the node's lives."""

    def __init__(self, identity: Identity, membership: Membership, rng: random.Random) -> None:
        self.rng = rng
        self.former: list[Promised] = []
        """What the disks before this one had promised."""
        self.fails: str | None = None
        """The error that the next transaction meets."""
        self.free_bytes = 1 << 40
        self.kept_bytes = OWNED_BYTES
        """What it keeps for entries."""
        self.owned_bytes = OWNED_BYTES
        """Left of that; compactions give it back."""
        self.pending_lie: str | None = None
        self.lie: str | None = None
        """The lie this disk told; None while it is honest."""
        self.life = 0
        """Number of the node's life that uses this disk."""
        self.lied_in = 0
        """The life in which it last lied of a write: it may be asked to in one and come to it in the next."""
        self._format(identity, membership)

    def _format(self, identity: Identity, membership: Membership) -> None:
        """Begin with nothing on the disk."""
        self.node_uuid = identity.node_uuid
        self.place = self.rng.randbytes(8)
        """Which file the log is in; a copy has another."""
        self.promised = Promised()
        self.kv = StateDisk.empty(identity, membership)
        self.durable: Tables = {META: {}, META_COPY: {}, IDENT: {}, LOG: {}}
        self.cached: Tables = {name: {} for name in self.durable}
        self.unflushed: list[Change] = []
        self.record_counts = (0, 0)
        """Idents and pieces, as the tree's root counts them."""
        newcomer = Standing(is_voter=False)
        record = pack_meta(Meta(1, HardState(), identity, membership, Base(ORIGIN, 0), newcomer))
        self.write([Change(META, META_KEY, record), Change(META_COPY, META_KEY, record)])
        self.flush()

    def replace(self, identity: Identity, membership: Membership) -> None:
        """Put an empty disk in the place of this one."""
        self.former.append(self.promised)
        self.fails = self.pending_lie = self.lie = None
        self._format(replace(identity, node_uuid=self.rng.randbytes(16)), membership)

    def image(self) -> Image:
        """Return a copy of all that is durable."""
        held = (self.durable, self.record_counts, self.promised, self.kv, self.node_uuid)
        return Image(*deepcopy(held))

    def put_back(self, image: Image, *, is_copied: bool) -> None:
        """Hold again what ``image`` does: ``is_copied`` to other files, else underneath the same ones."""
        self.former.append(self.promised)
        self.fails = self.pending_lie = self.lie = None
        self.durable, self.record_counts, self.promised, self.kv, _ = deepcopy(image)
        if is_copied:
            self.move()
        self.power_cut()

    def move(self) -> None:
        """Be copied to other files as it is."""
        self.place = self.rng.randbytes(8)

    def require_room(self, entry_bytes: int) -> None:
        """Take room for entries, or for a checkpoint, which gives it back.

        Raises:
            DiskFull: there is none.
        """
        if self.free_bytes > entry_bytes:
            self.owned_bytes = self.kept_bytes = OWNED_BYTES
        elif entry_bytes > self.owned_bytes:
            raise DiskFull(f"simulated: {entry_bytes} bytes are needed and {self.owned_bytes} are there")
        else:
            self.owned_bytes -= entry_bytes

    def write(self, changes: Sequence[Change]) -> None:
        """Change the page cache."""
        for table, key, value in changes:
            if value is None:
                self.cached[table].pop(key, None)
            else:
                self.cached[table][key] = value
        self.unflushed += changes

    def flush(self) -> None:
        """Make everything written durable, unless the disk lies."""
        changes = self.unflushed
        if self.pending_lie in ("lost_write", "misdirected_write") and len(changes) > 1:
            changes = self._twist(changes)
        _change(self.durable, changes)
        self.unflushed = []
        self.record_counts = (len(self.cached[IDENT]), len(self.cached[LOG]))

    def power_cut(self) -> None:
        """Drop what is not flushed, and the page cache."""
        self.unflushed = []
        self.cached = {name: dict(records) for name, records in self.durable.items()}

    def rot(self) -> None:
        """Flip one bit of one durable record."""
        table = self.rng.choices((META, META_COPY, IDENT, LOG), (1, 1, 4, 6))[0]
        if not self.durable[table]:
            table = META
        # The newest records are there for longest, and may not be committed yet.
        keys = sorted(self.durable[table])[-12:]
        key = self.rng.choice(keys)
        value = bytearray(self.durable[table][key])
        value[self.rng.randrange(len(value))] ^= 1 << self.rng.randrange(8)
        self.durable[table][key] = bytes(value)
        if key in self.cached[table]:
            self.cached[table][key] = bytes(value)
        self.lie, self.pending_lie = f"bit_rot in {table}", None

    def rot_payload(self, but: set[int]) -> bytes | None:
        """Flip one bit of the payload of an entry whose index is not in ``but``; return its key, if there is one."""
        keys = [key for key in self.durable[LOG] if int.from_bytes(key[:8], "big") not in but]
        if not keys:
            return None
        key = self.rng.choice(sorted(keys)[-12:])
        value = bytearray(self.durable[LOG][key])
        value[self.rng.randrange(len(value) * 3 // 4, len(value))] ^= 1 << self.rng.randrange(8)
        self.durable[LOG][key] = bytes(value)
        if key in self.cached[LOG]:
            self.cached[LOG][key] = bytes(value)
        self.lie = "payload_rot"
        return key

    def _twist(self, changes: list[Change]) -> list[Change]:
        """Lose one put, or put its value in another record's place."""
        puts = [number for number, change in enumerate(changes) if change.value is not None]
        if not puts:
            return changes
        victim = self.rng.choice(puts)
        table, _, value = changes[victim]
        twisted = changes[:victim] + changes[victim + 1 :]
        others = [key for key in self.durable[table] if key != changes[victim].key]
        if self.pending_lie == "misdirected_write" and others:
            twisted.append(Change(table, self.rng.choice(others), value))
        self.lie, self.pending_lie = f"{self.pending_lie} in {table}", None
        self.lied_in = self.life
        return twisted


def _change(tables: Tables, changes: Sequence[Change]) -> None:
    for table, key, value in changes:
        if value is None:
            tables[table].pop(key, None)
        else:
            tables[table][key] = value


class SimStore:
    """A ``LogStore`` on a ``Disk``, for one life of a node."""

    def __init__(self, disk: Disk, on_flushed: Callable[[HardState], None]) -> None:
        """Open the disk; ``on_flushed`` is told the hard state that each transaction left.

        Raises:
            CorruptRecord: both copies of meta are damaged.
        """
        self.disk = disk
        self._on_flushed = on_flushed
        cached = disk.cached
        self._meta, self.tolerated = choose_meta(cached[META].get(META_KEY), cached[META_COPY].get(META_KEY))
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

    def load(self) -> StoredLog:
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

    def is_quick(self, write: Write) -> bool:
        """Return whether ``write`` waits for nothing but the flush: there is no journal here."""
        del write
        return True

    def persist(self, writes: Sequence[Write], compact_to: Index | None = None) -> None:
        """Write and flush a group as one transaction; errors poison the store, as LMDB's do."""
        if self._poison is not None:
            raise self._poison
        tail = self._require_tail()
        meta = self._meta
        plan = plan_writes(writes, Stand(meta.hard_state, meta.base.point.index, tail, self.number), self.base_at)
        if plan.hard_state is not None:
            meta = replace(meta, hard_state=plan.hard_state)
        if plan.standing is not None:
            meta = replace(meta, standing=plan.standing)
        if plan.new_base is not None:
            meta = replace(meta, base=plan.new_base)
        elif compact_to is not None and compact_to > meta.base.point.index:
            upto = Index(min(compact_to, meta.base.point.index + DROP_ENTRIES))
            meta = replace(meta, base=self.base_at(upto))
        if meta != self._meta or self.tolerated:
            meta = replace(meta, sequence=meta.sequence + 1)
        disk = self.disk
        disk.require_room(records_bytes(plan.entries))
        if meta.base != self._meta.base:
            disk.owned_bytes = disk.kept_bytes
        if disk.fails is not None:
            self._fail(plan, meta)
        disk.write(self.changes(plan, meta))
        disk.flush()
        self._keep(plan, meta)
        self._tail = plan.tail or tail
        self.number = writes[-1].number

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
        promised = self.disk.promised
        for entry in plan.mended.values():
            # It is written in the place of the one that was lost, whatever became of that entry elsewhere.
            if entry.index > promised.base.index and not promised.holds(entry.index, entry.chain):
                raise InvariantViolation(
                    f"Healed is what was lost: {entry.index} of term {entry.term} is another entry"
                )
        if plan.new_base is not None:
            promised.base, promised.chains = plan.new_base.point, []
        elif meta.base != self._meta.base:
            del promised.chains[: meta.base.point.index - promised.base.index]
            promised.base = meta.base.point
        if plan.cut_from is not None:
            del promised.chains[plan.cut_from - promised.base.index - 1 :]
        promised.chains.extend([entry.chain for entry in plan.entries])
        self._meta, self.tolerated = meta, ()
        if plan.hard_state is not None:
            promised.hard_state = plan.hard_state
            self._on_flushed(plan.hard_state)

    def entries(self, lo: Index, hi: Index, bytes_max: int) -> list[Entry]:
        """Read and verify flushed records."""
        found: list[Entry] = []
        size = 0
        for index in range(lo, min(hi, self.disk.promised.last_index + 1)):
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
            meta = replace(self._meta, sequence=self._meta.sequence + 1, base=self.base_at(end))
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
            raise EntryUnavailable(f"index {index} is not stored")
        return unpack_ident(key, value)

    def base_at(self, index: Index) -> Base:
        """Return point and timestamp of an entry or the base."""
        if index == self._meta.base.point.index:
            return self._meta.base
        ident = self._ident(index)
        return Base(LogPoint(index, Term(ident.term), ident.chain), ident.timestamp_ms)
