"""``raftlog export DIR``: the log as a table for other programs, one row per command, or as JSON lines.

Columns of csv and parquet::

    index         of the entry
    term, kind, timestamp_ms
                  of the entry; empty when damage hides them
    position      of the command in its entry, from 0
    command       its name
    arguments     the others. csv: a JSON array of strings, with \\xNN for bytes that are not UTF-8. parquet: bytes
    wounds        of the entry, as texts; csv: a JSON array. Empty when it is sound

An entry without commands (a NOOP, an empty batch, a payload that cannot be read) has one row, without position and
command, so that no index is left out.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Final, Protocol, TextIO

import click

from durable_raft.raft.types import EntryKind
from durable_raft.storage.directory import sync_path
from durable_raft.storage.log.reader import LogReader
from durable_raft.storage.log.walk import Walked
from durable_raft.storage.wounds import Wound
from raftlog.choose import DIRECTORY, FROM, TO, range_end
from raftlog.lines import as_json, commands_of, text_of
from raftlog.running import EXIT_CODES, REFUSED, WOUNDED, code_of, complain, run

PARTIAL: Final = ".partial"

_NEEDS_PYARROW: Final = "--format parquet needs pyarrow, which is not installed: pip install 'durable-raft[export]'"
_GROUP_ROWS: Final = 20_000
_GROUP_BYTES: Final = 16 << 20
"""Rows, or bytes of their arguments, after which a row group of a parquet file ends: they are held in memory."""

_EPILOG = f"""\b
Examples:
  raftlog export DIR --format jsonl | jq -c .commands
  raftlog export DIR --format csv --from 1000 --to 2000 --output log.csv
  raftlog export DIR --format parquet --output log.parquet

{EXIT_CODES}"""


@click.command(epilog=_EPILOG)
@DIRECTORY
@click.option("--format", "kind", type=click.Choice(["jsonl", "csv", "parquet"]), required=True, help="Of the output.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A new file; standard output by default, but not for parquet.",
)
@FROM
@TO
def export(directory: Path, kind: str, output: Path | None, lo: int, last: int | None) -> None:
    """Write the entries of DIRECTORY as JSON lines (one object per entry) or as a table (one row per command).

    jsonl is what dump --json prints. The columns of the tables: index, term, kind, timestamp_ms, position (of the
    command in its entry, from 0), command, arguments, wounds. An entry without commands has one row without position
    and command. A wounded entry is written with what is still known of it. FILE is written as FILE.partial and gets its
    name when it is whole; a file that exists is never overwritten.
    """
    hi = range_end(lo, last)
    if kind == "parquet" and output is None:
        raise click.UsageError("--format parquet needs --output FILE")
    if kind == "parquet" and find_spec("pyarrow") is None:
        complain(_NEEDS_PYARROW)
        sys.exit(REFUSED)
    if output is None:
        run(directory, lambda reader: _write(reader.walk(lo, hi), _text_sink(kind, sys.stdout)))
        return
    try:
        new = _NewFile(output)
    except OSError as error:
        complain(str(error))
        sys.exit(REFUSED)

    def write_file(reader: LogReader) -> int:
        try:
            return _to_file(reader.walk(lo, hi), kind, new)
        except OSError as error:
            complain(f"{output} was not written: {error}")
            return REFUSED

    with new:
        run(directory, write_file)


class _Sink(Protocol):
    """Where entries are written to."""

    def add(self, walked: Walked) -> None:
        """Write an entry."""

    def finish(self) -> None:
        """Write what was kept back."""


def _write(walk: Iterator[Walked], sink: _Sink) -> int:
    """Write every entry, tell what is wrong with them, and return the exit code."""
    wounds: list[Wound] = []
    undecodable = 0
    following: int | None = None
    for walked in walk:
        if following is not None and walked.index > following and not walked.wounds:
            complain(f"entries {following}..{walked.index - 1} were compacted while the log was read: not exported")
        following = walked.index + 1
        wounds += walked.wounds
        undecodable += isinstance(commands_of(walked), str)
        sink.add(walked)
    sink.finish()
    code = code_of(wounds)
    if undecodable:
        complain(f"the commands of {undecodable} entries cannot be decoded")
        return max(code, WOUNDED)
    return code


def _to_file(walk: Iterator[Walked], kind: str, new: _NewFile) -> int:
    if kind == "parquet":
        try:
            sink: _Sink = _Parquet(new.file)
        except ImportError as error:
            complain(f"{_NEEDS_PYARROW} ({error})")
            return REFUSED
        code = _write(walk, sink)
    else:
        text = io.TextIOWrapper(new.file, encoding="utf-8", newline="")
        try:
            code = _write(walk, _text_sink(kind, text))
            text.flush()
        except OSError:
            # What it keeps back cannot be written either. From Python 3.13 on that is printed if nobody closed it.
            with contextlib.suppress(OSError):
                text.close()
            raise
    new.finish()
    return code


class _NewFile:
    """A file that gets its name when it is whole; used as a context manager, which leaves nothing half written.

    It is begun and left by the process that starts the reader, and finished by the reader, which may be killed.
    """

    def __init__(self, path: Path) -> None:
        """Begin ``path``; raises OSError when it, or its partial file, is there, or it cannot be made."""
        self._path = path
        self._partial = path.with_name(path.name + PARTIAL)
        self._require_new()
        try:
            self.file: IO[bytes] = self._partial.open("xb")
        except FileExistsError as error:
            raise FileExistsError(
                f"{self._partial} exists: another export runs, or was killed; then delete it"
            ) from error

    def __enter__(self) -> _NewFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self._partial.unlink(missing_ok=True)

    def finish(self) -> None:
        """Make the file durable and give it its name; raises OSError."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self._require_new()
        self._partial.rename(self._path)
        sync_path(self._path.parent)

    def _require_new(self) -> None:
        if self._path.exists():
            raise FileExistsError(f"{self._path} exists and is not overwritten")


