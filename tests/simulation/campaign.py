"""Many seeds, one after the other, and what they showed; the program behind ``python -m tests.simulation``.

::

    python -m tests.simulation --seeds 2000               fresh seeds, printed
    python -m tests.simulation --first 1 --seeds 500      these seeds
    python -m tests.simulation --trace 17                 one seed, its whole timeline
    python -m tests.simulation --log-commit journal ...   every life of a node with the journal, whatever seeds draw
    python -m tests.simulation --mutant NAME --trace 17   the same with a planted bug
    python -m tests.simulation --mutants                  every planted bug: caught by which rule, after how many seeds
    python -m tests.simulation --mutants --only NAME ...  some of them; FILE keeps what it says of the others
    python -m tests.simulation ... --json FILE            leave the figures in FILE (tests/results)

The figures of seeds are left there now and then: a campaign that is ended early is a shorter one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.results import record
from tests.simulation.mutants import MUTANTS, mutants_members, mutants_priority, planted
from tests.simulation.swarm import COMMITS, FAULTS, LINK_FAULTS, draw_churn, draw_priorities
from tests.simulation.world import World
from tests.support.progress import tell

TIMELINE_LINES: Final = 60
"""Lines of the timeline printed for a failure; ``--trace`` prints all."""

MODULE: Final = "tests.simulation"
SEEDS: Final = 200
PROGRESS_SEEDS: Final = 50
SEEDS_PER_MUTANT: Final = 2_000
"""After so many seeds a mutant counts as not caught."""

PLAYED: Final = tuple(name for name in MUTANTS if name not in mutants_members.SHOWN_BY_SCRIPT)
"""Mutants that the simulation must catch."""

RULES: Final = ("InvariantViolation", "WrongAnswer", "StatesDiffer", "NotLinearizable", "Livelock")
"""Errors that name a broken rule; any other is a mistake of the simulation's own and catches nothing."""


@dataclass(slots=True)
class Failure:
    """What one seed found."""

    seed: int
    rule: str
    mutant: str | None = None
    commit: str | None = None

    def replay(self) -> str:
        """Return the one command that plays it again."""
        mutant = f" --mutant {self.mutant}" if self.mutant else ""
        commit = f" --log-commit {self.commit}" if self.commit else ""
        return f"python -m tests.simulation --trace {self.seed}{mutant}{commit}"

    def again(self) -> tuple[World, str | None]:
        """Play it again, with its timeline; see ``run_seed``."""
        return run_seed(self.seed, self.mutant, is_traced=True, commit=self.commit)


@dataclass(slots=True)
class Result:
    """What a campaign counted."""

    seeds: int = 0
    events: int = 0
    virtual_us: int = 0
    seconds: float = 0.0
    elections: int = 0
    committed: int = 0
    answers: int = 0
    checks: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def add(self, world: World) -> None:
        """Count one run."""
        self.seeds += 1
        self.events += world.events
        self.virtual_us += world.now
        self.elections += len(world.rules.leaders)
        self.committed += len(world.committed)
        self.answers += world.replies
        self.checks += world.rules.checks
        self.faults += world.faults
        self.counts += world.counts

    def silent_faults(self) -> list[str]:
        """Return the kinds of fault that never struck."""
        return [name for name in (*FAULTS, *LINK_FAULTS) if not self.faults[name]]

    def figures(self) -> dict[str, Any]:
        """Return what was counted, for tests/results."""
        return {
            "seeds": self.seeds,
            "simulated_hours": round(self.virtual_us / 3.6e9, 3),
            "cpu_seconds": round(self.seconds, 1),
            "events": self.events,
            "elections": self.elections,
            "committed": self.committed,
            "answers": self.answers,
            "checks": self.checks,
            "faults": {name: self.faults[name] for name in (*FAULTS, *LINK_FAULTS)},
            "counts": dict(sorted(self.counts.items())),
            "failures": [failure.replay() for failure in self.failures],
        }

    def lines(self) -> list[str]:
        """Say it in lines for people."""
        hours = self.virtual_us / 3.6e9
        seconds = max(self.seconds, 1e-9)
        return [
            f"seeds              {self.seeds}",
            f"simulated hours    {hours:.2f} ({hours * 3600 / seconds:.0f} for each hour of one core)",
            f"events             {self.events} ({self.events / seconds:.0f} per second of one core)",
            f"elections won      {self.elections}",
            f"entries committed  {self.committed}",
            f"client answers     {self.answers}, outcome unknown {self.counts['outcome unknown']}",
            f"invariant checks   {self.checks}",
            "faults             " + ", ".join(f"{name} {self.faults[name]}" for name in (*FAULTS, *LINK_FAULTS)),
            "also               " + ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items())),
            f"failures           {len(self.failures)}",
        ]


