"""The log store with the commit journal in front of LMDB: one flush for a group of writes.

LMDB is the log's home. A group is made durable in the journal (journal.py) with one write and one flush, then it is
*pending*: in memory, and in the journal. ``move`` takes all that is pending into LMDB in one durable transaction, which
also names the last group that LMDB holds. Only then is the journal's space used again. So after any crash the log is
what LMDB holds and the groups that follow in the journal, and ``load`` moves those first. Where the disk has no room
for that they stay pending, and no group is journaled before they are moved.

Some groups go to LMDB directly, with all that is pending before them, in order: large ones, those that drop or mend
what LMDB holds, and those for which the journal has no room, or LMDB's map near its end may have none.

``move`` and ``compact`` may run on another thread while ``persist`` flushes. Two locks keep them apart: one for LMDB's
transactions, one for what is pending. The second is never held while a disk works.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from durable_raft.errors import (
    CorruptRecord,
    DirectoryRefused,
    DiskFull,
    EntryUnavailable,
    InvariantViolation,
    StoragePoisoned,
)
from durable_raft.raft.ready import Write
from durable_raft.raft.types import Base, Entry, Identity, Index, Membership, NodeId, StoredLog, chain_crc
from durable_raft.storage.log.journal import RING_BYTES, FoundJournal, Journal, JournalPlace, new_journal
from durable_raft.storage.log.journal_body import ENTRIES_MAX, ENTRY_HEAD_BYTES, pack_write
from durable_raft.storage.log.journal_format import JOURNAL, copy_bytes
from durable_raft.storage.log.log_store import HomeStore
from durable_raft.storage.log.meta import JournalMark
from durable_raft.storage.log.pending import ANY_INDEX, Pending, pending_group, with_pending
from durable_raft.storage.log.plan import Plan, Stand, plan_writes, point_of
from durable_raft.storage.log.records import records_bytes
from durable_raft.storage.log.tables import Space
from durable_raft.storage.wounds import Wound, WoundedLog, WoundKind

GROUP_BYTES_MAX: Final = 64 << 10
"""Of a group in the journal; a larger one goes to LMDB directly."""

PENDING_BYTES_MAX: Final = 1 << 20
PENDING_ENTRIES_MAX: Final = 1000
PENDING_SHARE: Final = 4
"""When so much waits, or the fourth part of the ring, it is to be moved into LMDB at once."""

_STANDING_BYTES: Final = 4096
"""What a standing and the rest of a group may take beside its entries, at most about."""


class JournaledLogStore:
    """A ``DirectoryLogStore``: what ``home`` holds and what is pending, as one log."""

    def __init__(
        self, home: HomeStore, place: JournalPlace, *, is_used: bool = True, ring_bytes: int = RING_BYTES
    ) -> None:
        """Join ``home``, which is open, with the journal at ``place``; ``load`` does the rest.

        Args:
            home: of the log.
            place: of the journal.
            is_used: whether groups go to the journal; otherwise ``load`` moves what is in it and removes it.
            ring_bytes: of a journal that is made.
        """
        self.home = home
        self._place = place
        self._is_used = is_used
        self._ring_bytes = ring_bytes
        self._journal: Journal | None = None
        """Where groups go; None: to LMDB directly."""
        self._begun: Journal | None = None
        """A generation that LMDB has no room to name yet."""
        self._left: FoundJournal | None = None
        """A journal that goes when LMDB holds what is in it."""
        self.trouble = ""
        """Why there is no journal to be used in this life; empty: there is one, or none was asked for."""
        self._stand: Stand | None = None
        """What the log is, pending groups included; None until ``load``."""
        self._group = 0
        """Number of the last group."""
        self._compact_to: Index | None = None
        """Up to where the prefix may be dropped along with the next transaction."""
        self._poison: BaseException | None = None
        self._tolerated: tuple[Wound, ...] = ()
        self._healable: tuple[Wound, ...] = ()
        """What ``load`` found, before it wrote anything again."""
        self._flushes = 0
        self._moving = threading.Lock()
        """Held while LMDB is written to."""
        self._mutex = threading.Lock()
        """Held while ``_pending`` is looked at or changed."""
        self._pending = Pending(ANY_INDEX)

    # -- opening ------------------------------------------------------------------------------------------------

    def load(self) -> StoredLog:
        """See the protocol: LMDB's part is verified, and what the journal holds is moved into it, if there is room.

        Raises:
            DiskFull: there is no room to write a record again that what is pending stands on; nothing was done.
            StoragePoisoned: it could not be written.
        """
        self._require_sound()
        stored = self.home.load_held()
        self._tolerated, self._healable = self.home.tolerated, self.home.healable
        self._close_journals()
        self.trouble = ""
        mark = self.home.mark
        found = None if mark is None else FoundJournal.open(self._place, mark)
        self._pending = Pending(stored.last.index)
        try:
            self._begin(found, stored.rebuilt)
        except DiskFull:
            if stored.rebuilt:
                raise
            for group in () if found is None else found.writes:
                # The next generation's groups follow none of this one.
                self._pending.append(pending_group(group, 0, 0))
            if self._left is not None:
                with self._final():
                    self._left.flush()
            tail = self.base_at(Index(self._pending.end - 1))
            stored = with_pending(stored, self._pending, tail)
        else:
            if found is not None and found.writes:
                stored = self.home.load_held()
            self._pending = Pending(stored.last.index)
        self._stand = Stand(stored.hard_state, stored.base.index, Base(stored.last, stored.last_timestamp_ms), number=0)
        return stored

    def _begin(self, found: FoundJournal | None, rebuilt: tuple[Entry, ...]) -> None:
        """Move what was found into LMDB; begin the next generation of the journal, or stop using it.

        Args:
            found: what an earlier life left.
            rebuilt: entries to be written again before: a cut may stand on one of them.

        Raises:
            DiskFull: there may be no room for that; it is done with the next transaction that finds some.
        """
        writes = [] if found is None else found.writes
        self._group = 0 if found is None else found.number
        with self._final():
            if found is None:
                self._begun = self._made() if self._is_used else None
            elif self._is_used:
                self._begun = self._begun_again(found)
            if found is not None and self._begun is None:
                self._left = found
        if writes and rebuilt:
            writes[0] = replace(writes[0], mended=rebuilt)
        try:
            self._commit(writes, None, self._mark(self._group))
        except InvariantViolation as error:
            wound = Wound(JOURNAL, None, None, "groups that follow what LMDB holds", str(error), WoundKind.ORDER)
            raise WoundedLog([wound]) from error

    def _made(self) -> Journal | None:
        """Make a journal, if there is room, and the directory takes one."""
        try:
            return new_journal(self._place, self._ring_bytes)
        except (DiskFull, DirectoryRefused) as error:
            self.trouble = str(error)
            return None

    def _begun_again(self, found: FoundJournal) -> Journal | None:
        """Begin the next generation; where the file has not all its room the journal goes, as one that is not used."""
        try:
            return found.begin()
        except DiskFull as error:
            self.trouble = str(error)
            return None

    def close(self) -> None:
        """Release the directory; nothing is written."""
        self._close_journals()
        self.home.close()

    def _close_journals(self) -> None:
        for journal in (self._journal, self._begun, self._left):
            if journal is not None:
                journal.close()
        self._journal = self._begun = self._left = None

    # -- writing ------------------------------------------------------------------------------------------------

    def persist(self, writes: Sequence[Write], compact_to: Index | None = None) -> None:
        """See the protocol; a flush of the journal, or a transaction of LMDB.

        Raises:
            DiskFull: there may be no room in LMDB for all that is pending; nothing was done.
            StoragePoisoned: anything failed, now or before, here or where LMDB is written to: final.
        """
        stand = self._require_stand()
        plan = plan_writes(writes, stand, self.base_at)
        if not plan.is_empty:
            write = self._merged(plan)
            body = None if self._is_direct(write) else pack_write(write)
            journal = self._journal
            if journal is None or body is None or not self._has_place(journal, write, len(body)):
                self._persist_directly(write, compact_to)
            else:
                self._persist_in_journal(journal, write, body)
            self._group = write.number
        if compact_to is not None:
            with self._mutex:
                self._compact_to = compact_to
        number = writes[-1].number if writes else stand.number
        self._stand = Stand(plan.hard_state or stand.hard_state, self.home.base_index, plan.tail or stand.tail, number)

    def _merged(self, plan: Plan) -> Write:
        """Return the one write that makes ``plan`` true, as the next group."""
        mended = tuple(entry for index, entry in plan.mended.items() if index < self._pending.first)
        number = self._group + 1
        return Write(
            number,
            plan.hard_state,
            plan.cut_from,
            tuple(plan.entries),
            plan.new_base,
            plan.standing,
            mended,
            plan.base_configuration,
        )

    def _has_place(self, journal: Journal, write: Write, body_bytes: int) -> bool:
        """Return whether a group can go to the journal and be moved: a full map would fail every start that moves it.

        Raises:
            DiskFull: there may be no room on LMDB's disk to move it.
        """
        if not journal.has_room(body_bytes):
            return False
        changed_bytes = self._changed_bytes(write)
        self.home.require_room(changed_bytes)
        return self.home.has_map(changed_bytes)

    def _changed_bytes(self, write: Write) -> int:
        """Return a bound of what the records of ``write`` take in LMDB with all that is pending."""
        return self._pending.record_bytes + records_bytes(write.entries)

    def _persist_in_journal(self, journal: Journal, write: Write, body: bytes) -> None:
        with self._final():
            total = journal.append(write.number, body)
        self._flushes += 1
        with self._mutex:
            self._pending.append(pending_group(write, total, 2 * copy_bytes(len(body))))

    def _persist_directly(self, write: Write, compact_to: Index | None) -> None:
        """Take a group into LMDB, and all that is pending before it."""
        with self._moving:
            groups = [group.write for group in self._pending.groups]
            self._commit([*groups, write], compact_to, self._mark(write.number))
            self._note_moved(write.number)

    def is_quick(self, write: Write) -> bool:
        """Return whether a group of this write alone goes to the journal, or none is to be used."""
        journal = self._journal
        if journal is None or self._is_direct(write):
            return not self._is_used
        return journal.has_room(_entries_bytes(write) + _STANDING_BYTES) and self.home.has_map(
            self._changed_bytes(write)
        )

    def _is_direct(self, write: Write) -> bool:
        """Return whether a group has to go to LMDB, however much room the journal has."""
        return (
            self._journal is None
            or write.new_base is not None
            or bool(write.mended)
            or len(write.entries) > ENTRIES_MAX
            or _entries_bytes(write) > GROUP_BYTES_MAX
        )

    # -- moving -------------------------------------------------------------------------------------------------

    @property
    def is_journaled(self) -> bool:
        """Whether groups are to go to the journal; otherwise nothing is pending after the first write."""
        return self._is_used

    @property
    def is_written_in_place(self) -> bool:
        """Whether a flush of the journal writes nothing but the group, as far as that can be told."""
        return self._journal is None or self._journal.is_written_in_place

    @property
    def has_pending(self) -> bool:
        """Whether the journal holds what LMDB does not."""
        return bool(self._pending.groups)

    @property
    def is_move_due(self) -> bool:
        """Whether so much is pending that it is to be moved at once."""
        pending, journal = self._pending, self._journal
        # The journal may be of a version that made another size.
        ring_bytes = self._ring_bytes if journal is None else journal.ring_bytes
        return (
            pending.record_bytes >= PENDING_BYTES_MAX
            or len(pending.entries) >= PENDING_ENTRIES_MAX
            or pending.ring_bytes * PENDING_SHARE >= ring_bytes
        )

    def move(self) -> None:
        """Take all that is pending into LMDB, in one durable transaction; may run beside ``persist``.

        Raises:
            DiskFull: there may be no room; nothing was done, and it may be tried again.
            StoragePoisoned: as ``persist``.
        """
        self._require_sound()
        with self._moving:
            self._move()

    def _move(self) -> None:
        with self._mutex:
            # Together: the prefix may reach into a group that comes in a moment, and LMDB hold other entries there.
            groups, compact_to = tuple(self._pending.groups), self._compact_to
        if groups:
            last = groups[-1]
            self._commit([group.write for group in groups], compact_to, self._mark(last.write.number, last.sum))
            self._note_moved(last.write.number)

    def compact(self, upto: Index, entries_max: int) -> Index:
        """See the protocol; what is pending is moved before."""
        last = self._require_stand().tail.point.index
        if upto > last:
            raise InvariantViolation(f"compact up to {upto}, but the last entry is {last}")
        with self._moving:
            self._move()
            with self._final():
                return self.home.compact(upto, entries_max)

    def _mark(self, number: int, total: int | None = None) -> JournalMark | None:
        """Return what LMDB has to say once it holds the groups up to ``number``; see ``Journal.mark``."""
        journal = self._journal or self._begun
        return None if journal is None else journal.mark(number, total)

    def _commit(self, writes: Sequence[Write], compact_to: Index | None, mark: JournalMark | None) -> None:
        with self._final():
            self.home.commit(writes, compact_to, mark)
            if self._left is not None:
                self._left.close()
                self._place.remove()
        self._left = None
        if self._begun is not None:
            # No group before this: it would be of a generation that LMDB does not know.
            self._journal, self._begun = self._begun, None

    def _note_moved(self, number: int) -> None:
        """A durable transaction of LMDB holds the groups up to ``number``."""
        with self._mutex:
            self._pending = self._pending.moved(number, self.home.last_index)
        if self._journal is not None:
            self._journal.release(number)

    @contextmanager
    def _final(self) -> Iterator[None]:
        """Keep the first failure: nothing is written after it (durability contract 6)."""
        try:
            yield
        except (DiskFull, CorruptRecord, InvariantViolation):
            raise  # Nothing was begun.
        except BaseException as error:
            self._poison = self._poison or error
            raise

    def _require_sound(self) -> None:
        if self._poison is not None:
            raise StoragePoisoned(f"{self.path}: an earlier write failed: {self._poison}") from self._poison

    def _require_stand(self) -> Stand:
        """Return what the log is, if it may be written at all."""
        self._require_sound()
        if self._stand is None:
            raise InvariantViolation(f"{self.path}: written before load() verified it")
        return replace(self._stand, base=self.home.base_index)

    # -- reading ------------------------------------------------------------------------------------------------

    def entries(self, lo: Index, hi: Index, bytes_max: int) -> list[Entry]:
        """See the protocol: LMDB's entries, then those that are pending."""
        with self._mutex:
            first = self._pending.first
            found = self._pending.read(lo, hi, bytes_max)
        if lo >= first:
            if not found:
                raise EntryUnavailable(f"index {lo} is not stored: the log ends before")
            return found
        held = self.home.entries(lo, min(hi, first), bytes_max)
        size = sum(len(entry.payload) for entry in held)
        for entry in found:
            before = held[-1]
            size += len(entry.payload)
            # Before another cut the two parts were read at one moment; after it they do not fit, and the first stands.
            is_next = entry.index == before.index + 1 and entry.chain == chain_crc(before.chain, entry.crc)
            if size > bytes_max or not is_next:
                break
            held.append(entry)
        return held

    def chain_at(self, index: Index) -> int:
        """See the protocol."""
        return self.base_at(index).point.chain

    def base_at(self, index: Index) -> Base:
        """See the protocol; LMDB is asked for what is not pending."""
        entry = self._pending_at(index)
        return self.home.base_at(index) if entry is None else point_of(entry)

    def payload_bytes_at(self, index: Index) -> int:
        """See the protocol."""
        entry = self._pending_at(index)
        return self.home.payload_bytes_at(index) if entry is None else len(entry.payload)

    def _pending_at(self, index: Index) -> Entry | None:
        """Return the entry at ``index`` if it is pending; None: LMDB is to be asked.

        Raises:
            EntryUnavailable: it lies behind the end.
        """
        with self._mutex:
            first, entry = self._pending.first, self._pending.get(index)
        if entry is None and index >= first:
            raise EntryUnavailable(f"index {index} is not stored: the log ends before")
        return entry

    # -- the directory ------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """Where the environment lies."""
        return self.home.path

    @property
    def identity(self) -> Identity:
        """Whose data this is."""
        return self.home.identity

    @property
    def membership(self) -> Membership:
        """The cluster this directory was made for."""
        return self.home.membership

    @property
    def tolerated(self) -> tuple[Wound, ...]:
        """See the protocol; a wound that ``load`` has mended itself is there until the next one, to be told."""
        return self._tolerated or self.home.tolerated

    @property
    def healable(self) -> tuple[Wound, ...]:
        """See the protocol; those that ``load`` has mended itself are among them."""
        return self._healable

    @property
    def is_reserve_kept(self) -> bool:
        """See the protocol."""
        return self.home.is_reserve_kept

    def is_meta_wounded(self) -> bool:
        """See the protocol."""
        return self.home.is_meta_wounded()

    def space(self) -> Space:
        """See the protocol; what is pending has its room in LMDB, which is not there any more for others."""
        space = self.home.space()
        owned = max(0, space.owned_bytes - self._pending.record_bytes)
        return replace(space, owned_bytes=owned, commits=space.commits + self._flushes)

    def readers(self) -> dict[int, int]:
        """See the protocol."""
        return self.home.readers()

    def require_present(self) -> None:
        """See the protocol."""
        self.home.require_present()

    def expect(self, cluster_id: bytes | None, node_id: NodeId) -> None:
        """See the protocol."""
        self.home.expect(cluster_id, node_id)


def _entries_bytes(write: Write) -> int:
    """Return what the entries of a write take in the body of a group."""
    return sum(len(entry.payload) + ENTRY_HEAD_BYTES for entry in write.entries)
