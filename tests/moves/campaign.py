"""A cluster that is changed in every way an operator can, while clients write; beside etcd, to which the same is done.

::

    python -m tests.moves                       1, 3, 5 nodes, all replaced, all moved, 3 nodes; 20 handovers; restarts
    python -m tests.moves --ours-only           without etcd, which needs etcd-server and the extra bench
    python -m tests.moves --handovers 100 --rate 500 --seed 7
    python -m tests.moves ... --json FILE       leave the figures in FILE

The two clusters run at the same time, and each step is played on one after the other; only the one in play is loaded.
The exit status is 0 when no client of ours saw an error, every acknowledged write is on every node, the history is
linearizable, and every node that was stopped or removed ended as it should.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

from benchmarks.report import machine
from tests.moves import figures
from tests.moves.load import Client, Load, Note
from tests.moves.ours import OurNodes
from tests.moves.steps import CALM, REPLACED, Operators, Sizes, plan
from tests.results import moves, record
from tests.simulation.linearizability import Outcome, Verdict, check
from tests.simulation.sequential import NEVER, Kind, Operation
from tests.soak.soak import DEFAULT

MODULE: Final = "tests.moves"
ABOUT: Final = ("cpu", "cores", "kernel", "python", "etcd")
"""What is told of the machine: nothing of where the code stood in its history (tests/results/record.py)."""
FULL: Final = Sizes(
    keys=50_000, rate=200.0, clients=8, calm=2000, between=150, replaced=5, moved=5, handovers=20, stops=10, rounds=2
)


class System(Operators, Protocol):
    """A cluster of one system: changed by operators, used by clients."""

    system: str

    def connect(self, note: Note) -> Client:
        """Make a client."""

    def fill(self, keys: int) -> None:
        """Write keys."""

    def check(self, acknowledged: Mapping[str, str]) -> list[str]:
        """Return what is wrong when all is over."""

    def close(self) -> None:
        """Stop all nodes."""


@dataclass(slots=True)
class Side:
    """One system and what is seen of it."""

    nodes: System
    load: Load
    rng: random.Random
    steps: list[figures.Step] = field(default_factory=list)
    verdict: Verdict = field(default_factory=lambda: Verdict(Outcome.UNDECIDED, 0, 0, 0, "not judged"))
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, nodes: System, sizes: Sizes, seed: int) -> Side:
        """Give a system its clients."""
        name = f"{seed}-{nodes.system}"
        load = Load(nodes.connect, rate=sizes.rate, clients=sizes.clients, seed=name)
        return cls(nodes, load, random.Random(name))


class Campaign:
    """The steps, played on one system after the other."""

    def __init__(self, systems: Sequence[System], sizes: Sizes, seed: int, tell: Callable[[str], None]) -> None:
        """``tell`` takes a line about each action."""
        self._sizes = sizes
        self._tell = tell
        self.sides = [Side.of(nodes, sizes, seed) for nodes in systems]

    def play(self) -> None:
        """Play all steps, and judge; what is wrong is in ``problems`` of each side."""
        for side in self.sides:
            side.nodes.fill(self._sizes.keys)
        with ExitStack() as stack:
            for side in self.sides:
                stack.enter_context(side.load.running())
            for name, actions in plan(self._sizes):
                for side in self.sides:
                    self._play(side, name, actions(side.nodes, side.rng))
        for side in self.sides:
            self._judge(side)

    def _play(self, side: Side, name: str, actions: Iterator[tuple[str, Callable[[], None]]]) -> None:
        step = figures.Step(name)
        side.steps.append(step)
        writes = self._sizes.calm if name == CALM else self._sizes.between
        with side.load.at_work():
            side.load.wait_for(2 * self._sizes.clients)
            for what, act in actions:
                began = time.monotonic()
                act()
                done = time.monotonic()
                side.load.wait_for(writes)
                played = figures.Played(what, began, done, time.monotonic())
                step.actions.append(played)
                self._tell(_line(side, name, played))

    def _judge(self, side: Side) -> None:
        """Look for what was promised, once all is quiet."""
        history = side.load.history
        self._tell(f"{side.nodes.system}: judging {len(history)} commands, {len(side.load.acknowledged)} writes")
        side.problems += side.nodes.check(side.load.acknowledged)
        side.verdict = check(history + _final_reads(side))
        if side.verdict.outcome is not Outcome.LINEARIZABLE:
            side.problems.append(side.verdict.explanation)
        side.problems += [f"a client was told {kind}, {times} times" for kind, times in side.load.count().items()]


def _final_reads(side: Side) -> list[Operation]:
    """Read all registers once more: what was acknowledged and is gone contradicts these."""
    reads = []
    with closing(side.nodes.connect(lambda _: None)) as client:
        for key in sorted({each.key for each in side.load.history}):
            invoked = time.monotonic()
            value = client.get(key)
            reads.append(Operation(-1, key, Kind.GET, None, value, invoked, time.monotonic()))
    return reads


def _line(side: Side, name: str, played: figures.Played) -> str:
    pause_ms = figures.MS * figures.worst_pause_s(side.load.acknowledgements(), played.began, played.ended)
    errors = sum(error.is_shown for error in side.load.errors)
    return (
        f"{side.nodes.system}: {name}: {played.what}: {played.done - played.began:.2f} s, "
        f"pause {pause_ms:.0f} ms, errors so far {errors}"
    )


def result(campaign: Campaign, sizes: Sizes, load_average: float) -> dict[str, Any]:
    """Return the figures of a campaign that is over; plain values that JSON can hold."""
    about, steps = machine(), dict[str, Any]()
    for side in campaign.sides:
        for step in side.steps:
            steps.setdefault(step.name, {})[side.nodes.system] = figures.of_step(step, side.load)
    return {
        "machine": {name: about[name] for name in ABOUT} | {"load_average": round(load_average, 1)},
        "sizes": asdict(sizes),
        "steps": steps,
        "systems": {side.nodes.system: _of_side(side) for side in campaign.sides},
    }


def _of_side(side: Side) -> dict[str, Any]:
    return {
        "acknowledged": len(side.load.acknowledgements()),
        "looked_up": len(side.load.acknowledged),
        "judgement": side.verdict.outcome.name.lower().replace("_", " "),
        "operations": side.verdict.operations,
        "unknown": sum(each.returned == NEVER for each in side.load.history),
        "shown": dict(side.load.count()),
        "problems": [problem.partition("\n")[0] for problem in side.problems],
    }


@contextmanager
def clusters(directory: Path, settings: Mapping[str, Any], *, with_peer: bool) -> Iterator[list[System]]:
    """Start a node of ours, as users start it, and one of etcd; stop what has become of them afterwards."""
    with ExitStack() as stack:
        ours = OurNodes(directory / "ours", settings)
        stack.callback(ours.close)
        systems: list[System] = [ours]
        if with_peer:
            # It needs a package that the tests do not.
            from tests.moves.peer import PeerNodes

            peer = PeerNodes(directory / "etcd")
            stack.callback(peer.close)
            systems.append(peer)
        yield systems


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description="Members come and go under load.")
    for name, value in asdict(FULL).items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"{HELP[name]}, {value:g}")
    parser.add_argument("--ours-only", action="store_true", help="without etcd")
    parser.add_argument("--seed", type=int, help="which node is next, and what clients ask; drawn unless given")
    parser.add_argument("--directory", type=Path, help="where nodes live and leave their logs; else a temporary one")
    record.add_option(parser)
    return parser


HELP: Final = {
    "keys": "keys written before",
    "rate": "commands a second, three of four of them writes",
    "clients": "clients that ask",
    "calm": "writes while nothing is done",
    "between": "writes that are waited for after each action",
    "replaced": "nodes of five that are replaced",
    "moved": "nodes of five that get other addresses",
    "handovers": "times that leadership is handed over",
    "stops": "times that the leader is stopped and started",
    "rounds": "rolling restarts",
}


LEAST: Final = {"keys": 0, "rate": 1} | dict.fromkeys(
    ("clients", "calm", "between", "replaced", "moved", "handovers", "stops", "rounds"), 1
)
"""Of each size: a step without an action would have no figures."""


def missing_for_peer() -> str:
    """Return what is not installed that the peer needs, and how to get it; nothing when all is there."""
    if shutil.which("etcd") is None:
        return "etcd is not on PATH (Debian: apt-get install etcd-server)"
    return "" if find_spec("grpc") else "grpcio is not installed (pip install -e '.[bench]')"


def main(arguments: Sequence[str]) -> int:
    """Run the program."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.ours_only and (missing := missing_for_peer()):
        parser.error(f"{missing}; --ours-only goes without it")
    for name, least in LEAST.items():
        if getattr(options, name) < least:
            parser.error(f"--{name} is {getattr(options, name):g}, expected {least} or more")
    if max(options.replaced, options.moved) > len(REPLACED):
        parser.error(f"--replaced and --moved are of {len(REPLACED)} nodes")
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    sizes = Sizes(**{name: getattr(options, name) for name in asdict(FULL)})
    load_average = os.getloadavg()[0]
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="moves") as temporary:
        place = (options.directory or Path(temporary)) / "nodes"
        with clusters(place, DEFAULT, with_peer=not options.ours_only) as systems:
            campaign = Campaign(systems, sizes, seed, lambda line: print(line, flush=True))
            campaign.play()
    found = result(campaign, sizes, load_average)
    print(moves.all_tables(found))
    for side in campaign.sides:
        for problem in side.problems:
            print(f"PROBLEM of {side.nodes.system}: {problem}")
    record.save(options.json, record.command_line(MODULE, arguments, seed=seed), str(seed), found)
    return int(bool(campaign.sides[0].problems))
