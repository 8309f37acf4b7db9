"""What has begun to come in and is not complete: counted as memory, and ended when it does not go on.

A client that sends 40 of 60 MB and falls silent holds 40 MB for as long as its socket lives. So whatever is half sent
has to go on: within every timeout at least ``PROGRESS_BYTES`` more of it come in, or its end. A slow client is not
cut off by that, and one that is idle between two requests is not meant at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

from durable_raft.server.budget import Share
from durable_raft.server.eviction import Evictor, Holder
from durable_raft.server.logs import event

PROGRESS_BYTES: Final = 16 << 10
"""What must come in within a timeout, unless the request's end does."""

STALLED_S: Final = 1.0
"""Whoever has not made that progress for so long is closed first when the share is full."""

_logger = logging.getLogger(__name__)


class Sender(Holder, Protocol):
    """A connection that sends."""

    @property
    def is_kept_waiting(self) -> bool:
        """Whether it cannot go on, because this node does not read from it at the moment."""


class _Mark:
    """How much was there when it last went on, and when that was."""

    __slots__ = ("at", "size")

    def __init__(self, at: float, size: int) -> None:
        self.at = at
        self.size = size


class HalfSent:
    """Everything of one kind, such as requests, that is half sent to one node; belongs to the event loop."""

    def __init__(self, share: Share[Sender], timeout_s: float, monotonic: Callable[[], float]) -> None:
        """Count in ``share``; seconds are those of ``monotonic``."""
        self._evictor = Evictor(share, monotonic, rank=self._rank)
        self.share = share
        self._timeout_s = timeout_s
        self._monotonic = monotonic
        self._marks: dict[Sender, _Mark] = {}
        self.timed_out = 0
        """Ended because they did not go on, since the start."""

    def note(self, sender: Sender, size: int, *, is_new: bool) -> None:
        """Note after each chunk what ``sender`` has here that is not complete; it may be closed by that.

        Args:
            sender: whose it is.
            size: bytes of memory; 0: nothing is half sent.
            is_new: whether something was completed with this chunk.
        """
        mark = self._marks.get(sender)
        if mark is None:
            if size:
                self._marks[sender] = _Mark(self._monotonic(), size)
                self._evictor.hold(sender, size)
        elif not size:
            self.forget(sender)
        else:
            if is_new or size >= mark.size + PROGRESS_BYTES:
                mark.at, mark.size = self._monotonic(), size
            self._evictor.hold(sender, size)

    def forget(self, sender: Sender) -> None:
        """Note that ``sender`` holds nothing any more, or is gone."""
        if self._marks.pop(sender, None) is not None:
            self.share.forget(sender)

    def expire(self) -> None:
        """End what has not gone on for the timeout."""
        now = self._monotonic()
        for sender, mark in list(self._marks.items()):
            if sender not in self.share.holders:
                del self._marks[sender]
            elif sender.is_kept_waiting:
                mark.at = now
            elif now - mark.at > self._timeout_s:
                self._end(sender)

    def _end(self, sender: Sender) -> None:
        size = self.share.holders.get(sender, 0)
        self.forget(sender)
        self.timed_out += 1
        event(
            _logger,
            logging.WARNING,
            "half_sent_timeout",
            share=self.share.name,
            closed=sender.name,
            freed_bytes=size,
            timeout_s=self._timeout_s,
        )
        sender.evict(f"unfinished: less than {PROGRESS_BYTES} bytes more came within {self._timeout_s:g} s")

    def _rank(self, holder: Sender, size: int) -> tuple[bool, int]:
        mark = self._marks.get(holder)
        return mark is not None and self._monotonic() - mark.at >= STALLED_S, size
