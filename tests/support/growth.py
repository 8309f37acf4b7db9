"""How processor time grows with the size of what is worked on: a ratio, which a busy machine leaves as it is."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Final

from durable_raft.server.process import keep_freed_memory

FACTOR: Final = 16
GROWTH_MAX: Final = FACTOR * 4
"""Linear work grows by ``FACTOR``, some more where memory is scarce, quadratic work by its square: between the two."""
ROUNDS: Final = 8
"""Measurements before work is called worse than linear: other work empties the caches, and only ever adds to a time."""


def require_linear(work: Callable[[int], object], size: int) -> None:
    """Require that ``work(size)`` takes about ``FACTOR`` times as long as the sixteenth part.

    Each size counts by the least time that it took so far; one round in which both were left alone is enough.

    Raises:
        AssertionError: it takes far longer in every round.
    """
    small = large = growth = float("inf")
    for _ in range(ROUNDS):
        small = min(small, _cpu_s(work, size // FACTOR))
        large = min(large, _cpu_s(work, size))
        growth = large / small
        if growth < GROWTH_MAX:
            return
    times = f"{size // FACTOR}: {small:.4f} s, {size}: {large:.4f} s of processor time"
    raise AssertionError(f"{FACTOR} times as much takes {growth:.0f} times as long ({times})")


def _cpu_s(work: Callable[[int], object], size: int) -> float:
    began = time.process_time()
    work(size)
    return time.process_time() - began


def require_even(work: Callable[[], Iterable[object]], share: float) -> None:
    """Require that no step of ``work()`` takes more than ``share`` of the processor time of all; the last may.

    Raises:
        AssertionError: one does in every round.
    """
    largest = float("inf")
    for _ in range(ROUNDS):
        times = list(_steps_s(work()))
        largest = min(largest, max(times[:-1]) / sum(times))
        if largest < share:
            return
    raise AssertionError(f"a step takes {largest:.2f} of the whole, at most {share:.2f} is right")


def require_even_as_in_a_node(work: Callable[[], Iterable[object]], share: float) -> None:
    """Require the same in a process of its own, with memory kept as a node keeps it; ``work`` is a module's function.

    In a heap as other tests have left it, a buffer that grows may have to be copied whole to where there is room.

    Raises:
        AssertionError: one step does in every round.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), keep_freed_memory) as fresh:
        fresh.submit(require_even, work, share).result()


def _steps_s(steps: Iterable[object]) -> Iterable[float]:
    each = iter(steps)
    while True:
        began = time.thread_time()
        try:
            next(each)
        except StopIteration:
            return
        yield time.thread_time() - began
