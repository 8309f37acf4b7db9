"""Planted bugs of healing (raft/healing.py) and of disks that forgot what they promised (raft/admission.py).

Rules that only a rare coincidence would show to be broken (who admits a disk, and when) have tests in tests/raft.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from durable_raft.errors import EntryUnread
from durable_raft.raft import admission, healing
from durable_raft.raft.log import EntriesLost, RaftLog
from durable_raft.raft.messages import AppendEntriesResponse, FetchEntries, FetchEntriesResponse
from durable_raft.raft.progress import Progress
from durable_raft.raft.state import RaftState
from durable_raft.raft.types import Entry, Index, NodeId
from tests.simulation.planting import Patch, mutant


@mutant
def wiped_disk_votes() -> Sequence[Patch]:
    """A node with an empty disk under an old id votes and counts as if nothing had happened."""

    def introduce(state: RaftState, now: int) -> None:
        if not state.standing.is_voter:
            admission._become_voter(state, now, "nobody")

    return [(admission, "introduce", introduce)]


@mutant
def admitted_though_replaced() -> Sequence[Patch]:
    """A new disk is admitted once all know it, though another was known before it."""

    def admit(state: RaftState, now: int) -> None:
        if admission.asks(state):
            admission._become_voter(state, now, "nobody")

    return [(admission, "_admit_newcomer", admit)]


@mutant
def new_disk_counted() -> Sequence[Patch]:
    """A leader counts the answers of a disk that is not admitted."""
    note = admission.note_standing

    def count(state: RaftState, progress: Progress, message: AppendEntriesResponse) -> None:
        note(state, progress, message)
        progress.is_voter = True

    return [(admission, "note_standing", count)]


@mutant
def other_entry_heals() -> Sequence[Patch]:
    """A lost entry is mended with whatever another node has at its index."""

    def mend(self: RaftLog, entry: Entry) -> bool:
        if entry.index not in self.lost:
            return False
        self._mended[entry.index] = entry
        return True

    def give(state: RaftState, source: NodeId, message: FetchEntries) -> None:
        log = state.log
        indexes = [point.index for point in message.wanted if log.base.index < point.index <= log.flushed]
        found: list[Entry] = []
        for index in indexes:
            with suppress(EntriesLost, EntryUnread):
                found += log.entries(index, Index(index + 1), 0)[:1]
        state.send(source, FetchEntriesResponse(state.current_term, tuple(found), (), state.snapshot, log.base))

    return [(RaftLog, "mend", mend), (healing, "handle_fetch_entries", give)]


@mutant
def standing_not_stored() -> Sequence[Patch]:
    """Whom a node knows is forgotten at its next start."""
    take = RaftLog.take_write

    def forget(self: RaftLog, now: int, number: int, hard_state: Any, standing: Any = None) -> Any:
        kept = None if standing is None else replace(standing, peers=())
        return take(self, now, number, hard_state, kept)

    return [(RaftLog, "take_write", forget)]
