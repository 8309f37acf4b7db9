"""raftlog as users run it: its own process on real directories, what it prints where, and its exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from raftlog.lines import quoted
from raftlog.main import main

from durable_raft.raft.types import ORIGIN, Entry, EntryKind, LogPoint, Term, make_entry
from durable_raft.storage.log.records import IDENT_KEY, LOG_KEY
from tests.storage.raw import change, flip_bit
from tests.support.batches import batch_of
from tests.support.log_building import IDENTITY, LmdbShelf, point_of, vote, write
from tests.tools.directories import raftlog


def entry(previous: LogPoint, term: int, commands: list[list[bytes]] | None) -> Entry:
    """Return a COMMANDS entry, or a NOOP for None."""
    kind = EntryKind.NOOP if commands is None else EntryKind.COMMANDS
    payload = b"" if commands is None else batch_of(commands)
    return make_entry(
        previous=previous, term=Term(term), kind=kind, timestamp_ms=1_700_000_000_000 + previous.index, payload=payload
    )


@pytest.fixture
def shelf(tmp_path: Path) -> LmdbShelf:
    """An open store with four entries: two NOOPs, one and two commands."""
    shelf = LmdbShelf(tmp_path / "node")
    store = shelf.open()
    store.load()
    entries: list[Entry] = []
    commands: list[list[list[bytes]] | None] = [None, [[b"SET", b"city", b"Paris"]], None]
    for term, batch in zip((1, 1, 4), commands, strict=True):
        entries.append(entry(point_of(entries[-1]) if entries else ORIGIN, term, batch))
    entries.append(entry(point_of(entries[-1]), 4, [[b"SET", b"a b", b"\xff\n"], [b"DEL", b"city"]]))
    store.persist([write(1, entries, hard_state=vote(4, "n2"))])
    return shelf


def test_stat_of_a_running_node(shelf: LmdbShelf) -> None:
    """While another process holds the directory: identity, term, vote, extent, sizes, no wounds, exit code 0."""
    found = raftlog("stat", shelf.directory)
    assert found.stderr == ""
    assert found.returncode == 0
    lines = dict(line.split(":", 1) for line in found.stdout.splitlines())
    assert lines["raft_cluster_id"] == IDENTITY.cluster_id.hex()
    assert lines["raft_node_id"] == "n1"
    assert lines["raft_current_term"] == "4"
    assert lines["raft_voted_for"] == "n2"
    assert (lines["raft_first_log_index"], lines["raft_last_log_index"], lines["entries"]) == ("1", "4", "4")
    assert lines["wounds"] == "0"
    assert int(lines["file_bytes"]) >= int(lines["used_bytes"]) > int(lines["payload_bytes"]) > 0
    shelf.close()


def test_dump_shows_each_entry_with_its_commands(shelf: LmdbShelf) -> None:
    """One line per entry; arguments are quoted as redis-cli takes them."""
    found = raftlog("dump", shelf.directory)
    assert (found.returncode, found.stderr) == (0, "")
    lines = found.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["index=1", "index=2", "index=3", "index=4"]
    assert "term=1 kind=NOOP time=2023-11-14T22:13:20.000+00:00 bytes=0" in lines[0]
    assert lines[1].endswith(" SET city Paris")
    assert lines[3].endswith(r' SET "a b" "\xff\n" ; DEL city')
    shelf.close()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--from", "3"], [3, 4]),
        (["--to", "2"], [1, 2]),
        (["--from", "2", "--to", "3"], [2, 3]),
        (["--term", "4"], [3, 4]),
        (["--term", "9"], []),
        (["--from", "5"], []),
    ],
)
def test_dump_of_a_part_as_json(shelf: LmdbShelf, options: list[str], expected: list[int]) -> None:
    """--from and --to are inclusive, --term filters, each line is a JSON object."""
    shelf.close()
    found = raftlog("dump", shelf.directory, "--json", *options)
    assert (found.returncode, found.stderr) == (0, "")
    shown = [json.loads(line) for line in found.stdout.splitlines()]
    assert [one["index"] for one in shown] == expected
    for one in shown:
        if one["index"] == 2:
            assert one["commands"] == [["SET", "city", "Paris"]]
            assert (one["term"], one["kind"], one["timestamp_ms"]) == (1, "COMMANDS", 1_700_000_000_001)


def test_damage_is_shown_and_passed(shelf: LmdbShelf) -> None:
    """A wounded entry keeps its line with what is known; what follows is shown; the exit code is 1."""
    shelf.close()
    flip_bit(shelf.directory, "log", LOG_KEY.pack(2, 0), 40 * 8)
    change(shelf.directory, "ident", IDENT_KEY.pack(3), None)
    found = raftlog("dump", shelf.directory)
    assert found.returncode == 1
    assert found.stderr == "2 wounds found\n"
    lines = found.stdout.splitlines()
    assert len(lines) == 4
    assert "term=1" in lines[1]
    assert "WOUND[log index 2 term 1: checksum: expected crc 0x" in lines[1]
    assert "WOUND[ident index 3: missing:" in lines[2]
    assert "WOUND" not in lines[0] + lines[3]
    as_json = [json.loads(line) for line in raftlog("dump", shelf.directory, "--json").stdout.splitlines()]
    assert as_json[1]["wounds"][0]["table"] == "log"
    assert "commands" not in as_json[1]
    stat = raftlog("stat", shelf.directory)
    assert stat.returncode == 1
    assert "wounds:2\n" in stat.stdout
    assert stat.stderr.count("wound: ") == 2


def test_a_rotten_copy_of_meta_counts_as_a_wound(shelf: LmdbShelf) -> None:
    """The node starts with one good copy; stat says that the other is rotten."""
    shelf.close()
    flip_bit(shelf.directory, "meta", b"meta", 99)
    found = raftlog("stat", shelf.directory)
    assert found.returncode == 1
    assert "raft_current_term:4\n" in found.stdout
    assert "wound: meta: checksum" in found.stderr


@pytest.mark.parametrize("command", ["stat", "dump"])
def test_what_is_no_data_directory_gets_exit_code_2(tmp_path: Path, command: str) -> None:
    """The reason goes to standard error, nothing to standard output, nothing is created."""
    for arguments in ([tmp_path], [tmp_path / "missing"], [], [tmp_path, "--bogus"]):
        found = raftlog(command, *arguments)
        assert found.returncode == 2, found
        assert found.stdout == ""
        assert found.stderr != ""
    assert list(tmp_path.iterdir()) == []


def test_wrong_ranges_are_wrong_usage(shelf: LmdbShelf) -> None:
    """A range that ends before it begins, or is no number, is refused."""
    shelf.close()
    assert raftlog("dump", shelf.directory, "--from", "3", "--to", "2").returncode == 2
    assert raftlog("dump", shelf.directory, "--from", "x").returncode == 2


def test_a_truncated_file_is_reported_not_suffered(shelf: LmdbShelf) -> None:
    """Mapping a cut file kills its reader; the command says what is wrong and ends with 1."""
    shelf.close()
    path = shelf.directory / "raft" / "data.mdb"
    os.truncate(path, 3 * 4096)
    found = raftlog("dump", shelf.directory)
    assert found.returncode == 1
    assert "12288 bytes, but its last page ends at" in found.stderr or "cut off" in found.stderr


def test_help_says_which_verbs_write() -> None:
    """No verb is promised to change nothing that writes: repair and recover, which the group's help names."""
    said = " ".join(raftlog("--help").stdout.split())
    assert "no verb locks or changes it" in said
    assert "repair and recover make new directories" in said
    assert "nothing is locked" not in said
    writing = {name for name, verb in main.commands.items() if any("--apply" in each.opts for each in verb.params)}
    assert writing == {"repair", "recover"}
    for name in writing:
        assert "othing is locked" not in (main.commands[name].help or ""), name


def test_help_documents_the_exit_codes() -> None:
    """Each command says what its exit codes mean."""
    for arguments in (["--help"], ["stat", "--help"], ["dump", "--help"]):
        found = raftlog(*arguments)
        assert found.returncode == 0
        assert "Exit codes: 0 clean; 1 wounds were found; 2" in found.stdout


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        (b"plain:key-1", "plain:key-1"),
        (b"", '""'),
        (b"a b", '"a b"'),
        (b'say "hi"', r'"say \"hi\""'),
        (b"back\\slash", r'"back\\slash"'),
        (b"\x00\xff\r\n", r'"\x00\xff\r\n"'),
        (b"it's", '"it\'s"'),
    ],
)
def test_quoted_arguments(argument: bytes, shown: str) -> None:
    """What needs quotes gets them, and no byte is lost."""
    assert quoted(argument) == shown
