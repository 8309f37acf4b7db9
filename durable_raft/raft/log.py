"""The log as the algorithm sees it: what is stored, what is on its way to the disk, and three cursors over it.

``base < ... <= flushed <= submitted <= last (accepted)``. An entry is *accepted* when it is appended here, *submitted*
when it was handed out in a ``Write``, *flushed* when that write was acknowledged. Only flushed entries count for
anything that is promised (the three cursors of openraft's log I/O).

The terms of all entries are kept as runs (first index, term), so ``term_at`` never reads the disk. The newest entries
are kept whole; older ones are read through a ``LogView``, which holds what is flushed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final, Protocol

from durable_raft.errors import CorruptRecord, EntryUnavailable, EntryUnread, InvariantViolation
from durable_raft.raft.configuration import NO_MEMBERS, Configurations
from durable_raft.raft.inflight import WritesInFlight
from durable_raft.raft.ready import Write
from durable_raft.raft.types import (
    COMMANDS,
    CONFIGURATION,
    ORIGIN,
    TIME_RESET,
    Base,
    Configuration,
    Entry,
    HardState,
    Index,
    LogPoint,
    LostEntry,
    Standing,
    StoredLog,
    Term,
    chain_crc,
)


class EntriesLost(CorruptRecord):
    """Entries whose payload rotted on this node's disk; who they are is known, and nothing else is wrong."""

    def __init__(self, lost: Sequence[LostEntry], what: str = "") -> None:
        self.lost: Final = tuple(lost)
        named = ", ".join(f"index {each.index} term {each.term} crc {each.crc:#010x}" for each in self.lost)
        super().__init__(what or f"payload lost: {named}")


class LogView(Protocol):
    """Read access to flushed entries; storage/log/log_store.py says what each call raises."""

    def entries(self, lo: Index, hi: Index, bytes_max: int) -> list[Entry]:
        """Return entries of [lo, hi): at least one, at most about ``bytes_max`` bytes of payload.

        Raises:
            EntryUnread: the one at ``lo`` is large and is being read; ``Raft.entries_read`` is called afterwards.
        """

    def chain_at(self, index: Index) -> int:
        """Return the chain value at ``index``."""

    def base_at(self, index: Index) -> Base:
        """Return point and timestamp of the entry at ``index``; its payload may be lost."""


