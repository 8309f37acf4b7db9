"""All three nodes are killed at once and started again: how long until the next write is acknowledged."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from benchmarks.clusters import Cluster, Node
from benchmarks.recovery.failover import ratios
from benchmarks.recovery.failover import show as show_outages
from benchmarks.recovery.outage import outage_s
from benchmarks.recovery.preload import VALUE_BYTES, fill
from benchmarks.recovery.systems import SYSTEMS, make, wait_caught_up
from benchmarks.report import progress

PYSYNCOBJ_KEYS_MAX = 50_000
"""PySyncObj writes its whole state anew every 5,000 entries: the time to fill it grows with the square of the keys."""


def measure(repeats: int, keys: int) -> dict[str, Any]:
    """Return the outages of each system in seconds, run by run in turn, and our ratios to the others."""
    systems = [system for system in SYSTEMS if system != "pysyncobj" or keys <= PYSYNCOBJ_KEYS_MAX]
    outages: dict[str, list[float]] = {system: [] for system in systems}
    with tempfile.TemporaryDirectory(prefix="durable-raft-bench-") as name, ExitStack() as stack:
        clusters = [stack.enter_context(make(system, Path(name))) for system in systems]
        for cluster in clusters:
            progress(f"restart: {cluster.system}, writing {keys} keys")
            fill(cluster, keys)
        for cluster in clusters:
            wait_caught_up(cluster)
        memory = {cluster.system: [memory_of(node) for node in cluster.nodes] for cluster in clusters}
        for number in range(1, repeats + 1):
            for cluster in clusters:
                progress(f"restart: {cluster.system}, run {number} of {repeats}")
                outages[cluster.system].append(_kill_all(cluster))
    progress("")
    sizes = {"keys": keys, "value_bytes": VALUE_BYTES}
    return {**sizes, "outage_s": outages, "ratios": ratios(outages), "memory_bytes": memory}


def memory_of(node: Node) -> dict[str, int]:
    """Return a node's memory in bytes: all that is resident, and what of it is no page of a mapped file."""
    return {"resident": node.resident_bytes(), "anonymous": node.resident_bytes("RssAnon")}


def show(result: dict[str, Any]) -> None:
    """Print the outages, and what the nodes of each system took once they held the keys."""
    show_outages(f"all three are killed, with {result['keys']:,} keys of {result['value_bytes']} bytes", result)
    memory: dict[str, list[dict[str, int]]] = result["memory_bytes"]
    click.echo("memory of a node with these keys: MB, the most of three (without pages of mapped files)")
    for system, nodes in memory.items():
        resident, anonymous = (max(node[kind] for node in nodes) for kind in ("resident", "anonymous"))
        click.echo(f"  {system:<14}{resident / 1e6:.0f} ({anonymous / 1e6:.0f})")


def _kill_all(cluster: Cluster) -> float:
    wait_caught_up(cluster)

    def crash() -> None:
        cluster.kill(cluster.nodes)
        cluster.start(cluster.nodes)

    return outage_s(cluster, crash)
