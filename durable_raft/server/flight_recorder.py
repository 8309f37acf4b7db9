"""Keeps a node's core events where ``raftlog timeline`` finds them after any death; never in the way of the node."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from durable_raft.raft.configuration import describe
from durable_raft.raft.core import Raft
from durable_raft.server.clock import Clock
from durable_raft.server.logs import event
from durable_raft.storage.flight import PROGRESS, FlightWriter

_logger = logging.getLogger(__name__)

PROGRESS_S: Final = 0.1
"""How often the indexes are noted while they move."""

STARTED: Final = "started"
"""The event that opens the file: its field ``node`` says whose it is."""


class FlightRecorder:
    """The recorder of one life; when its file fails it says so once, and rests."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        """Write into ``directory``, at the times that ``clock`` tells."""
        self._clock = clock
        self._directory = directory
        self._writer: FlightWriter | None = None
        self._progress = (0, 0, 0)
        self._progress_due = 0.0
        self._term = -1
        """The highest that was noted."""

    def note(self, name: str, /, **fields: object) -> None:
        """Note an event; nothing is noted before ``started``, which names the node."""
        try:
            if name == STARTED and self._writer is None:
                self._writer = FlightWriter(self._directory, str(fields.get("node", "")))
            if self._writer is not None:
                self._writer.write(
                    self._clock.time_of_day_ns() // 1_000_000, int(self._clock.monotonic() * 1000), name, fields
                )
        except OSError as error:
            event(_logger, logging.WARNING, "flight_recorder_off", reason=error)
            self.close()
        term = fields.get("term")
        if isinstance(term, int) and term > self._term:
            self._term = term

    def recovered(self, raft: Raft) -> None:
        """Note what the disk gave this life to start with."""
        configuration = raft.configuration
        members = {"members": describe(configuration)} if configuration.index else {}
        self.note(
            "recovered",
            term=raft.current_term,
            voted_for=raft.voted_for,
            base=raft.log.base.index,
            last=raft.log.last.index,
            applied=raft.log.last_applied,
            voter=raft.is_voter,
            whole=raft.is_whole,
            **members,
        )

    def progress(self, raft: Raft) -> None:
        """Note a term that no event told of, and how far the log is, if that is news and was not noted a moment ago."""
        if raft.current_term > self._term:
            self.note("term_changed", term=raft.current_term)
        now = self._clock.monotonic()
        if now < self._progress_due:
            return
        log = raft.log
        progress = (log.last.index, log.commit_index, log.last_applied)
        if progress != self._progress:
            self._progress, self._progress_due = progress, now + PROGRESS_S
            last, commit, applied = progress
            self.note(PROGRESS, last=last, commit=commit, applied=applied)

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
