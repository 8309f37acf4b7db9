"""The way of one write, step by step: how long each step takes, from the client's send to its reply, and a picture.

Usage: ``python -m benchmarks.steps [--writes 2000] [--clusters 3] [--json FILE] [--plot FILE]``.

One client writes 128 bytes and waits for each reply, at three real nodes that note when they reach each step
(benchmarks/traced_node.py). All processes share one clock. The follower that is told of is the one whose
acknowledgement arrived first. Noting costs about a microsecond for each.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.clusters import Node, Ours
from benchmarks.report import json_option, plot_option, progress, pyplot, save_plot, write_json
from durable_raft.addresses import Address
from durable_raft.cli.local_cluster import HOST
from durable_raft.cli.resp_client import RespClient

WRITES: Final = 2_000
WARM_UP: Final = 300
"""Writes that are not counted: a node flushes on its event loop when so many flushes were quick."""

VALUE: Final = b"x" * 128

LEADER: Final = "leader"
FOLLOWER: Final = "follower"
PATH: Final = (
    ("the request, through the kernel", LEADER, "client"),
    ("parse, look up, batch, propose", LEADER, "before_submit"),
    ("submit the write", LEADER, "before_send"),
    ("encode, and the kernel, to the follower", FOLLOWER, "peer"),
    ("check, append", FOLLOWER, "before_persist"),
    ("the follower's transaction and flush", FOLLOWER, "after_persist"),
    ("acknowledge, and the kernel, to the leader", LEADER, "peer"),
    ("count the majority, commit", LEADER, "before_apply"),
    ("apply", LEADER, "before_reply"),
    ("the reply, through the kernel", "client", "reply"),
)
"""What each step is called, who ends it, and at which note. Each begins where the one before ends."""

Times = dict[tuple[str, str], int]
"""When each (who, note) was reached first, in ns after the client sent."""


class TracedCluster(Ours):
    """Three nodes that note their steps."""

    def notes_file(self, node: Node) -> Path:
        """Return where ``node`` leaves its notes when it stops."""
        return self.directory / f"{node.name}.notes"

    def command(self, node: Node) -> list[str]:
        """Return how it is started: by way of benchmarks.traced_node."""
        python, _, _, *arguments = super().command(node)
        return [python, "-m", "benchmarks.traced_node", str(self.notes_file(node)), *arguments]


class Notes:
    """What one node noted, in the order of time."""

    def __init__(self, noted: Sequence[tuple[str, int]]) -> None:
        self._times: dict[str, list[int]] = {}
        for name, at in sorted(noted, key=lambda note: note[1]):
            self._times.setdefault(name, []).append(at)

    def first(self, name: str, after: int, end: int) -> int | None:
        """Return when ``name`` was reached first in [after, end]."""
        times = self._times.get(name, [])
        position = bisect_left(times, after)
        return times[position] if position < len(times) and times[position] <= end else None


def _write(node: Node, writes: int) -> list[tuple[int, int]]:
    """Return when each write was sent and answered, in ns."""
    spans = []
    with RespClient(Address(HOST, node.client_port), 5.0) as client:
        for number in range(WARM_UP + writes):
            sent = time.perf_counter_ns()
            if client.call("SET", f"steps:{number}", VALUE) != b"OK":
                raise RuntimeError("a SET was not answered with OK")
            spans.append((sent, time.perf_counter_ns()))
    return spans[WARM_UP:]


def _follow(sent: int, answered: int, leader: Notes, followers: Sequence[Notes]) -> Times | None:
    """Return when the write of that span reached each step; None when other traffic came between."""
    times: Times = {("client", "reply"): answered - sent}
    at = sent
    quickest: Notes | None = None
    for _, who, name in PATH[:-1]:
        if who == FOLLOWER and quickest is None:
            quickest = _quickest(at, answered, followers)
        notes = leader if who == LEADER else quickest
        found = notes.first(name, at, answered) if notes is not None else None
        if found is None:
            return None
        times[who, name] = found - sent
        at = found
    for name in ("before_persist", "after_persist"):
        found = leader.first(name, sent + times[LEADER, "before_submit"], answered + 5_000_000)
        if found is not None:
            times[LEADER, name] = found - sent
    return times


def _quickest(after: int, end: int, followers: Sequence[Notes]) -> Notes | None:
    flushed = [(at, notes) for notes in followers if (at := notes.first("after_persist", after, end)) is not None]
    return min(flushed, key=lambda pair: pair[0])[1] if flushed else None


def measure(writes: int, clusters: int) -> dict[str, Any]:
    """Return for each step its p10 and p50 in microseconds, over all writes of all clusters, and the whole."""
    followed: list[Times] = []
    total = 0
    for number in range(1, clusters + 1):
        progress(f"steps of a write: cluster {number} of {clusters}")
        with tempfile.TemporaryDirectory(prefix="durable-raft-bench-") as place:
            cluster = TracedCluster(Path(place))
            with cluster:
                leader, followers = cluster.leader(), cluster.followers()
                spans = _write(leader, writes)
            noted = {node.name: Notes(json.loads(cluster.notes_file(node).read_text())) for node in cluster.nodes}
        total += len(spans)
        others = [noted[node.name] for node in followers]
        followed += [each for span in spans if (each := _follow(*span, noted[leader.name], others)) is not None]
    progress("")
    if len(followed) < total / 2:
        raise RuntimeError(f"only {len(followed)} of {total} writes could be followed")
    return {"writes": total, "followed": len(followed), **_figures(followed)}


def _figures(followed: Sequence[Times]) -> dict[str, Any]:
    steps = []
    before: tuple[str, str] | None = None
    for step, who, name in PATH:
        took = [times[who, name] - (times[before] if before else 0) for times in followed]
        steps.append({"step": step, "by": who, **_quantiles(took)})
        before = (who, name)
    lone = [each for each in followed if (LEADER, "after_persist") in each]
    flushes = [times[LEADER, "after_persist"] - times[LEADER, "before_persist"] for times in lone]
    begins = [times[LEADER, "before_persist"] for times in lone]
    return {
        "steps": steps,
        "whole": _quantiles([times["client", "reply"] for times in followed]),
        "leader_flush": {"begins": _quantiles(begins), **_quantiles(flushes)},
    }


def _quantiles(values_ns: Sequence[int]) -> dict[str, float]:
    tenths = statistics.quantiles(values_ns, n=10)
    return {"p10_us": round(tenths[0] / 1000, 1), "p50_us": round(tenths[4] / 1000, 1)}


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    click.echo(f"{'one write of one client, us':<48}{'p10':>8}{'p50':>8}")
    for row in result["steps"]:
        click.echo(f"{row['by']:<10}{row['step']:<38}{row['p10_us']:>8.0f}{row['p50_us']:>8.0f}")
    own, whole = result["leader_flush"], result["whole"]
    for title, row in (("leader    meanwhile: its own flush", own), ("the whole", whole)):
        click.echo(f"{title:<48}{row['p10_us']:>8.0f}{row['p50_us']:>8.0f}")


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw the steps one below the other, each where it begins: the median of each, and the tenth that is quickest."""
    rows = result["steps"]
    figure, axis = pyplot().subplots(figsize=(10, 0.4 * len(rows) + 1.6))
    colours = {LEADER: "tab:blue", FOLLOWER: "tab:green", "client": "tab:gray"}
    at = 0.0
    for number, row in enumerate(rows):
        axis.barh(number, row["p50_us"], left=at, color=colours[row["by"]], alpha=0.45)
        axis.barh(number, row["p10_us"], left=at, color=colours[row["by"]], height=0.35)
        axis.text(at + row["p50_us"] + 4, number, f"{row['p50_us']:.0f}", va="center", fontsize=8)
        at += row["p50_us"]
    own = result["leader_flush"]
    axis.barh(len(rows), own["p50_us"], left=own["begins"]["p50_us"], color=colours[LEADER], alpha=0.45)
    axis.barh(len(rows), own["p10_us"], left=own["begins"]["p50_us"], color=colours[LEADER], height=0.35)
    axis.set_yticks(
        range(len(rows) + 1),
        [f"{row['step']} ({row['by']})" for row in rows] + ["meanwhile: transaction and flush (leader)"],
        fontsize=8,
    )
    axis.invert_yaxis()
    axis.set_xlabel("microseconds since the client sent; pale: the median, dark: the quickest tenth")
    axis.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    save_plot(figure, path)


@click.command()
@click.option("--writes", default=WRITES, show_default=True, type=click.IntRange(100), help="Of each cluster")
@click.option("--clusters", default=3, show_default=True, type=click.IntRange(1), help="One after the other")
@json_option
@plot_option
def main(writes: int, clusters: int, json_file: Path | None, plot_file: Path | None) -> None:
    """Measure each step of one client's write."""
    result = measure(writes, clusters)
    show(result)
    if json_file is not None:
        write_json(json_file, result)
    if plot_file is not None:
        plot(result, plot_file)


if __name__ == "__main__":
    main()
