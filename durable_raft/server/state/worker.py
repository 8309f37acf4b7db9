"""A thread that does what may take long, one piece of work after the other, and tells the event loop when it is done.

Checkpoints and snapshots share one: both write the KV state, and neither may run while the other does.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

T = TypeVar("T")

Job = Callable[[], None]


class Worker(Protocol):
    """Does one piece of work after the other, beside the event loop; every method is called from the loop."""

    def start(self) -> None:
        """Begin to work."""

    def submit(self, work: Callable[[], T], done: Callable[[T], None]) -> None:
        """Have ``work`` done after all that was submitted before, and ``done`` called with its result on the loop."""

    def settle(self) -> None:
        """Wait until all that was submitted is done; what it was to be followed by comes later, on the event loop."""

    def stop(self, timeout_s: float) -> bool:
        """Finish what was submitted and end; return whether it ended in time."""


class ThreadWorker:
    """A ``Worker`` that is a thread."""

    def __init__(
        self, name: str, call_soon_threadsafe: Callable[[Job], object], on_failed: Callable[[BaseException], None]
    ) -> None:
        """Bind the parts.

        Args:
            name: of the thread.
            call_soon_threadsafe: has something called on the event loop.
            on_failed: is called there with whatever a piece of work raised.
        """
        self._call_soon_threadsafe = call_soon_threadsafe
        self._on_failed = on_failed
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, work: Callable[[], T], done: Callable[[T], None]) -> None:
        """Have ``work`` done after all that was submitted before, and ``done`` called with its result."""

        def job() -> None:
            result = work()
            self._call_soon_threadsafe(partial(done, result))

        self._queue.put(job)

    def settle(self) -> None:
        """Wait until all that was submitted is done; what it was to be followed by comes later, on the event loop."""
        if self._thread.is_alive():
            idle = threading.Event()
            self._queue.put(idle.set)
            idle.wait()

    def stop(self, timeout_s: float) -> bool:
        """Finish what was submitted and end the thread; return whether it ended in time."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                job()
            except BaseException as error:  # whatever it is, the loop must learn of it
                self._call_soon_threadsafe(partial(self._on_failed, error))
                return
