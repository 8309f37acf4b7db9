"""Latency quantiles over the newest samples, for INFO."""

from __future__ import annotations

from collections import deque

SAMPLES_MAX = 1024


class LatencyRing:
    """The newest samples of one duration."""

    def __init__(self) -> None:
        self._samples_us: deque[int] = deque(maxlen=SAMPLES_MAX)

    def add_sample(self, seconds: float) -> None:
        """Note one duration."""
        self._samples_us.append(int(seconds * 1_000_000))

    def quantiles_us(self) -> tuple[int, int, int]:
        """Return (p50, p99, max) of the newest samples in microseconds; zeros when there are none."""
        if not self._samples_us:
            return 0, 0, 0
        ordered = sorted(self._samples_us)
        count = len(ordered)
        return ordered[count // 2], ordered[min(count - 1, count * 99 // 100)], ordered[-1]
