"""How a campaign leaves its figures: a file that says with which command, seeds and day they were made.

Every program of a campaign takes ``--json FILE``. The file depends on the run alone and not on where the code stood in
its history, so that it can be committed with the code that it speaks of::

    {"command": "python -m tests.simulation --seeds 100 --first 7", "seeds": "7 to 106", "date": "2026-11-23",
     "figures": {...}}
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

PLACES: Final = ("--json", "--directory")
"""Options that say where a run leaves something, and change nothing in it."""


def add_option(parser: argparse.ArgumentParser) -> None:
    """Have ``parser`` take ``--json FILE``."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="leave the figures there; see tests/results")


def command_line(module: str, arguments: Sequence[str], **drawn: int | None) -> str:
    """Return the command that makes the same run again.

    Args:
        arguments: what the program was given; ``PLACES`` are left out.
        drawn: options that the program chose when they were not given, such as ``seed=7``; None: the run has none.
    """
    words = list(arguments)
    kept = [
        word
        for position, word in enumerate(words)
        if word.partition("=")[0] not in PLACES and (position == 0 or words[position - 1] not in PLACES)
    ]
    given = {word.partition("=")[0] for word in kept}
    for name, value in drawn.items():
        if value is not None and f"--{name}" not in given:
            kept += [f"--{name}", str(value)]
    return shlex.join(["python", "-m", module, *kept])


def today() -> str:
    """Return the day on which a campaign is played."""
    return datetime.datetime.now(tz=datetime.UTC).date().isoformat()


def save(path: Path | None, command: str, seeds: str, figures: Mapping[str, Any]) -> None:
    """Write the figures of a run to ``path``; None: nowhere.

    Args:
        command: see ``command_line``.
        seeds: which seeds were played, for people: ``7 to 106``, or ``7``.
        figures: what the run counted; plain values that JSON can hold.
    """
    if path is None:
        return
    result = {"command": command, "seeds": seeds, "date": today(), "figures": figures}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
