"""A node's writes on their way to its disk: which thread flushes them, and what may leave when they are flushed.

Every write goes one of two ways, and keeps one order on both (``Node._process``):

=================  ===================================  ==============================================
step               queued, the usual way                lone, small, on a disk that has been quick
=================  ===================================  ==============================================
``submit``         to the log writer's thread           kept
send               messages that promise nothing of it  the same
``persist_lone``                                        a follower's: flushed on the loop
``hold``           messages that promise it wait        they leave at once when it is flushed
apply, reply       what was committed before            the same
``persist_lone``                                        a leader's: flushed on the loop, replies have left
``flushed``        when the thread says so              at once
=================  ===================================  ==============================================

A leader's AppendEntries leave before it flushes, so that all disks work at the same time (Ongaro §10.2.1). A follower
flushes before it applies, because the leader waits for its acknowledgement.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from durable_raft.errors import InvariantViolation
from durable_raft.raft.messages import Envelope
from durable_raft.raft.ready import Write
from durable_raft.server.latency import LatencyRing
from durable_raft.server.log_writer import Flushed, LogWriter

LONE_BYTES_MAX: Final = 16_384
"""Payload bytes up to which a write that is alone is persisted on the event loop."""

QUICK_FLUSH_S: Final = 0.002
"""A flush that takes longer sends the next writes to the log writer's thread."""

QUICK_FLUSHES: Final = 16
"""So many quick flushes in a row are trusted to be followed by another."""


class Persister:
    """Belongs to the event loop."""

    def __init__(self, writer: LogWriter) -> None:
        """Hand writes to ``writer``, which somebody else starts and stops."""
        self._writer = writer
        self._submitted = self._flushed = 0
        """Numbers of the last write that was handed out by the core, and of the last that is flushed."""
        self._lone: Write | None = None
        """A write that waits for ``persist_lone``; invariant: it is the last one submitted."""
        self._quick_flushes = 0
        """Flushes in a row that were quick."""
        self._held: deque[tuple[int, list[Envelope]]] = deque()
        """(write number, messages that promise it and all before it), ascending."""
        self.latency = LatencyRing()
        """Of flushes, their transaction included."""
        self.flushes = 0
        self.log_bytes = 0
        """Payload bytes submitted."""

    def submit(self, write: Write) -> None:
        """Take the core's next write: keep it when it is lone, else hand it to the log writer's thread.

        Raises:
            InvariantViolation: the lone write before it was never persisted.
        """
        if self._lone is not None:
            raise InvariantViolation(f"write {write.number} would pass write {self._lone.number}, which is not flushed")
        is_alone = self._flushed == self._submitted
        self._submitted = write.number
        size = sum(len(entry.payload) for entry in write.entries)
        self.log_bytes += size
        is_plain = write.hard_state is None and write.new_base is None
        if is_alone and is_plain and size <= LONE_BYTES_MAX and self._quick_flushes >= QUICK_FLUSHES:
            self._lone = write
        else:
            self._writer.submit(write)

    def persist_lone(self) -> Flushed | None:
        """Make the lone write durable, if there is one; on the calling thread, unless the log writer's is at work.

        Returns:
            What ``flushed`` is to be told; None when there is nothing, or when the thread will say so.

        Raises:
            StoragePoisoned: as the store does; final.
        """
        write, self._lone = self._lone, None
        if write is None:
            return None
        flushed = self._writer.persist_now(write)
        if flushed is None:
            self._writer.submit(write)
        return flushed

    def hold(self, messages: list[Envelope]) -> list[Envelope]:
        """Take messages that promise all that was submitted so far; return those that may leave now: all or none."""
        if self._flushed == self._submitted:
            return messages
        if messages:
            self._held.append((self._submitted, messages))
        return []

    def flushed(self, flushed: Flushed) -> list[Envelope]:
        """Note that writes are durable; return the messages that waited for them."""
        self.flushes += 1
        self.latency.add_sample(flushed.seconds)
        # After a slow one the loop waits for no flush until so many in a row were quick.
        self._quick_flushes = self._quick_flushes + 1 if flushed.seconds < QUICK_FLUSH_S else 0
        self._flushed = flushed.numbers[-1]
        free: list[Envelope] = []
        while self._held and self._held[0][0] <= self._flushed:
            free += self._held.popleft()[1]
        return free
