"""Throughput beside three etcd nodes and one unreplicated ``redis-server --appendfsync always``, in turn in one run.

Usage: ``python -m benchmarks.throughput [--repeats 5] [--json FILE]``. Needs redis-server and redis-benchmark, etcd and
h2load (Debian: redis-server, redis-tools, etcd-server, nghttp2-client).

All of them run on this machine at the same time; ``redis-benchmark`` loads ours and Redis, ``h2load`` loads etcd, one
after the other, as often as asked. What counts is the ratio of neighbouring runs: absolute rates on a shared machine
prove nothing.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.etcd import etcd_cluster, leading_port, run_h2load
from durable_raft import __version__
from durable_raft.cli.local_cluster import (
    HOST,
    LocalNode,
    free_ports,
    local_nodes,
    node_environment,
    serve_command,
    start_node,
    stop_nodes,
    wait_until,
)
from durable_raft.cli.resp_client import RespClient
from durable_raft.errors import RequestError
from durable_raft.server.addresses import Address

READY_S = 30.0
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


def run_load(load: Load, port: int) -> float:
    """Return requests per second of one ``redis-benchmark`` run; it ends at the first error reply.

    Raises:
        RuntimeError: the run failed or gave no rate.
    """
    command = ["redis-benchmark", "-h", HOST, "-p", str(port), "-t", load.command, "--csv", "-r", "100000"]
    command += ["-c", str(load.clients), "-P", str(load.pipeline), "-n", str(load.requests), "-d", str(VALUE_BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)
    rows = [row for row in csv.reader(done.stdout.splitlines()) if row and row[0].upper() == load.command.upper()]
    if done.returncode != 0 or not rows or "rror" in done.stdout + done.stderr.replace("WARNING", ""):
        raise RuntimeError(f"{' '.join(command)} failed ({done.returncode}): {done.stdout}{done.stderr}")
    return float(rows[0][1])


@contextlib.contextmanager
def our_cluster(directory: Path) -> Iterator[list[LocalNode]]:
    """Run three nodes."""
    ports = free_ports(6)
    nodes = local_nodes(list(zip(ports[::2], ports[1::2], strict=True)), directory)
    processes = []
    try:
        for node in nodes:
            with (directory / f"{node.node_id}.log").open("wb") as log:
                processes.append(start_node(serve_command(node, nodes, {}), log, node_environment()))
        yield nodes
    finally:
        stop_nodes(processes)


def leader_port(nodes: list[LocalNode]) -> int:
    """Return the client port of the leader, waiting for one."""
    found: list[int] = []

    def is_led() -> bool:
        for node in nodes:
            with contextlib.suppress(RequestError), RespClient(node.address, 1.0) as client:
                if client.info("raft")["raft_role"] == "leader":
                    found.append(node.client_port)
                    return True
        return False

    if not wait_until(is_led, READY_S):
        raise RuntimeError(f"no leader within {READY_S} s")
    return found[0]


@contextlib.contextmanager
def one_redis(directory: Path) -> Iterator[int]:
    """Run one Redis that syncs every write before it answers; yield its port."""
    (port,) = free_ports(1)
    command = ["redis-server", "--port", str(port), "--bind", HOST, "--dir", str(directory), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "always"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def answers() -> bool:
        with contextlib.suppress(RequestError), RespClient(Address(HOST, port), 1.0):
            return True
        return False

    try:
        if not wait_until(answers, READY_S):
            raise RuntimeError(f"redis-server did not answer within {READY_S} s")
        yield port
    finally:
        stop_nodes([process])


def measure(repeats: int) -> list[dict[str, Any]]:
    """Return one row per load: rates of all sides, run by run in turn, and our ratios to the others."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="durable-raft-bench-") as name:
        directory = Path(name)
        for part in ("redis", "etcd"):
            (directory / part).mkdir()
        with (
            our_cluster(directory) as nodes,
            one_redis(directory / "redis") as redis_port,
            etcd_cluster(directory / "etcd") as etcd_ports,
        ):
            etcd_port = leading_port(etcd_ports, directory)
            for load in LOADS:
                rates: dict[str, list[float]] = {"ours": [], "etcd": [], "redis": []}
                for number in range(1, repeats + 1):
                    click.echo(f"\r{load.name}: run {number} of {repeats}   ", nl=False, err=True)
                    rates["ours"].append(run_load(load, leader_port(nodes)))
                    rates["etcd"].append(_run_etcd(load, etcd_port, directory))
                    rates["redis"].append(run_load(load, redis_port))
                ratios = {
                    peer: [mine / other for mine, other in zip(rates["ours"], rates[peer], strict=True)]
                    for peer in ("etcd", "redis")
                }
                rows.append({"load": asdict(load), **rates, "ratios": ratios})
    click.echo("\r" + " " * 60 + "\r", nl=False, err=True)
    return rows


def _run_etcd(load: Load, port: int, directory: Path) -> float:
    requests = load.requests if load.clients == 1 else load.requests // ETCD_SHARE
    return run_h2load(
        port,
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
        ratios = "   ".join(
            f"{statistics.median(each):6.2f} ({min(each):.2f} to {max(each):.2f})" for each in row["ratios"].values()
        )
        click.echo(f"{row['load']['name']:<24}{medians}   {ratios}")


def machine() -> dict[str, object]:
    """Describe what this ran on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "durable_raft": __version__,
        "value_bytes": VALUE_BYTES,
    }


@click.command()
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Runs of each side per load")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write all figures here"
)
def main(repeats: int, json_file: Path | None) -> None:
    """Load three nodes of ours, three of etcd and one Redis in turn, and print the ratios."""
    for program in ("redis-server", "redis-benchmark", "etcd", "h2load"):
        if shutil.which(program) is None:
            packages = "redis-server, redis-tools, etcd-server, nghttp2-client"
            click.echo(f"{program} is needed and not on PATH (Debian: {packages})", err=True)
            sys.exit(2)
    rows = measure(repeats)
    show(rows)
    if json_file is not None:
        json_file.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
