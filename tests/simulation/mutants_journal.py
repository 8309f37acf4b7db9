"""Planted bugs of the commit journal: what is promised too early, read wrongly, moved wrongly, or written over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from durable_raft.raft.ready import Write
from durable_raft.raft.types import Entry, Index
from durable_raft.storage.log import journal, journal_body, journal_format, journaled_store
from durable_raft.storage.log.journal import FoundJournal, Journal
from durable_raft.storage.log.journal_format import Group
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.meta import JournalMark
from durable_raft.storage.wounds import WoundedLog
from tests.simulation.journal_disk import SimJournalFile
from tests.simulation.planting import Patch, mutant


@mutant
def journal_acknowledged_unflushed() -> Sequence[Patch]:
    """A group is acknowledged when it is written to the journal, and flushed some time."""
    return [(SimJournalFile, "flush", lambda _self: None)]


@mutant
def journal_cut_at_first_bad_group() -> Sequence[Patch]:
    """The journal ends where no copy of a group is whole, whatever follows."""
    return [(journal_format, "_WOUNDS_MAX", 0)]


@mutant
def journal_second_copy_never_read() -> Sequence[Patch]:
    """Each group is written twice and read once."""
    head_at = journal_format._head

    def first(ring: bytes, at: int, uuid: bytes) -> Any:
        found = head_at(ring, at, uuid)
        return found if found is not None and found[0].offset == at else None

    return [(journal_format, "_head", first)]


@mutant
def journal_group_applied_twice() -> Sequence[Patch]:
    """LMDB does not say in the transaction that moves groups that it holds them."""
    commit = JournaledLogStore._commit

    def silent(
        self: JournaledLogStore, writes: Sequence[Write], compact_to: Index | None, mark: JournalMark | None
    ) -> None:
        commit(self, writes, compact_to, self.home.mark if mark is not None else None)

    return [(JournaledLogStore, "_commit", silent)]


@mutant
def journal_space_reused_early() -> Sequence[Patch]:
    """The ring is written over before LMDB holds what was there."""
    place = Journal._place

    def anywhere(self: Journal, size: int) -> int | None:
        self._live.clear()
        return place(self, size)

    return [(Journal, "_place", anywhere)]


@mutant
def journal_older_lap_believed() -> Sequence[Patch]:
    """Whatever is whole in the ring is taken for a group of the log, whether LMDB holds it already or not."""
    read = journal_format.read_groups

    def all_of_it(ring: bytes, mark: JournalMark) -> list[Group]:
        heads = [head for head, _, _ in journal_format._heads(ring, mark.uuid) if head.generation == mark.generation]
        oldest = min(heads, key=lambda head: head.number, default=None)
        if oldest is None or oldest.number > mark.number:
            return read(ring, mark)
        try:
            return read(ring, replace(mark, number=oldest.number - 1, sum=oldest.previous))
        except WoundedLog:
            return read(ring, mark)

    return [(journal, "read_groups", all_of_it)]


@mutant
def journal_order_exchanged() -> Sequence[Patch]:
    """A group that goes to LMDB directly passes those that are pending."""

    def passing(self: JournaledLogStore, write: Write, compact_to: Index | None) -> None:
        with self._moving:
            mark = self._mark(write.number)
            self._commit([write], compact_to, mark)
            for group in self._pending.groups:
                self._commit([replace(group.write, number=write.number + group.write.number)], compact_to, mark)
            self._note_moved(write.number)

    return [(JournaledLogStore, "_persist_directly", passing)]


@mutant
def journal_without_hard_state() -> Sequence[Patch]:
    """Entries go to the journal, term and vote only to LMDB, with the next move."""
    pack = journal_body.pack_write
    return [(journaled_store, "pack_write", lambda write: pack(replace(write, hard_state=None)))]


@mutant
def journal_direct_group_without_number() -> Sequence[Patch]:
    """A group that goes to LMDB directly is not counted in what LMDB holds."""
    note = JournaledLogStore._commit

    def uncounted(
        self: JournaledLogStore, writes: Sequence[Write], compact_to: Index | None, mark: JournalMark | None
    ) -> None:
        if mark is not None and writes and writes[-1].number > self._group:
            mark = replace(mark, number=mark.number - 1)
        note(self, writes, compact_to, mark)

    return [(JournaledLogStore, "_commit", uncounted)]


@mutant
def journal_left_behind() -> Sequence[Patch]:
    """A start without the journal forgets what is in it."""
    begin = JournaledLogStore._begin

    def forgets(self: JournaledLogStore, found: FoundJournal | None, rebuilt: tuple[Entry, ...]) -> None:
        if found is not None and not self._is_used:
            found.writes.clear()
        begin(self, found, rebuilt)

    return [(JournaledLogStore, "_begin", forgets)]
