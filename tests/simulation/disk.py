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
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from durable_raft.errors import DiskFull
from durable_raft.raft.types import (
    ORIGIN,
    Base,
    Configuration,
    HardState,
    Identity,
    LogPoint,
    Membership,
    Standing,
    StoredLog,
)
from durable_raft.storage.log.journal_format import Header
from durable_raft.storage.log.meta import Meta, choose_meta, pack_meta
from durable_raft.storage.log.plan import Plan
from durable_raft.storage.log.records import (
    IDENT,
    LOG,
)
from durable_raft.storage.proven import META, META_COPY
from durable_raft.storage.wounds import WoundedLog
from tests.simulation.journal_disk import SimJournalPlace
from tests.simulation.state_disk import StateDisk
from tests.support.journal_files import some_of

Tables = dict[str, dict[bytes, bytes]]
META_KEY: Final = b"meta"
DROP_ENTRIES: Final = 5
"""Entries of the prefix that go at once: few, so that a crash finds a compaction half done."""
COPY_BYTES: Final = 1 << 16
JOURNAL_LIE: Final = "bit_rot in journal"
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

    @property
    def state(self) -> tuple[HardState, int, int]:
        """Hard state, last index and last chain."""
        return self.hard_state, self.last_index, self.last_chain

    def take(self, plan: Plan) -> None:
        """Note that ``plan`` is flushed."""
        if plan.new_base is not None:
            self.base, self.chains = plan.new_base.point, []
        if plan.cut_from is not None:
            del self.chains[plan.cut_from - self.base.index - 1 :]
        self.chains.extend([entry.chain for entry in plan.entries])
        if plan.hard_state is not None:
            self.hard_state = plan.hard_state

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
    held: Promised | None
    journal: tuple[Header, bytes] | None

    @property
    def standing(self) -> Standing:
        """What the directory says of itself and of others; nothing when that is damaged."""
        return Standing() if (meta := self._meta()) is None else meta.standing

    @property
    def configuration(self) -> Configuration | None:
        """The newest configuration that the directory knows; None when that is damaged."""
        return None if (meta := self._meta()) is None else meta.configuration

    def _meta(self) -> Meta | None:
        try:
            return choose_meta(self.durable[META].get(META_KEY), self.durable[META_COPY].get(META_KEY))[0]
        except WoundedLog:
            return None


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
        self.pending_bytes = 0
        """Taken for what is in the journal and not in LMDB."""
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
        self.may_be_old = False
        """Whether it may be an older state of itself, or a copy, that no leader has admitted since."""
        self.place = self.rng.randbytes(8)
        """Which file the log is in; a copy has another."""
        self.promised = Promised()
        self.held: Promised | None = None
        """Of that, what LMDB holds, where the rest is in the journal."""
        self.in_flight: Plan | None = None
        """What was written to the journal last and is not known to be flushed."""
        self.journal = SimJournalPlace(self)
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
        found = (self.durable, self.record_counts, self.promised, self.kv, self.node_uuid, self.held)
        return Image(*deepcopy(found), self.journal.image())

    def put_back(self, image: Image, *, is_copied: bool) -> None:
        """Hold again what ``image`` does: ``is_copied`` to other files, else underneath the same ones."""
        self.former.append(self.promised)
        self.fails = self.pending_lie = self.lie = None
        self.durable, self.record_counts, self.promised, self.kv, _, self.held, journal = deepcopy(image)
        self.journal.put_back(journal)
        # Who puts a journal back has room for what is in it.
        self.pending_bytes = COPY_BYTES
        self.in_flight = None
        self.may_be_old = True
        if is_copied:
            self.move()
        self.power_cut()

    def move(self) -> None:
        """Be copied to other files as it is."""
        self.may_be_old = True
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

    def was_found(self, stored: StoredLog) -> bool:
        """Note as promised a group whose flush had not returned, if a start found it; return whether it did."""
        torn, self.in_flight = self.in_flight, None
        if torn is None:
            return False
        with_torn = deepcopy(self.promised)
        with_torn.take(torn)
        found = (stored.hard_state, stored.last.index, stored.last.chain)
        if found != with_torn.state or found == self.promised.state:
            return False
        self.promised.take(torn)
        return True

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
        """Drop what is not flushed, and the page cache; of the journal, any sectors that are not."""
        self.unflushed = []
        if (file := self.journal.file) is not None:
            file.cut_power(some_of(len(file.sectors()), self.rng))
        self.cached = {name: dict(records) for name, records in self.durable.items()}

    def rot(self) -> None:
        """Flip one bit of one durable record."""
        table = self.rng.choices((META, META_COPY, IDENT, LOG), (1, 1, 4, 6))[0]
        if (file := self.journal.sim_file) is not None:
            if self.rng.random() < 0.5 and file.rot_group(self.rng):
                self.lie, self.pending_lie = JOURNAL_LIE, None
                return
            if file.rot_page(self.rng):
                # Each group is there twice: nothing is lost, so this is no lie.
                self.pending_lie = None
                return
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
        self.may_be_old = True
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
