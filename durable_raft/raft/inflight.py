"""Writes that were handed out and are not flushed: what each will prove, since when it waits, and how much waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from durable_raft.errors import InvariantViolation
from durable_raft.raft.types import Index, LostEntry


class InflightWrite:
    """A write on its way to the disk and what its acknowledgement will prove."""

    __slots__ = ("last_index", "mended", "number", "payload_bytes", "submitted_at", "unflushed_bytes")

    def __init__(
        self,
        number: int,
        last_index: Index,
        submitted_at: int,
        mended: Sequence[LostEntry],
        payload_bytes: int,
        unflushed_bytes: int,
    ) -> None:
        self.number = number
        self.payload_bytes = payload_bytes
        self.unflushed_bytes = unflushed_bytes
        """Payload of all that was in flight when it joined, its own included."""
        self.mended = mended
        """Entries that are whole again once the write is durable."""
        self.last_index = last_index
        """Entries up to here are durable once the write is; lowered when a later cut makes that untrue."""
        self.submitted_at = submitted_at


class WritesInFlight:
    """The writes of one node, the oldest first."""

    def __init__(self) -> None:
        self._writes: deque[InflightWrite] = deque()
        self.payload_bytes = 0
        """Of all of them."""

    def add(self, number: int, last_index: Index, now: int, mended: Sequence[LostEntry], payload_bytes: int) -> None:
        """Note a write that was handed out ``now`` (ms)."""
        self.payload_bytes += payload_bytes
        self._writes.append(InflightWrite(number, last_index, now, mended, payload_bytes, self.payload_bytes))

    def acknowledge(self, number: int) -> InflightWrite:
        """Return the oldest one, which is flushed.

        Raises:
            InvariantViolation: it is not ``number``.
        """
        if not self._writes or self._writes[0].number != number:
            expected = self._writes[0].number if self._writes else "none"
            raise InvariantViolation(f"write {number} acknowledged, but the oldest in flight is {expected}")
        write = self._writes.popleft()
        self.payload_bytes -= write.payload_bytes
        return write

    def cut(self, last_index: Index) -> None:
        """Note that nothing behind ``last_index`` is proven by what was handed out so far."""
        for write in self._writes:
            write.last_index = min(write.last_index, last_index)

    def mended(self) -> Iterator[LostEntry]:
        """Return the entries that will be whole again."""
        for write in self._writes:
            yield from write.mended

    def oldest(self) -> tuple[int, int] | None:
        """Return when the oldest one was handed out (ms), and the payload bytes that share the disk with it.

        Those before it count as well as those behind it: it waited for them. None when there is none.
        """
        if not self._writes:
            return None
        oldest = self._writes[0]
        return oldest.submitted_at, max(oldest.unflushed_bytes, self.payload_bytes)
