"""Time as an argument: the clocks and the loop that the parts of a node are given, and those of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol


class Clock(Protocol):
    """What tells the time; may be read from any thread."""

    def monotonic(self) -> float:
        """Return seconds that never go back; only differences mean something."""

    def time_of_day_ns(self) -> int:
        """Return ns since the Unix epoch; may jump."""

    def sleep(self, seconds: float) -> None:
        """Keep the calling thread waiting; never called on the event loop."""


class SystemClock:
    """This machine's clocks. uvloop's own time stands still during a turn of the loop, so it is not used."""

    monotonic = staticmethod(time.monotonic)
    time_of_day_ns = staticmethod(time.time_ns)
    sleep = staticmethod(time.sleep)


class SkewedClock(SystemClock):
    """For tests: a time of day that is wrong by as many seconds as a file says, which may change at any time."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def time_of_day_ns(self) -> int:
        """Return the time of day, and what the file adds to it."""
        return time.time_ns() + round(float(self._file.read_text() or 0) * 1e9)


def clock_from_environment(environment: Mapping[str, str]) -> Clock:
    """Return this machine's clocks; ``DURABLE_RAFT_CLOCK_SKEW`` names the file of a ``SkewedClock``."""
    file = environment.get("DURABLE_RAFT_CLOCK_SKEW")
    return SkewedClock(Path(file)) if file else SystemClock()


class Timer(Protocol):
    """What ``Loop.call_at`` returns."""

    def cancel(self) -> None:
        """Never call."""


class Loop(Protocol):
    """The part of an event loop that the parts of a node use; asyncio's loops are of this kind."""

    def call_soon(self, callback: Callable[..., object], /, *args: Any) -> object:
        """Call in the loop's next turn."""

    def call_soon_threadsafe(self, callback: Callable[..., object], /, *args: Any) -> object:
        """The same, from another thread."""

    def call_at(self, when: float, callback: Callable[..., object], /, *args: Any) -> Timer:
        """Call when ``Clock.monotonic`` shows ``when``."""

    def call_later(self, delay: float, callback: Callable[..., object], /, *args: Any) -> Timer:
        """Call after ``delay`` seconds."""
