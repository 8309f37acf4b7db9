"""What one durable write costs, and the floor under it: raw flushes and LMDB commits on the same disk in the same run.

Usage: ``python -m benchmarks.limits [--repeats 3] [--json FILE]``. Needs redis-benchmark, etcd and h2load.

CPU time is the kernel's count for each process, flushes are our own counters. Bytes are what the disk was given while a
load ran, by all three nodes together: the kernel's count for a process is of page-cache folios, up to 2 MB for a page.
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import lmdb

from benchmarks.clusters import Cluster, Node, Ours
from benchmarks.etcd import Etcd, run_h2load
from benchmarks.report import json_option, progress, require_programs, spread, write_json
from benchmarks.throughput import Load, run_load
from durable_raft.addresses import Address
from durable_raft.cli.local_cluster import HOST
from durable_raft.cli.resp_client import RespClient

LOADS = (
    Load("set", 1, 1, 3_000, 3_000),
    Load("set", 100, 1, 60_000, 20_000),
    Load("set", 100, 10, 300_000, 40_000),
)
ROUNDS = 1_000
"""Flushes, commits or writes of which one p50 is taken."""
PAGE_BYTES = 4096
SECTOR_BYTES = 512
"""The unit of the kernel's counts, whatever the disk's is."""


def p50_us(act: Callable[[int], None]) -> float:
    """Return the median time of one call in microseconds."""
    taken = []
    for number in range(ROUNDS):
        began = time.perf_counter()
        act(number)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1e6


def floor(directory: Path) -> dict[str, float]:
    """Return p50 in microseconds of a raw flush, a raw LMDB commit, and one of 100 records."""
    file = os.open(directory / "flushed", os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(file, b"\1" * PAGE_BYTES * 1024, 0)
        os.fsync(file)

        def flush(number: int) -> None:
            os.pwrite(file, b"x" * PAGE_BYTES, number % 1024 * PAGE_BYTES)
            os.fdatasync(file)

        flushed_us = p50_us(flush)
    finally:
        os.close(file)
    with lmdb.open(str(directory / "one"), map_size=1 << 30) as environment:
        one_us = p50_us(lambda number: _commit(environment, number, 1))
    with lmdb.open(str(directory / "group"), map_size=1 << 30) as environment:
        group_us = p50_us(lambda number: _commit(environment, number, 100))
    return {"fdatasync_us": flushed_us, "lmdb_commit_us": one_us, "lmdb_commit_100_us": group_us}


def _commit(environment: lmdb.Environment, number: int, records: int) -> None:
    with environment.begin(write=True) as transaction:
        for record in range(number * records, (number + 1) * records):
            transaction.put(record.to_bytes(8, "big"), b"x" * 200, append=True)


def one_write_us(node: Node) -> float:
    """Return p50 in microseconds of a write by one client that waits for each reply."""
    with RespClient(Address(HOST, node.client_port), 5.0) as client:

        def write(number: int) -> None:
            if client.call("SET", f"limits:{number}", b"x" * 128) != b"OK":
                raise RuntimeError("a SET was not answered with OK")

        return p50_us(write)


def breakdown(ours: Ours, alone: Ours) -> dict[str, float]:
    """Return where the time of one client's write goes, each as p50 in microseconds.

    The nodes' own quantiles are over their newest 1,024 samples: those of the writes made here.
    """
    write_us = one_write_us(ours.leader())
    leader = ours.info(ours.leader())
    flushed = sorted(_quantile_us(ours.info(node), "raft_fsync_latency_us") for node in ours.followers())
    return {
        "one_write_us": write_us,
        "commit_us": _quantile_us(leader, "raft_commit_latency_us"),
        "leader_flush_us": _quantile_us(leader, "raft_fsync_latency_us"),
        "faster_follower_flush_us": flushed[0],
        "slower_follower_flush_us": flushed[-1],
        "one_node_write_us": one_write_us(alone.leader()),
        "one_node_flush_us": _quantile_us(alone.info(alone.leader()), "raft_fsync_latency_us"),
    }


def _quantile_us(info: dict[str, str], name: str) -> float:
    return float(dict(part.split("=") for part in info[name].split(","))["p50"])


def cost(cluster: Cluster, load: Load, directory: Path) -> dict[str, float]:
    """Run ``load``; return what a write took: CPU of leader and follower, bytes of the disk, the leader's flushes."""
    leader, followers = cluster.leader(), cluster.followers()
    os.sync()
    before = {node.name: node.cpu_s() for node in cluster.nodes}
    flushes, written = _flushes(cluster, leader), _disk_bytes(directory)
    if isinstance(cluster, Etcd):
        requests = load.etcd_requests
        sizes = {"clients": load.clients, "in_flight": load.pipeline, "value_bytes": load.value_bytes}
        rate = run_h2load(leader, directory, load.command, requests=requests, **sizes)
    else:
        requests = load.requests
        rate = run_load(load, leader)
    used = {node.name: node.cpu_s() - before[node.name] for node in cluster.nodes}
    os.sync()
    return {
        "rate": rate,
        "leader_cpu_us": used[leader.name] / requests * 1e6,
        "follower_cpu_us": statistics.mean(used[node.name] for node in followers) / requests * 1e6,
        "disk_bytes": (_disk_bytes(directory) - written) / requests,
        "leader_flushes": (_flushes(cluster, leader) - flushes) / requests,
    }


