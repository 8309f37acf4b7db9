"""The leader is killed: how long until the next write is acknowledged."""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from benchmarks.clusters import Cluster
from benchmarks.recovery.outage import outage_s
from benchmarks.recovery.systems import SYSTEMS, make, wait_caught_up
from benchmarks.report import progress, ratios_in_turn, spread


def measure(repeats: int) -> dict[str, Any]:
    """Return the outages of each system in seconds, run by run in turn, and our ratios to the others."""
    outages: dict[str, list[float]] = {system: [] for system in SYSTEMS}
    with tempfile.TemporaryDirectory(prefix="durable-raft-bench-") as name, ExitStack() as stack:
        clusters = [stack.enter_context(make(system, Path(name))) for system in SYSTEMS]
        for number in range(1, repeats + 1):
            for cluster in clusters:
                progress(f"failover: {cluster.system}, run {number} of {repeats}")
                outages[cluster.system].append(_kill_leader(cluster))
    progress("")
    return {"outage_s": outages, "ratios": ratios(outages)}


def _kill_leader(cluster: Cluster) -> float:
    wait_caught_up(cluster)
    leader = cluster.leader()
    taken_s = outage_s(cluster, lambda: cluster.kill([leader]))
    cluster.start([leader])
    wait_caught_up(cluster)
    return taken_s


def ratios(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
    """Return our seconds divided by each other system's, run by run."""
    ours = seconds["durable_raft"]
    return {
        system: ratios_in_turn(ours, theirs)
        for system, theirs in seconds.items()
        if system != "durable_raft" and theirs
    }


def show(title: str, result: dict[str, Any]) -> None:
    """Print one table of outages."""
    click.echo(f"{title}, until the next acknowledged write: seconds, median (least to most)")
    for system, seconds in result["outage_s"].items():
        if seconds:
            ratio = result["ratios"].get(system)
            text = "" if ratio is None else f"ours to it: {spread(ratio)}"
            click.echo(
                f"  {system:<14}{spread(seconds):<26}{text}".rstrip()
                + ("" if len(seconds) < 20 else f"   p90 {statistics.quantiles(seconds, n=10)[-1]:.2f}")
            )
