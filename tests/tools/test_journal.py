"""raftlog on directories whose newest entries are in the journal: every command sees one log."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from durable_raft.raft.types import ORIGIN, Entry, EntryKind, LogPoint, Term, make_entry
from durable_raft.storage.log.journal import DiskJournalPlace, journal_path
from durable_raft.storage.log.journal_format import BLOCK_BYTES, RING_AT
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.records import LOG_KEY
from tests.storage.raw import flip_bit
from tests.support.batches import batch_of
from tests.support.log_building import JournalShelf, point_of, vote, write
from tests.tools.directories import make_log, make_state, raftlog


def sets(previous: LogPoint, terms: Sequence[int]) -> list[Entry]:
    """Return one entry per term after ``previous``, each with a command that sets ``key:INDEX``."""
    entries: list[Entry] = []
    for index, term in enumerate(terms, previous.index + 1):
        payload = batch_of([[b"set", b"key:%d" % index, b"value"]])
        kind, stamp = EntryKind.COMMANDS, 1_700_000_000_000 + index
        entry = make_entry(previous=previous, term=Term(term), kind=kind, timestamp_ms=stamp, payload=payload)
        entries.append(entry)
        previous = point_of(entry)
    return entries


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with six entries, the last four of them in the journal, and a term that is there alone."""
    shelf = JournalShelf(tmp_path / "n1")
    store = shelf.open()
    store.load()
    for number, entry in enumerate(sets(ORIGIN, [1] * 6), 1):
        store.persist([write(number, [entry], hard_state=vote(4) if number == 6 else None)])
        if number == 2:
            store.move()
    shelf.close()
    return tmp_path / "n1"


def test_every_command_sees_one_log(directory: Path) -> None:
    """Counts, term, entries, a search, and a check that is content."""
    stat = raftlog("stat", directory)
    assert (stat.returncode, stat.stderr) == (0, "")
    assert "raft_last_log_index:6\nentries:6\n" in stat.stdout
    assert "raft_current_term:4\n" in stat.stdout
    dumped = raftlog("dump", directory).stdout.splitlines()
    assert [line.split()[0] for line in dumped] == [f"index={index}" for index in range(1, 7)]
    assert "index=5" in raftlog("grep", "key:5", directory).stdout
    verified = raftlog("verify", directory)
    assert (verified.returncode, "entries 1..6" in verified.stdout) == (0, True), verified.stdout


def test_stat_tells_what_is_pending(directory: Path) -> None:
    """And in which way its node commits; in both forms."""
    stat = raftlog("stat", directory)
    assert "log_commit:journal\npending_groups:4\npending_entries:4\n" in stat.stdout
    shown = json.loads(raftlog("stat", directory, "--json").stdout)
    assert (shown["log_commit"], shown["pending_groups"], shown["pending_entries"]) == ("journal", 4, 4)
    assert shown["entries"] == 6
    verified = raftlog("verify", directory)
    assert "entries 1..6, 4 of them in 4 groups of the journal" in verified.stdout
    found = json.loads(raftlog("verify", directory, "--json").stdout)["raft"]
    assert (found["pending_groups"], found["pending_entries"]) == (4, 4)
    move(directory)
    stat = raftlog("stat", directory)
    assert "entries:6\nlog_commit:lmdb\npending_groups:0\npending_entries:0\n" in stat.stdout
    assert "journal" not in raftlog("verify", directory).stdout


def move(directory: Path) -> None:
    """Have LMDB hold the whole log, and leave no journal."""
    home = LmdbLogStore.open(directory)
    store = JournaledLogStore(home, DiskJournalPlace(home.path), is_used=False)
    store.load()
    store.close()


@pytest.fixture
def pairs(tmp_path: Path) -> list[tuple[Path, Path]]:
    """Two nodes' directories: with a term, a cut and five entries that are pending, and the same without a journal."""
    old = sets(ORIGIN, [1] * 4 + [3] * 3)
    new = sets(point_of(old[5]), [4] * 4)
    found = []
    for node_id in ("n1", "n2"):
        pending, moved = tmp_path / "pending" / node_id, tmp_path / "moved" / node_id
        make_log(pending, old, node_id=node_id)
        make_state(pending, old[4], node_id=node_id)
        home = LmdbLogStore.open(pending)
        store = JournaledLogStore(home, DiskJournalPlace(home.path))
        store.load()
        store.persist([write(1, new[:2], cut=7, hard_state=vote(4))])
        store.persist([write(2, new[2:], hard_state=vote(5, "n2"))])
        store.close()
        shutil.copytree(pending, moved)
        move(moved)
        found.append((pending, moved))
    return found


