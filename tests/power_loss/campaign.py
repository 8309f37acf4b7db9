"""Many power cuts, and what was found after them; the program behind ``python -m tests.power_loss``.

::

    python -m tests.power_loss --images 50000 --seed 7   so many distinct images; a fresh seed, printed, unless given
    python -m tests.power_loss --log-commit journal      the same with the journal in front of LMDB
    python -m tests.power_loss --broken no-flush         the same with a planted bug: must fail
    python -m tests.power_loss --broken-all              every planted bug, until it is found
    python -m tests.power_loss ... --json FILE           leave the figures in FILE (tests/results)
    python -m tests.power_loss --replay FILE             the failing images that a campaign left in FILE

Recorded are the scripted workload on the log store (workload.py) and a real node with a client (record.py), each with a
seed of its own per recording. The store's recording depends on its seed alone; a node's also on time, so what a failing
campaign leaves is the recording itself.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.power_loss.disk import build, replay
from tests.power_loss.explorer import Counts, Explorer, Failure, Waiting, choice_of
from tests.power_loss.images import KINDS
from tests.power_loss.judge import MOVE, NODE_ACTIVITIES, STORE_ACTIVITIES
from tests.power_loss.operations import Recording, load, save
from tests.power_loss.planted import BUGS, JOURNAL_BUGS, NODE_BUGS
from tests.power_loss.pool import Outcome, Pool, materialise
from tests.power_loss.record import TURNS, record_node, record_store
from tests.power_loss.stores import COMMITS, JOURNAL, LMDB
from tests.power_loss.strace import missing_strace
from tests.power_loss.workload import ROUNDS
from tests.results import record

MODULE: Final = "tests.power_loss"
IMAGES_A_RECORDING: Final = 8_000
FAILURES_KEPT: Final = 20
FAILURES_SHOWN: Final = 3
STORE: Final = "store"
NODE: Final = "node"
ALL_BUGS: Final = {**BUGS, **JOURNAL_BUGS, **NODE_BUGS}
ACTIVITIES: Final = tuple(dict.fromkeys((*STORE_ACTIVITIES, MOVE, *NODE_ACTIVITIES)))


@contextmanager
def scratch_directory(parent: Path | None = None) -> Iterator[Path]:
    """Give a directory in memory, where the machine has such a file system, and remove it afterwards."""
    memory = Path("/dev/shm")
    place = parent or (memory if memory.is_dir() else None)
    directory = Path(tempfile.mkdtemp(prefix="power-loss-", dir=place))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Campaign:
    """Recordings and their images, one after the other."""

    def __init__(
        self,
        scratch: Path,
        seed: int,
        *,
        bug: str | None = None,
        workers: int = 1,
        rounds: int = ROUNDS,
        turns: int = TURNS,
        commit: str = LMDB,
    ) -> None:
        """Prepare; ``rounds`` and ``turns`` say how long recordings of store and node are, ``commit`` of which kind."""
        self._scratch = scratch
        self._seed = seed
        self._bug = bug
        self._workers = workers
        self._rounds = rounds
        self._turns = turns
        self.commit = commit
        self._recordings = 0
        """Made so far."""
        self._outcomes: dict[bytes, Outcome | Waiting] = {}
        self.counts: dict[str, Counts] = {STORE: Counts(), NODE: Counts()}
        self.failures: list[Failure] = []
        self.seconds = 0.0
        self.deaths = 0

    @property
    def images(self) -> int:
        """Distinct images so far."""
        return sum(counts.images for counts in self.counts.values())

    def run(self, images: int, sources: Sequence[str] = (STORE, NODE), *, until_failure: bool = False) -> None:
        """Make recordings of each source in turn until there are that many distinct images; another call goes on."""
        began = time.monotonic()
        share = min(IMAGES_A_RECORDING, images // len(sources) + 1)
        while self.images < images and not (until_failure and self.failures):
            source = sources[self._recordings % len(sources)]
            seed = self._seed + self._recordings // len(sources)
            self._explore(self.record(source, seed), min(share, images - self.images), until_failure=until_failure)
            self._recordings += 1
        self.seconds += time.monotonic() - began

    def record(self, source: str, seed: int) -> Recording:
        """Make one recording."""
        if source == NODE:
            return record_node(self._scratch / "recorded", seed, self._bug, turns=self._turns, commit=self.commit)
        return record_store(self._scratch / "recorded", seed, self._bug, self._rounds, self.commit)

    def _explore(self, recording: Recording, images: int, *, until_failure: bool) -> None:
        place = self._scratch / "images"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        with Pool(place, recording.directory, is_node=recording.is_node, workers=self._workers) as pool:
            rng = random.Random(f"{recording.source} {recording.seed}")
            explorer = Explorer(recording, pool, rng, self._outcomes)
            explorer.run(images, until_failure=until_failure)
            self.deaths += pool.deaths
        _add(self.counts[recording.source], explorer.counts)
        self.failures += explorer.failures

    def rows(self) -> dict[str, list[int]]:
        """Return what was counted, each for the store's recordings, the node's, and all."""
        columns = [*self.counts.values(), Counts()]
        for counts in self.counts.values():
            _add(columns[-1], counts)
        return {
            "recordings": [each.recordings for each in columns],
            "operations recorded": [each.operations for each in columns],
            "flushes": [each.flushes for each in columns],
            "cut points": [each.cuts for each in columns],
            "distinct images": [each.images for each in columns],
            **{f"of kind: {kind}": [each.kinds[kind] for each in columns] for kind in KINDS},
            **{f"in flight: {name}": [each.activities[name] for each in columns] for name in ACTIVITIES},
            "also written to": [each.probes for each in columns],
            "verdicts": [each.verdicts for each in columns],
            "failures": [each.failures for each in columns],
        }

    def figures(self) -> dict[str, Any]:
        """Return what was counted, for tests/results."""
        return {"rows": self.rows(), "seconds": round(self.seconds, 1), "deaths": self.deaths}

    def table(self) -> list[str]:
        """Return what was done, for people."""
        lines = [f"{'source':36} {STORE:>10} {NODE:>10} {'all':>10}"]
        lines += [f"{name:36} {values[0]:10} {values[1]:10} {values[2]:10}" for name, values in self.rows().items()]
        rate = self.images / max(self.seconds, 1e-9)
        lines.append(f"{self.seconds:.0f} s, {rate:.0f} images/s, {self.deaths} recoveries died of a signal")
        return lines


def _add(total: Counts, counts: Counts) -> None:
    total.recordings += counts.recordings
    total.operations += counts.operations
    total.flushes += counts.flushes
    total.cuts += counts.cuts
    total.kinds += counts.kinds
    total.activities += counts.activities
    total.verdicts += counts.verdicts
    total.probes += counts.probes
    total.failures += counts.failures


def report(failures: Sequence[Failure], place: Path) -> list[str]:
    """Keep the failing images of the first failing recording in a file under ``place``; return lines about them."""
    if not failures:
        return []
    recording = failures[0].recording
    same = [failure for failure in failures if failure.recording is recording][:FAILURES_KEPT]
    path = place / f"power-loss-{recording.source}-{recording.seed}.json.gz"
    save(path, recording, [failure.as_json() for failure in same])
    lines = [line for failure in same[:FAILURES_SHOWN] for line in ("", *failure.lines())]
    return [*lines, "", f"replay: python -m tests.power_loss --replay {path}"]


def replayed(path: Path, scratch: Path, keep: Path | None = None) -> list[Failure]:
    """Make the images in a file again, judge them anew, and return the failures; ``keep`` gets the first image."""
    recording, images = load(path)
    with Pool(scratch / "images", recording.directory, is_node=recording.is_node) as pool:
        explorer = Explorer(recording, pool, random.Random(0))
        explorer.learn()
        snapshots = replay(recording.operations)
        for each in images:
            explorer.look(snapshots[each["cut"]], each["kind"], choice_of(each))
        pool.drain()
    if keep is not None:
        materialise(build(snapshots[images[0]["cut"]], choice_of(images[0])), keep)
    return explorer.failures


def find_bug(
    scratch: Path, bug: str, seed: int, images: int = 1_000, rounds: int = ROUNDS, turns: int = TURNS
) -> Campaign:
    """Explore what was recorded with a planted bug until it is found."""
    commit = JOURNAL if bug in JOURNAL_BUGS else LMDB
    campaign = Campaign(scratch, seed, bug=bug, rounds=rounds, turns=turns, commit=commit)
    campaign.run(images, sources_of(bug), until_failure=True)
    return campaign


def sources_of(bug: str) -> tuple[str, ...]:
    """Return whose recordings show a planted bug."""
    return (NODE,) if bug in NODE_BUGS else (STORE,)


def find_bugs(scratch: Path, seed: int) -> dict[str, Campaign]:
    """Find each planted bug in turn, and print after how many images it was found as what."""
    print(f"{'bug':26} {'images':>7}  found as")
    found: dict[str, Campaign] = {}
    for bug in ALL_BUGS:
        campaign = found[bug] = find_bug(scratch, bug, seed)
        what = campaign.failures[0].what if campaign.failures else "NOT FOUND"
        print(f"{bug:26} {campaign.images:7}  {what[:120]}", flush=True)
    return found


def fresh_seed() -> int:
    """Return a seed nobody has used, small enough to be typed."""
    return random.SystemRandom().randrange(10**6, 10**9)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.power_loss", description="Every power cut, explored.")
    parser.add_argument("--images", type=int, default=3_000, help="how many distinct images to check")
    parser.add_argument("--seed", type=int, help="of the first recordings and the images; a fresh one unless given")
    parser.add_argument("--source", choices=(STORE, NODE), help="only this one; both unless given")
    parser.add_argument("--log-commit", choices=COMMITS, default=LMDB, help="what makes a write durable")
    parser.add_argument("--workers", type=int, default=1, help="recovering processes")
    parser.add_argument("--broken", choices=sorted(ALL_BUGS), help="plant a bug in what is recorded")
    parser.add_argument("--broken-all", action="store_true", help="plant each bug in turn; each must be found")
    parser.add_argument("--until-failure", action="store_true", help="stop at the first failing image")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="judge the images of FILE again")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="with --replay: write the first image to DIR")
    record.add_option(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the program; the exit status is 0 when nothing was found (with ``--broken-all``: when everything was)."""
    options = _parser().parse_args(arguments)
    with scratch_directory() as scratch:
        if options.replay is not None:
            failures = replayed(options.replay, scratch, options.keep)
            print("\n".join(line for failure in failures for line in failure.lines()) or "no failure")
            return 1 if failures else 0
        if (reason := missing_strace()) is not None:
            print(f"cannot record: {reason}")
            return 2
        seed = fresh_seed() if options.seed is None else options.seed
        print(f"seed {seed}", flush=True)
        command = record.command_line(MODULE, arguments, seed=seed)
        if options.broken_all:
            found = find_bugs(scratch, seed)
            figures = {bug: {"images": each.images, "found": bool(each.failures)} for bug, each in found.items()}
            record.save(options.json, command, str(seed), figures)
            return 0 if all(each.failures for each in found.values()) else 1
        return _explore(options, scratch, seed, command)


