"""What every benchmark writes: the machine, ratios with their spread, JSON, plots."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from durable_raft import __version__

PACKAGES = {
    "redis-server": "redis-server",
    "redis-benchmark": "redis-tools",
    "etcd": "etcd-server",
    "h2load": "nghttp2-client",
}
"""Programs that are measured or measure, and the Debian packages they are in."""


_FILE = click.Path(path_type=Path, dir_okay=False)
json_option = click.option("--json", "json_file", type=_FILE, help="Also write all figures here")
plot_option = click.option("--plot", "plot_file", type=_FILE, help="Also draw them here (PNG)")


def require_programs(*programs: str) -> None:
    """End the process with exit code 2 and say what is missing, unless all ``programs`` are there."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        packages = " ".join(PACKAGES.get(program, program) for program in missing)
        click.echo(f"needed and not on PATH: {' '.join(missing)} (Debian: apt-get install {packages})", err=True)
        sys.exit(2)


def machine() -> dict[str, object]:
    """Describe what this ran on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "python_build": f"{platform.python_build()[1]}, {platform.python_compiler()}",
        "durable_raft": __version__,
        "commit": _first_line("git", "rev-parse", "--short", "HEAD"),
        "etcd": _first_line("etcd", "--version"),
        "redis": _first_line("redis-server", "--version"),
    }


def _first_line(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else None


def spread(values: Sequence[float]) -> str:
    """Return ``median (least to most)``."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def progress(what: str) -> None:
    """Say on stderr, in one line that is written over, what is being done."""
    click.echo(f"\r\033[K{what}", nl=False, err=True)


def ratios_in_turn(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return ours divided by theirs, run by run; there must be as many of each."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def pyplot() -> Any:
    """Return matplotlib's pyplot, for files and no screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as module

    return module


def save_plot(figure: Any, path: Path) -> None:
    """Write a figure, and let go of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot().close(figure)


def plain_ticks(axis: Any) -> None:
    """Have a logarithmic axis of a plot say 1, 2, 5, 10 ... in plain numbers."""
    from matplotlib import ticker

    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(ticker.NullFormatter())


def write_json(path: Path, results: object) -> None:
    """Write ``results`` with the machine's description beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")
