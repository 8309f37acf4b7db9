"""Nodes are killed at random moments under load: how many acknowledged writes are lost. It must be none."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.clusters import Cluster, Node
from benchmarks.recovery.systems import SYSTEMS, Connection, NotServed, connect, make, wait_caught_up
from benchmarks.report import progress

WRITERS = 4
LOAD_S = (0.05, 0.4)
"""How long writers are at work before each kill, and then again after it; drawn anew each time."""
READ_TIMEOUT_S = 10.0
RETRY_S = 0.005
KILLED_BY_SYSTEM = {"durable_raft": 1.0, "etcd": 0.25, "pysyncobj": 0.1}
"""Share of the kills that a system gets: the others take longer to come back."""


class _Writers:
    """Threads that write keys of their own, on any node that answers, and remember what was acknowledged."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(n,), daemon=True) for n in range(WRITERS)]
        self.acknowledged: list[list[int]] = [[] for _ in range(WRITERS)]
        for thread in self._threads:
            thread.start()

    def end(self) -> list[bytes]:
        """End the threads and return the acknowledged keys."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        return [_key(writer, number) for writer, numbers in enumerate(self.acknowledged) for number in numbers]

    def count(self) -> int:
        """Return how many writes were acknowledged so far."""
        return sum(map(len, self.acknowledged))

    def _write(self, writer: int) -> None:
        connection: Connection | None = None
        number = turn = 0
        while not self._ended.is_set():
            number += 1
            try:
                if connection is None:
                    turn += 1
                    connection = connect(self._cluster, self._cluster.nodes[(writer + turn) % len(self._cluster.nodes)])
                connection.put(_key(writer, number), b"%d" % number)
                self.acknowledged[writer].append(number)
            except NotServed:
                if connection is not None:
                    connection.close()
                connection = None
                self._ended.wait(RETRY_S)
        if connection is not None:
            connection.close()


def _key(writer: int, number: int) -> bytes:
    return b"lost:%d:%d" % (writer, number)


def measure(kills: int, seed: int) -> dict[str, Any]:
    """Return, for each system, how often nodes were killed, what was acknowledged, and what of it was lost."""
    results: dict[str, Any] = {"seed": seed}
    for system in SYSTEMS:
        share = max(1, int(kills * KILLED_BY_SYSTEM[system]))
        with tempfile.TemporaryDirectory(prefix="durable-raft-bench-") as name, make(system, Path(name)) as cluster:
            results[system] = _torment(cluster, share, random.Random(f"{seed} {system}"))
    progress("")
    return results


def _torment(cluster: Cluster, kills: int, rng: random.Random) -> dict[str, Any]:
    writers = _Writers(cluster)
    victims: dict[str, int] = {}
    for number in range(1, kills + 1):
        progress(f"losses: {cluster.system}, kill {number} of {kills}, {writers.count()} writes")
        time.sleep(rng.uniform(*LOAD_S))  # The moment of the kill is what is drawn.
        kind, nodes = _draw(cluster, rng)
        victims[kind] = victims.get(kind, 0) + 1
        cluster.kill(nodes)
        time.sleep(rng.uniform(*LOAD_S))
        cluster.start(nodes)
        wait_caught_up(cluster)
    keys = writers.end()
    if not keys:
        raise RuntimeError(f"{cluster.system} acknowledged nothing")
    lost = _missing(cluster, keys)
    return {"kills": kills, "victims": victims, "acknowledged": len(keys), "lost": len(lost)}


def _draw(cluster: Cluster, rng: random.Random) -> tuple[str, list[Node]]:
    """Draw who is killed."""
    kind = rng.choice(("leader", "follower", "all"))
    if kind == "all":
        return kind, cluster.nodes
    leader = cluster.leader()
    followers = [node for node in cluster.nodes if node is not leader]
    return kind, [leader if kind == "leader" else rng.choice(followers)]


def _missing(cluster: Cluster, keys: list[bytes]) -> list[bytes]:
    """Read every key back from the leader and return those that are not there as they were written."""
    wait_caught_up(cluster)
    lost = []
    with connect(cluster, cluster.leader(), READ_TIMEOUT_S) as connection:
        for at, key in enumerate(keys):
            if at % 1000 == 0:
                progress(f"losses: {cluster.system}, reading {at} of {len(keys)} writes back")
            if connection.get(key) != key.rsplit(b":", 1)[1]:
                lost.append(key)
    return lost


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    click.echo(f"killed at random moments under load (seed {result['seed']})")
    for system in SYSTEMS:
        row = result[system]
        victims = ", ".join(f"{kind} {count}" for kind, count in sorted(row["victims"].items()))
        click.echo(
            f"  {system:<14}{row['kills']:>5} kills ({victims}): {row['acknowledged']:,} writes acknowledged, "
            f"{row['lost']:,} lost"
        )