class RaftLog:
    """The log of one node; owns ``commit_index`` and ``last_applied``."""

    def __init__(
        self,
        stored: StoredLog,
        view: LogView,
        cache_bytes_max: int,
        applied: LogPoint | None = None,
        configurations: Configurations | None = None,
    ) -> None:
        applied = stored.base if applied is None else applied
        if not stored.base.index <= applied.index <= stored.last.index:
            raise InvariantViolation(f"the state at {applied} does not lie in the log [{stored.base}, {stored.last}]")
        self._view = view
        self.configurations = configurations or Configurations(NO_MEMBERS)
        """Those of this log, kept up with every append and every cut."""
        self.base: LogPoint = stored.base
        """The point before the first entry."""
        self._base_timestamp_ms = stored.base_timestamp_ms
        self.last: LogPoint = stored.last
        """The last accepted entry's point."""
        self.last_timestamp_ms: int = stored.last_timestamp_ms
        """Timestamp of the last accepted entry: the floor for the next one."""
        self.last_time_reset = Index(0)
        """Where the newest TIME_RESET is that was appended in this life; once it was cut, the place before the cut."""
        self.flushed: Index = stored.last.index
        self.submitted: Index = stored.last.index
        self.commit_index: Index = applied.index
        """Highest index known committed. Invariant: never falls; last_applied <= commit_index <= last.index."""
        self.last_applied: Index = applied.index
        """Highest index handed out for applying."""
        self._run_starts: list[Index] = [index for index, _ in stored.term_starts]
        self._run_terms: list[Term] = [term for _, term in stored.term_starts]
        self._cache: dict[Index, Entry] = {}
        self._cache_first: Index = Index(stored.last.index + 1)
        self._cache_bytes = 0
        self._cache_bytes_max = cache_bytes_max
        self._unread: set[Index] = set()
        """Entries that are being read on another thread: they cannot be had before it says so."""
        self._new_base: Base | None = None
        """Where the next write has to let the log begin; None when no snapshot was installed since the last one."""
        self._cut_from: Index | None = None
        """Lowest index that the next write has to cut from the disk; None when nothing submitted was cut."""
        self.inflight = WritesInFlight()
        self.lost: dict[Index, LostEntry] = {each.index: each for each in stored.lost}
        """Entries whose payload rotted on the disk, until another copy of each is flushed."""
        self._newly_lost: list[LostEntry] = list(stored.lost)
        self._mended: dict[Index, Entry] = {}
        """Copies of lost entries that the next write takes."""
        self.healed = 0
        """Entries that were lost and are whole again, since the start."""
        if not self.holds(applied):
            raise InvariantViolation(f"the state was taken at {applied}, which is not what the log holds there")
        known = stored.standing.committed
        if known.index > applied.index and self.holds(known):
            self.commit_index = known.index

    @property
    def cache_bytes(self) -> int:
        """Payload bytes of the entries in memory."""
        return self._cache_bytes

    # -- reading ------------------------------------------------------------------------------------------------

    @property
    def first_index(self) -> Index:
        """Index of the first entry that is still there."""
        return Index(self.base.index + 1)

    def term_at(self, index: Index) -> Term:
        """Return the term of the entry at ``index`` (or of the base).

        Raises:
            EntryUnavailable: ``index`` is compacted away or beyond the end.
        """
        if index == self.base.index:
            return self.base.term
        if not self.base.index < index <= self.last.index:
            raise EntryUnavailable(f"index {index} is outside the log [{self.base.index}, {self.last.index}]")
        return self._run_terms[bisect_right(self._run_starts, index) - 1]

    def chain_at(self, index: Index) -> int:
        """Return the chain value at ``index``; raises as ``term_at``, and what reading the disk raises."""
        if index == self.last.index:
            return self.last.chain
        if index == self.base.index:
            return self.base.chain
        cached = self._cache.get(index)
        if cached is not None:
            return cached.chain
        self.term_at(index)
        return self._view.chain_at(index)

    def first_index_of_term_at(self, index: Index) -> Index:
        """Return the first index of the run of entries that have the same term as the one at ``index``."""
        self.term_at(index)
        position = bisect_right(self._run_starts, index) - 1
        return self._run_starts[position] if position >= 0 else self.base.index

    def last_index_not_after_term(self, term: Term) -> Index:
        """Return the last index whose term is at most ``term``; the base's index when there is none."""
        position = bisect_right(self._run_terms, term)
        if position == len(self._run_starts):
            return self.last.index
        return Index(self._run_starts[position] - 1)

    def entries(self, lo: Index, hi: Index, bytes_max: int) -> list[Entry]:
        """Return entries of [lo, hi): at least one, at most about ``bytes_max`` bytes of payload.

        Raises:
            EntryUnavailable: ``lo`` is compacted away or beyond the end.
            EntryUnread: the one at ``lo`` is being read on another thread.
            EntriesLost: the payload of ``lo`` is rotten; one that is found to be is noted in ``lost``.
            CorruptRecord: an entry read from the disk is damaged in another way.
        """
        if not self.base.index < lo <= self.last.index:
            raise EntryUnavailable(f"index {lo} is outside the log [{self.base.index}, {self.last.index}]")
        if self.lost:
            missing = self.missing()
            hi = min(hi, min((index for index in missing if index > lo), default=hi))
            if lo in missing:
                raise EntriesLost([self.lost[lo]])
        elif hi == lo + 1 and lo >= self._cache_first:
            return [self._cache[lo]]
        found: list[Entry] = []
        if lo < self._cache_first:
            found = self._read(lo, min(hi, self._cache_first), bytes_max)
            if found[-1].index + 1 < self._cache_first:
                return found
        size = sum(len(entry.payload) for entry in found)
        for index in range(max(lo, self._cache_first), hi):
            entry = self._cache[Index(index)]
            size += len(entry.payload)
            if found and size > bytes_max:
                break
            found.append(entry)
        return found

    def is_up_to_date(self, last_log_index: Index, last_log_term: Term) -> bool:
        """Return whether a log that ends so is at least as up-to-date as this one (Raft §5.4.1)."""
        return (last_log_term, last_log_index) >= (self.last.term, self.last.index)

    def is_readable(self, index: Index) -> bool:
        """Return whether the entry at ``index`` may be asked for: it is not being read on another thread."""
        return not self._unread or index not in self._unread or index >= self._cache_first

    def entries_read(self) -> None:
        """Note that what was being read on another thread may be there now."""
        self._unread.clear()

    def _read(self, lo: Index, hi: Index, bytes_max: int) -> list[Entry]:
        try:
            return self._view.entries(lo, hi, bytes_max)
        except EntryUnread:
            self._unread.add(lo)
            raise
        except EntriesLost as error:
            for each in error.lost:
                self.lose(each)
            raise

    # -- healing (healing.py) -----------------------------------------------------------------------------------

    def lose(self, lost: LostEntry) -> bool:
        """Note that the payload of an entry is rotten on the disk; return whether that is news.

        One that is still in memory is mended from there at once.
        """
        index = lost.index
        if index in self.lost or not self.base.index < index <= self.flushed or self.chain_at(index) != lost.chain:
            return False
        self.lost[index] = lost
        self._newly_lost.append(lost)
        if index in self._cache:
            self.mend(self._cache[index])
        return True

    def missing(self) -> list[Index]:
        """Return the lost entries that are not in memory either, so that they cannot be sent or applied."""
        return [index for index in self.lost if index not in self._cache]

    def has_newly_lost(self) -> bool:
        """Return whether ``take_newly_lost`` has any."""
        return bool(self._newly_lost)

    def take_newly_lost(self) -> list[LostEntry]:
        """Return what was found lost since the last call."""
        newly, self._newly_lost = self._newly_lost, []
        return newly

    def mend(self, entry: Entry) -> bool:
        """Take a copy of a lost entry, verified by its checksum; return whether it is the one that was lost."""
        lost = self.lost.get(entry.index)
        if lost is None or (lost.term, lost.crc, lost.chain) != (entry.term, entry.crc, entry.chain):
            return False
        self._mended[entry.index] = entry
        return True

    def wanted(self) -> list[LostEntry]:
        """Return the lost entries of which no copy is on its way to the disk, ascending."""
        underway = {each.index for each in self.inflight.mended()}
        return [self.lost[i] for i in sorted(self.lost) if i not in self._mended and i not in underway]

    def acknowledgeable(self, index: Index) -> Index:
        """Return up to where, at most ``index``, this node may say that it holds the log.

        What was lost and is not known to be committed may never be: then nobody may count on this copy.
        """
        lost = min((i for i in self.lost if i > self.commit_index), default=None)
        return index if lost is None else min(index, Index(lost - 1))

    def _forget_lost(self, first: int, last: int) -> None:
        """Forget the lost entries of [first, last], which are gone from the log."""
        for index in [i for i in self.lost if first <= i <= last]:
            del self.lost[index]
            self._mended.pop(index, None)

    # -- changing -----------------------------------------------------------------------------------------------

    def append(self, entry: Entry) -> None:
        """Accept the entry that follows the last one.

        Raises:
            InvariantViolation: the entry does not follow: its index, term or chain is not what comes next.
        """
        if entry.index != self.last.index + 1 or entry.term < self.last.term:
            raise InvariantViolation(
                f"entry {entry.index} of term {entry.term} does not follow {self.last.index} of term {self.last.term}"
            )
        expected = chain_crc(self.last.chain, entry.crc)
        if entry.chain != expected:
            raise InvariantViolation(f"entry {entry.index}: chain expected {expected:#010x}, found {entry.chain:#010x}")
        if not self._run_terms or entry.term != self._run_terms[-1]:
            self._run_starts.append(entry.index)
            self._run_terms.append(entry.term)
        self._cache[entry.index] = entry
        self._cache_bytes += len(entry.payload)
        self.last = LogPoint(entry.index, entry.term, entry.chain)
        self.last_timestamp_ms = entry.timestamp_ms
        if entry.kind is not COMMANDS:
            self._note_kind(entry)

    def _note_kind(self, entry: Entry) -> None:
        """Note an appended entry that counts before it is applied."""
        if entry.kind is TIME_RESET:
            self.last_time_reset = entry.index
        elif entry.kind is CONFIGURATION:
            self.configurations.append(entry)

    def truncate_from(self, index: Index) -> None:
        """Cut the entry at ``index`` and all that follow it (Raft §5.3): they conflict with the leader's.

        Raises:
            InvariantViolation: the cut would take a committed entry.
        """
        if index <= self.commit_index:
            raise InvariantViolation(
                f"cut from {index} would take committed entries (commit_index {self.commit_index})"
            )
        previous = Index(index - 1)
        self.last = LogPoint(previous, self.term_at(previous), self.chain_at(previous))
        self.last_timestamp_ms = self._timestamp_at(previous)
        self.last_time_reset = min(self.last_time_reset, previous)
        self.configurations.cut(index)
        for cut in range(max(index, self._cache_first), self._cache_first + len(self._cache)):
            self._cache_bytes -= len(self._cache.pop(Index(cut)).payload)
        self._cache_first = min(self._cache_first, index)
        while self._run_starts and self._run_starts[-1] >= index:
            self._run_starts.pop()
            self._run_terms.pop()
        self._forget_lost(index, self.submitted)
        if index <= self.submitted:
            self._cut_from = index if self._cut_from is None else min(self._cut_from, index)
            self.submitted = previous
            self.flushed = min(self.flushed, previous)
            self.inflight.cut(previous)

    def holds(self, point: LogPoint) -> bool:
        """Return whether this log has the entry at ``point``, or begins behind it.

        Raises:
            CorruptRecord: its chain value cannot be read.
        """
        if not self.base.index <= point.index <= self.last.index:
            return False
        return self.term_at(point.index) == point.term and self.chain_at(point.index) == point.chain

    def compact(self, upto: Index) -> None:
        """Let the log begin behind ``upto``, which a durable checkpoint covers (Raft §7).

        Raises:
            InvariantViolation: ``upto`` is not both applied and flushed.
            CorruptRecord: the entry there cannot be read.
        """
        if upto <= self.base.index:
            return
        if upto > min(self.last_applied, self.flushed):
            raise InvariantViolation(f"compact up to {upto}: applied {self.last_applied}, flushed {self.flushed}")
        timestamp_ms, point = self._timestamp_at(upto), LogPoint(upto, self.term_at(upto), self.chain_at(upto))
        self.base, self._base_timestamp_ms = point, timestamp_ms
        self.configurations.compact(upto)
        self._forget_lost(0, upto)
        first = Index(upto + 1)
        gone = bisect_right(self._run_starts, first) - 1
        del self._run_starts[:gone], self._run_terms[:gone]
        if upto == self.last.index:
            self._run_starts, self._run_terms = [], []
        else:
            self._run_starts[0] = first
        for index in range(self._cache_first, first):
            self._cache_bytes -= len(self._cache.pop(Index(index)).payload)
        self._cache_first = max(self._cache_first, first)

    def install(self, base: Base, configuration: Configuration | None = None) -> bool:
        """Begin behind a snapshot taken at ``base``, beyond what is committed here; the machine holds it already.

        Args:
            base: where it was taken.
            configuration: the one that counts there; None: the fixed one of the first start.

        Returns:
            Whether the entries behind it were kept, because the log holds the one at ``base`` (Raft §7: receiver 6);
            else every entry is dropped: those at and behind ``base`` conflict with what is committed.
        """
        point = base.point
        is_held = self.holds(point)
        if not is_held:
            if point.index <= self.commit_index:
                raise InvariantViolation(
                    f"snapshot at {point} conflicts with entries committed up to {self.commit_index}"
                )
            self._forget_lost(0, self.last.index)
            self.base = self.last = point
            self._base_timestamp_ms = self.last_timestamp_ms = base.timestamp_ms
            self._run_starts, self._run_terms = [], []
            self._cache, self._cache_bytes, self._cache_first = {}, 0, Index(point.index + 1)
            self.submitted = self.flushed = point.index
            self._cut_from, self._new_base = None, base
            self.inflight.cut(point.index)
            self.configurations.install(configuration)
        self.commit_index = max(self.commit_index, point.index)
        self.last_applied = point.index
        return is_held

    def _timestamp_at(self, index: Index) -> int:
        """Return the timestamp of the entry at ``index`` (or of the base)."""
        if index == self.base.index:
            return self._base_timestamp_ms
        cached = self._cache.get(index)
        return self._view.base_at(index).timestamp_ms if cached is None else cached.timestamp_ms

    def commit_to(self, index: Index) -> bool:
        """Raise ``commit_index`` to ``index`` if that is higher; return whether it moved."""
        if index <= self.commit_index:
            return False
        if index > self.last.index:
            raise InvariantViolation(f"commit {index} is beyond the last entry {self.last.index}")
        self.commit_index = index
        return True

    def take_committed(self, bytes_max: int) -> list[Entry]:
        """Hand out committed entries that were not handed out before, about ``bytes_max`` bytes at most."""
        if self.last_applied >= self.commit_index:
            return []
        taken = self.entries(Index(self.last_applied + 1), Index(self.commit_index + 1), bytes_max)
        self.last_applied = taken[-1].index
        self._trim_cache()
        return taken

    # -- the way to the disk ------------------------------------------------------------------------------------

    def has_unsubmitted(self) -> bool:
        """Return whether the next write has entries to append or a suffix to cut."""
        if self._cut_from is not None or self._new_base is not None or self._mended:
            return True
        return self.submitted < self.last.index

    def take_write(
        self, now: int, number: int, hard_state: HardState | None, standing: Standing | None = None
    ) -> Write:
        """Hand out everything not yet submitted as write ``number``."""
        entries = tuple([self._cache[Index(i)] for i in range(self.submitted + 1, self.last.index + 1)])
        mended, self._mended = self._mended, {}
        copies = tuple([mended[index] for index in sorted(mended)])
        first = None if self._new_base is None else self.configurations.stored_at(self._new_base.point.index)
        write = Write(number, hard_state, self._cut_from, entries, self._new_base, standing, copies, first)
        self._cut_from = self._new_base = None
        self.submitted = self.last.index
        whole_again = [self.lost[entry.index] for entry in copies]
        size = sum([len(entry.payload) for entry in (*entries, *copies)])
        self.inflight.add(number, self.last.index, now, whole_again, size)
        return write

    def acknowledge(self, number: int) -> None:
        """Note that the oldest write in flight, which must be ``number``, is flushed.

        The write proves durable what it wrote and nothing that was put in its place since: a cut lowers what the
        writes in flight can prove, so a late acknowledgement cannot make an overwritten entry's successor durable.
        """
        write = self.inflight.acknowledge(number)
        self.flushed = max(self.flushed, write.last_index)
        for lost in write.mended:
            # The same index may have been cut and lost once more since: then it is another one.
            if self.lost.get(lost.index) is lost:
                self._forget_lost(lost.index, lost.index)
                self.healed += 1
        self._trim_cache()

    def _trim_cache(self) -> None:
        """Forget the oldest cached entries that are flushed: applied ones at the bound, others at twice the bound.

        A node whose checkpoints are slow applies late, and takes entries all the same. They must not fill its memory;
        the disk gives them back when their turn comes.
        """
        self._forget_down_to(self._cache_bytes_max, Index(min(self.flushed, self.last_applied)))
        self._forget_down_to(2 * self._cache_bytes_max, self.flushed)

    def _forget_down_to(self, bytes_max: int, upto: Index) -> None:
        while self._cache_bytes > bytes_max and self._cache_first <= upto:
            self._cache_bytes -= len(self._cache.pop(self._cache_first).payload)
            self._cache_first = Index(self._cache_first + 1)


EMPTY_LOG = StoredLog(HardState(), ORIGIN, ORIGIN, 0, ())
"""What a log store holds before anything was written."""
