"""The fault matrix: EIO and ENOSPC at the n-th call of every write and flush, for all n of a short workload.

::

    python -m tests.fault_matrix                     every n of every call: some minutes
    python -m tests.fault_matrix --sample 3          about so many n of each
    python -m tests.fault_matrix --log-commit journal    the same with the journal in front of LMDB
    python -m tests.fault_matrix --json FILE         leave the figures in FILE (tests/results)
    python -m tests.fault_matrix --call fdatasync --error EIO --number 17

The table says for each call, error and place what the node did and how often. In every cell the node must end with a
documented exit code or go on, must not hang, and after a restart hold all that it had acknowledged.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from tests.fault_matrix.cell import Cell, CellFailed, Outcome
from tests.results import record

MODULE: Final = "tests.fault_matrix"
CALLS: Final = ("pwrite64", "writev", "fdatasync", "fsync", "ftruncate", "rename", "mkdir")
"""With which the node changes files. LMDB writes pages by the first two (sockets may see ``writev`` too)."""
ERRORS: Final = ("EIO", "ENOSPC")
COMMITS: Final = ("lmdb", "journal")

Key = tuple[str, str, int]


def why_not() -> str | None:
    """Return why nothing can be injected here; None when it can."""
    program = shutil.which("strace")
    if program is None:
        return "strace is not installed"
    command = [program, "-f", "--seccomp-bpf", "-e", "inject=fsync:error=EIO:when=1", "true"]
    trial = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if trial.returncode == 0 else f"strace may not inject here: {trial.stderr.strip()[-200:]}"


def count_calls(directory: Path, commit: str) -> dict[str, int]:
    """Run the workload without a fault; return how often each call is made."""
    cell = Cell(directory, ",".join(CALLS), "", None, commit)
    cell.run()
    return cell.calls()


def places(counts: dict[str, int], sample: int | None) -> Iterator[Key]:
    """Yield every cell, or about ``sample`` of each call, evenly spread."""
    for call, error in itertools.product(CALLS, ERRORS):
        numbers = range(1, counts[call] + 1)
        step = 1 if sample is None else max(1, len(numbers) // sample)
        yield from ((call, error, number) for number in numbers[::step])


class Table:
    """What the cells showed."""

    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = counts
        self.seen: Counter[tuple[str, str, str, str]] = Counter()
        """(call, error, phase, what the node did) -> cells."""
        self.fired: Counter[tuple[str, str]] = Counter()
        self.acknowledged = 0
        self.failures: list[str] = []

    def add(self, key: Key, outcome: Outcome | CellFailed) -> None:
        """Count one cell."""
        call, error, _ = key
        if isinstance(outcome, CellFailed):
            self.failures.append(str(outcome))
            return
        self.fired[call, error] += outcome.fired
        self.acknowledged += outcome.acknowledged
        did = outcome.ended if outcome.fired else "not reached"
        self.seen[call, error, outcome.phase, did] += 1

    def silent(self) -> list[str]:
        """Return the calls that are made and at which no error ever fired."""
        return [
            f"{call} {error}"
            for call in CALLS
            for error in ERRORS
            if self._counts[call] and not self.fired[call, error]
        ]

    def figures(self) -> dict[str, Any]:
        """Return what was counted, for tests/results."""
        return {
            "calls": self._counts,
            "cells": [
                {"call": call, "error": error, "phase": phase, "did": did, "cells": count}
                for (call, error, phase, did), count in sorted(self.seen.items())
            ],
            "acknowledged": self.acknowledged,
            "failures": len(self.failures),
        }

    def lines(self) -> list[str]:
        """Say it in lines for people."""
        lines = [f"{'call':10} {'error':7} {'during':7} {'what the node did':18} cells"]
        lines += [
            f"{call:10} {error:7} {phase:7} {did:18} {count:5}"
            for (call, error, phase, did), count in sorted(self.seen.items())
        ]
        lines.append(f"acknowledged in all cells, and there after the restart: {self.acknowledged}")
        lines.append(f"failures: {len(self.failures)}")
        return lines


def play(
    keys: Sequence[Key], counts: dict[str, int], workers: int, *, commit: str = "lmdb", shows: bool = False
) -> Table:
    """Play the cells, a few at a time."""
    table = Table(counts)

    def one(key: Key) -> Outcome | CellFailed:
        with tempfile.TemporaryDirectory() as directory:
            try:
                return Cell(Path(directory), *key, commit).run()
            except CellFailed as failure:
                return failure

    with ThreadPoolExecutor(workers) as pool:
        for number, (key, outcome) in enumerate(zip(keys, pool.map(one, keys), strict=True), start=1):
            table.add(key, outcome)
            if shows and sys.stderr.isatty():
                print(f"\r{number} of {len(keys)} cells, {len(table.failures)} failures", end="", file=sys.stderr)
    return table


def _played(options: argparse.Namespace) -> str:
    """Say which places are played: nothing here is drawn from a seed."""
    if options.call:
        return "none: one place"
    return "none: every place" if options.sample is None else f"none: about {options.sample} places of each call"


def main(arguments: Sequence[str]) -> int:
    """Run the program; the exit status is 0 when nothing was lost, nothing hung, and every fault fired."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault_matrix", description="An error at every call.")
    parser.add_argument("--sample", type=int, help="about so many places of each call; all unless given")
    parser.add_argument("--workers", type=int, default=3, help="nodes at one time")
    parser.add_argument("--log-commit", choices=COMMITS, default="lmdb", help="what makes a write durable")
    parser.add_argument("--call", choices=CALLS)
    parser.add_argument("--error", choices=ERRORS, default="EIO")
    parser.add_argument("--number", type=int, default=1)
    record.add_option(parser)
    options = parser.parse_args(arguments)
    if reason := why_not():
        print(reason)
        return 2
    with tempfile.TemporaryDirectory() as directory:
        counts = count_calls(Path(directory), options.log_commit)
    print("calls of the workload: " + ", ".join(f"{call} {count}" for call, count in counts.items()), flush=True)
    one = [(options.call, options.error, options.number)] if options.call else None
    keys = one or list(places(counts, options.sample))
    table = play(keys, counts, options.workers, commit=options.log_commit, shows=True)
    record.save(options.json, record.command_line(MODULE, arguments), _played(options), table.figures())
    print("\n".join(table.lines()))
    for failure in table.failures:
        print(f"\n{failure}")
    silent = [] if one else table.silent()
    if silent:
        print(f"never fired: {', '.join(silent)}")
    return 1 if table.failures or silent else 0
