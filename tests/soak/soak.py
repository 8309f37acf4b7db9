"""A real cluster at default timeouts under steady load, beside other work and in trouble; what became of it.

::

    python -m tests.soak                                      ten minutes, 200 writes a second, stress-ng --cpu 8
    python -m tests.soak --minutes 2 --stress-cpu 4           shorter, and less work beside it
    python -m tests.soak --terms-max 3                        how many elections are allowed meanwhile; 0 unless given
    python -m tests.soak --troubles all --minutes 30          what driver.py can do to it, one after the other
    python -m tests.soak --troubles pipelines,full_disks --seed 7
    python -m tests.soak ... --json FILE                      leave the figures in FILE

The exit status is 0 when every acknowledged write is on every node, the history is linearizable, no node ended by
itself or took more memory than ``memory_max``, every trouble struck, and no more terms than that were used. In trouble
any number of terms may be used: it is told. Disks can be troubled by root only, on Linux.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.cluster.disks import Disks
from tests.cluster.harness import Cluster
from tests.cluster.turns import too_long
from tests.cluster.workload import assert_on_all_nodes
from tests.results import record
from tests.simulation.linearizability import Outcome
from tests.soak import report
from tests.soak.driver import TROUBLES, Driver
from tests.soak.ground import Ground, Sizes
from tests.soak.history import History
from tests.soak.load import Load
from tests.soak.watch import Seen, elections

MODULE: Final = "tests.soak"
DEFAULT: Final[dict[str, Any]] = {"heartbeat_ms": 50, "election_timeout_min_ms": 150, "election_timeout_max_ms": 300}
LOOK_S: Final = 0.5
TELL_S: Final = 60.0
MEMORY_MAX: Final = 1 << 30
"""Of each node in trouble: a request may then have 60 MiB, so that it takes values of 40 MB."""
DISK_BYTES: Final = 2 << 30
FULL: Final = Sizes(pipeline=100_000, value_bytes=40_000_000, hold_s=5.0)
RATE: Final = 200.0
RATE_IN_TROUBLE: Final = 100.0
"""Half an hour of it stays below the number of keys from which KEYS is refused."""


@contextmanager
def stress_cpu(processes: int) -> Iterator[None]:
    """Have ``stress-ng`` keep so many processes busy meanwhile; raises OSError where it is not installed."""
    if processes == 0:
        yield
        return
    stress = subprocess.Popen(["stress-ng", "--cpu", str(processes)], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        stress.terminate()
        stress.wait()


@dataclass(slots=True)
class Soak:
    """One soak: what acts on the cluster, what is seen of it, and what was wrong."""

    cluster: Cluster
    load: Load
    history: History
    ground: Ground | None = None
    driver: Driver | None = None
    """None: without troubles."""
    seen: Seen = field(default_factory=Seen)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def run(self, stress: int, play: Callable[[Callable[[], bool]], None], seconds: float) -> None:
        """Soak the cluster beside ``stress`` busy processes.

        Args:
            stress: see ``stress_cpu``.
            play: plays troubles in a thread of its own; it is given a function that says when time is over.
            seconds: how long; troubles end what they have begun.
        """
        self.cluster.wait_ready()
        if self.ground is not None:
            self.ground.prepare()
        self.seen.look(self.cluster)
        began = time.monotonic()

        def is_over() -> bool:
            return time.monotonic() - began >= seconds

        with ThreadPoolExecutor(1) as pool, stress_cpu(stress), self.load.running(), self.history.running():
            playing = pool.submit(play, is_over)
            try:
                self._watch(playing, is_over)
            finally:
                if self.ground is not None:
                    self.ground.over.set()
            self.seconds = time.monotonic() - began
        self._check(playing)

    def _watch(self, playing: Future[None], is_over: Callable[[], bool]) -> None:
        """Look until time is over and no trouble plays; tell now and then."""
        began = told = time.monotonic()
        while not (is_over() and playing.done()):
            time.sleep(LOOK_S)
            self.seen.look(self.cluster)
            self.seen.look_for_ends(self.cluster, self.ground.down if self.ground else ())
            if time.monotonic() - told >= TELL_S:
                print(report.progress(self, time.monotonic() - began, told), flush=True)
                told = time.monotonic()

    def _check(self, playing: Future[None]) -> None:
        """Look for what was promised, once all is quiet; everything that does not hold is a problem."""
        error = playing.exception()
        self.problems += self.seen.ends + ([] if error is None else [f"troubles ended: {error!r}"])
        try:
            self.cluster.wait_ready()
            self.seen.look(self.cluster)
            assert_on_all_nodes(self.cluster, self.load.acknowledged)
            verdict = self.history.judge()
        except AssertionError as failure:
            self.problems.append(str(failure))
        else:
            if verdict.outcome is not Outcome.LINEARIZABLE:
                self.problems.append(verdict.explanation)
        if found := too_long(self.cluster.log(node_id) for node_id in self.cluster.node_ids):
            self.problems.append(found)
        if self.driver is not None:
            self.problems += self.driver.faults + [f"{name} never struck" for name in self.driver.without()]
        if self.ground is not None:
            most, bound = max(self.seen.most_memory.values()), self.ground.memory_max
            if most > bound:
                self.problems.append(f"a node took {most} bytes of memory, more than memory_max={bound}")


def _wait_until(is_over: Callable[[], bool]) -> None:
    while not is_over():
        time.sleep(LOOK_S)


@contextmanager
def calm(directory: Path, rate: float, writers: int, bound_ms: int, seed: int) -> Iterator[Soak]:
    """Start a cluster that is loaded and not troubled."""
    cluster = Cluster(3, directory, election_timeout_bound_ms=bound_ms, **DEFAULT)
    try:
        yield Soak(cluster, Load(cluster, rate, writers), History(cluster, seed))
    finally:
        cluster.kill9()


@contextmanager
def troubled(
    directory: Path,
    names: Sequence[str],
    *,
    rate: float,
    writers: int,
    seed: int,
    memory_max: int = MEMORY_MAX,
    sizes: Sizes = FULL,
    **settings: Any,
) -> Iterator[Soak]:
    """Start a cluster on disks of its own, with the troubles ``names``; raises NoDisks."""
    disks = Disks(directory, "ext4", DISK_BYTES)
    with ExitStack() as undoing:
        undoing.callback(disks.unmount)
        node_ids = ["n1", "n2", "n3"]
        disks.mount(node_ids)
        with disks.slow("n1", 1000):
            pass
        cluster = Cluster(len(node_ids), directory, memory_max=memory_max, **settings)
        undoing.callback(cluster.kill9)
        ground = Ground(cluster, disks, memory_max, sizes)
        soak = Soak(cluster, Load(cluster, rate, writers), History(cluster, seed), ground)
        soak.driver = Driver(ground, names, seed, lambda: _highest_term(soak.seen, cluster))
        yield soak


def _highest_term(seen: Seen, cluster: Cluster) -> int:
    seen.look(cluster)
    return seen.last_term


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="A real cluster under load.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long, 10")
    parser.add_argument("--rate", type=float, help=f"writes a second, {RATE:g}; in trouble {RATE_IN_TROUBLE:g}")
    parser.add_argument("--writers", type=int, default=8, help="connections that write, 8")
    parser.add_argument("--stress-cpu", type=int, default=8, help="busy processes of stress-ng beside it, 8; 0: none")
    parser.add_argument(
        "--bound-ms",
        type=int,
        default=2_000,
        help="election_timeout_bound_ms of the nodes, 2000; 1: they learn nothing",
    )
    parser.add_argument("--terms-max", type=int, help="terms that may be used meanwhile, 0; in trouble: any number")
    parser.add_argument("--troubles", default="none", help=f"all, none, or NAME,... of {', '.join(TROUBLES)}")
    parser.add_argument("--seed", type=int, help="what strikes when; drawn unless given")
    parser.add_argument("--directory", type=Path, help="where nodes live and leave their logs; else a temporary one")
    record.add_option(parser)
    return parser


def _names(parser: argparse.ArgumentParser, text: str) -> list[str]:
    if text in ("all", "none"):
        return list(TROUBLES) if text == "all" else []
    names = text.split(",")
    if unknown := [name for name in names if name not in TROUBLES]:
        parser.error(f"there is no trouble {unknown[0]!r}; there are {', '.join(TROUBLES)}")
    return names


def main(arguments: Sequence[str]) -> int:
    """Run the program."""
    parser = _parser()
    options = parser.parse_args(arguments)
    names = _names(parser, options.troubles)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    rate = options.rate or (RATE_IN_TROUBLE if names else RATE)
    terms_max = options.terms_max if options.terms_max is not None or names else 0
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak") as temporary:
        place = (options.directory or Path(temporary)) / "nodes"
        common = {"rate": rate, "writers": options.writers, "seed": seed}
        made = (
            troubled(place, names, election_timeout_bound_ms=options.bound_ms, **common, **DEFAULT)
            if names
            else calm(place, bound_ms=options.bound_ms, **common)
        )
        with made as soak:
            play = soak.driver.play_until if soak.driver else _wait_until
            soak.run(options.stress_cpu, play, options.minutes * 60)
            figures = report.figures(soak)
            if terms_max is not None and figures["terms_used"] > terms_max:
                print(elections(soak.cluster))
                soak.problems.append(f"{figures['terms_used']} terms were used, more than {terms_max}")
    for name, value in figures.items():
        print(f"{name:24} {value}")
    for problem in soak.problems:
        print(f"PROBLEM: {problem}")
    figures["problems"] = [problem.partition("\n")[0] for problem in soak.problems]
    record.save(options.json, record.command_line(MODULE, arguments, seed=seed), str(seed), figures)
    return int(bool(soak.problems))
