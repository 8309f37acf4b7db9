"""What each part of a node may hold in memory, who holds how much of it, and who holds the most.

A budget is cut into *shares*. A share knows its *holders*, such as connections, and counts what each of them holds; it
does not know what the bytes are. Who closes whom when a share is full is decided in eviction.py.

Every call but ``greediest`` takes the same time however many holders there are. A holder's bytes are noted as a whole,
once for each chunk or run, so that a lost release cannot add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

H = TypeVar("H")


class Share(Generic[H]):
    """One part of a node's memory."""

    __slots__ = ("_holders", "bytes_max", "closed", "held", "name", "peak")

    def __init__(self, name: str, bytes_max: int) -> None:
        self.name = name
        """What the bytes are, for operators."""
        self.bytes_max = bytes_max
        """At most so many bytes are meant to be held."""
        self.held = 0
        """Bytes that all holders hold together."""
        self.peak = 0
        """The most that was ever held."""
        self.closed = 0
        """Holders that were closed to make room, since the start."""
        self._holders: dict[H, int] = {}

    @property
    def is_over(self) -> bool:
        """Whether more is held than may be."""
        return self.held > self.bytes_max

    @property
    def holders(self) -> Mapping[H, int]:
        """Who holds how many bytes; nobody is named who holds none."""
        return self._holders

    def hold(self, holder: H, size: int) -> None:
        """Note that ``holder`` holds ``size`` bytes now, in place of what it held before."""
        held = self.held + size - self._holders.get(holder, 0)
        if size:
            self._holders[holder] = size
        else:
            self._holders.pop(holder, None)
        self.held = held
        if held > self.peak:
            self.peak = held

    def forget(self, holder: H) -> None:
        """Note that ``holder`` holds nothing any more."""
        self.held -= self._holders.pop(holder, 0)

    def greediest(self, rank: Callable[[H, int], Any]) -> H:
        """Return the holder of the highest ``rank(holder, bytes)``; raises ValueError when nobody holds anything."""
        return max(self._holders.items(), key=lambda item: rank(*item))[0]
