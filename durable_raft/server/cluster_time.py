"""How the cluster time advances: by a monotonic clock, a little faster or slower towards the agreed time of day.

It never jumps and never goes back. Whatever the clocks say, it runs between 0.9 and 1.1 times as fast as real time, so
a key's time to live is right within a tenth. An hour's difference takes ten hours to go, and is logged (timekeeper.py).

Times are milliseconds: ``now_ms`` of this process's monotonic clock, all others since the Unix epoch.
"""

from __future__ import annotations

from typing import Final

PACE_CHANGE_MAX: Final = 0.1
"""How much faster or slower than real time the cluster time may run."""

CLOSE_MS: Final = 1000
"""A small difference is closed within about this time."""

STEER_LIFE_MS: Final = 1000
"""How long a pace is kept unless it is confirmed; without news the time advances as the monotonic clock does."""

TIME_MS_MAX: Final = 253_402_300_799_999
"""The end of the year 9999: no sum with a deadline overflows before it, and no frame refuses it."""


class ClusterTime:
    """The cluster time as one node knows it; without a first value it is not known."""

    def __init__(self) -> None:
        self.is_known = False
        self.is_certain = False
        """Whether it is known, and not only from an answer that was long under way: then it may be as far behind."""
        self._base_ms = 0.0
        self._at_ms = 0
        self._pace_change = 0.0

    def set(self, time_ms: int, now_ms: int, *, is_certain: bool = True) -> None:
        """Know that it is ``time_ms`` now, or a little later if that is not certain."""
        self.is_known, self.is_certain = True, is_certain
        self._base_ms, self._at_ms, self._pace_change = float(time_ms), now_ms, 0.0

    def forget(self) -> None:
        """Know the time no longer."""
        self.is_known = self.is_certain = False

    def time_ms(self, now_ms: int) -> int:
        """Return the cluster time; it does not go back from one call to the next, but for ``set``."""
        return int(self._exact_ms(now_ms))

    def steer(self, now_ms: int, agreed_ms: int | None) -> None:
        """Choose the pace for the next moment: towards ``agreed_ms``, or real time's when there is no such time."""
        exact_ms = self._exact_ms(now_ms)
        self._base_ms, self._at_ms, self._pace_change = exact_ms, now_ms, 0.0
        if agreed_ms is not None:
            wanted = (agreed_ms - exact_ms) / CLOSE_MS
            self._pace_change = max(-PACE_CHANGE_MAX, min(PACE_CHANGE_MAX, wanted))

    def _exact_ms(self, now_ms: int) -> float:
        elapsed_ms = max(0, now_ms - self._at_ms)
        steered_ms = self._pace_change * min(elapsed_ms, STEER_LIFE_MS)
        return min(self._base_ms + elapsed_ms + steered_ms, max(self._base_ms, float(TIME_MS_MAX)))