# -- formats ----------------------------------------------------------------------------------------------------------


COLUMNS: Final = ("index", "term", "kind", "timestamp_ms", "position", "command", "arguments", "wounds")

Row = tuple[int, int | None, str | None, int | None, int | None, str | None, list[bytes], list[str]]
"""One row of a table, by columns."""


def rows_of(walked: Walked) -> Iterator[Row]:
    """Yield the rows of an entry: one per command, or a single one when none is known."""
    ident = walked.ident
    of_entry: tuple[int | None, str | None, int | None] = (None, None, None)
    if ident is not None:
        of_entry = (ident.term, EntryKind(ident.kind).name, ident.timestamp_ms)
    wounds = list(map(str, walked.wounds))
    commands = commands_of(walked)
    if isinstance(commands, str):
        wounds.append(commands)
    if not commands or isinstance(commands, str):
        yield (walked.index, *of_entry, None, None, [], wounds)
        return
    for position, command in enumerate(commands):
        yield (walked.index, *of_entry, position, text_of(command[0]), command[1:], wounds)


def _text_sink(kind: str, file: TextIO) -> _Sink:
    return _Csv(file) if kind == "csv" else _Lines(file.write)


class _Lines:
    """JSON lines."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def add(self, walked: Walked) -> None:
        self._write(as_json(walked) + "\n")

    def finish(self) -> None:
        """Nothing is kept back."""


class _Csv:
    """Comma-separated values with a line of names."""

    def __init__(self, file: TextIO) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(COLUMNS)

    def add(self, walked: Walked) -> None:
        for *others, arguments, wounds in rows_of(walked):
            shown = json.dumps(list(map(text_of, arguments)), ensure_ascii=False)
            self._writer.writerow([*others, shown, json.dumps(wounds, ensure_ascii=False) if wounds else ""])

    def finish(self) -> None:
        """Nothing is kept back."""


class _Parquet:
    """An Apache Parquet file."""

    def __init__(self, file: IO[bytes]) -> None:
        """Begin it; raises ImportError when pyarrow cannot be imported."""
        # Imported in the process that writes: its threads would not outlive a fork.
        self._pa: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
        pa = self._pa
        self._schema: Any = pa.schema(
            [
                pa.field("index", pa.uint64(), nullable=False),
                pa.field("term", pa.uint64()),
                pa.field("kind", pa.string()),
                pa.field("timestamp_ms", pa.uint64()),
                pa.field("position", pa.uint32()),
                pa.field("command", pa.string()),
                pa.field("arguments", pa.list_(pa.binary())),
                pa.field("wounds", pa.list_(pa.string())),
            ]
        )
        self._writer: Any = parquet.ParquetWriter(file, self._schema)
        self._rows: list[Row] = []
        self._bytes = 0

    def add(self, walked: Walked) -> None:
        self._rows += rows_of(walked)
        self._bytes += len(walked.payload or b"")
        if len(self._rows) >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._write_group()

    def finish(self) -> None:
        """Write the rows that wait and the end of the file."""
        if self._rows:
            self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        columns = [list(column) for column in zip(*self._rows, strict=True)]
        arrays = [self._pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._writer.write_table(self._pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows, self._bytes = [], 0
