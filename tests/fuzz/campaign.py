"""Many inputs for everything that strangers can reach; the program behind ``python -m tests.fuzz``.

::

    python -m tests.fuzz                          a million inputs, a fresh seed
    python -m tests.fuzz --inputs 100000000       a campaign
    python -m tests.fuzz --first 17 --inputs 1    one block again, as a failure names it

Inputs are made in blocks of 10,000, each of a seed of its own: what fails is played again by its block.

``--json FILE`` leaves the figures there now and then: a campaign that is ended early is a shorter one.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.fuzz.dice import Dice
from tests.fuzz.handshake import play
from tests.fuzz.node import tell_nodes
from tests.fuzz.targets import TARGETS
from tests.results import record

BLOCK: Final = 10_000
SHARES: Final = {"frames": 3_500, "requests": 3_500, "payloads": 1_000, "core": 1_400, "node": 100, "handshake": 500}
"""Inputs of a block; a message to a whole node costs fifty times as much as a frame to a parser."""

PROGRESS_BLOCKS: Final = 100


@dataclass(slots=True)
class Result:
    """What a campaign did."""

    inputs: int = 0
    resident_bytes: list[int] = field(default_factory=list)
    """After each hundredth part, and at the beginning."""
    failures: list[str] = field(default_factory=list)
    """Of the blocks that raised something; each names its block."""

    def growth_bytes(self) -> int:
        """Return by how much the memory grew since a fifth of the inputs had been taken."""
        return max(self.resident_bytes) - self.resident_bytes[len(self.resident_bytes) // 5]


def resident_bytes() -> int:
    """Return the memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def play_block(seed: int) -> None:
    """Feed one block.

    Raises:
        RuntimeError: something was raised that may not be, its cause; names the block.
    """
    rng = Dice(f"fuzz {seed}")
    target = "handshake"
    left = 0
    try:
        for target, count in SHARES.items():
            if target == "handshake":
                left = asyncio.run(play(rng, count))
            elif target == "node":
                tell_nodes(rng, count)
            else:
                run = TARGETS[target](rng)
                for _ in range(count):
                    run()
    except Exception as error:
        raise RuntimeError(f"block {seed}, {target}: {type(error).__name__}: {error}") from error
    if left:
        raise RuntimeError(f"block {seed}: {left} links that have ended are remembered")


def campaign(first: int, inputs: int, told: Callable[[Result], None] | None = None) -> Result:
    """Feed blocks from ``first`` on; a block ends with its first failure, and the next one begins.

    Args:
        first: the first block.
        inputs: how many.
        told: is told what was done by then, now and then and at the end; None: nobody, and tracebacks neither.
    """
    result = Result(resident_bytes=[resident_bytes()])
    blocks = max(1, inputs // BLOCK)
    for number in range(blocks):
        try:
            play_block(first + number)
        except RuntimeError as error:
            result.failures.append(str(error))
            if told is not None:
                traceback.print_exc()
        result.inputs += BLOCK
        if (number + 1) % max(1, blocks // 100) == 0:
            result.resident_bytes.append(resident_bytes())
        if told is not None and ((number + 1) % PROGRESS_BLOCKS == 0 or number + 1 == blocks):
            told(result)
    return result


def figures(result: Result, first: int, cpu_seconds: float) -> dict[str, Any]:
    """Return what the campaign leaves: how many inputs each target took, and what became of them."""
    blocks = result.inputs // BLOCK
    return {
        "first": first,
        "inputs": {target: count * blocks for target, count in SHARES.items()},
        "failures": result.failures,
        "resident_kib": max(result.resident_bytes) >> 10,
        "growth_kib": result.growth_bytes() >> 10,
        "cpu_seconds": round(cpu_seconds, 1),
    }


def main(arguments: Sequence[str]) -> int:
    """Run the program; the exit status is 0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzzing of what strangers reach.")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many")
    parser.add_argument("--first", type=int, help="the first block; a fresh one unless given")
    record.add_option(parser)
    options = parser.parse_args(arguments)
    first = random.SystemRandom().randrange(10**9) if options.first is None else options.first
    logging.disable(logging.CRITICAL)
    print(f"blocks from {first} on", flush=True)
    worked = time.process_time()

    def told(result: Result) -> None:
        seconds = time.process_time() - worked
        found = f"{len(result.failures)} failures" if result.failures else "nothing found"
        rate = f"{result.inputs / seconds:.0f} a second of one core"
        print(f"{result.inputs} inputs, {rate}, {found}, memory grew by {result.growth_bytes() >> 10} KiB", flush=True)
        command = record.command_line("tests.fuzz", ["--inputs", str(result.inputs)], first=first)
        blocks = f"blocks {first} to {first + result.inputs // BLOCK - 1}"
        record.save(options.json, command, blocks, figures(result, first, seconds))

    result = campaign(first, options.inputs, told)
    return 1 if result.failures else 0
