"""Makes room in a full share of memory: the greediest holder is closed, one after the other, until the rest fits.

Redis does the same with its clients (``maxmemory-clients``). Refusing the newest would help whoever came first and does
not go on: fifty clients that have stopped in the middle of a request would lock all others out for good. So whoever
stands still goes first, and among equals whoever holds most.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar

from durable_raft.server.budget import Share
from durable_raft.server.logs import event

ROOM: Final = 8
"""A full share is emptied by one part in so many, so that the search for the greediest is not made for every byte."""

QUIET_S: Final = 1.0
"""At most one line of the log in so many seconds tells of a full share."""

_logger = logging.getLogger(__name__)


class Holder(Protocol):
    """A connection, as far as the memory that it holds is concerned."""

    @property
    def name(self) -> str:
        """What the log calls it: an address, mostly."""

    def evict(self, reason: str) -> None:
        """Let go of everything and end; tell the other end ``reason`` where that costs no memory."""


K = TypeVar("K", bound=Holder)


class Evictor(Generic[K]):
    """Keeps one share within its bound."""

    def __init__(
        self,
        share: Share[K],
        monotonic: Callable[[], float],
        count: Callable[[K], int] | None = None,
        rank: Callable[[K, int], Any] = lambda _, size: size,
    ) -> None:
        """Bind the share.

        Args:
            share: of memory.
            monotonic: seconds; closed holders are logged at most once in ``QUIET_S``.
            count: returns what a holder holds now; None when the share is always told at once.
            rank: whoever ranks highest is closed first; by default whoever holds most.
        """
        self.share = share
        self._monotonic = monotonic
        self._count = count
        self._rank = rank
        self._said_at = float("-inf")
        self._said_closed = 0
        """``share.closed`` when it was last said."""

    def hold(self, holder: K, size: int) -> None:
        """Note what ``holder`` holds now, and make room if that is too much: ``holder`` itself may be closed."""
        self.share.hold(holder, size)
        if self.share.is_over:
            self._make_room()

    def _make_room(self) -> None:
        share = self.share
        if self._count is not None:
            for holder in list(share.holders):
                share.hold(holder, self._count(holder))
        if not share.is_over:
            return
        while share.held > share.bytes_max - share.bytes_max // ROOM:
            self._evict(share.greediest(self._rank))

    def _evict(self, holder: K) -> None:
        share = self.share
        size, held = share.holders[holder], share.held
        share.forget(holder)
        share.closed += 1
        self._say(holder, size, held)
        holder.evict(f"the node's memory for {share.name} is full: {held} bytes of {share.bytes_max}")

    def _say(self, holder: K, size: int, held: int) -> None:
        """Log who is closed: all of a flood would fill the log."""
        share, now = self.share, self._monotonic()
        if now - self._said_at < QUIET_S:
            return
        closed, self._said_closed, self._said_at = share.closed - self._said_closed, share.closed, now
        event(
            _logger,
            logging.WARNING,
            "memory_share_full",
            share=share.name,
            held_bytes=held,
            max_bytes=share.bytes_max,
            closed=holder.name,
            freed_bytes=size,
            closed_since=closed,
        )
