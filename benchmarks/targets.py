"""What the project aims at, and how far a run of ``python -m benchmarks`` reached it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.recovery.losses import ours_kills, ours_lost
from benchmarks.report import plain_ticks, pyplot, save_plot, spread

SYSTEMS = {"etcd": "etcd's", "redis": "Redis's"}


@dataclass(frozen=True)
class Target:
    """A figure that is aimed at, and what was measured."""

    name: str
    target: float
    at_least: bool
    """Whether more is better."""
    measured: list[float]

    @property
    def is_reached(self) -> bool:
        """Whether the median is as good as the target."""
        middle = statistics.median(self.measured)
        return middle >= self.target if self.at_least else middle <= self.target


def targets(results: dict[str, Any]) -> list[Target]:
    """Return the project's targets with what was measured, ``results`` of all parts."""
    stalled, failed, grown = results["stalls"]["phases"], results["failover"], results["growth"]
    found = [
        Target(f"{row['load']['name']}, to {SYSTEMS[peer]} rate", target, True, row["ratios"][peer])
        for row in results["throughput"]
        for peer, target in row["load"]["targets"].items()
    ]
    at_most: list[tuple[str, float, list[float]]] = [
        ("one client's write (p50), in raw LMDB commits", 2.5, results["limits"]["one_write_to_lmdb_commit"]),
        ("p99 in checkpoint and compaction, to that without", 2, stalled["checkpoint and compaction"]["p99_ratios"]),
        ("p99 in a follower's snapshot, to that without", 2, stalled["snapshot for a follower"]["p99_ratios"]),
        ("leader killed, until the next write, to etcd's time", 0.35, failed["ratios"]["etcd"]),
        ("the same in seconds", 0.5, failed["outage_s"]["durable_raft"]),
        (f"acknowledged writes lost to {ours_kills(results['lost'])} kills", 0, [ours_lost(results["lost"])]),
    ]
    for each in results["restart"]:
        keys = f"{each['keys']:,} keys"
        memory = [_memory_ratio(each["memory_bytes"])]
        at_most.append((f"all killed, {keys}, until the next write, to etcd's time", 0.25, each["ratios"]["etcd"]))
        at_most.append((f"memory of a node with {keys}, to etcd's", 0.5, memory))
    found += [Target(name, target, False, measured) for name, target, measured in at_most]
    name = f"rate after {grown['commands']:,} writes, {grown['keys']:,} keys, to that at first"
    found.append(Target(name, 0.9, True, [grown["late_to_early"]]))
    return found


def _memory_ratio(memory: dict[str, list[dict[str, int]]]) -> float:
    ours, etcd = (max(node["resident"] for node in memory[system]) for system in ("durable_raft", "etcd"))
    return ours / etcd


def show(rows: Sequence[Target]) -> None:
    """Print the table of targets."""
    click.echo(f"\n{'target':<64}{'':>9}   measured, median (least to most)")
    for row in rows:
        sign = ">=" if row.at_least else "<="
        verdict = "reached" if row.is_reached else "missed"
        click.echo(f"{row.name:<64}{sign} {row.target:<6g}   {spread(row.measured):<26}{verdict}")


def plot(rows: Sequence[Target], path: Path) -> None:
    """Draw how far each target is reached: 1 is the target, more is better."""
    drawn = [row for row in rows if row.target and min(row.measured) > 0]
    shares = [[each / row.target if row.at_least else row.target / each for each in row.measured] for row in drawn]
    middles = [statistics.median(each) for each in shares]
    errors = [
        [middle - min(each) for middle, each in zip(middles, shares, strict=True)],
        [max(each) - middle for middle, each in zip(middles, shares, strict=True)],
    ]
    figure, axis = pyplot().subplots(figsize=(10, 0.42 * len(drawn) + 1.2))
    colours = ["tab:green" if row.is_reached else "tab:orange" for row in drawn]
    axis.barh(range(len(drawn)), middles, xerr=errors, color=colours, ecolor="0.4", capsize=2)
    axis.axvline(1, color="black", linewidth=1)
    axis.set_yticks(range(len(drawn)), [f"{row.name} ({'≥' if row.at_least else '≤'} {row.target:g})" for row in drawn])
    axis.invert_yaxis()
    axis.set_xscale("log")
    plain_ticks(axis.xaxis)
    axis.set_xlabel("share of the target that is reached, least to most (1 = the target; to the right is better)")
    axis.grid(axis="x", alpha=0.3, which="both")
    figure.tight_layout()
    save_plot(figure, path)
