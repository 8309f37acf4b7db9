"""A full disk: a node takes in no entry that it might not be able to store, and lives on.

What is left for terms and votes is not counted here, so that a node without room for entries still votes. A follower
without room follows: it hears its leader, commits and applies what it holds, confirms reads, and takes the rest when
there is room again. It says so in each answer, so that the leader does not send in vain. While no majority has ample
room, the leader takes no command that needs memory; deletes still find room everywhere then.

Nothing here weakens Raft: an entry that is not taken is a message that was lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from durable_raft.raft.quorum import has_quorum
from durable_raft.raft.state import RaftState
from durable_raft.raft.types import DiskRoom, Entry, stored_bytes

AMPLE: Final = DiskRoom.AMPLE
NONE: Final = DiskRoom.NONE


def note(state: RaftState, free_bytes: int, *, is_low: bool) -> None:
    """Note how much room the disk has for entries; what was accepted and is not flushed has a claim on it."""
    log = state.log
    claimed = stored_bytes(log.inflight.payload_bytes, log.last.index - log.flushed)
    state.room.free_bytes = free_bytes - claimed
    state.room.is_low = is_low
    if state.room.free_bytes > 0 and state.room.is_refusing:
        state.room.is_refusing = False
        state.observe("entries_accepted_again", last_log_index=state.log.last.index)


def own(state: RaftState) -> DiskRoom:
    """Return what this node's disk can still take."""
    if state.room.free_bytes <= 0 or state.room.is_refusing:
        return NONE
    return DiskRoom.LOW if state.room.is_low else AMPLE


def takeable(state: RaftState, entries: Sequence[Entry]) -> int:
    """Return how many of ``entries``, which are new, there is room for, from the first on."""
    left = state.room.free_bytes
    for position, entry in enumerate(entries):
        left -= stored_bytes(len(entry.payload))
        if left < 0:
            if not state.room.is_refusing:
                state.room.is_refusing = True
                state.observe("entries_refused", index=entry.index, room=max(state.room.free_bytes, 0))
            return position
    return len(entries)


def took(state: RaftState, entry: Entry) -> None:
    """Note that ``entry`` was appended."""
    state.room.free_bytes -= stored_bytes(len(entry.payload))


def is_ample_on_majority(state: RaftState) -> bool:
    """Return whether a majority of the voters, as far as this leader knows, has room for what needs memory."""
    ample = [peer for peer, progress in state.progress.items() if progress.room is AMPLE and progress.is_voter]
    if own(state) is AMPLE:
        ample.append(state.config.node_id)
    return has_quorum(state.configuration, ample)
