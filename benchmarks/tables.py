"""The tables in the documents, made from the figures of the committed run.

Usage: ``python -m benchmarks.tables``. Each table stands in a document between ``<!-- table: NAME -->`` and
``<!-- end of table -->``; it is written over there. A test holds the documents to the figures.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.targets import Target, targets

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results" / "all.json"
DOCUMENTS: Final = (ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "benchmarks" / "README.md")
RATES_SHOWN: Final = (500, 10_000)
FLOORS: Final = {
    "fdatasync_us": "one 4 KB write and fdatasync",
    "lmdb_commit_us": "one raw LMDB commit, one record",
    "lmdb_commit_100_us": "one raw LMDB commit, 100 records",
    "one_write_us": "**one client's write, three nodes**",
    "commit_us": "from its proposal to its commit",
    "leader_flush_us": "the leader's flush",
    "faster_follower_flush_us": "the faster follower's flush",
    "slower_follower_flush_us": "the slower follower's flush",
    "one_node_write_us": "one client's write to a cluster of one",
    "one_node_flush_us": "its flush",
}

_TABLE: Final = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def short(value: float) -> str:
    """Return a figure with three digits or so, thousands apart."""
    if value == 0 or value >= 100:
        digits = max(0, len(str(int(value))) - 3)
        return f"{round(value, -digits):,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def middle(values: Sequence[float] | None) -> str:
    """Return the median of the measured values, or a dash when nothing was measured."""
    return short(statistics.median(values)) if values else "-"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _machine(measured: dict[str, Any]) -> str:
    about = measured["machine"]
    (redis,) = re.findall(r"v=([0-9.]+)", about["redis"])
    etcd = about["etcd"].split()[-1]
    kernel = about["kernel"].split("-")[0]
    python = f"Python {about['python']} ({about['python_build']})"
    return f"{about['cpu']}, {about['cores']} cores; Linux {kernel}; {python}; etcd {etcd}; Redis {redis}\n"


def _targets(measured: dict[str, Any]) -> str:
    rows = [[*_target(row), "reached" if row.is_reached else "missed"] for row in targets(measured["results"])]
    return table(["what", "target", "measured, median (least to most)", ""], rows)


def _missed(measured: dict[str, Any]) -> str:
    rows = [_target(row) for row in targets(measured["results"]) if not row.is_reached]
    return table(["what", "target", "measured, median (least to most)"], rows)


def _target(row: Target) -> list[str]:
    values = row.measured
    value = middle(values) + (f" ({short(min(values))} to {short(max(values))})" if len(values) > 1 else "")
    return [row.name, f"{'≥' if row.at_least else '≤'} {row.target:g}", value]


def _speed(measured: dict[str, Any]) -> str:
    """Return the one line of README.md: how fast beside etcd, where it is slower and where it is faster."""
    ratios = {row["load"]["name"]: middle(row["ratios"]["etcd"]) for row in measured["results"]["throughput"]}
    outage = middle(measured["results"]["failover"]["ratios"]["etcd"])
    return (
        "**Beside etcd** on the same machine and disk:"
        f" {ratios['SET 128 B, 1 client']} times its writes with one client,"
        f" {ratios['SET 128 B, 100 clients']} times with 100,"
        f" {ratios['SET 128 B, 100 clients x 10']} times with 100 that pipeline;"
        f" {ratios['GET 128 B, 100 clients']} times its reads;"
        f" {outage} of its time until the next write when the leader is killed.\n"
    )


def _throughput(measured: dict[str, Any]) -> str:
    systems = ("ours", "etcd", "redis", "pysyncobj")
    rows = [
        [row["load"]["name"], *(middle(row[system]) for system in systems), middle(row["ratios"]["etcd"])]
        for row in measured["results"]["throughput"]
    ]
    return table(["", "ours, a second", "etcd", "one Redis", "PySyncObj", "ours to etcd"], rows)


def _latency(measured: dict[str, Any]) -> str:
    results = measured["results"]
    rows = [
        [f"{row['work']}, {row['rate']:,} a second", *(_two(row[system]) for system in ("durable_raft", "etcd"))]
        for row in results["latency"]
        if row["rate"] in RATES_SHOWN
    ]
    beside = [results["stalls"]["phases"][f"1 MB values beside{system}"]["busy"] for system in ("", ", etcd")]
    rate = f"{results['stalls']['rate']:,.0f}"
    rows.append([f"writes, {rate} a second, beside values of 1 MB", *(_two(each, "p50", "p99") for each in beside)])
    return table(["p50 / p99 in ms", "ours", "etcd"], rows)


def _two(runs: Sequence[dict[str, float]], low: str = "0.5", high: str = "0.99") -> str:
    return " / ".join(middle([run[key] for run in runs]) for key in (low, high))


def _floors(measured: dict[str, Any]) -> str:
    floors = measured["results"]["limits"]["floors"]
    return table(["", "us"], [[name, middle([each[key] for each in floors])] for key, name in FLOORS.items()])


def _costs(measured: dict[str, Any]) -> str:
    rows = []
    for load, systems in measured["results"]["limits"]["costs"].items():
        for system, runs in systems.items():
            cost = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            flushes = f"{cost['leader_flushes']:.3f}" if cost["leader_flushes"] else "-"
            cpu = f"{cost['leader_cpu_us']:.0f} / {cost['follower_cpu_us']:.0f}"
            rows.append([f"{load}: {system}", short(cost["rate"]), cpu, short(cost["disk_bytes"]), flushes])
    return table(
        ["", "writes a second", "CPU us, leader / follower", "bytes to the disk, all three", "flushes, leader"], rows
    )


TABLES: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "machine": _machine,
    "speed": _speed,
    "targets": _targets,
    "missed": _missed,
    "throughput": _throughput,
    "latency": _latency,
    "floors": _floors,
    "costs": _costs,
}


def written_over(document: str, made: Callable[[str], str]) -> str:
    """Return ``document`` with what ``made`` returns for the name of each of its blocks in the block's place."""
    return _TABLE.sub(lambda found: f"{found[1]}\n{made(found[2])}\n{found[3]}", document)


def filled(document: str, measured: dict[str, Any]) -> str:
    """Return ``document`` with its tables made anew from ``measured``, what all.json holds; raises KeyError."""
    return written_over(document, lambda name: TABLES[name](measured))


@click.command()
def main() -> None:
    """Write the tables of the documents anew."""
    measured = json.loads(RESULTS.read_text())
    for path in DOCUMENTS:
        path.write_text(filled(path.read_text(), measured))


if __name__ == "__main__":
    main()
