"""What a leader may still take in before its disk is looked at again: room is a budget, used up by each write.

A command counts without the records of an entry: in how many entries the commands will travel is not known yet.
"""

from __future__ import annotations

from durable_raft.raft.core import Raft
from durable_raft.raft.types import stored_bytes
from durable_raft.server.pending import Waiting


class Claims:
    """The room that was there at the last look, less what has been taken in since."""

    def __init__(self, raft: Raft) -> None:
        """Ask ``raft`` what a majority of the nodes, and this one, have room for."""
        self._raft = raft
        self.out_of_space: str | None = None
        """Why commands that need memory are refused; None while there is room."""
        self._room_bytes: int | None = None
        """What may still be taken in before the disk is looked at again; None until it was looked at."""

    def note_space(self, free_bytes: int, reserve_bytes: int, claimed_bytes: int) -> None:
        """Note how much can be written; what was taken in and may not be written yet has a claim on it already."""
        self._room_bytes = free_bytes - reserve_bytes - stored_bytes(claimed_bytes, entries=0)
        self.out_of_space = None
        if free_bytes < reserve_bytes:
            self.out_of_space = (
                f"{free_bytes} bytes are free for the log and {reserve_bytes} are held in reserve: writes are refused"
            )

    def take_in(self, waiting: Waiting) -> None:
        """Note that a write was taken in."""
        if self._room_bytes is not None:
            self._room_bytes -= stored_bytes(waiting.size_bytes, entries=0)

    def refusal(self, waiting: Waiting) -> str | None:
        """Return why there is no room for a write; a fast client fills a disk between two looks at it."""
        if not waiting.spec.needs_memory:
            is_full = not self._raft.has_room_for(waiting.size_bytes)
            return "the disk is full: what is left is for votes" if is_full else None
        if not self._raft.is_room_ample:
            return self.out_of_space or "a majority of the nodes has less room than is held in reserve"
        if self.out_of_space is None and self._room_bytes is not None:
            needed = stored_bytes(waiting.size_bytes, entries=0)
            if needed > self._room_bytes:
                return f"{max(0, self._room_bytes)} bytes are free above the reserve and {needed} are needed"
        return self.out_of_space
