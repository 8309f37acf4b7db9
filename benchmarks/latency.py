"""Latency beside etcd, free of coordinated omission: writes, linearizable reads, and four reads to one write.

Usage: ``python -m benchmarks.latency [--repeats 3] [--seconds 4] [--json FILE] [--plot FILE]``. Needs etcd.

Requests of 128 bytes leave on a schedule over eight connections (benchmarks/openloop.py); the same client loads both,
in turn in one run.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.clusters import Cluster, Ours
from benchmarks.etcd import Etcd
from benchmarks.grpc_wire import EtcdWire
from benchmarks.openloop import RespWire, Wire, Work, open_loop, quantile
from benchmarks.report import (
    json_option,
    plain_ticks,
    plot_option,
    progress,
    pyplot,
    ratios_in_turn,
    require_programs,
    save_plot,
    spread,
    write_json,
)

RATES = (100, 500, 2_000, 5_000, 10_000)
WORKS = {"writes": Work(), "reads": Work(reads_in_ten=10), "80:20 reads and writes": Work(reads_in_ten=8)}
"""Writes come first: then there is what is read."""
SHARES = {f"{share:g}": share for share in (0.5, 0.9, 0.99, 0.999)}


def measure(rates: Sequence[int], repeats: int, seconds: float) -> list[dict[str, Any]]:
    """Return one row per kind of work and rate: quantiles in ms of both, and our ratios, run by run in turn."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="durable-raft-bench-") as place:
        directory = Path(place)
        with Ours(directory / "ours") as ours, Etcd(directory / "etcd") as etcd:
            sides: list[tuple[Cluster, Callable[[], Wire]]] = [(ours, RespWire), (etcd, EtcdWire)]
            for title, work in WORKS.items():
                for rate in rates:
                    runs: dict[str, list[dict[str, float]]] = {ours.system: [], etcd.system: []}
                    for number in range(1, repeats + 1):
                        progress(f"{title} at {rate}/s: run {number} of {repeats}")
                        for cluster, wire in sides:
                            latencies_s = open_loop(cluster.leader().client_port, rate, seconds, work, wire)
                            runs[cluster.system].append(
                                {name: quantile(latencies_s, share) for name, share in SHARES.items()}
                            )
                    ratios = {
                        name: ratios_in_turn(*([run[name] for run in runs[side.system]] for side in (ours, etcd)))
                        for name in SHARES
                    }
                    rows.append({"work": title, "rate": rate, **runs, "ratios": ratios})
    progress("")
    return rows


def _middle(row: dict[str, Any], system: str, share: str) -> float:
    runs: list[dict[str, float]] = row[system]
    return statistics.median(run[share] for run in runs)


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    click.echo(f"{'latency in ms, ours / etcd':<36}{'p50':>16}{'p99':>16}{'p99.9':>16}   p50, ours to etcd")
    for row in rows:
        cells = ""
        for share in ("0.5", "0.99", "0.999"):
            ours, etcd = (_middle(row, system, share) for system in ("durable_raft", "etcd"))
            cells += f"{f'{ours:.2f} / {etcd:.2f}':>16}"
        click.echo(f"{row['work']:<24}{row['rate']:>10}/s{cells}   {spread(row['ratios']['0.5'])}")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw p50 and p99 over the rate, one panel for each kind of work."""
    figure, axes = pyplot().subplots(1, len(WORKS), figsize=(12, 4), sharey=True)
    for axis, title in zip(axes, WORKS, strict=True):
        mine = [row for row in rows if row["work"] == title]
        for system, colour in (("durable_raft", "tab:green"), ("etcd", "tab:blue")):
            for share, style in (("0.5", "-"), ("0.99", "--")):
                middles = [_middle(row, system, share) for row in mine]
                label = f"{system}, p{SHARES[share] * 100:g}"
                axis.plot([row["rate"] for row in mine], middles, style, color=colour, marker="o", label=label)
        axis.set_title(title)
        axis.set_xscale("log")
        axis.set_yscale("log")
        plain_ticks(axis.xaxis)
        axis.set_xlabel("requests per second, on a schedule")
        axis.grid(alpha=0.3, which="both")
    plain_ticks(axes[0].yaxis)
    axes[0].set_ylabel("latency, ms")
    axes[0].legend()
    figure.tight_layout()
    save_plot(figure, path)


@click.command()
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1), help="Runs of each side")
@click.option("--seconds", default=4.0, show_default=True, help="Length of a run")
@json_option
@plot_option
def main(repeats: int, seconds: float, json_file: Path | None, plot_file: Path | None) -> None:
    """Measure latency at several rates beside etcd."""
    require_programs("etcd")
    rows = measure(RATES, repeats, seconds)
    show(rows)
    if json_file is not None:
        write_json(json_file, rows)
    if plot_file is not None:
        plot(rows, plot_file)


if __name__ == "__main__":
    main()
