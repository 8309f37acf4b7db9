"""Everything that the project has a performance target for, measured in one command, beside its peers.

Usage: ``python -m benchmarks [--short] [--results DIRECTORY]``. The short form takes under ten minutes, the full form
half an hour. Each part is a command of its own: ``python -m benchmarks.throughput``, ``.latency``, ``.limits``,
``.recovery``, ``.stalls``, ``.growth``.
"""

from __future__ import annotations

import secrets
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks import growth, latency, limits, stalls, throughput
from benchmarks.recovery import failover, heal, lost, plots, restart, start
from benchmarks.report import plain_ticks, pyplot, require_programs, save_plot, spread, write_json


@dataclass(frozen=True)
class Target:
    """A ratio that is aimed at, and what was measured."""

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


@dataclass(frozen=True)
class Sizes:
    """How much of everything is done."""

    loads: Sequence[throughput.Load]
    throughput_repeats: int
    rates: Sequence[int]
    rate_repeats: int
    rate_seconds: float
    limits_repeats: int
    failovers: int
    restarts: int
    restart_keys: Sequence[int]
    kills: int
    kill_seconds: float
    stalls_repeats: int
    growth_commands: int
    wounds: list[int]
    starts: list[int]
    repeats: int
    """Of healing and starting."""


WRITERS = 8

SHORT = Sizes(
    loads=[load for load in throughput.LOADS if load.targets],
    throughput_repeats=2,
    rates=(500, 5_000),
    rate_repeats=1,
    rate_seconds=2.0,
    limits_repeats=1,
    failovers=5,
    restarts=2,
    restart_keys=(200_000,),
    kills=30,
    kill_seconds=20.0,
    stalls_repeats=2,
    growth_commands=400_000,
    wounds=[10, 100],
    starts=[1_000, 30_000],
    repeats=1,
)
FULL = Sizes(
    loads=throughput.LOADS,
    throughput_repeats=2,
    rates=latency.RATES,
    rate_repeats=1,
    rate_seconds=3.0,
    limits_repeats=2,
    failovers=10,
    restarts=3,
    restart_keys=(1_000_000, 5_000_000),
    kills=150,
    kill_seconds=60.0,
    stalls_repeats=3,
    growth_commands=10_000_000,
    wounds=[1, 100, 1_000],
    starts=[1_000, 10_000, 100_000],
    repeats=2,
)


def measure(sizes: Sizes) -> dict[str, Any]:
    """Run every part, one after the other, and show each as it ends."""
    results: dict[str, Any] = {"repeated": []}

    def part(name: str, run: Callable[[], Any], show: Callable[[Any], None]) -> None:
        try:
            results[name] = run()
        except RuntimeError as error:
            # An election in the middle of a load ends the load; that it was run again is part of the result.
            click.echo(f"{name}: once more, because {error}")
            results["repeated"].append({"part": name, "because": str(error)})
            results[name] = run()
        show(results[name])
        click.echo()

    seed = secrets.randbits(32)
    shares = {"durable_raft": sizes.kills, "etcd": sizes.kills // 3, "pysyncobj": sizes.kills // 6}
    part("throughput", lambda: throughput.measure(sizes.loads, sizes.throughput_repeats), throughput.show)
    part("latency", lambda: latency.measure(sizes.rates, sizes.rate_repeats, sizes.rate_seconds), latency.show)
    part("limits", lambda: limits.measure(sizes.limits_repeats), limits.show)
    part("failover", lambda: failover.measure(sizes.failovers), partial(failover.show, "the leader is killed"))
    part(
        "restart",
        lambda: [restart.measure(sizes.restarts, keys) for keys in sizes.restart_keys],
        _show_restarts,
    )
    part("stalls", lambda: stalls.measure(sizes.stalls_repeats, stalls.KEYS), stalls.show)
    part("growth", lambda: growth.measure(sizes.growth_commands, sizes.growth_commands // 2), growth.show)
    part("heal", lambda: heal.measure(sizes.wounds, sizes.repeats, seed), heal.show)
    part(
        "start",
        lambda: [*start.by_log(sizes.starts, sizes.repeats), *start.by_data(sizes.starts, sizes.repeats)],
        start.show,
    )
    part("lost", lambda: lost.measure(lost.Limits(shares, sizes.kill_seconds), WRITERS, seed), lost.show)
    return results


def _show_restarts(results: Sequence[dict[str, Any]]) -> None:
    for result in results:
        restart.show(result)


def targets(results: dict[str, Any]) -> list[Target]:
    """Return the project's targets with what ``measure`` found."""
    found = [
        Target(f"{row['load']['name']}: rate to {peer}'s", row["load"]["targets"][peer], True, row["ratios"][peer])
        for row in results["throughput"]
        for peer in row["load"]["targets"]
    ]
    stalled = results["stalls"]["phases"]
    failed, restarts = results["failover"], results["restart"]
    at_most: list[tuple[str, float, list[float]]] = [
        ("one client's p50 to an LMDB commit", 2.5, results["limits"]["one_write_to_lmdb_commit"]),
        ("p99 during checkpoint and compaction", 2, stalled["checkpoint and compaction"]["p99_ratios"]),
        ("p99 during a follower's snapshot", 2, stalled["snapshot for a follower"]["p99_ratios"]),
        ("leader killed, next write: to etcd's", 0.35, failed["ratios"]["etcd"]),
        ("leader killed, next write: seconds", 0.5, failed["outage_s"]["durable_raft"]),
        ("acknowledged writes lost", 0, [lost.ours_lost(results["lost"])]),
    ]
    for each in restarts:
        keys = f"{each['keys']:,} keys"
        at_most.append((f"all killed, {keys}, next write: to etcd's", 0.25, each["ratios"]["etcd"]))
        at_most.append((f"memory of a node, {keys}: to etcd's", 0.5, [_memory_ratio(each["memory_bytes"])]))
    found += [Target(name, target, False, measured) for name, target, measured in at_most]
    found.append(Target("throughput when grown, to that at first", 0.9, True, [results["growth"]["late_to_early"]]))
    return found


def _memory_ratio(memory: dict[str, list[dict[str, int]]]) -> float:
    ours, etcd = (max(node["resident"] for node in memory[system]) for system in ("durable_raft", "etcd"))
    return ours / etcd


def show(rows: Sequence[Target]) -> None:
    """Print the table of targets."""
    click.echo(f"\n{'target':<56}{'':>9}   measured, median (least to most)")
    for row in rows:
        sign = ">=" if row.at_least else "<="
        verdict = "reached" if row.is_reached else "missed"
        click.echo(f"{row.name:<56}{sign} {row.target:<6g}   {spread(row.measured):<26}{verdict}")


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


@click.command()
@click.option("--short", is_flag=True, help="Smaller sizes: under ten minutes")
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write all figures and plots into this directory",
)
def main(short: bool, results: Path | None) -> None:
    """Measure everything that there is a target for."""
    require_programs("redis-server", "redis-benchmark", "etcd", "h2load")
    measured = measure(SHORT if short else FULL)
    rows = targets(measured)
    show(rows)
    if results is not None:
        write_json(results / "all.json", {"targets": [asdict(row) for row in rows], **measured})
        plot(rows, results / "targets.png")
        latency.plot(measured["latency"], results / "latency.png")
        growth.plot(measured["growth"], results / "growth.png")
        plots.plot_outages(results / "outages.png", measured)
        plots.plot_start(results / "start.png", measured["start"])


if __name__ == "__main__":
    main()
