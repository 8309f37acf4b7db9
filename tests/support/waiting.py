"""Waiting for a condition: long enough for a busy machine, and a wait in vain says what it waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

WAIT_S: Final = 120.0
"""Deadline of a wait unless a test says otherwise: far above what any of it takes, far below pytest's own limit.

No test measures by it: a machine that is a hundred times slower must not fail one.
"""
PAUSES_S: Final = (0.005, 0.1)
"""The first pause between two looks, and the longest: each is half as long again as the one before."""


def wait_until(
    condition: Callable[[], bool],
    what: str,
    timeout_s: float = WAIT_S,
    *,
    explain: Callable[[str], str] = str,
) -> None:
    """Wait until ``condition`` holds.

    Args:
        condition: asked again and again.
        what: the condition in words.
        timeout_s: how long, in seconds.
        explain: makes the error's text of the first line of it, and adds what helps (the ends of logs).

    Raises:
        AssertionError: it did not hold in time.
    """
    deadline = time.monotonic() + timeout_s
    pause_s, longest_s = PAUSES_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(explain(f"waited {timeout_s:g} s in vain for {what}"))
        time.sleep(pause_s)
        pause_s = min(longest_s, pause_s * 1.5)
