"""Throughput beside etcd and PySyncObj with three nodes each, and one unreplicated Redis, in turn in one run.

Usage: ``python -m benchmarks.throughput [--repeats 5] [--short] [--json FILE]``. Needs redis-server,
redis-benchmark, etcd and h2load (Debian: redis-server, redis-tools, etcd-server, nghttp2-client).

etcd has its defaults, Redis ``--appendfsync always``, PySyncObj its journal, which it never syncs. All of them run on
this machine at the same time and are loaded one after the other, etcd by ``h2load``, the others by ``redis-benchmark``.
What counts is the ratio of neighbouring runs: absolute rates on a shared machine prove nothing.
"""

from __future__ import annotations

import contextlib
import csv
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks.clusters import Node, Ours, Redis, RespCluster
from benchmarks.etcd import Etcd, run_h2load
from benchmarks.pysyncobj import PySyncObjCluster
from benchmarks.report import json_option, progress, ratios_in_turn, require_programs, spread, write_json
from durable_raft.cli.local_cluster import HOST

RUN_TIMEOUT_S = 300.0
TRIES = 3
PEERS = ("etcd", "redis", "pysyncobj")


@dataclass(frozen=True)
class Load:
    """One way of loading a server."""

    command: str
    clients: int
    pipeline: int
    requests: int
    etcd_requests: int
    """etcd gets so many, to take about as long."""
    pysyncobj_requests: int = 0
    """PySyncObj gets so many; it works in steps of 50 ms and is not asked where it would take minutes."""
    value_bytes: int = 128
    keys: int = 100_000
    """Ours and Redis write so many different ones; h2load, and so etcd, always the same one."""
    targets: Mapping[str, float] = field(default_factory=dict)
    """The ratio to each peer that the project aims at; the short form measures these loads."""

    @property
    def name(self) -> str:
        """What the tables say."""
        clients = f"{self.clients} client" + ("s" if self.clients > 1 else "")
        pipeline = f" x {self.pipeline}" if self.pipeline > 1 else ""
        size = self.value_bytes
        shown = f"{size} B" if size < 1024 else f"{size >> 10} KB" if size < 1 << 20 else f"{size >> 20} MB"
        return f"{self.command.upper()} {shown}, {clients}{pipeline}" + (", 1 key" if self.keys == 1 else "")


# Values are read before others of other lengths are written to the same keys.
LOADS = (
    Load("set", 1, 1, 3_000, 3_000, 60, targets={"etcd": 2.0}),
    Load("set", 10, 1, 15_000, 8_000, 600),
    Load("set", 100, 1, 60_000, 20_000, 5_000, targets={"etcd": 5.0}),
    Load("set", 100, 10, 300_000, 40_000, 20_000, targets={"etcd": 10.0, "redis": 0.5}),
    Load("set", 100, 10, 400_000, 40_000, keys=1),
    Load("get", 1, 1, 8_000, 8_000, 60),
    Load("get", 100, 1, 80_000, 15_000, 5_000, targets={"etcd": 3.0}),
    Load("get", 100, 10, 400_000, 40_000, 20_000),
    Load("set", 1, 1, 3_000, 3_000, value_bytes=1 << 10),
    Load("set", 100, 1, 40_000, 15_000, value_bytes=1 << 10),
    Load("set", 1, 1, 1_500, 1_500, value_bytes=16 << 10, keys=1_000),
    Load("set", 100, 1, 12_000, 6_000, value_bytes=16 << 10, keys=1_000, targets={"etcd": 2.0}),
    Load("set", 1, 1, 150, 100, value_bytes=1 << 20, keys=1_000),
    Load("set", 10, 1, 300, 150, value_bytes=1 << 20, keys=1_000, targets={"etcd": 2.0}),
)


class LeaderMoved(RuntimeError):
    """The node that was loaded leads no longer; the load ended there."""


