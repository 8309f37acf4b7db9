"""How processor time grows with the size of what is worked on: a ratio, which a busy machine leaves as it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

FACTOR: Final = 16
GROWTH_MAX: Final = FACTOR * 4
"""Linear work grows by ``FACTOR``, some more where memory is scarce, quadratic work by its square: between the two."""
TRIES: Final = 3


def require_linear(work: Callable[[int], object], size: int) -> None:
    """Require that ``work(size)`` takes about ``FACTOR`` times as long as the sixteenth part.

    Raises:
        AssertionError: it takes far longer.
    """
    small = min(_cpu_s(work, size // FACTOR) for _ in range(TRIES))
    large = min(_cpu_s(work, size) for _ in range(TRIES))
    growth = large / small
    print(f"{size // FACTOR}: {small:.4f} s, {size}: {large:.4f} s of processor time, {growth:.1f} times as much")
    assert growth < GROWTH_MAX, f"{FACTOR} times as much takes {growth:.0f} times as long"


def _cpu_s(work: Callable[[int], object], size: int) -> float:
    began = time.process_time()
    work(size)
    return time.process_time() - began
