"""``python -m tests.coverage``: how much of each room its own tests execute, lines and branches, and that it stays so.

A room's own tests are those in the directory of its name: ``tests/raft`` for ``durable_raft/raft``. What only the tests
of a whole cluster reach does not count: a rule is tested where it stands, and its test says which rule it is.

The percentage is coverage.py's with branches: executed lines and branches of all there are. Processes that a test forks
are measured, those that it starts anew are not, nor what ended by a signal. What is left out says why beside it:
``# pragma: no cover - REASON``; there are no exclusions by pattern but coverage.py's own (``...``, TYPE_CHECKING).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

LIMITS: Final = {"server": 95.0, "storage": 95.0, "raft": 99.0, "kv": 99.0, "wire": 99.0}
"""Room -> the least percentage. A room that is well above its limit raises it. Those whose tests take longest come
first: measured last, one of them would be alone at the end."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the own tests of one room execute of it."""

    room: str
    statements: int
    statements_missed: int
    branches: int
    branches_missed: int
    percent: float
    missing: str
    """By file: lines and branches that were not executed."""
    failure: str
    """What pytest said, when a test failed; else empty."""

    @property
    def is_enough(self) -> bool:
        """Whether the tests passed and executed as much as the room's limit asks for."""
        return not self.failure and self.percent >= LIMITS[self.room]


def measure(room: str) -> Measured:
    """Run the own tests of ``room`` and return what they executed of it."""
    with tempfile.TemporaryDirectory(prefix="coverage-") as where:
        data = f"--data-file={where}/data"
        source = f"--source=durable_raft.{room}"
        tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{room}")
        code, said = _coverage("run", data, source, *tests)
        for step in (("combine", "-q", data), ("json", "-q", data, "-o", f"{where}/json")):
            step_code, step_said = _coverage(*step)
            if step_code:
                raise RuntimeError(f"coverage {step[0]} failed for {room}: {step_said}\n{said}")
        _, missing = _coverage("report", data, "-m", "--skip-covered")
        totals = json.loads(Path(where, "json").read_text())["totals"]
    return Measured(
        room,
        totals["num_statements"],
        totals["missing_lines"],
        totals["num_branches"],
        totals["missing_branches"],
        totals["percent_covered"],
        missing,
        said if code else "",
    )


def _coverage(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "coverage", *arguments],
        cwd=ROOT,
        env=os.environ | {"COVERAGE_RCFILE": str(ROOT / "pyproject.toml")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def table(found: Sequence[Measured]) -> str:
    """Return one line per room."""
    lines = ["room       lines  missed  branches  missed       %  at least"]
    lines += [
        f"{each.room:<8} {each.statements:>7} {each.statements_missed:>7} {each.branches:>9} {each.branches_missed:>7}"
        f" {each.percent:>7.2f} {LIMITS[each.room]:>9.2f}{'' if each.is_enough else '  <- not enough'}"
        for each in found
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Measure rooms, print the table, and return whether one of them is under its limit, or has a test that fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.coverage", description=__doc__.partition("\n")[0])
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help=f"of {', '.join(LIMITS)}; default: all")
    parser.add_argument("--missing", action="store_true", help="show every line and branch that is not executed")
    parser.add_argument("--jobs", type=int, default=1, help="rooms measured at one time")
    options = parser.parse_args(arguments)
    unknown = set(options.rooms) - set(LIMITS)
    if unknown:
        parser.error(f"no limit for {', '.join(sorted(unknown))}: expected rooms of {', '.join(LIMITS)}")
    with ThreadPoolExecutor(options.jobs) as pool:
        found = list(pool.map(measure, options.rooms or LIMITS))
    for each in found:
        if options.missing or not each.is_enough:
            print(each.missing)
        if each.failure:
            print(each.failure)
    print(table(found))
    return 0 if all(each.is_enough for each in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