def run_led(load: Load, cluster: RespCluster, requests: int | None = None) -> float:
    """Do ``run_load`` with the leader; again, if it lost its place meanwhile."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(LeaderMoved):
            return run_load(load, cluster.leader(), requests)
    return run_load(load, cluster.leader(), requests)


def run_load(load: Load, node: Node, requests: int | None = None, options: Sequence[str] = ()) -> float:
    """Return requests per second of one ``redis-benchmark`` run; it ends at the first error reply.

    Args:
        load: what is done.
        node: to whom.
        requests: how many, if not as many as ``load`` says.
        options: further ones of redis-benchmark.

    Raises:
        LeaderMoved: ``node`` leads no longer.
        RuntimeError: the run failed for another reason, or gave no rate.
    """
    command = ["redis-benchmark", "-h", HOST, "-p", str(node.client_port), "-t", load.command, "--csv"]
    command += ["-r", str(load.keys), "-d", str(load.value_bytes), *options]
    command += ["-c", str(load.clients), "-P", str(load.pipeline), "-n", str(requests or load.requests)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)
    rows = [row for row in csv.reader(done.stdout.splitlines()) if row and row[0].upper() == load.command.upper()]
    if "MOVED" in done.stdout + done.stderr:
        raise LeaderMoved(f"{node.name} lost its leadership under {load.name}")
    if done.returncode != 0 or not rows or "rror" in done.stdout + done.stderr.replace("WARNING", ""):
        raise RuntimeError(f"{' '.join(command)} failed ({done.returncode}): {done.stdout}{done.stderr}")
    return float(rows[0][1])


def measure(loads: Sequence[Load], repeats: int) -> list[dict[str, Any]]:
    """Return one row per load: rates of all sides, run by run in turn, and our ratios to the others."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="durable-raft-bench-") as name:
        directory = Path(name)
        with (
            Ours(directory / "ours") as ours,
            Redis(directory / "redis") as redis,
            Etcd(directory / "etcd") as etcd,
            PySyncObjCluster(directory / "pysyncobj") as pysyncobj,
        ):
            for load in loads:
                term = ours.term()
                rates: dict[str, list[float]] = {peer: [] for peer in ("ours", *PEERS)}
                for number in range(1, repeats + 1):
                    progress(f"{load.name}: run {number} of {repeats}")
                    rates["ours"].append(run_led(load, ours))
                    rates["etcd"].append(_run_etcd(load, etcd.leader(), directory))
                    rates["redis"].append(run_led(load, redis))
                    if load.pysyncobj_requests:
                        rates["pysyncobj"].append(run_led(load, pysyncobj, load.pysyncobj_requests))
                ratios = {peer: ratios_in_turn(rates["ours"], rates[peer]) for peer in PEERS if rates[peer]}
                shown = {"name": load.name, **asdict(load)}
                rows.append({"load": shown, **rates, "ratios": ratios, "terms_begun": ours.term() - term})
    progress("")
    return rows


def _run_etcd(load: Load, node: Node, directory: Path) -> float:
    return run_h2load(
        node,
        directory,
        load.command,
        clients=load.clients,
        in_flight=load.pipeline,
        requests=load.etcd_requests,
        value_bytes=load.value_bytes,
    )


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    heads = "".join(f"{f'{peer}/s':>12}" for peer in PEERS)
    click.echo(
        f"{'load':<30}{'ours/s':>9}{'MB/s':>7}{heads}   ours to etcd          to redis              to pysyncobj"
    )
    for row in rows:
        middle = {name: f"{statistics.median(row[name]):.0f}" if row[name] else "-" for name in ("ours", *PEERS)}
        megabytes = statistics.median(row["ours"]) * row["load"]["value_bytes"] / 1e6
        ratios = "   ".join(f"{spread(row['ratios'][peer]):<19}" for peer in PEERS if peer in row["ratios"]).rstrip()
        others = "".join(f"{middle[peer]:>12}" for peer in PEERS)
        click.echo(f"{row['load']['name']:<30}{middle['ours']:>9}{megabytes:>7.1f}{others}   {ratios}")
    click.echo(f"terms that ours began meanwhile: {sum(row['terms_begun'] for row in rows)}")


@click.command()
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Runs of each side per load")
@json_option
@click.option("--short", is_flag=True, help="Only the loads that the project has a target for")
def main(repeats: int, json_file: Path | None, short: bool) -> None:
    """Load all of them in turn, and print the ratios."""
    require_programs("redis-server", "redis-benchmark", "etcd", "h2load")
    rows = measure([load for load in LOADS if load.targets or not short], repeats)
    show(rows)
    if json_file is not None:
        write_json(json_file, rows)


if __name__ == "__main__":
    main()