def _disk_bytes(directory: Path) -> float:
    """Return how many bytes the disk under ``directory`` was ever given; NaN where there is no such count."""
    device = directory.stat().st_dev
    counts = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    return int(counts.read_text().split()[6]) * SECTOR_BYTES if counts.exists() else math.nan


def _flushes(cluster: Cluster, node: Node) -> int:
    return int(cluster.info(node)["raft_flushes"]) if isinstance(cluster, Ours) else 0


def measure(repeats: int) -> dict[str, Any]:
    """Return the floor, one client's write, and what a write costs under each load, run by run in turn."""
    floors: list[dict[str, float]] = []
    costs: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory(prefix="durable-raft-bench-") as name:
        directory = Path(name)
        with Ours(directory / "ours") as ours, Ours(directory / "alone", 1) as alone, Etcd(directory / "etcd") as etcd:
            for number in range(1, repeats + 1):
                progress(f"floor: run {number} of {repeats}")
                with tempfile.TemporaryDirectory(dir=directory) as place:
                    floors.append({**floor(Path(place)), **breakdown(ours, alone)})
                for load in LOADS:
                    for cluster in (ours, etcd):
                        progress(f"{load.name}, {cluster.system}: run {number} of {repeats}")
                        rows = costs.setdefault(load.name, {}).setdefault(cluster.system, [])
                        rows.append(cost(cluster, load, directory))
    progress("")
    ratios = [each["one_write_us"] / each["lmdb_commit_us"] for each in floors]
    return {"floors": floors, "one_write_to_lmdb_commit": ratios, "costs": costs}


def show(result: dict[str, Any]) -> None:
    """Print the tables."""
    names = {
        "fdatasync_us": "one 4 KB write and fdatasync",
        "lmdb_commit_us": "one LMDB commit, one record of 200 B",
        "lmdb_commit_100_us": "one LMDB commit, 100 records of 200 B",
        "one_write_us": "one client's write, three nodes",
        "commit_us": "  from its proposal to its commit",
        "leader_flush_us": "  the leader's flush",
        "faster_follower_flush_us": "  the faster follower's flush",
        "slower_follower_flush_us": "  the slower follower's flush",
        "one_node_write_us": "one client's write, one node",
        "one_node_flush_us": "  its flush",
    }
    for key, name in names.items():
        click.echo(f"{name:<40}{statistics.median(each[key] for each in result['floors']):>8.0f} us (p50)")
    click.echo(f"{'a write to an LMDB commit':<40}{spread(result['one_write_to_lmdb_commit'])}")
    click.echo(f"\n{'for one acknowledged write':<28}{'':<14}{'writes/s':>9}{'CPU us':>19}{'bytes':>9}{'flushes':>9}")
    click.echo(f"{'':<28}{'':<14}{'':>9}{'leader / follower':>19}{'all':>9}{'leader':>9}")
    for load, systems in result["costs"].items():
        for system, rows in systems.items():
            middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            flushes = f"{middle['leader_flushes']:.3f}" if middle["leader_flushes"] else "-"
            cpu = f"{middle['leader_cpu_us']:.0f} / {middle['follower_cpu_us']:.0f}"
            line = f"{load:<28}{system:<14}{middle['rate']:>9.0f}{cpu:>19}"
            click.echo(f"{line}{middle['disk_bytes']:>9.0f}{flushes:>9}")


@click.command()
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1), help="Runs of each load")
@json_option
def main(repeats: int, json_file: Path | None) -> None:
    """Measure what a write costs ours and etcd, and what the disk alone would take."""
    require_programs("redis-benchmark", "etcd", "h2load")
    result = measure(repeats)
    show(result)
    if json_file is not None:
        write_json(json_file, result)


if __name__ == "__main__":
    main()
