"""Random damage to real data files, and what becomes of it; the program behind ``python -m tests.corruption``.

::

    python -m tests.corruption                                5,000 quick trials and 100 with three real nodes
    python -m tests.corruption --quick 200 --whole 10         fewer
    python -m tests.corruption --log-commit journal           the same with the journal in front of LMDB (journals.py)
    python -m tests.corruption --meta-bits                    every single bit of both meta pages, raft and kv
    python -m tests.corruption ... --json FILE                leave the figures in FILE (tests/results)
    python -m tests.corruption --seed 7 --kind stale_page --environment kv --trial 12      one trial again

A quick trial opens one damaged directory as a node does (start.py), a whole one runs three nodes (nodes.py). The table
says what happened by kind; the exit status is 0 when no outcome was one that must not be.
"""

from __future__ import annotations

import argparse
import random
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from durable_raft.raft.configuration import encode
from tests.corruption import nodes, start
from tests.corruption.base import VICTIM, Base, prepare
from tests.corruption.damage import KINDS, Damage, flip_meta_bit, meta_bits, rot_of
from tests.corruption.journals import run_journals
from tests.corruption.trials import Result, config_of, rng_of
from tests.results import record
from tests.support.progress import tell

MODULE: Final = "tests.corruption"
ENVIRONMENTS: Final = ("raft", "kv")
COMMITS: Final = ("lmdb", "journal")
CONFIGURATION_ROT: Final = "configuration_bit_flip"
"""The kind of damage that strikes where a configuration is written: its entry, or a copy beside log or state."""


class Quick:
    """Quick trials on one node's directory."""

    def __init__(self, base: Base, place: Path) -> None:
        self._base = base
        self._place = place
        self._config = config_of(base, place / "trial")
        sound = replace(self._config, directory=place / "truth")
        base.refill(VICTIM, sound.directory)
        self.truth = start.truth_of(sound)
        payloads = [encode(each) for each in self.truth.configurations]
        self.kinds: dict[str, Damage] = {**KINDS, CONFIGURATION_ROT: rot_of(payloads)}

    def run(self, kind: str, environment: str, rng: random.Random) -> tuple[str, bool]:
        """Return the outcome of one trial, and whether any byte was changed."""
        older = self._base.older_file(VICTIM, environment)
        return self._tried(environment, lambda data: self.kinds[kind](data, older, rng))

    def undamaged(self) -> str:
        """Return the outcome where nothing is damaged."""
        return self._tried(ENVIRONMENTS[0], lambda _: None)[0]

    def run_meta_bit(self, number: int, environment: str) -> str:
        """Return the outcome of one flipped bit of the meta pages."""
        return self._tried(environment, lambda data: flip_meta_bit(data, number))[0]

    def _tried(self, environment: str, damage: Callable[[bytearray], None]) -> tuple[str, bool]:
        directory = self._config.directory
        self._base.refill(VICTIM, directory)
        path = directory / environment / "data.mdb"
        before = path.read_bytes()
        data = bytearray(before)
        damage(data)
        path.write_bytes(data)
        return start.outcome_of(self._config, self.truth), data != before


def run_quick(base: Base, place: Path, seed: int, count: int, *, tells: bool = True) -> Result:
    """Play ``count`` quick trials, as many of each kind and environment."""
    result, quick = Result(), Quick(base, place)
    for number, (kind, environment) in enumerate(_kinds(count, (*KINDS, CONFIGURATION_ROT))):
        outcome, is_changed = quick.run(kind, environment, rng_of(seed, kind, environment, number))
        result.unchanged[kind] += not is_changed
        result.note(kind, environment, outcome, _replay(seed, kind, environment, number))
        if tells:
            tell("quick", number + 1, count, len(result.failures))
    return result


def run_whole(base: Base, place: Path, seed: int, count: int, *, tells: bool = True) -> Result:
    """Play ``count`` trials with three real nodes; the first and every fourth damage all of them."""
    result = Result()
    for number, (kind, environment) in enumerate(_kinds(count)):
        if number % 4 == 0:
            kind, environment = nodes.EVERY_NODE, "raft"
        rng = rng_of(seed, kind, environment, number)
        outcome = nodes.outcome_of(base, nodes.damaged(base, kind, environment, rng))
        result.note(kind, environment, outcome, _replay(seed, kind, environment, number) + " --nodes")
        if outcome.startswith(start.FAILURES):
            nodes.keep(base, place / "failed" / str(number))
        if tells:
            tell("whole", number + 1, count, len(result.failures))
    return result


