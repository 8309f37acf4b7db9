"""Throughput beside three etcd nodes and one unreplicated ``redis-server --appendfsync always``, in turn in one run.

Usage: ``python -m benchmarks.throughput [--repeats 5] [--json FILE]``. Needs redis-server and redis-benchmark, etcd and
h2load (Debian: redis-server, redis-tools, etcd-server, nghttp2-client).

All of them run on this machine at the same time; ``redis-benchmark`` loads ours and Redis, ``h2load`` loads etcd, one
after the other, as often as asked. What counts is the ratio of neighbouring runs: absolute rates on a shared machine
prove nothing.
"""

from __future__ import annotations

import csv
import statistics
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.clusters import Node, Ours, Redis
from benchmarks.etcd import Etcd, run_h2load
from benchmarks.report import progress, require_programs, spread, write_json
from durable_raft.cli.local_cluster import HOST

RUN_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Load:
    """One way of loading a server."""

    name: str
    command: str
    clients: int
    pipeline: int
    requests: int


LOADS = (
    Load("SET, 1 client", "set", 1, 1, 3_000),
    Load("SET, 100 clients", "set", 100, 1, 40_000),
    Load("SET, 100 clients x 10", "set", 100, 10, 300_000),
    Load("GET, 1 client", "get", 1, 1, 8_000),
    Load("GET, 100 clients", "get", 100, 1, 80_000),
    Load("GET, 100 clients x 10", "get", 100, 10, 400_000),
)
ETCD_SHARE = 8
"""The loads of many clients have so many times fewer requests for etcd, to take about as long."""
VALUE_BYTES = 128


def run_load(load: Load, node: Node) -> float:
    """Return requests per second of one ``redis-benchmark`` run; it ends at the first error reply.

    Raises:
        RuntimeError: the run failed or gave no rate.
    """
    command = ["redis-benchmark", "-h", HOST, "-p", str(node.client_port), "-t", load.command, "--csv", "-r", "100000"]
    command += ["-c", str(load.clients), "-P", str(load.pipeline), "-n", str(load.requests), "-d", str(VALUE_BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)
    rows = [row for row in csv.reader(done.stdout.splitlines()) if row and row[0].upper() == load.command.upper()]
    if done.returncode != 0 or not rows or "rror" in done.stdout + done.stderr.replace("WARNING", ""):
        raise RuntimeError(f"{' '.join(command)} failed ({done.returncode}): {done.stdout}{done.stderr}")
    return float(rows[0][1])


def measure(repeats: int) -> list[dict[str, Any]]:
    """Return one row per load: rates of all sides, run by run in turn, and our ratios to the others."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="durable-raft-bench-") as name:
        directory = Path(name)
        with Ours(directory / "ours") as ours, Redis(directory / "redis") as redis, Etcd(directory / "etcd") as etcd:
            for load in LOADS:
                rates: dict[str, list[float]] = {"ours": [], "etcd": [], "redis": []}
                for number in range(1, repeats + 1):
                    progress(f"{load.name}: run {number} of {repeats}")
                    rates["ours"].append(run_load(load, ours.leader()))
                    rates["etcd"].append(_run_etcd(load, etcd.leader(), directory))
                    rates["redis"].append(run_load(load, redis.leader()))
                ratios = {
                    peer: [mine / other for mine, other in zip(rates["ours"], rates[peer], strict=True)]
                    for peer in ("etcd", "redis")
                }
                rows.append({"load": asdict(load), **rates, "ratios": ratios})
    progress("")
    return rows


def _run_etcd(load: Load, node: Node, directory: Path) -> float:
    requests = load.requests if load.clients == 1 else load.requests // ETCD_SHARE
    return run_h2load(
        node,
        directory,
        load.command,
        clients=load.clients,
        in_flight=load.pipeline,
        requests=requests,
        value_bytes=VALUE_BYTES,
    )


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    click.echo(f"{'load':<24}{'ours/s':>10}{'etcd/s':>10}{'redis/s':>10}   to etcd              to Redis")
    for row in rows:
        medians = "".join(f"{statistics.median(row[name]):>10.0f}" for name in ("ours", "etcd", "redis"))
        ratios = "   ".join(f"{spread(each):<20}" for each in row["ratios"].values()).rstrip()
        click.echo(f"{row['load']['name']:<24}{medians}   {ratios}")


@click.command()
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Runs of each side per load")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write all figures here"
)
def main(repeats: int, json_file: Path | None) -> None:
    """Load three nodes of ours, three of etcd and one Redis in turn, and print the ratios."""
    require_programs("redis-server", "redis-benchmark", "etcd", "h2load")
    rows = measure(repeats)
    show(rows)
    if json_file is not None:
        write_json(json_file, rows)


if __name__ == "__main__":
    main()
