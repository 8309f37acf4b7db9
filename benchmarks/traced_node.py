"""A node that notes when it reaches each step of a write; started by benchmarks/steps.py as durable-raft is.

Usage: ``python -m benchmarks.traced_node FILE serve ...``. The steps are the named points at which tests kill a node
(server/crash_points.py) and the arrival of bytes. At the end FILE holds what was noted, one JSON array of
``[name, ns]``, the newest ``NOTES_MAX`` of them, in the monotonic clock that all processes of a machine share.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from durable_raft.cli.main import main
from durable_raft.server import clients, hearing
from durable_raft.server.crash_points import CrashPoints

NOTES_MAX: Final = 1_000_000

_notes: deque[tuple[str, int]] = deque(maxlen=NOTES_MAX)


def _note(name: str) -> None:
    _notes.append((name, time.perf_counter_ns()))


def _noting(name: str, method: Callable[[Any, bytes], None]) -> Callable[[Any, bytes], None]:
    def noted(self: Any, data: bytes) -> None:
        _note(name)
        method(self, data)

    return noted


def _reach(self: CrashPoints, name: str) -> None:
    del self
    _note(name)


def _trace() -> None:
    CrashPoints.reach = _reach  # type: ignore[method-assign]
    for name, owner in (("client", clients.Connection), ("peer", hearing.Accepted)):
        setattr(owner, "data_received", _noting(name, owner.data_received))  # noqa: B010 - mypy refuses it otherwise


if __name__ == "__main__":
    path = Path(sys.argv[1])
    del sys.argv[1]
    _trace()
    try:
        main(prog_name="durable-raft")
    finally:
        path.write_text(json.dumps(list(_notes)))
