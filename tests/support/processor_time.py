"""A pytest plugin that tells how much processor time the tests took, with all processes that they started.

::

    .venv/bin/pytest -p tests.support.processor_time

The table at the end has a line for each folder and for each test that took more than five seconds.
"""

from __future__ import annotations

import os
import resource
from collections import defaultdict
from collections.abc import Generator
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Final

import pytest

SHOWN_S: Final = 5.0
TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")

_TESTS: Final[dict[str, float]] = defaultdict(float)
"""Test -> seconds."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Count what a test takes, its fixtures included."""
    before = _spent_s()
    result = yield
    _TESTS[item.nodeid] += _spent_s() - before
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    terminalreporter.section("processor time")
    folders: dict[str, float] = defaultdict(float)
    for test, seconds in _TESTS.items():
        folders["/".join(test.partition("::")[0].split("/")[:2])] += seconds
    folders["all, with pytest's own"] = _spent_s()
    for name, seconds in sorted(folders.items(), key=itemgetter(1), reverse=True):
        terminalreporter.write_line(f"{seconds:8.1f} s  {name}")
    for test, seconds in sorted(_TESTS.items(), key=itemgetter(1), reverse=True):
        if seconds > SHOWN_S:
            terminalreporter.write_line(f"{seconds:8.1f} s  {test}")


def _spent_s() -> float:
    """Return the processor time of this process, of all that have ended under it, and of all that still run."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime + sum(map(_running_s, _children(os.getpid())))


def _running_s(process_id: int) -> float:
    """Return the same of a process that runs (proc(5): utime, stime, cutime, cstime)."""
    seconds = sum(map(_running_s, _children(process_id)))
    with suppress(OSError):
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
        seconds += sum(map(int, fields[11:15])) / TICKS_A_SECOND
    return seconds


def _children(process_id: int) -> list[int]:
    found: list[int] = []
    for thread in Path(f"/proc/{process_id}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, thread.read_text().split())
    return found