def _explore(options: argparse.Namespace, scratch: Path, seed: int, command: str) -> int:
    sources: Sequence[str] = (STORE, NODE) if options.source is None else (options.source,)
    if options.broken is not None:
        sources = sources_of(options.broken)
    commit = JOURNAL if options.broken in JOURNAL_BUGS else options.log_commit
    campaign = Campaign(scratch, seed, bug=options.broken, workers=options.workers, commit=commit)
    campaign.run(options.images, sources, until_failure=options.until_failure or options.broken is not None)
    record.save(options.json, command, str(seed), campaign.figures())
    print("\n".join(campaign.table()))
    print("\n".join(report(campaign.failures, Path(tempfile.gettempdir()))))
    return 1 if campaign.failures else 0


def empty_classes(counts: Mapping[str, Counts], sources: Sequence[str], commit: str = LMDB) -> list[str]:
    """Return the kinds of image, and what was in flight, that a campaign never met."""
    empty = []
    for source in sources:
        activities = NODE_ACTIVITIES if source == NODE else (*STORE_ACTIVITIES, *([MOVE] if commit == JOURNAL else []))
        empty += [f"{source}: {kind}" for kind in KINDS if not counts[source].kinds[kind]]
        empty += [f"{source}: {name} in flight" for name in activities if not counts[source].activities[name]]
    return empty