def run_seed(
    seed: int, mutant: str | None = None, *, is_traced: bool = False, commit: str | None = None
) -> tuple[World, str | None]:
    """Play one seed; return the world and the rule that was broken, None when none was.

    Args:
        commit: what makes writes durable in every life of a node; None: what the seed draws.
    """
    with planted(mutant) if mutant else nullcontext():
        world = World(seed, is_traced=is_traced, commit=commit)
        try:
            world.run()
        except Exception as error:  # whatever a run raises is what it found
            return world, f"{type(error).__name__}: {error}"
    return world, None


def run_seeds(
    seeds: Sequence[int],
    mutant: str | None = None,
    *,
    until_fail: bool = False,
    told: Callable[[Result], None] | None = None,
    commit: str | None = None,
    tells: bool = False,
) -> Result:
    """Play seeds until they are used up; ``told`` is told now and then, and at the end, what was counted by then.

    With ``tells`` people are told, too, on standard error.
    """
    result = Result()
    worked = time.process_time()
    for seed in seeds:
        world, rule = run_seed(seed, mutant, commit=commit)
        result.add(world)
        result.seconds = time.process_time() - worked
        if rule is not None:
            result.failures.append(Failure(seed, rule, mutant, commit))
            if until_fail:
                break
        if tells:
            tell("seeds", result.seeds, len(seeds), len(result.failures))
        if told is not None and result.seeds % PROGRESS_SEEDS == 0:
            told(result)
    if told is not None:
        told(result)
    return result


def fresh_seed() -> int:
    """Return a seed nobody has played, small enough to be typed."""
    return random.SystemRandom().randrange(10**6, 10**9)


