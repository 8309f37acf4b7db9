"""Every mutant of a room against the room's own tests, then simulated seeds; behind ``python -m tests.mutation``.

::

    python -m tests.mutation                          every mutant of raft, kv and wire; hours of CPU time
    python -m tests.mutation --room kv --jobs 2       of one room
    python -m tests.mutation --sample 300 --seed 7    so many, drawn with this seed
    python -m tests.mutation --only replication.py    those whose name contains this; may be repeated
    python -m tests.mutation --tests tests/raft/test_log.py    against these tests and no others
    python -m tests.mutation --again result.json      those that survived then
    python -m tests.mutation --list                   named, not tested

A mutant that nothing notices is a rule that no test holds, or it changes nothing that anyone can see: then
``equivalent.toml`` names it, with the reason. The command fails when a mutant survives that is not named there, when
one that is named there is caught, and when there is no such mutant any more.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import resource
import sys
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.mutation.forks import in_children, limit_cpu
from tests.mutation.judging import (
    REAL_SECONDS_MAX,
    Map,
    Verdict,
    judge_in_import,
    judge_room,
    settle_hypothesis,
)
from tests.mutation.mutations import Mutation, is_another, mutations
from tests.mutation.planting import ROOT, plant_in_import, source

ROOMS: Final = ("raft", "kv", "wire")
EQUIVALENT: Final = Path(__file__).with_name("equivalent.toml")
SEEDS: Final = 40
"""Simulated runs that a mutant of raft is held against which the tests did not notice."""
SEED_CPU_SECONDS_MAX: Final = 120.0
ROOM_SECONDS_MAX: Final = 86_400.0


@dataclass(slots=True)
class Campaign:
    """What is done, and what came of it."""

    jobs: int
    seeds: int
    known: dict[str, str]
    """Name of each known equivalent -> the reason."""
    tests: Sequence[str] = ()
    """Files of tests; none: all of the room."""
    verdicts: dict[Mutation, Verdict] = field(default_factory=dict)
    count: int = 0

    def judged(self, mutant: Mutation, verdict: Verdict) -> None:
        """Note a verdict, and show it where it may matter."""
        self.verdicts[mutant] = verdict
        if verdict.is_caught and self.count <= 20:
            _say(f"{verdict.how} {verdict.by}: {mutant}")
        if not verdict.is_caught and mutant.name not in self.known:
            _say(f"survives: {mutant}")
        if len(self.verdicts) % 50 == 0:
            caught = sum(each.is_caught for each in self.verdicts.values())
            _say(f"{len(self.verdicts)} of {self.count} judged, {caught} caught")

    def survivors(self) -> list[Mutation]:
        """Return what nothing noticed so far."""
        return [mutant for mutant, verdict in self.verdicts.items() if not verdict.is_caught]


def main(argv: Sequence[str]) -> int:
    """Run the program; return its exit code."""
    options = _options(argv)
    every = [mutant for room in ROOMS for mutant in mutations_of_room(room)]
    chosen = _chosen(every, options)
    if options.list:
        for mutant in chosen:
            print(mutant)
        return 0
    campaign = Campaign(options.jobs, options.seeds, known_equivalents(), tests=options.tests, count=len(chosen))
    settle_hypothesis()
    for room in ROOMS:
        run_room(campaign, room, [each for each in chosen if each.path.startswith(f"durable_raft/{room}/")])
    wrong = complaints(campaign, every)
    for line in wrong:
        _say(line)
    result = json.dumps(summary(campaign, argv), indent=1, ensure_ascii=False)
    print(result)
    if options.json:
        options.json.write_text(result + "\n", encoding="utf-8")
    return 1 if wrong else 0


def complaints(campaign: Campaign, every: Sequence[Mutation]) -> list[str]:
    """Return why a campaign fails: what survived without a reason, and reasons that are none any more."""
    names = {mutant.name for mutant in every}
    found = [f"named as equivalent, and no mutant: {name}" for name in campaign.known if name not in names]
    for mutant, verdict in campaign.verdicts.items():
        if verdict.is_caught and mutant.name in campaign.known:
            found.append(f"named as equivalent, and caught by {verdict.by or verdict.how}: {mutant}")
        if not verdict.is_caught and mutant.name not in campaign.known:
            found.append(f"survived: {mutant}")
    return found


def mutations_of_room(room: str) -> list[Mutation]:
    """Return every mutant of a room, file by file."""
    paths = sorted(file.relative_to(ROOT).as_posix() for file in (ROOT / "durable_raft" / room).glob("**/*.py"))
    return [mutant for path in paths for mutant in mutations(path, source(path))]


def known_equivalents() -> dict[str, str]:
    """Return the mutants that change nothing anyone can see, with the reason of each."""
    found: dict[str, str] = {}
    for each in tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("equivalent", []):
        for name in each["mutants"]:
            found[name] = each["reason"]
    return found


def run_room(campaign: Campaign, room: str, mutants: Sequence[Mutation]) -> None:
    """Judge the mutants of one room, the cheapest way first."""
    if not mutants:
        return
    _say(f"{room}: {len(mutants)} mutants")

    def by_tests(_: None) -> tuple[Map, list[Mutation], dict[Mutation, Verdict]]:
        sys.stdout = sys.stderr
        mapped, in_import = judge_room(campaign.tests or [f"tests/{room}"], mutants, campaign.jobs, campaign.judged)
        return mapped, in_import, campaign.verdicts

    # In a child, because it imports the package, and the mutants of what an import does need a process that has not.
    ((_, judged),) = in_children([None], by_tests, jobs=1, seconds_max=ROOM_SECONDS_MAX, is_quiet=False)
    if judged is None:
        raise RuntimeError(f"the tests of {room} could not be run")
    mapped, in_import, verdicts = judged
    campaign.verdicts.update(verdicts)
    _say(f"{room}: {len(in_import)} mutants of what is done when a module is imported")
    for mutant, verdict in in_children(
        in_import, lambda each: judge_in_import(each, mapped), jobs=campaign.jobs, seconds_max=REAL_SECONDS_MAX
    ):
        campaign.judged(mutant, verdict or Verdict("hang"))
    if room == "raft" and campaign.seeds:
        _simulate(campaign)


def _simulate(campaign: Campaign) -> None:
    survivors = campaign.survivors()
    _say(f"{len(survivors)} survivors against {campaign.seeds} simulated seeds each")

    def simulate(mutant: Mutation) -> Verdict:
        plant_in_import(mutant)
        from tests.simulation.campaign import run_seed

        for seed in range(1, campaign.seeds + 1):
            limit_cpu(SEED_CPU_SECONDS_MAX)
            rule = run_seed(seed)[1]
            if rule is not None:
                return Verdict("seed", f"{seed}: {rule}"[:200])
        return Verdict("survived")

    seconds_max = REAL_SECONDS_MAX + campaign.seeds * SEED_CPU_SECONDS_MAX
    for mutant, verdict in in_children(survivors, simulate, jobs=campaign.jobs, seconds_max=seconds_max):
        campaign.verdicts[mutant] = verdict or Verdict("hang")
        _say(f"{campaign.verdicts[mutant].how} {campaign.verdicts[mutant].by}: {mutant}")


def summary(campaign: Campaign, argv: Sequence[str]) -> dict[str, object]:
    """Return the figures of a campaign."""
    rooms: dict[str, Counter[str]] = {}
    kinds: dict[str, Counter[str]] = {}
    for mutant, verdict in campaign.verdicts.items():
        how = verdict.how
        if how == "survived" and mutant.name in campaign.known:
            how = "equivalent"
        for counter in (
            rooms.setdefault(mutant.path.split("/")[1], Counter()),
            kinds.setdefault(mutant.kind, Counter()),
        ):
            counter["mutants"] += 1
            counter[how] += 1
    caught = sum(verdict.is_caught for verdict in campaign.verdicts.values())
    return {
        "command": " ".join(["python -m tests.mutation", *argv]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "mutants": len(campaign.verdicts),
        "caught": caught,
        "caught_percent": round(100 * caught / max(1, len(campaign.verdicts)), 2),
        "rooms": {room: dict(counter) for room, counter in sorted(rooms.items())},
        "kinds": {kind: dict(counter) for kind, counter in sorted(kinds.items())},
        "cpu_seconds": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime),
        "survivors": [each.name for each in campaign.survivors() if each.name not in campaign.known],
    }


def _chosen(every: Sequence[Mutation], options: argparse.Namespace) -> list[Mutation]:
    chosen = [
        each
        for each in every
        if (not options.room or each.path.split("/")[1] in options.room)
        and (not options.only or any(text in f"{each} {each.name}" for text in options.only))
    ]
    if options.again:
        survived = set(json.loads(options.again.read_text(encoding="utf-8"))["survivors"])
        chosen = [each for each in chosen if each.name in survived]
    if options.sample and options.sample < len(chosen):
        chosen = sorted(random.Random(options.seed).sample(chosen, options.sample), key=lambda each: each.path)
    return [each for each in chosen if is_another(each, source(each.path))]


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("--room", action="append", choices=ROOMS, help="a room; may be repeated")
    parser.add_argument("--only", action="append", metavar="TEXT", help="mutants whose name contains this")
    parser.add_argument("--tests", action="append", default=[], metavar="FILE", help="these tests and no others")
    parser.add_argument("--again", type=Path, metavar="FILE", help="what survived in this result of an earlier run")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="so many mutants, drawn by chance")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="simulated runs against each survivor in raft")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the result goes")
    parser.add_argument("--list", action="store_true", help="name the mutants and end")
    return parser.parse_args(argv)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
