"""Setting the cluster time back, or ahead, when it is wrong already: by an entry of the log, at one place for all.

Asked for by an operator (``RAFT RESETTIME``), or by a request that was left in the data directory.
"""

from __future__ import annotations

from pathlib import Path

from durable_raft.kv.replies import ErrorReply
from durable_raft.raft.types import TIME_RESET, Entry
from durable_raft.server.dispatch import Dispatcher
from durable_raft.server.timekeeper import Timekeeper
from durable_raft.storage.time_request import forget_time_request, is_time_reset_requested


class TimeResets:
    """One node's."""

    def __init__(self, timekeeper: Timekeeper, dispatcher: Dispatcher, directory: Path) -> None:
        """Look whether ``directory`` holds a request."""
        self._timekeeper = timekeeper
        self._dispatcher = dispatcher
        self._directory = directory
        self._is_requested = is_time_reset_requested(directory)

    def propose(self, time_ms: int | None) -> int | ErrorReply:
        """Propose to set the cluster time, to the agreed clock when no time is given; return the time or why not."""
        time_ms = self._timekeeper.agreed_ms() if time_ms is None else time_ms
        if time_ms is None:
            return ErrorReply("ERR no majority of clocks agrees; set them right, or give the time in milliseconds")
        entry = self._dispatcher.reset_time(time_ms)
        if entry is None:
            return ErrorReply("ERR this node does not lead; ask the leader (ROLE)")
        self._timekeeper.reset_proposed(entry)
        return time_ms

    def tick(self) -> None:
        """Do what was requested in the directory, once this node leads and a majority of clocks agrees."""
        offset_ms = self._timekeeper.cluster_offset_ms
        if not self._is_requested or offset_ms is None or self._timekeeper.stamp_ms() is None:
            return
        if abs(offset_ms) > self._timekeeper.bound_ms:
            self.propose(None)
        else:
            self._forget_request()

    def applied(self, entry: Entry) -> None:
        """Take note of an applied entry: a reset fulfils the request, whoever proposed it."""
        self._timekeeper.applied(entry)
        if entry.kind is TIME_RESET:
            self._forget_request()

    def _forget_request(self) -> None:
        if self._is_requested:
            self._is_requested = False
            forget_time_request(self._directory)
