"""A journal's file on a disk that is not there: what was not flushed may be torn, reordered or lost."""

from __future__ import annotations

import random
from collections.abc import Collection

from durable_raft.storage.log.journal_format import SECTOR_BYTES, Header, pack_header


class MemoryJournalFile:
    """A ``JournalFile``; it outlives those who open it."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.durable = bytearray(pack_header(header) + bytes(header.ring_bytes))
        self._cached = bytearray(self.durable)
        self.unflushed: list[tuple[int, bytes]] = []
        """Writes since the last flush, in order."""
        self.writes = self.flushes = 0
        self.fails: OSError | None = None
        """What the next flush raises."""

    def read(self) -> bytes:
        """Return what a process sees."""
        return bytes(self._cached)

    def allocate(self) -> None:
        """All of it is there."""

    def write(self, offset: int, data: bytes) -> None:
        """Change the page cache."""
        assert offset + len(data) <= len(self._cached)
        self._cached[offset : offset + len(data)] = data
        self.unflushed.append((offset, data))
        self.writes += 1

    def flush(self) -> None:
        """Make everything durable."""
        if self.fails is not None:
            raise self.fails
        for offset, data in self.unflushed:
            self.durable[offset : offset + len(data)] = data
        self.unflushed = []
        self.flushes += 1

    def close(self) -> None:
        """The bytes stay."""

    is_written_in_place = True

    def sectors(self) -> list[tuple[int, bytes]]:
        """Return (offset, bytes) of every sector that is not flushed, in order."""
        return [
            (offset + at, data[at : at + SECTOR_BYTES])
            for offset, data in self.unflushed
            for at in range(0, len(data), SECTOR_BYTES)
        ]

    def cut_power(self, kept: Collection[int]) -> None:
        """Keep, of the sectors that are not flushed, those with the numbers in ``kept``."""
        self.write_back(kept)
        self.unflushed = []
        self._cached = bytearray(self.durable)

    def write_back(self, kept: Collection[int]) -> None:
        """Have the sectors with the numbers in ``kept`` on the disk before they are flushed."""
        for number, (offset, data) in enumerate(self.sectors()):
            if number in kept:
                self.durable[offset : offset + len(data)] = data

    def damage(self, offset: int, data: bytes) -> None:
        """Have other bytes on the disk."""
        self.durable[offset : offset + len(data)] = data
        self._cached[offset : offset + len(data)] = data


class MemoryJournalPlace:
    """A ``JournalPlace``."""

    def __init__(self) -> None:
        self.file: MemoryJournalFile | None = None

    def create(self, header: Header) -> None:
        """Make an empty journal, atomically."""
        self.file = MemoryJournalFile(header)

    def open(self) -> MemoryJournalFile:
        """Return the file."""
        if self.file is None:
            raise FileNotFoundError("no journal")
        return self.file

    def remove(self) -> None:
        """Forget the file."""
        self.file = None


def some_of(count: int, rng: random.Random) -> set[int]:
    """Return which of so many sectors reached the disk: none, all, or any."""
    share = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
    return {number for number in range(count) if rng.random() < share}
