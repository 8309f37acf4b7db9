"""``raftlog verify DIR...``: all that can be checked of data directories without changing them."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path

import click

from raftlog.gather import INTERRUPTED
from raftlog.lines import wound_object
from raftlog.parts import Part, parts_of
from raftlog.running import REFUSED, complain

_EPILOG = """\b
Examples:
  raftlog verify /var/lib/durable-raft/n1
  raftlog verify n1 n2 n3 --json

\b
Exit codes, the highest of all directories:
  0  clean
  1  wounds that heal from other nodes or by repair: single records of
     the log or the state
  2  damage beyond: both copies of meta, the pages of a file, a file that is
     cut or cannot be opened, two histories in one log; or wrong usage
"""


@click.command(epilog=_EPILOG)
@click.argument("directories", nargs=-1, required=True, metavar="DIRECTORY...", type=click.Path(path_type=Path))
@click.option("--json", "json", is_flag=True, help="One JSON object per directory.")
def verify(directories: tuple[Path, ...], *, json: bool) -> None:
    """Check every checksum, the chain and order of the log, the pages, the KV state, and that the two fit.

    Nothing is locked or changed. On the directory of a running node the pages are not checked, and the node's files
    grow a little while the state is walked.
    """
    worst = 0
    for directory in directories:
        try:
            parts = parts_of(directory)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        code = max(part.code for part in parts)
        worst = max(worst, code)
        if json:
            click.echo(_object(directory, parts, code))
        else:
            for part in parts:
                _tell(directory, part)
        sys.stdout.flush()
    if worst:
        complain("damage was found" if worst == REFUSED else "wounds were found")
    sys.exit(worst)


def _tell(directory: Path, part: Part) -> None:
    """Print one line for the part and one for each thing that is wrong with it."""
    head = f"{directory} {part.name}"
    if part.line:
        click.echo(f"{head}: {part.line}, wounds {len(part.wounds)}")
    for wound in part.wounds:
        click.echo(f"{head} wound: {wound}")
    for damage in part.damage:
        click.echo(f"{head} damage: {damage}")
    for note in part.notes:
        click.echo(f"{head} note: {note}")


def _object(directory: Path, parts: list[Part], code: int) -> str:
    """Return the JSON object of one directory, on one line."""
    shown: dict[str, object] = {"directory": str(directory), "code": code}
    for part in parts:
        wounds = [wound_object(wound) for wound in part.wounds]
        shown[part.name] = part.facts | {"wounds": wounds, "damage": part.damage, "notes": part.notes}
    return json_module.dumps(shown, ensure_ascii=False)
