"""raftlog dump, tail, grep and stat --json: which entries are shown, and how."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from raftlog.choose import keys_of

from durable_raft.raft.configuration import encode
from durable_raft.raft.ready import Write
from durable_raft.raft.types import ORIGIN, Base, Entry, EntryKind, Index, Term, make_entry
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.records import IDENT_KEY, LOG_KEY
from tests.storage.raw import change, flip_bit
from tests.support.batches import batch_of
from tests.support.log_building import point_of, write
from tests.support.raft_nodes import configuration_of
from tests.tools.directories import command, environment, make_log, raftlog, sets

BATCHES: list[list[list[bytes]] | None] = [
    None,
    [[b"SET", b"city", b"Paris"]],
    [[b"MSET", b"a", b"city", b"b c", b"2"], [b"FLUSHALL"]],
    None,
    [[b"DEL", b"x", b"a", b"city"]],
    [[b"APPEND", b"\xff\x00key", b"tail"], [b"set", b"value", b"a"]],
    [],
]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A closed log with seven entries: two NOOPs, four with commands, one that only moves the time."""
    entries: list[Entry] = []
    for number, batch in enumerate(BATCHES):
        kind = EntryKind.NOOP if batch is None else EntryKind.COMMANDS
        payload = b"" if batch is None else batch_of(batch)
        previous = point_of(entries[-1]) if entries else ORIGIN
        entries.append(
            make_entry(previous=previous, term=Term(1 + number // 3), kind=kind, timestamp_ms=1000, payload=payload)
        )
    return make_log(tmp_path / "node", entries)


def indexes(found: subprocess.CompletedProcess[str]) -> list[int]:
    """Return the indexes of the lines that were printed."""
    return [int(index) for index in re.findall(r'^(?:index=|\{"index": )(\d+)', found.stdout, re.MULTILINE)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--kind", "noop"], [1, 4]),
        (["--kind", "commands"], [2, 3, 5, 6, 7]),
        (["--kind", "commands", "--term", "1"], [2, 3]),
        (["--key", "city"], [2, 5]),
        (["--key", "a"], [3, 5]),
        (["--key", "b c"], [3]),
        (["--key", "Paris"], []),
        (["--key", "value"], [6]),
        (["--key", "city", "--from", "3"], [5]),
        (["--key", "city", "--kind", "noop"], []),
    ],
)
@pytest.mark.parametrize("json", [[], ["--json"]])
def test_dump_of_chosen_entries(directory: Path, options: list[str], expected: list[int], json: list[str]) -> None:
    """Keys are where the table of commands says; every condition must hold."""
    found = raftlog("dump", directory, *options, *json)
    assert (found.returncode, found.stderr) == (0, "")
    assert indexes(found) == expected


def test_a_key_that_is_no_text(directory: Path) -> None:
    """A byte that is not UTF-8 may stand on the command line."""
    found = subprocess.run(
        [*map(str.encode, command("dump", directory)), b"--key", b"\xffnothing"],
        env=environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")
    found = subprocess.run(
        [*map(str.encode, command("grep")), b"^\xff", bytes(directory)],
        env=environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert found.stdout.startswith(b"index=6 ")


def test_dump_raw(directory: Path) -> None:
    """The payload in place of the commands, as it was stored."""
    payload = batch_of(BATCHES[1] or []).hex()
    found = raftlog("dump", directory, "--raw", "--to", "2")
    assert found.returncode == 0
    first, second = found.stdout.splitlines()
    assert first.endswith(" payload=")
    assert second.endswith(f" payload={payload}")
    assert "Paris" not in second
    shown = json.loads(raftlog("dump", directory, "--raw", "--json", "--from", "2", "--to", "2").stdout)
    assert shown["payload"] == payload
    assert "commands" not in shown


def test_what_cannot_be_told_is_shown(directory: Path) -> None:
    """An entry whose key or kind damage hides may be the one that is looked for: it is shown, and exit code 1 says so.

    The kind of one whose payload alone is rotten is still known.
    """
    flip_bit(directory, "log", LOG_KEY.pack(2, 0), 40 * 8)
    change(directory, "log", LOG_KEY.pack(4, 0), None)
    flip_bit(directory, "ident", IDENT_KEY.pack(6), 9)
    change(directory, "log", LOG_KEY.pack(6, 0), None)
    for options, expected in (
        (["--key", "x"], [2, 5, 6]),
        (["--kind", "noop"], [1, 4, 6]),
        (["--kind", "commands"], [2, 3, 5, 6, 7]),
        (["--term", "1"], [1, 2, 3, 6]),
    ):
        found = raftlog("dump", directory, *options)
        assert indexes(found) == expected
        assert found.returncode == 1
        assert "wounds found" in found.stderr
    found = raftlog("grep", "nothing", directory)
    assert indexes(found) == [2, 6]
    assert found.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        ([b"GET", b"k"], [b"k"]),
        ([b"mset", b"a", b"1", b"b", b"2"], [b"a", b"b"]),
        ([b"DEL", b"a", b"b", b"c"], [b"a", b"b", b"c"]),
        ([b"SET", b"k", b"v", b"EX", b"10"], [b"k"]),
        ([b"FLUSHALL"], []),
        ([b"SET"], []),
        ([b"DEL"], []),
        ([b"NOSUCH", b"k"], []),
    ],
)
def test_keys_of_a_command(arguments: list[bytes], keys: list[bytes]) -> None:
    """First, last and step are the table's; too few arguments name no key."""
    assert keys_of(arguments) == keys


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ity$"], [2, 3, 5]),
        (["^(?i:SET)$"], [2, 6]),
        (["^2$"], [3]),
        (["ity$", "--from", "3", "--to", "4"], [3]),
        (["nothing"], []),
    ],
)
def test_grep(directory: Path, arguments: list[str], expected: list[int]) -> None:
    """The pattern is searched in every argument, names included, one at a time; --from and --to are inclusive."""
    for options in ([], ["--json"]):
        found = raftlog("grep", arguments[0], directory, *arguments[1:], *options)
        assert (found.returncode, found.stderr) == (0, "")
        assert indexes(found) == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["grep", "(", "DIR"], "PATTERN is no regular expression"),
        (["grep", "x", "DIR", "--from", "3", "--to", "2"], "--to 2 lies before --from 3"),
        (["grep", "x"], "Missing argument"),
        (["dump", "DIR", "--from", str(1 << 64)], "is not in the range"),
        (["dump", "DIR", "--kind", "other"], "'other' is not one of"),
        (["tail", "DIR", "-n", "-1"], "-1 is not in the range"),
        (["tail", "DIR/missing"], "is not a data directory"),
        (["grep", "x", "DIR/missing"], "is not a data directory"),
    ],
)
def test_wrong_usage(directory: Path, arguments: list[str], said: str) -> None:
    """The reason goes to standard error; exit code 2."""
    found = raftlog(*(argument.replace("DIR", str(directory)) for argument in arguments))
    assert (found.returncode, found.stdout) == (2, "")
    assert said in found.stderr


