"""What a load's clients saw of each step: pauses, latencies, errors."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from tests.moves.load import Load, Write

MS: Final = 1000.0


@dataclass(slots=True)
class Played:
    """One action, from its beginning until the writes that are waited for behind it were acknowledged."""

    what: str
    began: float
    """By the monotonic clock, as the others."""
    done: float
    """When whoever ordered it was told that it is complete."""
    ended: float


@dataclass(slots=True)
class Step:
    """A step of one system."""

    name: str
    actions: list[Played] = field(default_factory=list)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the least value that ``share`` of all values do not exceed; 0 when there is none."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)] if ordered else 0.0


def worst_pause_s(acknowledged: Sequence[float], began: float, ended: float) -> float:
    """Return the longest time between two times in which nothing was acknowledged to anybody.

    Args:
        acknowledged: when writes were, in order.
        began: a pause that began earlier counts from here.
        ended: and one that ends later up to here.
    """
    inside = acknowledged[bisect_right(acknowledged, began) : bisect_left(acknowledged, ended)]
    return max(later - earlier for earlier, later in pairwise([began, *inside, ended]))


def of_step(step: Step, load: Load) -> dict[str, Any]:
    """Return the figures of a step; plain values that JSON can hold. The clients must have ended."""
    acknowledged = load.acknowledgements()
    actions = [_of_action(action, acknowledged, load.writes) for action in step.actions]
    latencies = [each for action in step.actions for each in _latencies_ms(action, load.writes)]
    return {
        "actions": len(actions),
        "seconds": round(sum(action.done - action.began for action in step.actions), 3),
        "writes": len(latencies),
        "p50_ms": round(percentile(latencies, 0.5), 2),
        "p99_ms": round(percentile(latencies, 0.99), 2),
        "slowest_ms": round(max(latencies, default=0.0), 2),
        "worst_pause_ms": max(action["pause_ms"] for action in actions),
        "shown": _errors(step, load, is_shown=True),
        "handled": _errors(step, load, is_shown=False),
        "each": actions,
    }


def _of_action(action: Played, acknowledged: Sequence[float], writes: Sequence[Write]) -> dict[str, Any]:
    return {
        "what": action.what,
        "seconds": round(action.done - action.began, 3),
        "pause_ms": round(MS * worst_pause_s(acknowledged, action.began, action.ended), 2),
        "slowest_ms": round(max(_latencies_ms(action, writes), default=0.0), 2),
    }


def _latencies_ms(action: Played, writes: Sequence[Write]) -> list[float]:
    """Return how long the writes took that were due meanwhile."""
    return [MS * (write.answered - write.due) for write in writes if action.began <= write.due < action.ended]


def _errors(step: Step, load: Load, *, is_shown: bool) -> dict[str, int]:
    return dict(
        Counter(
            error.kind
            for error in load.errors
            for action in step.actions
            if error.is_shown == is_shown and action.began <= error.at < action.ended
        )
    )