CLUSTER = "m1=10.0.0.1:7001,m2=10.0.0.2:7001,m3=10.0.0.3:7001"
VERBS = {
    "stat 1": "raft_current_term:5",
    "dump 1": "index=10",
    "dump 1 --from 6 --to 8 --json": '"term": 4',
    "dump 1 --key key:7 --raw": "term=4",
    "tail 1 -n 3 --json": '"index": 10',
    "grep key:[79] 1 --json": "key:9",
    "verify 1 2": "entries 1..10",
    "verify 1 2 --json": '"last_index": 10',
    "diff 1 2": "10",
    "diff 1 2 --json": "10",
    "timeline 1 2": "10",
    "replay 1 --until 9 --scan": "key:9",
    "replay 1 --until 9 --get key:8 --json": "key:8",
    "export 1 --format csv": "key:10",
    "export 1 --format jsonl": "key:10",
    "repair 1 --peers 2": "10",
    f"recover 1 2 --cluster {CLUSTER} --output new": "10",
}
"""What each says of it, among other things."""


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_says_the_same_of_what_is_pending_and_what_is_moved(
    pairs: list[tuple[Path, Path]], verb: str, tmp_path: Path
) -> None:
    """But of the journal itself, of sizes, and of what is drawn anew each time."""
    said = []
    for which in (0, 1):
        places = {str(number): pair[which] for number, pair in enumerate(pairs, 1)} | {"new": tmp_path / "new"}
        found = raftlog(*(places.get(word, word) for word in verb.split()))
        text = found.stdout + found.stderr
        for name, place in places.items():
            text = text.replace(str(place), name)
        said.append((found.returncode, SIDE.sub("", text)))
    assert said[0] == said[1]
    assert VERBS[verb] in said[0][1]


SIDE = re.compile(
    r"(log_commit|pending_\w+|used_bytes|file_bytes):.*\n|, \d+ of them in \d+ groups of the journal"
    r'|"pending_\w+": \d+, |cluster [0-9a-f]{32}'
)
"""What may differ."""


def test_a_repaired_directory_has_what_was_pending(pairs: list[tuple[Path, Path]]) -> None:
    """Entries, term and vote; and no journal."""
    first, second = pairs[0][0], pairs[1][0]
    flip_bit(first, "log", LOG_KEY.pack(6, 0), 300)
    assert raftlog("repair", first, "--peers", second, "--apply").returncode == 0
    (made,) = first.parent.glob("n1.repaired-*")
    assert not journal_path(made / "raft").exists()
    assert raftlog("dump", made).stdout == raftlog("dump", second).stdout
    for name in ("raft_current_term:5", "raft_voted_for:n2", "raft_last_log_index:10", "pending_groups:0"):
        assert f"{name}\n" in raftlog("stat", made).stdout


def test_looking_changes_nothing(directory: Path) -> None:
    """Not a byte of the directory."""
    before = {path: path.read_bytes() for path in directory.rglob("*.mdb") if path.name == "data.mdb"}
    before[journal_path(directory / "raft")] = journal_path(directory / "raft").read_bytes()
    raftlog("stat", directory)
    raftlog("verify", directory)
    assert before == {path: path.read_bytes() for path in before}


def test_a_lost_group_is_damage_that_no_record_mends(directory: Path) -> None:
    """Both of its copies: verify says so with the worst of its exit codes, and shows what is before it."""
    with journal_path(directory / "raft").open("r+b") as file:
        file.seek(RING_AT + 6 * BLOCK_BYTES)
        file.write(bytes(2 * BLOCK_BYTES))
    verified = raftlog("verify", directory)
    assert verified.returncode == 2
    assert "journal: missing" in verified.stdout
    assert len(raftlog("dump", directory).stdout.splitlines()) >= 3


def test_repair_refuses_where_a_lost_group_may_have_been_committed(tmp_path: Path) -> None:
    """With the one that is not here it may have been flushed on a majority; what is given up must be asked for."""
    entries = sets(ORIGIN, [1] * 7)
    hurt, short = tmp_path / "n1", tmp_path / "n2"
    make_log(hurt, entries[:4], node_id="n1")
    make_log(short, entries[:4], node_id="n2")
    home = LmdbLogStore.open(hurt)
    store = JournaledLogStore(home, DiskJournalPlace(home.path))
    store.load()
    for number, entry in enumerate(entries[4:], 1):
        store.persist([write(number, [entry])])
    store.close()
    with journal_path(hurt / "raft").open("r+b") as file:
        file.seek(RING_AT + 2 * BLOCK_BYTES)
        file.write(bytes(2 * BLOCK_BYTES))
    refused = raftlog("repair", hurt, "--peers", short)
    assert refused.returncode == 2
    assert "1 entries that may have been committed" in refused.stderr
    assert "--lose-from-index 6" in refused.stderr
    assert raftlog("repair", hurt, "--peers", short, "--lose-from-index", "6").returncode == 1
    third = make_log(tmp_path / "n3", entries[:4], node_id="n3")
    told = raftlog("repair", hurt, "--peers", short, "--peers", third)
    assert (told.returncode, "may have been" in told.stderr) == (1, False), told.stderr
