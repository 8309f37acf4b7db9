"""One node is killed and started again: how long until it serves, by the length of its log and by the size of its data.

By length: entries since the last checkpoint, over few keys. By size: keys in the checkpoint, with no more log behind it
than the defaults leave. Beside it one node of etcd that is given as many puts; for the length without snapshots, but
etcd applies into a file, so that it has little to replay.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.clusters import Cluster, Ours
from benchmarks.etcd import Etcd
from benchmarks.recovery.long_log import NO_CHECKPOINTS, LongLogEtcd, lengthen_etcd, lengthen_ours
from benchmarks.recovery.outage import outage_s
from benchmarks.recovery.preload import fill
from benchmarks.report import progress, ratios_in_turn, spread
from durable_raft.addresses import Address
from durable_raft.cli.local_cluster import HOST, wait_until
from durable_raft.cli.resp_client import RespClient

CHECKPOINT_S = 120.0
SLOPE_FROM = 100_000
"""Entries from which on the time for each is told: with fewer the chance in an election's timeout is as large."""


def by_log(sizes: list[int], repeats: int) -> list[dict[str, Any]]:
    """Return one row for each length: seconds from kill -9 to the next acknowledged write, run by run in turn."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="durable-raft-bench-") as name:
        directory = Path(name)
        with (
            Ours(directory / "ours", 1, NO_CHECKPOINTS) as ours,
            LongLogEtcd(directory / "etcd", 1) as etcd,
        ):
            before = 0
            for size in sizes:
                progress(f"start: making logs of {size} entries")
                lengthen_ours(ours, size - before)
                lengthen_etcd(etcd, size - before, directory)
                before = size
                rows.append({"by": "log", "size": size, **_in_turn(f"{size} entries", ours, etcd, repeats)})
    progress("")
    return rows


def by_data(sizes: list[int], repeats: int) -> list[dict[str, Any]]:
    """Return one row for each number of keys, as ``by_log``."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="durable-raft-bench-") as name:
        directory = Path(name)
        with Ours(directory / "ours", 1) as ours, Etcd(directory / "etcd", 1) as etcd:
            for size in sizes:
                progress(f"start: writing {size} keys")
                fill(ours, size)
                _checkpoint(ours)
                fill(etcd, size)
                rows.append({"by": "data", "size": size, **_in_turn(f"{size} keys", ours, etcd, repeats)})
    progress("")
    return rows


def _in_turn(what: str, ours: Ours, etcd: Etcd, repeats: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {"durable_raft": [], "etcd": []}
    for number in range(1, repeats + 1):
        for cluster in (ours, etcd):
            progress(f"start: {what}, {cluster.system}, run {number} of {repeats}")
            seconds[cluster.system].append(_restart(cluster))
    return {"seconds": seconds, "ratio_to_etcd": ratios_in_turn(seconds["durable_raft"], seconds["etcd"])}


def _restart(cluster: Cluster) -> float:
    def crash() -> None:
        cluster.kill(cluster.nodes)
        cluster.start(cluster.nodes)

    return outage_s(cluster, crash)


def _checkpoint(cluster: Ours) -> None:
    """Have the node write what it has applied into its checkpoint."""
    node = cluster.nodes[0]
    with RespClient(Address(HOST, node.client_port), 10.0) as client:

        def is_done() -> bool:
            info = client.info("raft")
            if info["raft_snapshot_index"] == info["raft_last_applied"]:
                return True
            client.call("RAFT", "CHECKPOINT")
            return False

        if not wait_until(is_done, CHECKPOINT_S, pause_s=0.2):
            raise RuntimeError(f"no checkpoint within {CHECKPOINT_S} s: see {cluster.directory}")


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    click.echo("one node, from kill -9 to the next acknowledged write: seconds, median (least to most)")
    click.echo(f"  {'':<28}{'ours':<24}{'etcd':<24}ours to etcd")
    for row in rows:
        what = f"{row['size']:>9,} " + ("entries to replay" if row["by"] == "log" else "keys")
        cells = "".join(f"{spread(row['seconds'][system]):<24}" for system in ("durable_raft", "etcd"))
        click.echo(f"  {what:<28}{cells}{spread(row['ratio_to_etcd'])}")
    logs = [row for row in rows if row["by"] == "log"]
    if len(logs) > 1 and logs[-1]["size"] >= SLOPE_FROM:
        for system in ("durable_raft", "etcd"):
            click.echo(f"  {system}: {_slope(logs[0], logs[-1], system)}")


def _slope(least: dict[str, Any], most: dict[str, Any], system: str) -> str:
    """Say what each entry more costs, unless chance may have made the difference."""
    short, long = least["seconds"][system], most["seconds"][system]
    if min(long) <= max(short):
        return "no longer start that could be told from chance"
    each_us = (statistics.median(long) - statistics.median(short)) / (most["size"] - least["size"]) * 1e6
    return f"{each_us:.1f} microseconds for each entry more"
