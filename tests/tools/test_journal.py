"""raftlog on directories whose newest entries are in the journal: every command sees one log."""

from __future__ import annotations

from pathlib import Path

import pytest

from durable_raft.raft.types import ORIGIN, EntryKind, Term, make_entry
from durable_raft.storage.log.journal import journal_path
from durable_raft.storage.log.journal_format import BLOCK_BYTES, RING_AT
from tests.support.batches import batch_of
from tests.support.log_building import JournalShelf, point_of, vote, write
from tests.tools.directories import raftlog


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with six entries, the last four of them in the journal, and a term that is there alone."""
    shelf = JournalShelf(tmp_path / "n1")
    store = shelf.open()
    store.load()
    last = ORIGIN
    for number in range(1, 7):
        entry = make_entry(
            previous=last,
            term=Term(1),
            kind=EntryKind.COMMANDS,
            timestamp_ms=1_000 + number,
            payload=batch_of([[b"SET", b"key%d" % number, b"value"]]),
        )
        store.persist([write(number, [entry], hard_state=vote(4) if number == 6 else None)])
        last = point_of(entry)
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
    assert "index=5" in raftlog("grep", "key5", directory).stdout
    verified = raftlog("verify", directory)
    assert (verified.returncode, "entries 1..6" in verified.stdout) == (0, True), verified.stdout


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
