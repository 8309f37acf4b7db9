"""The latency watchdog: counts and logs what holds the event loop for longer than it may, and with what.

What counts is the processor time of the loop's own thread: on a busy machine a callback may take a second of wall time
and have done nothing wrong. The clock of that time is a system call, so it is read only when the time of day says that
it may be worth it: at most once a millisecond before a callback, and after one that took longer than the bound.

The loop is a ``WatchedLoop``, which lets every callback and every chunk of received bytes go through ``run``; no part
of the node knows of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from durable_raft.server.logs import event

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

_logger = logging.getLogger(__name__)

SLOW_S: Final = 0.010
"""Processor time of one callback from which on heartbeats suffer."""

SAMPLE_S: Final = 0.001
"""The processor time before a callback is known this well."""

SAY_S: Final = 1.0
"""Pause between two log lines about slow callbacks; the slowest since the last line is the one that is named."""


SAY_AT_ONCE_S: Final = 0.050
"""A callback that took so long is told of at once."""


class Watchdog:
    """Of one event loop; every method belongs to its thread."""

    def __init__(
        self,
        wall: Callable[[], float] = time.monotonic,
        processor: Callable[[], float] = time.thread_time,
    ) -> None:
        """Bind the clocks, which give seconds; nothing is noted before ``begin``."""
        self._wall, self._processor = wall, processor
        self._sampled_at = float("-inf")
        self._sampled = 0.0
        """Processor time at ``_sampled_at``."""
        self._said_at = float("-inf")
        self._unsaid = 0
        """Slow callbacks since the last line."""
        self._worst_s, self._worst = 0.0, ""
        """The slowest of those."""
        self._is_on = False
        self.slow_turns = 0
        """Callbacks that took longer than ``SLOW_S``."""
        self.slowest_s = 0.0
        """The longest of all."""

    def begin(self) -> None:
        """Note what is slow from now on: a start may take its time."""
        self._is_on = True
        self._sampled_at, self._sampled = self._wall(), self._processor()

    def run(self, callback: Callable[..., object], *args: Any) -> None:
        """Call ``callback``, and note it when it was slow."""
        began = self._wall()
        if began - self._sampled_at > SAMPLE_S:
            self._sampled_at, self._sampled = began, self._processor()
        try:
            callback(*args)
        finally:
            ended = self._wall()
            if ended - began > SLOW_S:
                self._look(ended, callback, args)

    def _look(self, ended: float, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        processor = self._processor()
        spent_s, self._sampled, self._sampled_at = processor - self._sampled, processor, ended
        if spent_s <= SLOW_S or not self._is_on:
            return
        self.slow_turns += 1
        self.slowest_s = max(self.slowest_s, spent_s)
        self._unsaid += 1
        if spent_s >= self._worst_s:
            size = len(args[0]) if args and isinstance(args[0], bytes) else None
            self._worst_s, self._worst = spent_s, _name(callback) if size is None else f"{_name(callback)}:{size}"
        if ended - self._said_at >= SAY_S or spent_s >= SAY_AT_ONCE_S:
            self._say(ended)

    def _say(self, now: float) -> None:
        event(
            _logger,
            logging.WARNING,
            "slow_turn",
            what=self._worst,
            processor_ms=round(self._worst_s * 1000, 1),
            turns=self._unsaid,
        )
        self._said_at, self._unsaid = now, 0
        self._worst_s, self._worst = 0.0, ""


def _name(callback: Callable[..., object]) -> str:
    """Return what a callback is called in the code."""
    inner = getattr(callback, "func", callback)  # of a functools.partial
    return str(getattr(inner, "__qualname__", type(inner).__name__))


def watched(base: type[AbstractEventLoop]) -> Callable[[Watchdog], AbstractEventLoop]:
    """Return what makes a loop of the kind ``base`` that a watchdog looks after."""

    class WatchedLoop(base):  # type: ignore[misc, valid-type]
        """Lets what it calls go through the watchdog."""

        def __init__(self, watchdog: Watchdog) -> None:
            super().__init__()
            self._watch = watchdog.run

        def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
            return super().call_soon(self._watch, callback, *args, context=context)

        def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
            return super().call_soon_threadsafe(self._watch, callback, *args, context=context)

        def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
            return super().call_at(when, self._watch, callback, *args, context=context)

        def call_later(self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
            return super().call_later(delay, self._watch, callback, *args, context=context)

        async def create_server(self, protocol_factory: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
            return await super().create_server(lambda: self._received_by(protocol_factory()), *args, **kwargs)

        async def create_connection(self, protocol_factory: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
            return await super().create_connection(lambda: self._received_by(protocol_factory()), *args, **kwargs)

        def _received_by(self, protocol: Any) -> Any:
            """Have what ``protocol`` receives go through the watchdog."""
            watch = self._watch
            for name in ("data_received", "buffer_updated"):
                received = getattr(protocol, name, None)
                if received is not None:
                    setattr(protocol, name, partial(watch, received))
            return protocol

    return WatchedLoop
