"""Looks at a node's disk four times a second: is the directory still there, how much room is there, who holds pages.

It tells the core, the dispatcher and the keeper of the state what they have to know of it. What it reads costs some
tens of microseconds.
"""

from __future__ import annotations

import logging
import os
from typing import Final

from durable_raft.errors import DirectoryLost
from durable_raft.raft.core import Raft
from durable_raft.server.clock import Clock
from durable_raft.server.dispatch import Dispatcher
from durable_raft.server.logs import event
from durable_raft.server.state.keeper import StateKeeper
from durable_raft.storage.headroom import VOTE_BYTES
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.log_store import DirectoryLogStore

_logger = logging.getLogger(__name__)

READERS_S: Final = 5.0
"""How often the tables of readers are looked at."""

STANDING_WRITES: Final = 1000
STANDING_MOVES: Final = 50
STANDING_CHECKPOINTS: Final = 3
"""A reader that is so far behind at two looks stands still: tools read for some milliseconds. With a journal the log's
transactions are moves, of up to a second's writes each."""


class DiskWatch:
    """Watches one node's disk; every method belongs to the event loop."""

    def __init__(
        self,
        store: DirectoryLogStore,
        keeper: StateKeeper,
        raft: Raft,
        dispatcher: Dispatcher,
        clock: Clock,
        reserve_bytes: int,
    ) -> None:
        self._store = store
        self._keeper = keeper
        self._raft = raft
        self._dispatcher = dispatcher
        self._clock = clock
        self._reserve_bytes = reserve_bytes
        self._readers_due = clock.monotonic()
        self._behind: set[int] = set()
        """Processes that were far behind at the last look."""

    def begin(self) -> None:
        """Say at the start what this file system does not promise."""
        if not self._store.is_reserve_kept:
            reason = "the file system copies on write, or cannot allocate: a full disk may end the node"
            event(_logger, logging.WARNING, "reserve_not_kept", reason=reason)
        if isinstance(self._store, JournaledLogStore):
            if self._store.trouble:
                event(_logger, logging.WARNING, "journal_not_made", reason=self._store.trouble)
            if not self._store.is_written_in_place:
                reason = "the file system copies on write, and not for this file as it was asked: a flush writes more"
                event(_logger, logging.WARNING, "journal_copied_on_write", reason=reason)

    def lost_directory(self) -> DirectoryLost | None:
        """Return that the directory is lost, if it is: then whatever else fails is only what follows from it."""
        try:
            self._store.require_present()
            self._keeper.require_present()
        except DirectoryLost as error:
            return error
        return None

    def look(self) -> None:
        """Tell everybody how much can still be written: a node must always be able to vote, delete and read."""
        log, state = self._store.space(), self._keeper.room()
        free = log.writable_bytes if state is None else min(log.writable_bytes, state.writable_bytes)
        is_low = free < self._reserve_bytes
        self._keeper.note_room(None if state is None or not is_low else state.owned_bytes)
        # Pages that are free inside the file do not count for an entry: a reader may keep them from being used again.
        self._raft.note_room(log.disk_free_bytes + log.owned_bytes - VOTE_BYTES, is_low=is_low)
        self._dispatcher.note_space(free, self._reserve_bytes)
        if self._clock.monotonic() >= self._readers_due:
            self._readers_due = self._clock.monotonic() + READERS_S
            self._look_at_readers()

    def _look_at_readers(self) -> None:
        """Free what readers hold that have died, and name those that stand still: while they do, the files grow."""
        is_moved = isinstance(self._store, JournaledLogStore) and self._store.is_journaled
        log_far = STANDING_MOVES if is_moved else STANDING_WRITES
        tables = ((self._store.readers(), log_far), (self._keeper.readers(), STANDING_CHECKPOINTS))
        behind = {pid for readers, far in tables for pid, count in readers.items() if count >= far}
        behind.discard(os.getpid())
        for pid in behind & self._behind:
            event(_logger, logging.WARNING, "reader_stands_still", pid=pid)
        self._behind = behind
