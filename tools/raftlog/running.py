"""What every verb shares: exit codes, reading in a child process, and how trouble is told.

Data goes to standard output, everything else to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from durable_raft.errors import CorruptRecord, DirectoryRefused, StorageError, UnknownFormatVersion
from durable_raft.storage.directory import require_environment
from durable_raft.storage.isolation import KilledBySignal, run_in_child
from durable_raft.storage.log.reader import LogReader
from durable_raft.storage.preflight import check_data_file
from durable_raft.storage.wounds import Wound, WoundKind

CLEAN = 0
WOUNDED = 1
REFUSED = 2

EXIT_CODES = """Exit codes: 0 clean; 1 wounds were found; 2 wrong usage, not a data directory, or a format that this
version does not know."""


def run(directory: Path, command: Callable[[LogReader], int]) -> None:
    """Run ``command`` on a reader of ``directory`` in a child process and exit with its code."""

    def read() -> int:
        with LogReader.open(directory) as reader:
            return command(reader)

    run_isolated(directory, read)


def run_isolated(directory: Path, command: Callable[[], int]) -> None:
    """Run ``command``, which reads ``directory``, in a child process and exit with its code.

    A ``StorageError`` is told and becomes an exit code; so does a signal that a damaged page raised.
    """

    def read() -> int:
        try:
            return command()
        except StorageError as error:
            return refusal(error)

    try:
        code = run_in_child(read)
    except KilledBySignal as killed:
        complain(f"reading {directory} was ended by signal {killed.signal_number}: a page is damaged or cut off")
        code = max(WOUNDED, _check_file(directory))
    sys.exit(code)


def refusal(error: StorageError) -> int:
    """Tell ``error`` and return its exit code."""
    complain(str(error))
    return REFUSED if isinstance(error, (DirectoryRefused, UnknownFormatVersion)) else WOUNDED


def _check_file(directory: Path) -> int:
    """Say what can be told of the data file without mapping it."""
    try:
        check_data_file(require_environment(directory))
    except (CorruptRecord, DirectoryRefused, UnknownFormatVersion) as error:
        return refusal(error)
    return CLEAN


def complain(text: str) -> None:
    """Say something that is not data."""
    click.echo(text, err=True)


def code_of(wounds: Sequence[Wound]) -> int:
    """Tell how many wounds there are and return the exit code."""
    if not wounds:
        return CLEAN
    complain(f"{len(wounds)} wounds found")
    return REFUSED if all(wound.what is WoundKind.NEWER_FORMAT for wound in wounds) else WOUNDED
