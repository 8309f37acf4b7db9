"""``raftlog grep PATTERN DIR``: the entries with an argument that matches."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from durable_raft.storage.log.reader import LogReader
from raftlog.choose import DIRECTORY, FROM, JSON, TO, matching, range_end
from raftlog.lines import as_json, as_text, print_entries
from raftlog.running import EXIT_CODES, run

_EPILOG = f"""\b
Examples:
  raftlog grep '^user:42$' DIR
  raftlog grep '(?i)^del$' DIR --from 1000
  raftlog grep $'\\\\xff' DIR --json

{EXIT_CODES}"""


@click.command(epilog=_EPILOG)
@click.argument("pattern")
@DIRECTORY
@FROM
@TO
@JSON
def grep(pattern: str, directory: Path, lo: int, last: int | None, *, json: bool) -> None:
    """Show the entries of DIRECTORY with an argument in which PATTERN is found, a command's name included.

    PATTERN is a regular expression of Python over bytes. An entry whose payload is damaged is shown with its WOUND,
    because what it said is not known.
    """
    hi = range_end(lo, last)
    try:
        choice = matching(re.compile(os.fsencode(pattern)))
    except re.error as error:
        raise click.UsageError(f"PATTERN is no regular expression: {error}") from error
    show = as_json if json else as_text

    def print_them(reader: LogReader) -> int:
        return print_entries(filter(choice, reader.walk(lo, hi)), show)

    run(directory, print_them)
