"""How long small writes wait while something large goes on: a checkpoint, a snapshot for a follower, large values.

Usage: ``python -m benchmarks.stalls [--repeats 5] [--keys 200000] [--json FILE]``. Needs etcd.

Small writes leave at a fixed rate (benchmarks/openloop.py); a quiet phase before each busy one is what it is compared
with. Large values are written to etcd, too. Nobody may lose leadership meanwhile: the term is looked at.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from benchmarks.clusters import Cluster, Node, Ours
from benchmarks.etcd import Etcd
from benchmarks.grpc_wire import EtcdWire
from benchmarks.openloop import RespWire, Work, open_loop, quantile
from benchmarks.recovery.preload import fill
from benchmarks.recovery.systems import connect, wait_caught_up
from benchmarks.report import json_option, progress, ratios_in_turn, require_programs, spread, write_json
from durable_raft.addresses import Address
from durable_raft.cli.local_cluster import HOST, wait_until
from durable_raft.cli.resp_client import RespClient
from durable_raft.errors import RequestError

KEYS = 200_000
RATE = 500.0
WORK = Work()
PHASE_S = 1.5
"""A checkpoint takes some tenths of it."""
CHANGES = 12_000
"""Keys changed before a checkpoint: fewer than those for which the node would begin one by itself."""
LARGE_BYTES = 1 << 20
SETTINGS: dict[str, object] = {"log_tail_entries": 50, "log_tail_bytes": 1 << 20}
"""So short a tail that each checkpoint has the log behind it compacted."""
BACK_S = 60.0


def _call(node: Node, *arguments: str | bytes) -> object:
    with RespClient(Address(HOST, node.client_port), 10.0) as client:
        return client.call(*arguments)


@contextmanager
def nothing(_: Cluster) -> Iterator[Callable[[], bool]]:
    """Have nothing else going on."""
    yield lambda: True


@contextmanager
def checkpoint(ours: Ours) -> Iterator[Callable[[], bool]]:
    """Change some keys, then have every node write a checkpoint; its log is compacted behind it."""
    fill(ours, CHANGES)
    wait_caught_up(ours)
    before = {node.name: int(ours.info(node)["raft_snapshot_index"]) for node in ours.nodes}
    for node in ours.nodes:
        _call(node, "RAFT", "CHECKPOINT")
    yield lambda: all(int(ours.info(node)["raft_snapshot_index"]) > before[node.name] for node in ours.nodes)


@contextmanager
def snapshot(ours: Ours) -> Iterator[Callable[[], bool]]:
    """Bring up a follower whose disk was lost."""
    node = ours.followers()[0]
    ours.kill([node])
    shutil.rmtree(node.directory)
    ours.start([node])

    def is_back() -> bool:
        with contextlib.suppress(RequestError):
            info = ours.info(node)
            return info["raft_is_voter"] == "1" and int(info["raft_snapshot_index"]) > 0
        return False

    yield is_back
    if not wait_until(is_back, BACK_S):
        raise RuntimeError(f"{node.name} is not back within {BACK_S} s")


@contextmanager
def large_values(cluster: Cluster) -> Iterator[Callable[[], bool]]:
    """Have another client write values of 1 MB one after the other."""
    ended, written = threading.Event(), [0]
    value = b"x" * LARGE_BYTES

    def write() -> None:
        with connect(cluster, cluster.leader(), BACK_S) as connection:
            while not ended.is_set():
                connection.put(b"large:%d" % (written[0] % 50), value)
                written[0] += 1

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        yield lambda: written[0] > 0
        ended.set()
        writing.result()


BUSY: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "checkpoint and compaction": (Ours.system, checkpoint),
    "snapshot for a follower": (Ours.system, snapshot),
    "1 MB values beside": (Ours.system, large_values),
    "1 MB values beside, etcd": (Etcd.system, large_values),
}


def phase(cluster: Cluster, going_on: Callable[[Any], Any]) -> list[float]:
    """Return the latencies of small writes while ``going_on``; it must have happened before the phase ended."""
    with going_on(cluster) as has_happened:
        wire = EtcdWire if isinstance(cluster, Etcd) else RespWire
        latencies_s = open_loop(cluster.leader().client_port, RATE, PHASE_S, WORK, wire)
        if not wait_until(has_happened, BACK_S):
            raise RuntimeError(f"{going_on.__name__} did not happen")
    wait_caught_up(cluster)
    return latencies_s


def measure(repeats: int, keys: int) -> dict[str, Any]:
    """Return p50, p99 and the maximum of quiet and busy phases in turn, and the ratios of their p99."""
    results: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(prefix="durable-raft-bench-") as name,
        Ours(Path(name) / "ours", 3, SETTINGS) as ours,
        Etcd(Path(name) / "etcd") as etcd,
    ):
        clusters: dict[str, Cluster] = {ours.system: ours, etcd.system: etcd}
        for cluster in clusters.values():
            progress(f"stalls: writing {keys} keys to {cluster.system}")
            fill(cluster, keys)
            wait_caught_up(cluster)
        term = ours.term()
        for number in range(1, repeats + 1):
            for title, (system, going_on) in BUSY.items():
                progress(f"stalls: {title}, run {number} of {repeats}")
                row = results.setdefault(title, {"quiet": [], "busy": []})
                row["quiet"].append(_quantiles(phase(clusters[system], nothing)))
                row["busy"].append(_quantiles(phase(clusters[system], going_on)))
        elections = ours.term() - term
    progress("")
    for row in results.values():
        quiet, busy = ([each["p99"] for each in row[kind]] for kind in ("quiet", "busy"))
        row["p99_ratios"] = ratios_in_turn(busy, quiet)
    return {"rate": RATE, "keys": keys, "terms_begun": elections, "phases": results}


def _quantiles(latencies_s: list[float]) -> dict[str, float]:
    return {"p50": quantile(latencies_s, 0.5), "p99": quantile(latencies_s, 0.99), "max": max(latencies_s) * 1e3}


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    click.echo(f"{'ms':<30}{'p50 quiet':>10}{'busy':>8}{'p99 quiet':>11}{'busy':>8}{'most':>8}   p99, busy to quiet")
    for title, row in result["phases"].items():
        middle = {
            (kind, key): statistics.median(each[key] for each in row[kind])
            for kind in ("quiet", "busy")
            for key in ("p50", "p99")
        }
        most = max(each["max"] for each in row["busy"])
        line = f"{title:<30}{middle['quiet', 'p50']:>10.1f}{middle['busy', 'p50']:>8.1f}"
        line += f"{middle['quiet', 'p99']:>11.1f}{middle['busy', 'p99']:>8.1f}{most:>8.1f}"
        click.echo(f"{line}   {spread(row['p99_ratios'])}")
    click.echo(f"terms begun meanwhile: {result['terms_begun']}")


@click.command()
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Phases of each kind")
@click.option("--keys", default=KEYS, show_default=True, type=click.IntRange(CHANGES), help="Keys before")
@json_option
def main(repeats: int, keys: int, json_file: Path | None) -> None:
    """Measure how long small writes wait while the node is busy with something large."""
    require_programs("etcd")
    result = measure(repeats, keys)
    show(result)
    if json_file is not None:
        write_json(json_file, result)


if __name__ == "__main__":
    main()
