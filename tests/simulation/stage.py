"""Whose turn it is in the simulation, and what a node sees of clocks and of its event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tests.simulation.process import Process

Callback = Callable[..., object]


class Timer:
    """What ``call_at`` returns."""

    __slots__ = ("_args", "_callback")

    def __init__(self, callback: Callback, args: tuple[Any, ...]) -> None:
        self._callback: Callback | None = callback
        self._args = args

    def cancel(self) -> None:
        """Never call."""
        self._callback = None

    def fire(self) -> None:
        """Call unless cancelled."""
        if self._callback is not None:
            self._callback(*self._args)


class SimLoop:
    """The part of an event loop that the node uses."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def call_soon(self, callback: Callback, *args: object) -> None:
        """Run in this turn or, on a busy loop, a little later."""
        process = self._process
        lag = process.site.loop_lag
        if lag:
            world = process.world
            world.at(world.now + int(process.rng.random() * lag), process, callback, *args)
        else:
            process.soon.append((callback, args))

    def call_soon_threadsafe(self, callback: Callback, *args: object) -> None:
        """Run in this turn."""
        self._process.soon.append((callback, args))

    def call_at(self, when_s: float, callback: Callback, *args: object) -> Timer:
        """Run at a time of the node's own monotonic clock."""
        timer = Timer(callback, args)
        world = self._process.world
        world.at(max(world.now, self._process.site.clock.world_time(when_s)), self._process, timer.fire)
        return timer

    def call_later(self, delay_s: float, callback: Callback, *args: object) -> Timer:
        """Run after a time by the node's own monotonic clock."""
        return self.call_at(self._process.site.clock.monotonic() + delay_s, callback, *args)


class _Stage:
    """Whose turn it is: the replaced clocks and constructors ask it."""

    process: Process

    def monotonic(self) -> float:
        """Return the running node's monotonic clock in seconds."""
        return self.process.site.clock.monotonic()

    def time_ns(self) -> int:
        """Return the running node's time of day."""
        return self.process.site.clock.time_of_day_ns()

    def perf_counter(self) -> float:
        """Return the running node's monotonic clock in seconds."""
        return self.process.site.clock.monotonic()

    def gmtime(self) -> tuple[int, ...]:
        """Return no date: names of files are nobody's business here."""
        return ()

    def strftime(self, form: str, when: tuple[int, ...]) -> str:
        """Return the form itself."""
        del when
        return form

    def sleep(self, seconds: float) -> None:
        """Take no time: whoever rests on a thread of its own keeps nobody waiting."""

    def get_running_loop(self) -> SimLoop:
        """Return the running node's loop."""
        return SimLoop(self.process)


stage_now: Final = _Stage()
