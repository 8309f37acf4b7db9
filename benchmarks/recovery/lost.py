"""Nodes are killed at random points under a load of writes; afterwards every acknowledged write is looked up.

``kill -9`` takes a process's memory and leaves what it handed to the kernel: a system that never syncs can pass. The
loss of power is another test (tests/power_loss).
"""

from __future__ import annotations

import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.clusters import READY_S, Cluster, Node
from benchmarks.recovery.systems import SYSTEMS, make, wait_caught_up
from benchmarks.recovery.writers import Writers, missing
from benchmarks.report import progress
from durable_raft.cli.local_cluster import wait_until

WHOM = ("leader", "follower", "all")
WRITES_BETWEEN = (1, 30, 300)
"""At most so many writes are acknowledged between two kills, a bound drawn for each: some hit a cluster that has just
come back, or nodes that are still starting."""
KEYS_SHOWN = 5


@dataclass(frozen=True)
class Limits:
    """How long a campaign goes on."""

    kills: dict[str, int]
    """By system."""
    seconds: float
    """For each system: after these no further node is killed, and the kills that were done are reported."""


def measure(limits: Limits, writers: int, seed: int) -> dict[str, Any]:
    """Return one row for each system, one system after the other."""
    rows = []
    for system in SYSTEMS:
        with (
            tempfile.TemporaryDirectory(prefix="durable-raft-bench-") as name,
            make(system, Path(name)) as cluster,
        ):
            rng = random.Random(f"{seed}:{system}")
            rows.append(_campaign(cluster, limits.kills[system], limits.seconds, writers, rng))
    progress("")
    return {"seed": seed, "writers": writers, "systems": rows}


def _campaign(cluster: Cluster, kills: int, seconds: float, count: int, rng: random.Random) -> dict[str, Any]:
    wait_caught_up(cluster)
    done = dict.fromkeys(WHOM, 0)
    ended = 0
    began = time.monotonic()
    writers = Writers(cluster, count)
    try:
        for number in range(1, kills + 1):
            progress(f"lost: {cluster.system}, kill {number} of {kills}, {writers.count():,} writes acknowledged")
            _wait_for_writes(cluster, writers, rng.randint(1, rng.choice(WRITES_BETWEEN)))
            if time.monotonic() - began > seconds:
                break
            whom = rng.choice(WHOM)
            ended += _kill(cluster, _chosen(cluster, whom, rng))
            done[whom] += 1
        _wait_for_writes(cluster, writers, 1)
    finally:
        writers.end()
    taken_s = time.monotonic() - began
    progress(f"lost: {cluster.system}, reading {writers.count():,} writes back")
    wait_caught_up(cluster)
    lost = missing(cluster, writers.acknowledged)
    return {
        "system": cluster.system,
        "kills": done,
        "acknowledged": writers.count(),
        "tries_failed": sum(writers.failed),
        "lost": len(lost),
        "lost_keys": [key.decode() for key in lost[:KEYS_SHOWN]],
        "ended_by_themselves": ended,
        "seconds": taken_s,
    }


def _wait_for_writes(cluster: Cluster, writers: Writers, more: int) -> None:
    enough = writers.count() + more
    if not wait_until(lambda: writers.count() >= enough, READY_S, pause_s=0.001):
        raise RuntimeError(f"{cluster.system}: {more} writes took more than {READY_S} s: see {cluster.directory}")


def _chosen(cluster: Cluster, whom: str, rng: random.Random) -> list[Node]:
    if whom == "all":
        return cluster.nodes
    return [cluster.leader()] if whom == "leader" else [rng.choice(cluster.followers())]


def _kill(cluster: Cluster, nodes: list[Node]) -> int:
    """Kill and start ``nodes``, and start what does not run; return how many had ended by themselves."""
    dead = [node for node in cluster.nodes if node.process is None or node.process.poll() is not None]
    alive = [node for node in nodes if node not in dead]
    cluster.kill(alive)
    cluster.start([*alive, *dead])
    return len(dead)


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    click.echo(
        f"acknowledged writes lost to kill -9 at random points under {result['writers']} writers; seed {result['seed']}"
    )
    click.echo(
        f"  {'':<14}{'leader':>8}{'follower':>10}{'all':>6}{'acknowledged':>14}{'lost':>8}{'seconds':>9}"
        "   ended unasked"
    )
    for row in result["systems"]:
        kills = row["kills"]
        click.echo(
            f"  {row['system']:<14}{kills['leader']:>8}{kills['follower']:>10}{kills['all']:>6}"
            f"{row['acknowledged']:>14,}{row['lost']:>8}{row['seconds']:>9.0f}   {row['ended_by_themselves']}"
            + (f"   {', '.join(row['lost_keys'])}" if row["lost"] else "")
        )
