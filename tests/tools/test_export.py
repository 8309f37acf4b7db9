"""raftlog export: what each format holds, wounds included, and that no file is overwritten or left half written."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from durable_raft.raft.types import ORIGIN, Entry, EntryKind, Term, make_entry
from durable_raft.storage.log.records import IDENT_KEY, LOG_KEY
from tests.storage.raw import change, flip_bit
from tests.support.batches import batch_of
from tests.support.log_building import point_of
from tests.tools.directories import PAGE_BYTES, command, environment, make_log, raftlog, sets

BATCHES: list[list[list[bytes]] | None] = [
    None,
    [[b"set", b"city", b"Paris"]],
    [[b"set", b'a "b", c', b"\xff\x00\n"], [b"flushall"], [b"del", b"x", "ü".encode()]],
    [],
    [[b"set", b"last", b""]],
]
NAMES = ["index", "term", "kind", "timestamp_ms", "position", "command", "arguments", "wounds"]
ROWS: list[tuple[Any, ...]] = [
    (1, 1, "NOOP", 1001, None, None, [], []),
    (2, 1, "COMMANDS", 1002, 0, "set", [b"city", b"Paris"], []),
    (3, 2, "COMMANDS", 1003, 0, "set", [b'a "b", c', b"\xff\x00\n"], []),
    (3, 2, "COMMANDS", 1003, 1, "flushall", [], []),
    (3, 2, "COMMANDS", 1003, 2, "del", [b"x", "ü".encode()], []),
    (4, 2, "COMMANDS", 1004, None, None, [], []),
    (5, 2, "COMMANDS", 1005, 0, "set", [b"last", b""], []),
]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A closed log of five entries."""
    entries: list[Entry] = []
    for number, batch in enumerate(BATCHES, start=1):
        entries.append(
            make_entry(
                previous=point_of(entries[-1]) if entries else ORIGIN,
                term=Term(1 + number // 3),
                kind=EntryKind.NOOP if batch is None else EntryKind.COMMANDS,
                timestamp_ms=1000 + number,
                payload=b"" if batch is None else batch_of(batch),
            )
        )
    return make_log(tmp_path / "node", entries)


def table(text: str) -> list[tuple[Any, ...]]:
    """Return the rows of a csv as ``ROWS`` has them."""
    names, *rows = csv.reader(io.StringIO(text))
    assert names == NAMES
    found: list[tuple[Any, ...]] = []
    for index, term, kind, time, position, name, arguments, wounds in rows:
        assert arguments.startswith("[")
        numbers = [int(each) if each else None for each in (index, term, time, position)]
        found.append(
            (*numbers[:2], kind or None, *numbers[2:], name or None, json.loads(arguments), json.loads(wounds or "[]"))
        )
    return found


def shown(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a row with its arguments as texts."""
    return (*row[:6], [argument.decode(errors="backslashreplace") for argument in row[6]], row[7])


def test_json_lines_are_those_of_dump(directory: Path) -> None:
    """One object per entry; --from and --to are inclusive."""
    expected = raftlog("dump", directory, "--json")
    found = raftlog("export", directory, "--format", "jsonl")
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == expected.stdout
    found = raftlog("export", directory, "--format", "jsonl", "--from", 2, "--to", 3)
    assert found.stdout.splitlines() == expected.stdout.splitlines()[1:3]


def test_csv(directory: Path, tmp_path: Path) -> None:
    """One row per command, one for an entry without any; the same on standard output and in a file."""
    found = raftlog("export", directory, "--format", "csv")
    assert (found.returncode, found.stderr) == (0, "")
    assert table(found.stdout) == list(map(shown, ROWS))
    output = tmp_path / "log.csv"
    written = raftlog("export", directory, "--format", "csv", "--output", output)
    assert (written.returncode, written.stdout, written.stderr) == (0, "", "")
    assert output.read_text(encoding="utf-8") == found.stdout
    assert not (tmp_path / "log.csv.partial").exists()


def test_parquet(directory: Path, tmp_path: Path) -> None:
    """The same rows, with the bytes of the arguments as they are."""
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    output = tmp_path / "log.parquet"
    found = raftlog("export", directory, "--format", "parquet", "--output", output)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    read = parquet.read_table(str(output))
    assert read.column_names == NAMES
    assert [tuple(row[name] for name in NAMES) for row in read.to_pylist()] == ROWS
    empty = tmp_path / "empty.parquet"
    assert raftlog("export", directory, "--format", "parquet", "--from", 9, "--output", empty).returncode == 0
    assert parquet.read_table(str(empty)).num_rows == 0


def test_parquet_of_a_long_log(tmp_path: Path) -> None:
    """More than one row group."""
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    entries: list[Entry] = []
    for number in range(50):
        batch = [[b"set", b"%d" % at, b"%d" % number] for at in range(1000)]
        previous = point_of(entries[-1]) if entries else ORIGIN
        entries.append(
            make_entry(
                previous=previous,
                term=Term(1),
                kind=EntryKind.COMMANDS,
                timestamp_ms=1000,
                payload=batch_of(batch),
            )
        )
    output = tmp_path / "log.parquet"
    directory = make_log(tmp_path / "node", entries)
    assert raftlog("export", directory, "--format", "parquet", "--output", output).returncode == 0
    file = parquet.ParquetFile(str(output))
    assert file.num_row_groups == 3
    rows = file.read(["index", "position", "arguments"]).to_pylist()
    assert [(row["index"], row["position"]) for row in rows] == [(i, at) for i in range(1, 51) for at in range(1000)]
    assert rows[-1]["arguments"] == [b"999", b"49"]


def test_parquet_without_pyarrow(directory: Path, tmp_path: Path) -> None:
    """A clear error says what to install; nothing is written."""
    output = tmp_path / "log.parquet"
    # As where it is not installed: Python finds no module where None stands.
    code = "import sys; sys.modules['pyarrow'] = None; from raftlog.main import main; main()"
    options = ["export", str(directory), "--format", "parquet", "--output", str(output)]
    found = subprocess.run(
        [sys.executable, "-c", code, *options],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert "pip install 'durable-raft[export]'" in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["node"]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_wounds_are_exported(directory: Path, tmp_path: Path, kind: str) -> None:
    """A wounded entry has what is still known of it and says so; exit code 1; the file gets its name all the same."""
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    flip_bit(directory, "log", LOG_KEY.pack(2, 0), 40 * 8)
    change(directory, "log", LOG_KEY.pack(5, 0), None)
    flip_bit(directory, "ident", IDENT_KEY.pack(5), 99)
    output = tmp_path / "log"
    found = raftlog("export", directory, "--format", kind, "--output", output)
    assert (found.returncode, found.stdout, found.stderr) == (1, "", "3 wounds found\n")
    if kind == "jsonl":
        lines = list(map(json.loads, output.read_text().splitlines()))
        assert [line["index"] for line in lines] == [1, 2, 3, 4, 5]
        assert [len(line.get("wounds", [])) for line in lines] == [0, 1, 0, 0, 2]
        assert "commands" not in lines[1]
        return
    if kind == "csv":
        rows = table(output.read_text(encoding="utf-8"))
        expected = list(map(shown, ROWS))
    else:
        read = import_module("pyarrow.parquet").read_table(str(output)).to_pylist()
        rows, expected = [tuple(row[name] for name in NAMES) for row in read], ROWS
    assert rows[2:6] == expected[2:6]
    assert rows[1][:7] == (2, 1, "COMMANDS", 1002, None, None, [])
    (wound,) = rows[1][7]
    assert wound.startswith("log index 2 term 1: checksum: expected crc 0x")
    assert rows[6][:7] == (5, None, None, None, None, None, [])
    assert len(rows[6][7]) == 2


def test_a_batch_that_cannot_be_decoded(tmp_path: Path) -> None:
    """It stands in the row, and the exit code is 1: the table is not all there is."""
    entry = make_entry(previous=ORIGIN, term=Term(1), kind=EntryKind.COMMANDS, timestamp_ms=1, payload=b"\x09what")
    found = raftlog("export", make_log(tmp_path / "node", [entry]), "--format", "csv")
    assert (found.returncode, found.stderr) == (1, "the commands of 1 entries cannot be decoded\n")
    ((*_, wounds),) = table(found.stdout)
    assert wounds == ["payload cannot be decoded: batch of version 9; this build knows 1 and 2"]


def test_no_file_is_overwritten(directory: Path, tmp_path: Path) -> None:
    """Neither the output nor a partial file that another export may be writing: exit code 2."""
    output, partial = tmp_path / "log.csv", tmp_path / "log.csv.partial"
    output.write_text("mine")
    found = raftlog("export", directory, "--format", "csv", "--output", output)
    assert (found.returncode, found.stdout, found.stderr) == (2, "", f"{output} exists and is not overwritten\n")
    assert output.read_text() == "mine"
    output.unlink()
    partial.write_text("theirs")
    found = raftlog("export", directory, "--format", "csv", "--output", output)
    assert found.returncode == 2
    assert f"{partial} exists: another export runs, or was killed" in found.stderr
    assert partial.read_text() == "theirs"
    assert not output.exists()


@pytest.mark.parametrize("what", ["no directory", "no place", "full"])
def test_nothing_half_written_is_left(directory: Path, tmp_path: Path, what: str) -> None:
    """Whatever goes wrong: no output, no partial file, a clear error."""
    place = tmp_path / "out"
    place.mkdir()
    output = place / "log.csv"
    limit: list[str] = []
    if what == "no directory":
        directory, code, said = tmp_path / "missing", 2, "is not a data directory"
    elif what == "no place":
        output, code, said = place / "none" / "log.csv", 2, "No such file or directory"
    else:
        limit = ["prlimit", "--fsize=64"]
        code, said = 2, f"{output} was not written: [Errno 27] File too large"
    found = subprocess.run(
        [*limit, *command("export", directory, "--format", "csv", "--output", output)],
        env=environment() | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in found.stderr
    assert said in found.stderr
    assert found.returncode == code
    assert list(place.iterdir()) == []


def test_a_page_that_kills_the_reader(tmp_path: Path) -> None:
    """What it wrote until then is gone; the error says why; exit code 1."""
    directory = make_log(tmp_path / "node", sets(ORIGIN, [1] * 400, "x" * 1500))
    path = directory / "raft" / "data.mdb"
    data = path.read_bytes()
    start = 100 * PAGE_BYTES
    path.write_bytes(data[:start] + bytes(PAGE_BYTES) + data[start + PAGE_BYTES :])
    place = tmp_path / "out"
    place.mkdir()
    found = raftlog("export", directory, "--format", "csv", "--output", place / "log.csv")
    assert (found.returncode, found.stdout) == (1, "")
    assert "was ended by signal 6: a page is damaged or cut off" in found.stderr
    assert list(place.iterdir()) == []


def test_wrong_usage(directory: Path) -> None:
    """Exit code 2 and what was expected."""
    for options, said in (
        ([], "Missing option '--format'"),
        (["--format", "xml"], "'xml' is not one of 'jsonl', 'csv', 'parquet'"),
        (["--format", "parquet"], "--format parquet needs --output FILE"),
        (["--format", "csv", "--from", "3", "--to", "2"], "--to 2 lies before --from 3"),
    ):
        found = raftlog("export", directory, *options)
        assert (found.returncode, found.stdout) == (2, "")
        assert said in found.stderr
