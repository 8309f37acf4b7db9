"""Whether turns of the nodes' event loops took long, as the nodes' watchdogs logged them.

The bound is for the node's own work. A virtual machine also charges its processes for what its host does: a page that
the host has to fetch first costs milliseconds, and was seen to make an idle turn 56 ms long while the other nodes of
the machine had theirs. That strikes once, and work strikes whenever it is done. So what counts is the second longest
turn with the same callback in one cluster, and a single one when it is far over the bound.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

TURN_MS_MAX: Final = 50.0
"""Processor time that a turn of a node's event loop may take: the shortest election timeout is three times as long."""
ONCE_MS_MAX: Final = 2 * TURN_MS_MAX
"""The same for what was seen once only: still shorter than the shortest election timeout."""

_TURN: Final = re.compile(r"event=slow_turn what=(\S+) processor_ms=(\S+)")


def slow_turns(logs: Iterable[str]) -> dict[str, list[float]]:
    """Return callback -> processor time of each turn that was told of, in milliseconds, the longest first."""
    turns: dict[str, list[float]] = defaultdict(list)
    for log in logs:
        for what, took in _TURN.findall(log):
            turns[what].append(float(took))
    return {what: sorted(took, reverse=True) for what, took in turns.items()}


def too_long(logs: Iterable[str]) -> str:
    """Return what held a loop for too long, in words; empty when nothing did.

    Args:
        logs: of all nodes of a cluster, each whole.
    """
    return ", ".join(
        f"{what} held a loop for {' and '.join(f'{each:g}' for each in took[:2])} ms"
        for what, took in slow_turns(logs).items()
        if took[0] > ONCE_MS_MAX or (min(took[:2]) > TURN_MS_MAX and len(took) > 1)
    )
