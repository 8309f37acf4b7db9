"""All three nodes are killed at once and started again: how long until the next write is acknowledged."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.clusters import Cluster
from benchmarks.recovery.failover import ratios
from benchmarks.recovery.outage import outage_s
from benchmarks.recovery.preload import VALUE_BYTES, fill
from benchmarks.recovery.systems import SYSTEMS, make, wait_caught_up
from benchmarks.report import progress

PYSYNCOBJ_KEYS_MAX = 50_000
"""PySyncObj writes its whole state anew after every 5,000 entries: with more keys the filling alone takes an hour."""


def measure(repeats: int, keys: int) -> dict[str, Any]:
    """Return the outages of each system in seconds, run by run in turn, and our ratios to the others."""
    systems = [system for system in SYSTEMS if system != "pysyncobj" or keys <= PYSYNCOBJ_KEYS_MAX]
    outages: dict[str, list[float]] = {system: [] for system in systems}
    with tempfile.TemporaryDirectory(prefix="durable-raft-bench-") as name, ExitStack() as stack:
        clusters = [stack.enter_context(make(system, Path(name))) for system in systems]
        for cluster in clusters:
            progress(f"restart: {cluster.system}, writing {keys} keys")
            fill(cluster, keys)
        for number in range(1, repeats + 1):
            for cluster in clusters:
                progress(f"restart: {cluster.system}, run {number} of {repeats}")
                outages[cluster.system].append(_kill_all(cluster))
    progress("")
    return {"keys": keys, "value_bytes": VALUE_BYTES, "outage_s": outages, "ratios": ratios(outages)}


def _kill_all(cluster: Cluster) -> float:
    wait_caught_up(cluster)

    def crash() -> None:
        cluster.kill(cluster.nodes)
        cluster.start(cluster.nodes)

    return outage_s(cluster, crash)
