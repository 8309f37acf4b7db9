"""The commands; see ``python -m benchmarks.recovery --help``."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Any

import click

from benchmarks.recovery import failover as failover_runs
from benchmarks.recovery import heal as heal_runs
from benchmarks.recovery import lost as lost_runs
from benchmarks.recovery import plots
from benchmarks.recovery import restart as restart_runs
from benchmarks.recovery import start as start_runs
from benchmarks.recovery.losses import ours_lost
from benchmarks.report import json_option, plot_option, require_programs, write_json

_FILE = click.Path(path_type=Path, dir_okay=False)
_SHORT = click.option("--short", is_flag=True, help="Smaller sizes and fewer runs")
_SEED = click.option("--seed", type=int, help="Seed of all chance here  [default: a new one, which is printed]")


@click.group()
def main() -> None:
    """Crash nodes of ours, of etcd and of PySyncObj, and measure how and when they are back."""
    require_programs("etcd", "h2load")


@main.command()
@click.option("--repeats", type=click.IntRange(1), help="Kills of each system  [default: 30; short: 3]")
@_SHORT
@json_option
@plot_option
def failover(repeats: int | None, short: bool, json_file: Path | None, plot_file: Path | None) -> None:
    """Kill the leader; time until the next acknowledged write."""
    _finish({"failover": _failover(repeats, short)}, json_file, outages_file=plot_file)


@main.command()
@click.option("--repeats", type=click.IntRange(1), help="Kills of each system  [default: 10; short: 3]")
@click.option("--keys", type=click.IntRange(1), help="Keys written before  [default: 1000000; short: 50000]")
@_SHORT
@json_option
@plot_option
def restart(repeats: int | None, keys: int | None, short: bool, json_file: Path | None, plot_file: Path | None) -> None:
    """Kill all nodes at once and start them; time until the next acknowledged write."""
    _finish({"restart": [_restart(repeats, keys, short)]}, json_file, outages_file=plot_file)


@main.command()
@click.option("--repeats", type=click.IntRange(1), help="Starts of each size  [default: 5; short: 2]")
@_SHORT
@json_option
@plot_option
def start(repeats: int | None, short: bool, json_file: Path | None, plot_file: Path | None) -> None:
    """Kill and start one node, by the length of its log and by the size of its data."""
    _finish({"start": _start(repeats, short)}, json_file, start_file=plot_file)


@main.command()
@click.option("--repeats", type=click.IntRange(1), help="Runs of each number of wounds  [default: 5; short: 2]")
@_SEED
@_SHORT
@json_option
def heal(repeats: int | None, seed: int | None, short: bool, json_file: Path | None) -> None:
    """Rot log entries on one node's disk; time until all are healed."""
    _finish({"heal": _heal(repeats, seed, short)}, json_file)


@main.command()
@click.option(
    "--kills", type=click.IntRange(1), help="Of ours; a third as many of etcd, a sixth of PySyncObj  [600; short: 60]"
)
@click.option("--writers", default=8, show_default=True, type=click.IntRange(1), help="Clients that write meanwhile")
@_SEED
@_SHORT
@json_option
def lost(kills: int | None, writers: int, seed: int | None, short: bool, json_file: Path | None) -> None:
    """Kill nodes at random under load, and look up every acknowledged write; exit code 1 if ours lost one."""
    _finish({"lost": _lost(kills, writers, seed, short)}, json_file)


@main.command("all")
@_SEED
@_SHORT
@json_option
@plot_option
@click.option("--plot-start", "start_file", type=_FILE, help="Also draw the times to start here (PNG)")
def everything(
    seed: int | None, short: bool, json_file: Path | None, plot_file: Path | None, start_file: Path | None
) -> None:
    """Run all five, with their defaults."""
    results = {
        "failover": _failover(None, short),
        "restart": [_restart(None, None, short)],
        "start": _start(None, short),
        "heal": _heal(None, seed, short),
        "lost": _lost(None, 8, seed, short),
    }
    _finish(results, json_file, plot_file, start_file)


def _failover(repeats: int | None, short: bool) -> dict[str, Any]:
    result = failover_runs.measure(repeats or (3 if short else 30))
    failover_runs.show("the leader is killed", result)
    return result


def _restart(repeats: int | None, keys: int | None, short: bool) -> dict[str, Any]:
    result = restart_runs.measure(repeats or (3 if short else 10), keys or (50_000 if short else 1_000_000))
    restart_runs.show(result)
    return result


def _start(repeats: int | None, short: bool) -> list[dict[str, Any]]:
    runs = repeats or (2 if short else 5)
    sizes = [1_000, 10_000, 30_000] if short else [1_000, 10_000, 100_000, 1_000_000]
    rows = [*start_runs.by_log(sizes, runs), *start_runs.by_data(sizes, runs)]
    start_runs.show(rows)
    return rows


def _heal(repeats: int | None, seed: int | None, short: bool) -> dict[str, Any]:
    wounds = [1, 10, 100, 1_000] if short else [1, 10, 100, 1_000, 10_000]
    result = heal_runs.measure(wounds, repeats or (2 if short else 5), _seed(seed))
    heal_runs.show(result)
    return result


def _lost(kills: int | None, writers: int, seed: int | None, short: bool) -> dict[str, Any]:
    ours = kills or (60 if short else 600)
    shares = {"durable_raft": ours, "etcd": max(1, ours // 3), "pysyncobj": max(1, ours // 6)}
    result = lost_runs.measure(lost_runs.Limits(shares, 25.0 if short else 900.0), writers, _seed(seed))
    lost_runs.show(result)
    return result


def _seed(given: int | None) -> int:
    return secrets.randbits(32) if given is None else given


def _finish(
    results: dict[str, Any],
    json_file: Path | None,
    outages_file: Path | None = None,
    start_file: Path | None = None,
) -> None:
    """Write the files that were asked for; end with exit code 1 if an acknowledged write of ours is lost."""
    if json_file is not None:
        write_json(json_file, results)
    if outages_file is not None:
        plots.plot_outages(outages_file, results)
    if start_file is not None:
        plots.plot_start(start_file, results["start"])
    if "lost" in results and ours_lost(results["lost"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
