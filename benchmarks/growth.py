"""Whether a cluster gets slower or larger than its data while log and state grow, checkpoints and compaction on.

Usage: ``python -m benchmarks.growth [--short] [--commands N] [--keys N] [--json FILE] [--plot FILE]``.

One process writes new keys of 100 bytes until there are enough, then those over again in a mixed order, 1,000 in
flight. Many commands share one log entry: both are counted. A latency here is that of a pipeline of 125 writes.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import click
import uvloop

from benchmarks.clusters import Node, Ours
from benchmarks.openloop import quantile, set_request
from benchmarks.report import json_option, plot_option, progress, pyplot, save_plot, write_json
from durable_raft.cli.local_cluster import HOST

CONNECTIONS = 8
PIPELINE = 125
VALUE = b"x" * 100
WINDOWS = 100
"""Into so many parts a run is cut."""
WINDOW_MIN = 10_000
"""Writes in one part at least: some hundred pipelines."""
EARLY_COMMANDS = 200_000
"""What the end is compared with: the windows up to here."""
LATE_WINDOWS = 10
STRIDE = 7_919
"""A prime: keys are written over again in steps of so many, so that each comes once in a round."""


def requests(commands: int, keys: int) -> Iterator[bytes]:
    """Yield pipelines of SETs."""
    for start in range(0, commands, PIPELINE):
        numbers = range(start, min(start + PIPELINE, commands))
        names = (number if number < keys else number * STRIDE % keys for number in numbers)
        yield b"".join([set_request(b"key:%09d" % name, VALUE) for name in names])


class _Client(asyncio.Protocol):
    """One connection that keeps one pipeline under way."""

    def __init__(self, run: _Run) -> None:
        self._run = run

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the run, unless it has ended."""
        self._run.fail(f"the connection is lost: {exc}")

    def data_received(self, data: bytes) -> None:
        """Count replies; when a pipeline is answered the next one leaves."""
        if data.count(b"+OK\r\n") * 5 != len(data) and data.strip(b"+OK\r\n"):
            self._run.fail(f"a SET was answered with {data[:100]!r}")
            return
        self._missing_bytes -= len(data)
        if not self._missing_bytes:
            self._run.answered(self._sent, time.perf_counter() - self._sent_at)
            self._next()

    def _next(self) -> None:
        request = self._run.take()
        if request is None:
            return
        self._sent = request.count(b"*3\r\n")
        self._missing_bytes = self._sent * len(b"+OK\r\n")
        self._sent_at = time.perf_counter()
        self._transport.write(request)


