"""A real cluster at default timeouts under steady load, beside other work; reports terms and the worst pause.

::

    python -m tests.soak                                      ten minutes, 200 writes a second, stress-ng --cpu 8
    python -m tests.soak --minutes 2 --stress-cpu 4           shorter, and less work beside it
    python -m tests.soak --terms-max 3                        how many elections are allowed meanwhile; 0 unless given
    python -m tests.soak ... --json FILE                      leave the figures in FILE

The exit status is 0 when no more terms than that were used, and every acknowledged write is on every node.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.cluster.harness import Cluster
from tests.cluster.workload import assert_on_all_nodes
from tests.results import record
from tests.soak.load import Load

MODULE: Final = "tests.soak"
DEFAULT: Final[dict[str, Any]] = {"heartbeat_ms": 50, "election_timeout_min_ms": 150, "election_timeout_max_ms": 300}
TELLING: Final = ("became_", "lost_quorum", "heartbeat_withheld", "timeouts_", "peer_disconnected")
LOOK_S: Final = 0.5


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
class Seen:
    """What was seen of the nodes from the outside."""

    first_term: int = 0
    last_term: int = 0
    longest_timeout_ms: int = 0
    """Longest election timeout that any node had learned."""
    leaders: list[str] = field(default_factory=list)
    """Who led, each time it changed."""

    def look(self, cluster: Cluster) -> None:
        """Ask every node."""
        infos = cluster.infos()
        for node_id, info in infos.items():
            term = int(info["raft_current_term"])
            self.first_term = self.first_term or term
            self.last_term = max(self.last_term, term)
            self.longest_timeout_ms = max(
                self.longest_timeout_ms, int(info["raft_election_timeout_ms"].rpartition("-")[2])
            )
            if info["raft_role"] == "leader" and self.leaders[-1:] != [node_id]:
                self.leaders.append(node_id)


def soak(cluster: Cluster, minutes: float, rate: float, writers: int, stress: int) -> tuple[Seen, Load, float]:
    """Load ``cluster`` for so long; return what was seen, what was written, and how many seconds it took."""
    cluster.wait_ready()
    seen, load = Seen(), Load(cluster, rate, writers)
    began = time.monotonic()
    seen.look(cluster)
    with stress_cpu(stress), load.running():
        while time.monotonic() - began < minutes * 60:
            time.sleep(LOOK_S)
            seen.look(cluster)
    took = time.monotonic() - began
    cluster.wait_ready()
    seen.look(cluster)
    assert_on_all_nodes(cluster, load.acknowledged)
    return seen, load, took


def elections(cluster: Cluster) -> str:
    """Return what the nodes logged of elections and of how long they wait, in the order of time."""
    lines = [line for node_id in cluster.node_ids for line in cluster.log(node_id).splitlines()]
    return "\n".join(sorted(line for line in lines if any(f"event={name}" in line for name in TELLING)))


def _figures(seen: Seen, load: Load, took: float) -> dict[str, Any]:
    return {
        "seconds": round(took, 1),
        "terms_used": seen.last_term - seen.first_term,
        "leaders": seen.leaders,
        "acknowledged": len(load.acknowledged),
        "writes_per_second": round(len(load.acknowledged) / took, 1),
        "outcomes": dict(load.outcomes),
        "worst_pause_s": round(load.worst_pause_s, 3),
        "longest_timeout_ms": seen.longest_timeout_ms,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="A real cluster under load.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long, 10")
    parser.add_argument("--rate", type=float, default=200.0, help="writes a second, 200")
    parser.add_argument("--writers", type=int, default=8, help="connections that write, 8")
    parser.add_argument("--stress-cpu", type=int, default=8, help="busy processes of stress-ng beside it, 8; 0: none")
    parser.add_argument(
        "--bound-ms",
        type=int,
        default=2_000,
        help="election_timeout_bound_ms of the nodes, 2000; 1: they learn nothing",
    )
    parser.add_argument("--terms-max", type=int, default=0, help="terms that may be used meanwhile, 0")
    record.add_option(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the program."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="soak") as directory:
        cluster = Cluster(3, Path(directory) / "nodes", election_timeout_bound_ms=options.bound_ms, **DEFAULT)
        try:
            result = soak(cluster, options.minutes, options.rate, options.writers, options.stress_cpu)
            if result[0].last_term > result[0].first_term:
                print(elections(cluster))
        finally:
            cluster.close()
    figures = _figures(*result)
    for name, value in figures.items():
        print(f"{name:20} {value}")
    record.save(options.json, record.command_line(MODULE, arguments), "none", figures)
    return 0 if figures["terms_used"] <= options.terms_max else 1
