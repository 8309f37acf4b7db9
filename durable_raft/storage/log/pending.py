"""What the journal holds of the log and LMDB does not yet: the newest entries, over those of LMDB.

The log is LMDB's entries before ``first`` and the pending ones from there on. A cut that is not moved yet lies below
LMDB's last entry; what LMDB still holds behind it does not count.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Final

from durable_raft.errors import InvariantViolation
from durable_raft.raft.ready import Write
from durable_raft.raft.types import Base, Entry, Index, StoredLog
from durable_raft.storage.log.plan import configurations_with
from durable_raft.storage.log.records import records_bytes

ANY_INDEX: Final = Index((1 << 64) - 2)
"""As if LMDB's last entry were there: nothing is known to be pending, and every index is LMDB's."""


@dataclass(frozen=True, slots=True)
class PendingGroup:
    """A group that is durable in the journal."""

    write: Write
    """Its number is the group's."""
    sum: int
    ring_bytes: int
    """What it takes in the journal."""
    record_bytes: int
    """A bound of what its records will take in LMDB."""


def pending_group(write: Write, total: int, ring_bytes: int) -> PendingGroup:
    """Return the group whose write and sum these are."""
    return PendingGroup(write, total, ring_bytes, records_bytes(write.entries))


class Pending:
    """Used by one thread at a time."""

    def __init__(self, last: Index) -> None:
        """Nothing is pending, and LMDB's last entry is at ``last``."""
        self.groups: deque[PendingGroup] = deque()
        """Oldest first."""
        self.first = Index(last + 1)
        """Entries before it are LMDB's, entries from it on are pending."""
        self.entries: list[Entry] = []
        """From ``first`` on, contiguous."""
        self.ring_bytes = self.record_bytes = 0
        """Of all groups."""

    @property
    def end(self) -> Index:
        """Index behind the last pending entry."""
        return Index(self.first + len(self.entries))

    def append(self, group: PendingGroup) -> None:
        """Take the next group.

        Raises:
            InvariantViolation: it does not follow what is there.
        """
        write = group.write
        if (cut := write.truncate_from) is not None:
            del self.entries[max(cut - self.first, 0) :]
            self.first = min(self.first, cut)
        if write.entries and write.entries[0].index != self.end:
            raise InvariantViolation(f"group {write.number} begins at {write.entries[0].index}, expected {self.end}")
        self.entries += write.entries
        self.groups.append(group)
        self.ring_bytes += group.ring_bytes
        self.record_bytes += group.record_bytes

    def moved(self, number: int, last: Index) -> Pending:
        """Return what is pending when LMDB holds all groups up to ``number`` and ends at ``last``."""
        rest = Pending(last)
        for group in self.groups:
            if group.write.number > number:
                rest.append(group)
        return rest

    def get(self, index: Index) -> Entry | None:
        """Return the pending entry at ``index``, or None."""
        at = index - self.first
        return self.entries[at] if 0 <= at < len(self.entries) else None

    def read(self, lo: Index, hi: Index, bytes_max: int) -> list[Entry]:
        """Return pending entries of [lo, hi): the first, and more up to ``bytes_max`` bytes of payload."""
        found: list[Entry] = []
        size = 0
        for at in range(max(lo - self.first, 0), min(hi - self.first, len(self.entries))):
            size += len(self.entries[at].payload)
            if found and size > bytes_max:
                break
            found.append(self.entries[at])
        return found


def with_pending(stored: StoredLog, pending: Pending, tail: Base) -> StoredLog:
    """Return what is stored when what is pending is a part of it.

    Args:
        stored: in LMDB.
        pending: what follows.
        tail: point and timestamp of the last entry of both; those of the base when there is none.
    """
    term_starts = [(index, term) for index, term in stored.term_starts if index < pending.first]
    term = term_starts[-1][1] if term_starts else None
    for entry in pending.entries:
        if entry.term != term:
            term = entry.term
            term_starts.append((entry.index, term))
    hard_states = [group.write.hard_state for group in pending.groups if group.write.hard_state is not None]
    standings = [group.write.standing for group in pending.groups if group.write.standing is not None]
    configurations = stored.configurations
    for group in pending.groups:
        configurations = configurations_with(configurations, group.write.truncate_from, group.write.entries)
    return replace(
        stored,
        configurations=configurations,
        hard_state=hard_states[-1] if hard_states else stored.hard_state,
        standing=standings[-1] if standings else stored.standing,
        last=tail.point,
        last_timestamp_ms=tail.timestamp_ms,
        term_starts=tuple(term_starts),
        lost=tuple(each for each in stored.lost if each.index < pending.first),
    )
