"""What TLS costs clients: the same three nodes, loaded with it and without it in turn.

Usage: ``python -m benchmarks.tls [--repeats 5] [--json FILE]``. Needs a redis-benchmark that was built with TLS.

The nodes speak both on one port (``tls_clients=optional``), so that nothing but the clients differs. Keys are on P-256,
and clients show certificates. A run begins with one handshake for each of its clients, which is counted with the rest.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.clusters import Node, Ours
from benchmarks.report import json_option, progress, ratios_in_turn, require_programs, spread, write_json
from benchmarks.throughput import TRIES, LeaderMoved, Load, run_load
from durable_raft.cli.certificates import Authority, make_directory

LOADS: Final = (
    Load("set", 1, 1, 3_000, 0),
    Load("set", 100, 1, 60_000, 0),
    Load("set", 100, 10, 300_000, 0),
    Load("get", 100, 1, 80_000, 0),
    Load("get", 100, 10, 400_000, 0),
    Load("set", 10, 1, 300, 0, value_bytes=1 << 20, keys=100),
    Load("get", 10, 1, 1_000, 0, value_bytes=1 << 20, keys=100),
)


def files(directory: Path) -> tuple[dict[str, object], list[str]]:
    """Make certificates; return the settings of every node, and the options of redis-benchmark."""
    make_directory(directory)
    authority = Authority.make("benchmark", 30)
    authority.signed.write(directory / "ca")
    authority.sign_node("benchmark", "any", ("127.0.0.1",)).write(directory / "node")
    authority.sign_client("benchmark").write(directory / "client")
    ca = str(directory / "ca.crt")
    settings: dict[str, object] = {
        "tls_clients": "optional",
        "tls_cert_file": directory / "node.crt",
        "tls_key_file": directory / "node.key",
        "tls_ca_cert_file": ca,
    }
    client = ["--cert", str(directory / "client.crt"), "--key", str(directory / "client.key")]
    return settings, ["--tls", "--cacert", ca, *client]


def _run(load: Load, ours: Ours, options: Sequence[str]) -> float:
    for _ in range(TRIES):
        leader: Node = ours.leader()
        try:
            return run_load(load, leader, options=options)
        except LeaderMoved:
            continue
    raise RuntimeError(f"{load.name}: leadership moved {TRIES} times")


def measure(repeats: int) -> list[dict[str, Any]]:
    """Return one row per load: rates with and without TLS, run by run in turn, and their ratios."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="durable-raft-bench-") as name:
        settings, options = files(Path(name) / "tls")
        with Ours(Path(name) / "ours", settings=settings) as ours:
            for load in LOADS:
                rates: dict[str, list[float]] = {"plain": [], "tls": []}
                for number in range(1, repeats + 1):
                    progress(f"{load.name}: run {number} of {repeats}")
                    rates["plain"].append(_run(load, ours, ()))
                    rates["tls"].append(_run(load, ours, options))
                ratio = ratios_in_turn(rates["tls"], rates["plain"])
                rows.append({"load": {"name": load.name, **asdict(load)}, **rates, "ratios": ratio})
    progress("")
    return rows


@click.command()
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Runs of each side per load")
@json_option
def main(repeats: int, json_file: Path | None) -> None:
    """Load the same nodes with TLS and without in turn, and print the ratios."""
    require_programs("redis-benchmark")
    shown = subprocess.run(["redis-benchmark", "--help"], capture_output=True, text=True, check=False)
    if "--tls" not in shown.stdout + shown.stderr:
        raise click.ClickException("this redis-benchmark was built without TLS")
    rows = measure(repeats)
    click.echo(f"{'load':<30}{'plain/s':>10}{'TLS/s':>10}   TLS to plain")
    for row in rows:
        plain, tls = (statistics.median(row[side]) for side in ("plain", "tls"))
        click.echo(f"{row['load']['name']:<30}{plain:>10.0f}{tls:>10.0f}   {spread(row['ratios'])}")
    if json_file is not None:
        write_json(json_file, rows)


if __name__ == "__main__":
    main()