def run_meta_bits(base: Base, place: Path, *, every: int = 1, tells: bool = True) -> Result:
    """Flip every bit (or every so-many-th) of the meta pages of both files."""
    result, quick = Result(), Quick(base, place)
    for environment in ENVIRONMENTS:
        for number in range(0, meta_bits(), every):
            outcome = quick.run_meta_bit(number, environment)
            result.note("meta_bit", environment, outcome, f"bit {number} of {environment}")
            if tells:
                tell(f"meta bits of {environment}", number + 1, meta_bits(), len(result.failures))
    return result


def _kinds(count: int, kinds: Collection[str] = KINDS) -> Iterator[tuple[str, str]]:
    pairs = [(kind, environment) for kind in kinds for environment in ENVIRONMENTS]
    return (pairs[number % len(pairs)] for number in range(count))


def _replay(seed: int, kind: str, environment: str, number: int) -> str:
    return f"python -m tests.corruption --seed {seed} --kind {kind} --environment {environment} --trial {number}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.corruption", description="Random damage to data files.")
    parser.add_argument("--quick", type=int, default=5_000, help="trials that open one directory")
    parser.add_argument("--whole", type=int, default=100, help="trials with three real nodes")
    parser.add_argument("--log-commit", choices=COMMITS, default=COMMITS[0], help="what makes a write durable")
    parser.add_argument("--meta-bits", action="store_true", help="flip every bit of both meta pages instead")
    parser.add_argument("--every", type=int, default=1, help="with --meta-bits: only every so-many-th bit")
    parser.add_argument("--seed", type=int, default=None, help="a fresh one unless given")
    parser.add_argument(
        "--kind", choices=[*KINDS, CONFIGURATION_ROT, nodes.EVERY_NODE], help="with --trial: which damage"
    )
    parser.add_argument("--environment", choices=ENVIRONMENTS, default="raft")
    parser.add_argument("--trial", type=int, help="play this trial alone")
    parser.add_argument("--nodes", action="store_true", help="with --trial: three real nodes")
    record.add_option(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the program."""
    options = _parser().parse_args(arguments)
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="corruption-", dir=memory if memory.is_dir() else None))
    print(f"seed {seed}")
    started = time.monotonic()
    # What is prepared depends on the order in which three processes run: only the damage is drawn from the seed.
    base = prepare(place, seed, log_commit=options.log_commit)
    try:
        results = _played(options, base, place, seed)
    finally:
        base.cluster.close()
    # In this order: the trials that open one directory, those with three real nodes.
    figures = {name: each.figures() for name, each in zip(("quick", "whole"), results, strict=False)}
    record.save(options.json, record.command_line(MODULE, arguments, seed=seed), str(seed), figures)
    failures = [failure for result in results for failure in result.failures]
    for result in results:
        print("\n".join(result.table()))
    print(f"{time.monotonic() - started:.0f} s, failures {len(failures)}")
    for failure in failures:
        print(failure)
    if failures:
        print(f"kept: {place}")
    else:
        shutil.rmtree(place)
    return 1 if failures else 0


def _played(options: argparse.Namespace, base: Base, place: Path, seed: int) -> list[Result]:
    if options.meta_bits:
        return [run_meta_bits(base, place, every=options.every)]
    if options.trial is None:
        played = run_quick if options.log_commit == COMMITS[0] else run_journals
        return [played(base, place, seed, options.quick), run_whole(base, place, seed, options.whole)]
    kind, environment = options.kind, options.environment
    rng = rng_of(seed, kind, environment, options.trial)
    result = Result()
    if options.nodes:
        outcome = nodes.outcome_of(base, nodes.damaged(base, kind, environment, rng))
    else:
        outcome, _ = Quick(base, place).run(kind, environment, rng)
    result.note(kind, environment, outcome, "")
    return [result]