def timeline(failure: Failure, lines: int = TIMELINE_LINES) -> str:
    """Return the end of what happened, what was found, and how to see it again."""
    world, rule = failure.again()
    end = world.trace[-lines:] if lines else world.trace
    return "\n".join([*end, f"seed {failure.seed}: {rule or 'no rule broken'}", f"replay: {failure.replay()}"])


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one mutant."""

    name: str
    seeds: int
    """Played until it was caught, or in all."""
    rule: str | None
    """What caught it; None when nothing did."""
    why_not: str = ""

    def line(self) -> str:
        """Say it for people."""
        return f"{self.name:34} {self.seeds:5}  {self.rule or f'NOT CAUGHT{self.why_not}'}"


def play_mutants(seeds_max: int = SEEDS_PER_MUTANT, names: Sequence[str] = ()) -> Iterator[Verdict]:
    """Play each planted bug with its seeds until it is caught, and print what became of it."""
    print(f"{'mutant':34} {'seeds':>5}  caught by", "-" * 110, sep="\n")
    for name in names or PLAYED:
        verdict = _verdict(name, run_seeds(_seeds_for(name, seeds_max), name, until_fail=True))
        print(verdict.line(), flush=True)
        yield verdict


def _seeds_for(name: str, seeds_max: int) -> Sequence[int]:
    """Return the seeds for a mutant: the first ones, or those of them that have what it breaks."""
    seeds = range(1, seeds_max + 1)
    if name in vars(mutants_members):
        return [seed for seed in seeds if draw_churn(seed, 1)]
    if name in vars(mutants_priority):
        return [seed for seed in seeds if draw_priorities(seed)]
    return seeds


def _verdict(name: str, result: Result) -> Verdict:
    """Say which rule caught a mutant; it counts only when the same seed breaks no rule without the mutant."""
    if not result.failures:
        return Verdict(name, result.seeds, None)
    failure = result.failures[0]
    if not failure.rule.startswith(RULES):
        return Verdict(name, result.seeds, None, f", the simulation broke: {failure.rule[:90]}")
    _, rule = run_seed(failure.seed)
    if rule:
        return Verdict(name, result.seeds, None, f", fails without it too: {rule[:90]}")
    return Verdict(name, result.seeds, failure.rule.splitlines()[0][:120])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Deterministic simulation.")
    parser.add_argument(
        "--seeds",
        type=int,
        help=f"how many seeds to play, {SEEDS}; with --mutants: at most so many for each, {SEEDS_PER_MUTANT}",
    )
    parser.add_argument("--first", type=int, help="the first seed; a fresh one unless given")
    parser.add_argument("--until-fail", action="store_true", help="stop at the first failure")
    parser.add_argument("--trace", type=int, metavar="SEED", help="play one seed and print its whole timeline")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), metavar="NAME", help="switch a planted bug on")
    parser.add_argument("--mutants", action="store_true", help="play every planted bug until it is caught")
    parser.add_argument(
        "--only", nargs="+", choices=sorted(MUTANTS), default=(), metavar="NAME", help="with --mutants: only these"
    )
    parser.add_argument("--log-commit", choices=COMMITS, help="what makes writes durable, instead of what seeds draw")
    record.add_option(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the program; the exit status is 0 when nothing was found (with ``--mutants``: when everything was)."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.mutants and options.log_commit:
        parser.error("--mutants plays seeds as they are drawn, without --log-commit")
    if options.trace is not None:
        return _trace(Failure(options.trace, "", options.mutant, options.log_commit))
    if options.mutants:
        return _mutants(options.seeds or SEEDS_PER_MUTANT, options.only, options.json)
    first = fresh_seed() if options.first is None else options.first
    seeds = range(first, first + (options.seeds or SEEDS))
    print(f"seeds {first} to {seeds[-1]}", flush=True)

    def told(result: Result) -> None:
        words = ["--seeds", str(result.seeds), *(["--mutant", options.mutant] if options.mutant else [])]
        words += ["--log-commit", options.log_commit] if options.log_commit else []
        played = f"{first} to {first + result.seeds - 1}"
        record.save(options.json, record.command_line(MODULE, words, first=first), played, result.figures())

    result = run_seeds(
        seeds, options.mutant, until_fail=options.until_fail, told=told, commit=options.log_commit, tells=True
    )
    print("\n".join(result.lines()))
    if silent := result.silent_faults():
        print(f"never struck       {', '.join(silent)}")
    for failure in result.failures[:5]:
        print(f"\n{timeline(failure)}")
    for failure in result.failures[5:]:
        print(f"{failure.replay()}  # {failure.rule}")
    return 1 if result.failures else 0


def _mutants(seeds_max: int, names: Sequence[str], file: Path | None) -> int:
    """Play mutants; what ``file`` says of others stays, with the day on which they were played."""
    print(f"{len(names or PLAYED)} mutants, at most {seeds_max} seeds each")
    known = json.loads(file.read_text(encoding="utf-8"))["figures"] if file is not None and file.exists() else {}
    is_all_caught = True
    for each in play_mutants(seeds_max, names):
        is_all_caught = is_all_caught and each.rule is not None
        known[each.name] = {"seeds": each.seeds, "rule": each.rule, "date": record.today()}
        figures = {name: known[name] for name in MUTANTS if name in known}
        words = ["--mutants", *([] if seeds_max == SEEDS_PER_MUTANT else ["--seeds", str(seeds_max)])]
        record.save(file, record.command_line(MODULE, words), f"1 to {seeds_max}, until it is caught", figures)
    return 0 if is_all_caught else 1


def _trace(failure: Failure) -> int:
    world, rule = failure.again()
    try:
        print("\n".join(world.trace))
        print(f"seed {failure.seed}: {rule or 'no rule broken'} (timeline {world.trace_digest()})", flush=True)
    except BrokenPipeError:
        os._exit(1)  # the reader has seen enough
    return 1 if rule else 0
