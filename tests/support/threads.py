"""Threads that work while a block runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support.waiting import WAIT_S


@contextmanager
def working(work: Callable[[int], object], count: int, stop: threading.Event) -> Iterator[list[threading.Thread]]:
    """Run ``work(number)`` in ``count`` threads while the block runs, then set ``stop`` and wait for their ends.

    Yields the threads: whoever wants to be sure looks whether one is alive afterwards.
    """
    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        stop.set()
        for thread in threads:
            thread.join(WAIT_S)