class _Run:
    """Writes everything once, and takes a sample after each window."""

    def __init__(self, ours: Ours, commands: int, keys: int) -> None:
        self._ours = ours
        self._leader = ours.leader()
        self._requests = requests(commands, keys)
        self._window = max(WINDOW_MIN, commands // WINDOWS)
        self._commands = commands
        self._latencies_s: list[float] = []
        self._window_at = time.perf_counter()
        self._window_began = 0
        self._written = 0
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.samples: list[dict[str, Any]] = []

    async def run(self) -> None:
        """Run; raises RuntimeError when a request fails."""
        loop = asyncio.get_running_loop()
        transports = [
            (await loop.create_connection(lambda: _Client(self), HOST, self._leader.client_port))[0]
            for _ in range(CONNECTIONS)
        ]
        await self._ended
        for transport in transports:
            transport.abort()

    def take(self) -> bytes | None:
        """Return the next pipeline."""
        return next(self._requests, None)

    def answered(self, commands: int, seconds: float) -> None:
        """Note an answered pipeline."""
        self._written += commands
        self._latencies_s.append(seconds)
        if self._written - self._window_began >= self._window or self._written == self._commands:
            self._sample()
        if self._written == self._commands and not self._ended.done():
            self._ended.set_result(None)

    def fail(self, problem: str) -> None:
        """End the run with an error."""
        if not self._ended.done():
            self._ended.set_exception(RuntimeError(problem))

    def _sample(self) -> None:
        now = time.perf_counter()
        rate = (self._written - self._window_began) / (now - self._window_at)
        self.samples.append(
            {
                "commands": self._written,
                "rate": rate,
                "p99_ms": quantile(self._latencies_s, 0.99),
                **_size_of(self._leader),
            }
        )
        left_s = (self._commands - self._written) / rate
        progress(f"growth: {self._written:,} of {self._commands:,} commands, {rate:,.0f}/s, {left_s:.0f} s left")
        self._latencies_s = []
        self._window_began, self._window_at = self._written, time.perf_counter()


def _size_of(node: Node) -> dict[str, int]:
    return {
        "resident_bytes": node.resident_bytes(),
        "anonymous_bytes": node.resident_bytes("RssAnon"),
        "log_bytes": (node.directory / "raft" / "data.mdb").stat().st_size,
        "state_bytes": (node.directory / "kv" / "data.mdb").stat().st_size,
    }


def measure(commands: int, keys: int) -> dict[str, Any]:
    """Return the samples of one run, and the throughput at its end as a ratio to that at its beginning."""

    async def grow(ours: Ours) -> list[dict[str, Any]]:
        run = _Run(ours, commands, keys)
        await run.run()
        return run.samples

    with tempfile.TemporaryDirectory(prefix="durable-raft-bench-") as name, Ours(Path(name)) as ours:
        samples = uvloop.run(grow(ours))
        info = ours.info(ours.leader())
    progress("")
    early = [each["rate"] for each in samples if each["commands"] <= max(EARLY_COMMANDS, samples[0]["commands"])]
    late = [each["rate"] for each in samples[-LATE_WINDOWS:]]
    return {
        "commands": commands,
        "keys": keys,
        "entries": int(info["raft_last_log_index"]),
        "terms": int(info["raft_current_term"]),
        "early_rate": statistics.median(early),
        "late_rate": statistics.median(late),
        "late_to_early": statistics.median(late) / statistics.median(early),
        "samples": samples,
    }


def show(result: dict[str, Any]) -> None:
    """Print what changed between beginning and end."""
    first, last = result["samples"][0], result["samples"][-1]
    click.echo(
        f"{result['commands']:,} commands in {result['entries']:,} entries, {result['keys']:,} keys of 100 bytes"
    )
    click.echo(f"writes/s {result['early_rate']:,.0f} at first, {result['late_rate']:,.0f} at the end", nl=False)
    click.echo(f": ratio {result['late_to_early']:.2f}")
    for key, name in (
        ("p99_ms", "p99 of 125 writes, ms"),
        ("resident_bytes", "memory of the leader, MB"),
        ("anonymous_bytes", "without mapped files, MB"),
        ("log_bytes", "log file, MB"),
        ("state_bytes", "state file, MB"),
    ):
        unit = 1 if key == "p99_ms" else 1e6
        click.echo(f"{name:<28}{first[key] / unit:>8.0f} at first{last[key] / unit:>8.0f} at the end")


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw throughput, p99, memory and files over the commands written."""
    figure, axes = pyplot().subplots(2, 2, figsize=(11, 7), sharex=True)
    samples = result["samples"]
    written = [each["commands"] / 1e6 for each in samples]
    lines = (
        (axes[0][0], "thousand writes per second", [("rate", 1e3, "")]),
        (axes[0][1], "p99 of a pipeline of 125 writes, ms", [("p99_ms", 1, "")]),
        (
            axes[1][0],
            "memory of the leader, MB",
            [("resident_bytes", 1e6, "resident"), ("anonymous_bytes", 1e6, "without mapped files")],
        ),
        (axes[1][1], "files of the leader, MB", [("log_bytes", 1e6, "log"), ("state_bytes", 1e6, "state")]),
    )
    for axis, title, series in lines:
        for key, unit, label in series:
            axis.plot(written, [each[key] / unit for each in samples], label=label)
        axis.set_title(title)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if len(series) > 1:
            axis.legend()
    for axis in axes[1]:
        axis.set_xlabel(f"million commands written ({result['keys'] / 1e6:g} million keys)")
    figure.tight_layout()
    save_plot(figure, path)


@click.command()
@click.option("--commands", type=click.IntRange(1_000), help="Writes  [default: 10,000,000; short: 400,000]")
@click.option("--keys", type=click.IntRange(1), help="Distinct keys  [default: half of them]")
@click.option("--short", is_flag=True, help="A run of some seconds")
@json_option
@plot_option
def main(commands: int | None, keys: int | None, short: bool, json_file: Path | None, plot_file: Path | None) -> None:
    """Let log and state grow, and see what it costs."""
    commands = commands or (400_000 if short else 10_000_000)
    result = measure(commands, keys or commands // 2)
    show(result)
    if json_file is not None:
        write_json(json_file, result)
    if plot_file is not None:
        plot(result, plot_file)


if __name__ == "__main__":
    main()
