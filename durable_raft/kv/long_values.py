"""Long values in pieces: what grows at its end is neither copied for it nor looked at again."""

from __future__ import annotations

from typing import Final

TAIL_BYTES: Final = 1 << 16
"""The last piece grows by copying up to here: microseconds, and few pieces."""


class LongValue:
    """A byte string that does not change, in pieces that it shares with those it was made of and those made of it."""

    __slots__ = ("_head", "_head_count", "_length", "_tail")

    def __init__(self, head: list[bytes], head_count: int, tail: bytes, length: int) -> None:
        self._head = head
        """Whole pieces; longer values may have added theirs behind the first ``head_count``."""
        self._head_count = head_count
        self._tail = tail
        self._length = length

    @classmethod
    def of(cls, value: bytes) -> LongValue:
        """Return a value of one piece."""
        return cls([value], 1, b"", len(value))

    def __len__(self) -> int:
        return self._length

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (bytes, LongValue)):
            return NotImplemented
        return len(self) == len(other) and bytes(self) == bytes(other)

    __hash__ = None  # type: ignore[assignment]

    def pieces(self) -> list[bytes]:
        """Return what it is put together from."""
        pieces = self._head[: self._head_count]
        if self._tail:
            pieces.append(self._tail)
        return pieces

    def append(self, suffix: bytes) -> LongValue:
        """Return this value with ``suffix`` behind it; takes the same time however long the value is."""
        length = self._length + len(suffix)
        tail = self._tail + suffix if self._tail else suffix
        if len(tail) < TAIL_BYTES:
            return LongValue(self._head, self._head_count, tail, length)
        head = self._head
        if len(head) > self._head_count:
            # Something else was put behind these pieces before.
            head = head[: self._head_count]
        head.append(tail)
        return LongValue(head, len(head), b"", length)


Value = bytes | LongValue
"""What is kept of a key: on the disk always one byte string."""
