"""Planted bugs of a disk that is full: a node that ends, forgets, claims, or never goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from durable_raft.raft import replication, room
from durable_raft.raft.messages import AppendEntries
from durable_raft.raft.state import RaftState
from durable_raft.raft.types import Index
from durable_raft.server.log_writer import Flushed, LogWriter
from tests.simulation.planting import Patch, mutant


@mutant
def full_disk_is_final() -> Sequence[Patch]:
    """A write without room ends the node, as a failed one does."""

    def tried(self: LogWriter, group: list[Any]) -> Flushed:
        with self._at_work:
            return self._persisted(group)

    return [(LogWriter, "_tried", tried)]


@mutant
def full_disk_forgets_a_write() -> Sequence[Patch]:
    """A write without room is given up and counts as flushed with the next one."""
    tried = LogWriter._tried

    def forgetful(self: LogWriter, group: list[Any]) -> Flushed | None:
        found = tried(self, group)
        return Flushed(tuple(write.number for write in group), 0.0) if found is None else found

    return [(LogWriter, "_tried", forgetful)]


@mutant
def refused_entries_acknowledged() -> Sequence[Patch]:
    """A follower without room says that it holds what it did not take."""
    accept = replication._accept

    def claim(
        state: RaftState, now: int, source: Any, message: AppendEntries, *, verified: Index, is_new: bool
    ) -> None:
        last = Index(message.prev_log_index + len(message.entries))
        if last > verified:
            state.send(source, replication.matching(state, last, message.read_round))
            return
        accept(state, now, source, message, verified=verified, is_new=is_new)

    return [(replication, "_accept", claim)]


@mutant
def room_never_comes_back() -> Sequence[Patch]:
    """A node that had no room for an entry once takes no more in this life."""
    note = room.note

    def stubborn(state: RaftState, free_bytes: int, *, is_low: bool) -> None:
        was = state.room.is_refusing
        note(state, free_bytes, is_low=is_low)
        state.room.is_refusing = was

    return [(room, "note", stubborn)]
