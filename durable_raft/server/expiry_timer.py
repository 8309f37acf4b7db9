"""The timer of a leader that has to propose an entry when a key's time is up, though nobody writes."""

from __future__ import annotations

from collections.abc import Callable

from durable_raft.server.clock import Loop, Timer

LOOK_AGAIN_S = 1.0
"""Looked at again after this at the latest: the cluster time may run a little faster than the timer."""


class ExpiryTimer:
    """Calls ``act`` when the next deadline may have come; ``act`` looks itself, and arms the timer again."""

    def __init__(self, loop: Loop, act: Callable[[], object]) -> None:
        self._loop = loop
        self._act = act
        self._timer: Timer | None = None

    def arm(self, deadline_ms: int | None, now_ms: Callable[[], int | None]) -> None:
        """Ring at ``deadline_ms``, unless the timer is set already or the cluster time, ``now_ms``, is not known."""
        if deadline_ms is None or self._timer is not None or (time_ms := now_ms()) is None:
            return
        delay_s = max(0.0, (deadline_ms - time_ms) / 1000)
        self._timer = self._loop.call_later(min(delay_s, LOOK_AGAIN_S) + 0.001, self._ring)

    def cancel(self) -> None:
        """Never ring."""
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self) -> None:
        self._timer = None
        self._act()
