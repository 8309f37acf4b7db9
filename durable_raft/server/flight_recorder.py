"""Keeps a node's core events where ``raftlog timeline`` finds them after any death; never in the way of the node."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Final

from durable_raft.raft.log import RaftLog
from durable_raft.server.logs import event
from durable_raft.storage.flight import FlightWriter

_logger = logging.getLogger(__name__)

PROGRESS_S: Final = 0.1
"""How often the indexes are noted while they move."""


class FlightRecorder:
    """The recorder of one life; when its file fails it says so once, and rests."""

    def __init__(self, directory: Path) -> None:
        self._writer: FlightWriter | None = None
        self._progress = (0, 0, 0)
        self._progress_due = 0.0
        try:
            self._writer = FlightWriter(directory)
        except OSError as error:
            self._give_up(error)

    def note(self, name: str, /, **fields: object) -> None:
        """Note an event."""
        if self._writer is None:
            return
        try:
            self._writer.write(time.time_ns() // 1_000_000, int(time.monotonic() * 1000), name, fields)
        except OSError as error:
            self._give_up(error)

    def progress(self, log: RaftLog) -> None:
        """Note how far the log is, if that is news and was not noted a moment ago."""
        now = time.monotonic()
        if now < self._progress_due:
            return
        progress = (log.last.index, log.commit_index, log.last_applied)
        if progress != self._progress:
            self._progress, self._progress_due = progress, now + PROGRESS_S
            last, commit, applied = progress
            self.note("progress", last=last, commit=commit, applied=applied)

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _give_up(self, error: OSError) -> None:
        event(_logger, logging.WARNING, "flight_recorder_off", reason=error)
        self.close()
