"""The two plots: outages as bars, and the time to start by the length of the log and by the size of the data."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import plain_ticks, pyplot, save_plot

COLOURS = {"durable_raft": "#1b6ca8", "etcd": "#c8553d", "pysyncobj": "#6a994e"}


def plot_outages(path: Path, results: dict[str, Any]) -> None:
    """Draw what of ``failover`` and ``restart`` is in ``results``: medians as bars, least to most as lines on them."""
    plt = pyplot()
    groups = {}
    if "failover" in results:
        groups["leader killed"] = results["failover"]["outage_s"]
    for each in results.get("restart", []):
        groups[f"all three killed,\n{each['keys']:,} keys"] = each["outage_s"]
    figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
    width = 0.8 / len(COLOURS)
    for place, (system, colour) in enumerate(COLOURS.items()):
        measured = [(at, each[system]) for at, each in enumerate(groups.values()) if each.get(system)]
        if measured:
            spots = [at + (place - 1) * width for at, _ in measured]
            medians, errors = _medians([seconds for _, seconds in measured])
            bars = axes.bar(spots, medians, width * 0.92, yerr=errors, capsize=4, color=colour, label=system)
            # At the foot, where no line of the spread crosses it.
            for bar, median in zip(bars, medians, strict=True):
                middle = bar.get_x() + bar.get_width() / 2
                axes.annotate(
                    f"{median:.2f}",
                    (middle, 0),
                    (0, 3),
                    xycoords=("data", "axes fraction"),
                    textcoords="offset points",
                    ha="center",
                    color="white",
                )
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.05)
    plain_ticks(axes.yaxis)
    axes.set_ylabel("seconds until the next acknowledged write")
    axes.set_title("kill -9: median, least to most")
    axes.legend()
    save_plot(figure, path)


def plot_start(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw the time to start over entries to replay and over keys, side by side, both axes logarithmic."""
    plt = pyplot()
    figure, both = plt.subplots(1, 2, figsize=(10, 4.5), sharey=True, layout="constrained")
    for axes, by, label in zip(both, ("log", "data"), ("log entries to replay", "keys in the state"), strict=True):
        chosen = [row for row in rows if row["by"] == by]
        for system in ("durable_raft", "etcd"):
            medians, errors = _medians([row["seconds"][system] for row in chosen])
            sizes = [row["size"] for row in chosen]
            axes.errorbar(sizes, medians, errors, marker="o", capsize=4, color=COLOURS[system], label=system)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(label)
        plain_ticks(axes.yaxis)
        axes.grid(visible=True, alpha=0.3)
    both[0].set_ylabel("seconds from kill -9 to the next acknowledged write")
    both[0].legend()
    figure.suptitle("one node starts again: median, least to most")
    save_plot(figure, path)


def _medians(runs: Sequence[Sequence[float]]) -> tuple[list[float], list[list[float]]]:
    """Return the medians, and how far the least lies below and the most above each."""
    medians = [statistics.median(seconds) for seconds in runs]
    below = [median - min(seconds) for median, seconds in zip(medians, runs, strict=True)]
    above = [max(seconds) - median for median, seconds in zip(medians, runs, strict=True)]
    return medians, [below, above]
