"""What is told of a soak: a line now and then, and its figures at the end."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from tests.soak.driver import NOT_ALONE, Driver
from tests.soak.load import Load
from tests.soak.watch import complaints, slow_turns

if TYPE_CHECKING:
    from tests.soak.soak import Soak

MIB: Final = 1 << 20
FILLING: Final = "full_disks"
"""While disks are full, writes are refused: pauses of that time are told apart."""


def progress(soak: Soak, seconds: float, since: float) -> str:
    """Return what happened since a time of the monotonic clock, in one line."""
    seen, load = soak.seen, soak.load
    pause_s = load.worst_pause_between(since, time.monotonic())
    memory = " ".join(f"{node_id}={held // MIB}MiB" for node_id, held in sorted(seen.most_memory.items()))
    words = [
        f"{seconds / 60:.1f} min: terms {seen.last_term - seen.first_term}",
        f"worst pause {pause_s:.2f} s (of all {load.worst_pause_s:.2f})",
        f"acknowledged {len(load.acknowledged)}",
        f"most memory {memory}",
        f"ended {len(seen.ends)}",
    ]
    if soak.driver is not None:
        struck = Counter[str]()
        for each in soak.driver.rounds:
            struck.update(each.struck if each.ended >= since else {})
        words.append("struck " + (" ".join(f"{name}={times}" for name, times in struck.items()) or "nothing"))
        words.append(f"faults {len(soak.driver.faults)}")
    return "; ".join(words)


def figures(soak: Soak) -> dict[str, Any]:
    """Return the figures of a soak that is over; plain values that JSON can hold."""
    seen, load = soak.seen, soak.load
    found: dict[str, Any] = {
        "seconds": round(soak.seconds, 1),
        "terms_used": seen.last_term - seen.first_term,
        "leaders": seen.leaders,
        "acknowledged": len(load.acknowledged),
        "writes_per_second": round(len(load.acknowledged) / soak.seconds, 1),
        "outcomes": dict(load.outcomes),
        "worst_pause_s": round(load.worst_pause_s, 3),
        "longest_timeout_ms": seen.longest_timeout_ms,
        "most_memory_bytes": max(seen.most_memory.values()),
        "ends": len(seen.ends),
        "slow_turns": slow_turns(soak.cluster),
        "history": soak.history.figures(),
        "complaints": complaints(soak.cluster),
    }
    if soak.driver is not None and soak.ground is not None:
        found["memory_max_bytes"] = soak.ground.memory_max
        found["worst_pause_with_room_s"] = round(_pause_with_room(soak.driver, load), 3)
        found["troubles"] = _troubles(soak.driver, load)
        found["missed"] = [each for played in soak.driver.rounds for each in played.missed]
    return found


def _pause_with_room(driver: Driver, load: Load) -> float:
    """Return the longest pause that no full disk can explain."""
    full = [(each.began, each.ended) for each in driver.rounds if FILLING in each.names]
    return max(
        (to - since for since, to in load.pauses if not any(since <= ended and to >= began for began, ended in full)),
        default=0.0,
    )


def _troubles(driver: Driver, load: Load) -> dict[str, Any]:
    """Return for each trouble how often it was played and struck; terms and pauses are of the rounds it had alone."""
    struck, found = driver.struck(), {}
    for name in [*struck, NOT_ALONE]:
        alone = [each for each in driver.rounds if each.title == name]
        found[name] = {
            "rounds": len(alone) if name == NOT_ALONE else sum(name in each.names for each in driver.rounds),
            "struck": struck[name],
            "alone": len(alone),
            "seconds": round(sum(each.ended - each.began for each in alone), 1),
            "terms": sum(each.terms for each in alone),
            "worst_pause_s": round(max((load.worst_pause_between(r.began, r.ended) for r in alone), default=0.0), 3),
        }
    return found
