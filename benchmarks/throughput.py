"""Throughput beside a single, unreplicated ``redis-server --appendfsync always``, measured in turn in one run.

Usage: ``python benchmarks/throughput.py [--repeats 5] [--json FILE]``. Needs redis-server and redis-benchmark.

Three real nodes of ours and one Redis run on this machine at the same time; ``redis-benchmark`` loads first one, then
the other, as often as asked. What counts is the ratio of each pair of neighbouring runs: absolute rates on a shared
machine prove nothing.
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

import click

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
    Load("SET, 50 clients", "set", 50, 1, 60_000),
    Load("SET, 50 clients x 16", "set", 50, 16, 400_000),
    Load("GET, 1 client", "get", 1, 1, 10_000),
    Load("GET, 50 clients", "get", 50, 1, 100_000),
    Load("GET, 50 clients x 16", "get", 50, 16, 600_000),
)
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


def measure(repeats: int) -> list[dict[str, object]]:
    """Return one row per load: rates of both sides, run by run in turn, and their ratios."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="durable-raft-bench-") as name:
        directory = Path(name)
        (directory / "redis").mkdir()
        with our_cluster(directory) as nodes, one_redis(directory / "redis") as redis_port:
            for load in LOADS:
                ours, theirs = [], []
                for number in range(1, repeats + 1):
                    click.echo(f"\r{load.name}: run {number} of {repeats}   ", nl=False, err=True)
                    ours.append(run_load(load, leader_port(nodes)))
                    theirs.append(run_load(load, redis_port))
                ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
                rows.append({"load": asdict(load), "ours": ours, "redis": theirs, "ratios": ratios})
    click.echo("\r" + " " * 60 + "\r", nl=False, err=True)
    return rows


def show(rows: list[dict[str, object]]) -> None:
    """Print the table."""
    click.echo(f"{'load':<24}{'ours/s':>10}{'redis/s':>10}{'ratio':>8}   min..max")
    for row in rows:
        ours, theirs, ratios = (list(map(float, row[key])) for key in ("ours", "redis", "ratios"))  # type: ignore[call-overload]
        load = row["load"]
        assert isinstance(load, dict)
        click.echo(
            f"{load['name']:<24}{statistics.median(ours):>10.0f}{statistics.median(theirs):>10.0f}"
            f"{statistics.median(ratios):>8.2f}   {min(ratios):.2f}..{max(ratios):.2f}"
        )


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
    """Load three nodes of ours and one Redis in turn, and print the ratios."""
    for program in ("redis-server", "redis-benchmark"):
        if shutil.which(program) is None:
            click.echo(f"{program} is needed and not on PATH (Debian: redis-server, redis-tools)", err=True)
            sys.exit(2)
    rows = measure(repeats)
    show(rows)
    if json_file is not None:
        json_file.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
