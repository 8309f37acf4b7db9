"""What one acknowledged write costs in processor time, on the leader and on a follower; in turn with another checkout.

Usage: ``python -m benchmarks.cpu [--against PATH] [--repeats 5] [--on DIRECTORY] [--json FILE]``.

Three real nodes are loaded, and what the kernel counted for each process (utime and stime) is divided by the writes.
With ``--against`` a second cluster runs the code of another checkout, and the two are loaded in turn. Then the ratios
of neighbouring runs count, also on a machine that is busy with something else.

What a flush costs depends on how long it takes: only writes on a quick disk are persisted on the event loop
(server/persister.py). So the data is in memory unless told otherwise, where every flush is quick.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.clusters import Node, Ours
from benchmarks.report import json_option, progress, ratios_in_turn, require_programs, spread, write_json
from benchmarks.throughput import Load, run_load
from durable_raft.cli.local_cluster import serve_command

LOADS = (
    Load("set", 1, 1, 3_000, 0),
    Load("set", 10, 1, 10_000, 0),
    Load("set", 100, 1, 40_000, 0),
    Load("set", 100, 10, 150_000, 0),
)
IN_MEMORY = Path("/dev/shm")
PARTS = ("leader", "follower")

Costs = dict[str, list[float]]
"""By part: microseconds of processor time for a write, run by run."""


class Checkout(Ours):
    """Nodes that run the code of any checkout, with this interpreter and its packages."""

    def __init__(self, directory: Path, code: Path) -> None:
        """Run what is in ``code``, the root of a checkout."""
        super().__init__(directory)
        self._code = code

    def command(self, node: Node) -> list[str]:
        """Return ``python -P -m durable_raft serve ...``: without ``-P`` the present directory would come first."""
        program = (sys.executable, "-P", "-m", "durable_raft")
        return serve_command(self._local[self.nodes.index(node)], self._local, self.settings, program)

    def environment(self) -> dict[str, str]:
        """Have the packages of the checkout found before those that are installed."""
        return {**super().environment(), "PYTHONPATH": str(self._code)}


def cost(cluster: Ours, load: Load) -> dict[str, float]:
    """Run ``load``; return the microseconds of processor time that a write took, by part."""
    leader, followers = cluster.leader(), cluster.followers()
    before = {node.name: node.cpu_s() for node in cluster.nodes}
    run_load(load, leader)
    used = {node.name: (node.cpu_s() - before[node.name]) / load.requests * 1e6 for node in cluster.nodes}
    return {"leader": used[leader.name], "follower": statistics.mean(used[node.name] for node in followers)}


@contextlib.contextmanager
def clusters(codes: Sequence[Path], place: Path) -> Iterator[list[Ours]]:
    """Give a cluster that serves for each checkout, with its data inside ``place``."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="durable-raft-cpu-", dir=place)))
        yield [stack.enter_context(Checkout(directory / f"cluster{number}", code)) for number, code in enumerate(codes)]


def measure(codes: Sequence[Path], place: Path, repeats: int) -> list[dict[str, Any]]:
    """Return one row per load: the costs of each checkout, run by run in turn, and the ratios of the first to others.

    Each load is run once before it counts, on each side.
    """
    rows: list[dict[str, Any]] = []
    with clusters(codes, place) as sides:
        for load in LOADS:
            costs: list[Costs] = [{part: [] for part in PARTS} for _ in sides]
            for number in range(repeats + 1):
                progress(f"{load.name}: run {number} of {repeats}")
                for side in sorted(range(len(sides)), reverse=number % 2 == 1):
                    for part, spent in cost(sides[side], load).items():
                        costs[side][part] += [spent] if number else []
            ratios = [{part: ratios_in_turn(costs[0][part], other[part]) for part in PARTS} for other in costs[1:]]
            rows.append({"load": load.name, "costs": costs, "ratios": ratios})
    progress("")
    return rows


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    click.echo(f"{'us of processor time for a write':<34}{'leader':>10}{'follower':>10}   ratio: leader, follower")
    for row in rows:
        for side, costs in enumerate(row["costs"]):
            name = row["load"] if side == 0 else "  against"
            spent = "".join(f"{statistics.median(costs[part]):>10.1f}" for part in PARTS)
            ratios = ", ".join(spread(row["ratios"][side - 1][part]) for part in PARTS) if side else ""
            click.echo(f"{name:<34}{spent}   {ratios}".rstrip())


_DIRECTORY = click.Path(path_type=Path, file_okay=False, exists=True, resolve_path=True)


@click.command()
@click.option("--against", type=_DIRECTORY, help="Root of another checkout, to be loaded in turn with this one")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Runs of each load and side")
@click.option("--on", "place", type=_DIRECTORY, default=IN_MEMORY, show_default=True, help="Where the data is")
@json_option
def main(against: Path | None, repeats: int, place: Path, json_file: Path | None) -> None:
    """Measure what a write costs, and its ratio to what it costs another checkout."""
    require_programs("redis-benchmark")
    here = Path(__file__).resolve().parent.parent
    rows = measure([here] if against is None else [here, against], place, repeats)
    show(rows)
    if json_file is not None:
        write_json(json_file, rows)


if __name__ == "__main__":
    main()