def test_tail(directory: Path, tmp_path: Path) -> None:
    """The last ten, or as many as asked for, as dump shows them; of a log that was compacted, what is left."""
    assert indexes(raftlog("tail", directory)) == [1, 2, 3, 4, 5, 6, 7]
    assert indexes(raftlog("tail", directory, "-n", "2", "--json")) == [6, 7]
    assert indexes(raftlog("tail", directory, "-n", "0")) == []
    dumped = raftlog("dump", directory, "--from", "5").stdout
    assert raftlog("tail", directory, "-n", "3").stdout == dumped
    long = make_log(tmp_path / "long", sets(ORIGIN, [1] * 30), compact_to=26)
    assert indexes(raftlog("tail", long)) == [27, 28, 29, 30]
    empty = make_log(tmp_path / "empty", [])
    found = raftlog("tail", empty)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@contextmanager
def following(directory: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``raftlog tail -f`` in a session of its own."""
    process = subprocess.Popen(
        command("tail", "-f", directory, *options),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


def read_indexes(process: subprocess.Popen[str], count: int) -> list[tuple[int, int]]:
    """Return (index, term) of the next lines that are printed."""
    assert process.stdout is not None
    found = []
    for _ in range(count):
        match = re.match(r"index=(\d+) term=(\d+) ", process.stdout.readline())
        assert match is not None
        found.append((int(match[1]), int(match[2])))
    return found


def test_tail_follows_a_running_node(tmp_path: Path) -> None:
    """What is appended comes, what is cut is told and what came instead is shown, until Ctrl-C ends it with 0."""
    entries = sets(ORIGIN, [1] * 5)
    make_log(tmp_path, entries)
    store = LmdbLogStore.open(tmp_path)
    store.load()
    with following(tmp_path, "-n", "2") as process:
        assert read_indexes(process, 2) == [(4, 1), (5, 1)]
        more = sets(point_of(entries[-1]), [1] * 3)
        store.persist([write(1, more)])
        assert read_indexes(process, 3) == [(6, 1), (7, 1), (8, 1)]
        other = sets(point_of(more[0]), [2] * 4)
        store.persist([write(2, other, cut=7)])
        assert read_indexes(process, 4) == [(7, 2), (8, 2), (9, 2), (10, 2)]
        store.compact(Index(9), 9)
        store.persist([write(3, sets(point_of(other[-1]), [2]))])
        assert read_indexes(process, 1) == [(11, 2)]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert err == "-- the log was cut: from index 7 on it is another now --\n"
    store.close()


def test_tail_tells_what_it_missed(tmp_path: Path) -> None:
    """A snapshot took the place of the log: what was never in it is told, and what follows is shown."""
    entries = sets(ORIGIN, [1] * 5)
    make_log(tmp_path, entries)
    store = LmdbLogStore.open(tmp_path)
    store.load()
    with following(tmp_path, "-n", "1") as process:
        assert read_indexes(process, 1) == [(5, 1)]
        base = Base(point_of(sets(ORIGIN, [1] * 20)[-1]), entries[-1].timestamp_ms + 100)
        after = make_entry(
            previous=base.point,
            term=Term(1),
            kind=EntryKind.NOOP,
            timestamp_ms=base.timestamp_ms,
            payload=b"",
        )
        store.persist([Write(1, None, None, (after,), base)])
        assert read_indexes(process, 1) == [(21, 1)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err == "-- entries 6..20 were compacted before they could be shown --\n"
    store.close()


def test_tail_ends_with_its_parent(tmp_path: Path) -> None:
    """When the command is killed the reader does not live on: its end of standard output closes."""
    make_log(tmp_path, sets(ORIGIN, [1] * 5))
    with following(tmp_path, "-n", "1") as process:
        assert read_indexes(process, 1) == [(5, 1)]
        process.kill()
        assert process.stdout is not None
        assert process.stdout.read() == ""


def test_stat_as_json(directory: Path) -> None:
    """What the lines say, with voters and wounds as objects."""
    flip_bit(directory, "log", LOG_KEY.pack(2, 0), 40 * 8)
    found = raftlog("stat", "--json", directory)
    assert found.returncode == 1
    shown = json.loads(found.stdout)
    assert shown["raft_node_id"] == "n1"
    assert shown["raft_voted_for"] is None
    assert [voter["node_id"] for voter in shown["voters"]] == ["n1", "n2", "n3"]
    assert (shown["raft_first_log_index"], shown["raft_last_log_index"], shown["entries"]) == (1, 7, 7)
    (wound,) = shown["wounds"]
    assert (wound["table"], wound["index"], wound["what"]) == ("log", 2, "checksum")
    lines = dict(line.split(":", 1) for line in raftlog("stat", directory).stdout.splitlines())
    assert lines.keys() == shown.keys()


@pytest.mark.parametrize("verb", ["stat", "dump", "tail", "grep"])
def test_help_shows_examples(verb: str) -> None:
    """One example a line, then the exit codes."""
    found = raftlog(verb, "--help")
    assert found.returncode == 0
    assert f"Examples:\n    raftlog {verb} " in found.stdout
    assert "Exit codes: 0 clean; 1 wounds were found; 2" in found.stdout


def test_configurations_are_shown_with_their_members(tmp_path: Path) -> None:
    """Who votes and where each is reached; `stat` names the newest one."""
    three = configuration_of(["n1", "n2", "n3"])
    joint = replace(three, voters=three.voters[:2], outgoing=three.voters, leaving=three.voters[2:])
    entries: list[Entry] = []
    for configuration in (three, joint):
        previous = point_of(entries[-1]) if entries else ORIGIN
        payload = encode(configuration)
        entry = make_entry(
            previous=previous, term=Term(1), kind=EntryKind.CONFIGURATION, timestamp_ms=1000, payload=payload
        )
        entries.append(entry)
    directory = make_log(tmp_path / "node", entries)
    words = "voters n1 n2; and, until it is left, n1 n2 n3; leaving n3"
    members = "; members n1=n1:1@n1:2 n2=n2:1@n2:2 n3=n3:1@n3:2"
    shown = raftlog("dump", directory, "--kind", "configuration").stdout.splitlines()
    assert "kind=CONFIGURATION" in shown[0]
    assert shown[1].endswith(words + members)
    as_object = json.loads(raftlog("dump", directory, "--json", "--from", "2").stdout)
    assert as_object["configuration"] == words + members
    stat = raftlog("stat", directory).stdout
    assert f"configuration_index:2\nconfiguration:{words}\n" in stat
