"""How processor time grows with the size of what is worked on: a ratio, which a busy machine leaves as it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

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
