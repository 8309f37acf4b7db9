"""Everything that the project has a performance target for, measured in one command, beside its peers.

Usage: ``python -m benchmarks [--short] [--results DIRECTORY]``. The short form takes under ten minutes, the full form
half an hour. Each part is a command of its own: ``python -m benchmarks.throughput``, ``.latency``, ``.limits``,
``.steps``, ``.recovery``, ``.stalls``, ``.growth``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks import growth, latency, limits, stalls, steps, throughput
from benchmarks.recovery import failover, heal, lost, plots, restart, start
from benchmarks.report import require_programs, write_json
from benchmarks.targets import plot, show, targets


@dataclass(frozen=True)
class Sizes:
    """How much of everything is done."""

    loads: Sequence[throughput.Load]
    throughput_repeats: int
    rates: Sequence[int]
    rate_repeats: int
    rate_seconds: float
    limits_repeats: int
    steps_clusters: int
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
    steps_clusters=1,
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
    steps_clusters=3,
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
    part("steps", lambda: steps.measure(steps.WRITES, sizes.steps_clusters), steps.show)
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
        steps.plot(measured["steps"], results / "steps.png")
        growth.plot(measured["growth"], results / "growth.png")
        plots.plot_outages(results / "outages.png", measured)
        plots.plot_start(results / "start.png", measured["start"])


if __name__ == "__main__":
    main()
