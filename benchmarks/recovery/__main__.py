"""The commands; see ``python -m benchmarks.recovery --help``."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import click

from benchmarks.recovery import failover as failover_runs
from benchmarks.recovery import losses as losses_runs
from benchmarks.recovery import restart as restart_runs
from benchmarks.report import require_programs, write_json

_JSON = click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write all figures here"
)
_SHORT = click.option("--short", is_flag=True, help="Smaller sizes and fewer runs")


@click.group()
def main() -> None:
    """Crash nodes of ours, of etcd and of PySyncObj, and measure how and when they are back."""
    require_programs("etcd")


@main.command()
@click.option("--repeats", type=click.IntRange(1), help="Kills of each system  [default: 30; short: 3]")
@_SHORT
@_JSON
def failover(repeats: int | None, short: bool, json_file: Path | None) -> None:
    """Kill the leader; time until the next acknowledged write."""
    result = failover_runs.measure(repeats or (3 if short else 30))
    failover_runs.show("the leader is killed", result)
    _write(json_file, {"failover": result})


@main.command()
@click.option("--repeats", type=click.IntRange(1), help="Kills of each system  [default: 10; short: 3]")
@click.option("--keys", type=click.IntRange(1), help="Keys written before  [default: 1,000,000; short: 50,000]")
@_SHORT
@_JSON
def restart(repeats: int | None, keys: int | None, short: bool, json_file: Path | None) -> None:
    """Kill all nodes at once and start them; time until the next acknowledged write."""
    result = restart_runs.measure(repeats or (3 if short else 10), keys or (50_000 if short else 1_000_000))
    failover_runs.show(f"all three are killed, with {result['keys']:,} keys of {result['value_bytes']} bytes", result)
    restart_runs.show_memory(result["memory_bytes"])
    _write(json_file, {"restart": result})


@main.command()
@click.option("--kills", type=click.IntRange(1), help="Of ours; the others get fewer  [default: 300; short: 20]")
@click.option("--seed", type=int, help="Of what is killed when  [default: drawn]")
@_SHORT
@_JSON
def losses(kills: int | None, seed: int | None, short: bool, json_file: Path | None) -> None:
    """Kill nodes at random moments under load; acknowledged writes that are lost."""
    drawn = random.randrange(1 << 32) if seed is None else seed
    result = losses_runs.measure(kills or (20 if short else 300), drawn)
    losses_runs.show(result)
    _write(json_file, {"losses": result})


def _write(json_file: Path | None, results: dict[str, Any]) -> None:
    if json_file is not None:
        write_json(json_file, results)


if __name__ == "__main__":
    main()
