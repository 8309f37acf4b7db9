"""The read-only reader: beside a running writer, past damage, and in batches."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from durable_raft.errors import CorruptRecord, DirectoryRefused
from durable_raft.raft.types import ORIGIN, Index
from durable_raft.storage.log import reader as reader_module
from durable_raft.storage.log.journal import DiskJournalPlace
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.reader import LogReader
from durable_raft.storage.log.records import IDENT_KEY, LOG_KEY
from durable_raft.storage.wounds import WoundedLog, WoundKind
from tests.storage.raw import change, flip_bit
from tests.support.log_building import LmdbShelf, entries_after, vote, write
from tests.support.state_building import lose_root

ROOT = Path(__file__).parents[2]
WALKS_MAX = 100_000
"""In fewer a thousand entries are seen, however slowly the writer writes."""


@pytest.fixture
def filled(lmdb_shelf: LmdbShelf) -> LmdbShelf:
    """A closed directory with the entries 11..40 after a compaction."""
    store = lmdb_shelf.open()
    store.load()
    store.persist([write(1, entries_after(ORIGIN, 40, term=2), hard_state=vote(3, "n2"))])
    store.compact(Index(10), 10)
    lmdb_shelf.close()
    return lmdb_shelf


def test_overview_says_what_meta_and_the_tree_say(filled: LmdbShelf) -> None:
    """Identity, hard state, extent and sizes, without walking the log."""
    with LogReader.open(filled.directory) as reader:
        overview = reader.overview()
    assert overview.meta is not None
    assert overview.meta.hard_state == vote(3, "n2")
    assert overview.meta.base.point.index == 10
    assert (overview.first_index, overview.last_index, overview.entries) == (11, 40, 30)
    assert overview.wounds == ()
    assert 0 < overview.used_bytes <= overview.file_bytes


@pytest.mark.parametrize("batch", [1, 7, 2000])
@pytest.mark.parametrize(
    ("lo", "hi", "expected"),
    [
        (0, None, range(11, 41)),
        (11, 41, range(11, 41)),
        (12, 20, range(12, 20)),
        (40, None, range(40, 41)),
        (41, None, range(0)),
        (0, 11, range(0)),
    ],
)
def test_walk_gives_a_range_in_batches(
    filled: LmdbShelf, monkeypatch: pytest.MonkeyPatch, batch: int, lo: int, hi: int | None, expected: range
) -> None:
    """Any range comes whole and without wounds, whatever the size of a batch."""
    monkeypatch.setattr(reader_module, "_BATCH_ENTRIES_MAX", batch)
    with LogReader.open(filled.directory) as reader:
        walked = list(reader.walk(lo, hi))
    assert [entry.index for entry in walked] == list(expected)
    assert [entry.wounds for entry in walked if entry.wounds] == []
    assert [entry.payload for entry in walked] == [f"{index}/t2".encode() for index in expected]


@pytest.mark.parametrize("batch", [1, 2000])
def test_walk_goes_on_past_damage(filled: LmdbShelf, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """Each wound comes with its entry and with what can still be told of it; all others are whole."""
    monkeypatch.setattr(reader_module, "_BATCH_ENTRIES_MAX", batch)
    flip_bit(filled.directory, "ident", IDENT_KEY.pack(15), 40)
    flip_bit(filled.directory, "log", LOG_KEY.pack(20, 0), 33 * 8)
    change(filled.directory, "ident", IDENT_KEY.pack(25), None)
    with LogReader.open(filled.directory) as reader:
        walked = {entry.index: entry for entry in reader.walk()}
    assert list(walked) == list(range(11, 41))
    wounds = [(entry.index, wound.table, wound.what) for entry in walked.values() for wound in entry.wounds]
    assert wounds == [
        (15, "ident", WoundKind.CHECKSUM),
        (20, "log", WoundKind.CHECKSUM),
        (25, "ident", WoundKind.MISSING),
    ]
    assert walked[15].payload == b"15/t2"
    assert walked[20].payload is None
    assert walked[20].ident is not None
    assert walked[25].payload == b"25/t2"


def test_a_lost_meta_does_not_hide_the_log(filled: LmdbShelf) -> None:
    """With both copies rotten the entries are still shown, from the first one on."""
    change(filled.directory, "meta", b"meta", b"rotten")
    change(filled.directory, "meta_copy", b"meta", None)
    with LogReader.open(filled.directory) as reader:
        overview = reader.overview()
        walked = list(reader.walk())
    assert overview.meta is None
    assert [wound.what for wound in overview.wounds] == [WoundKind.CHECKSUM, WoundKind.MISSING]
    assert [entry.index for entry in walked] == list(range(11, 41))
    assert all(entry.payload and not entry.wounds for entry in walked)


def test_what_is_no_data_directory_is_refused(tmp_path: Path) -> None:
    """Looking creates nothing."""
    with pytest.raises(DirectoryRefused):
        LogReader.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def _in_another_process(directory: Path, statement: str) -> None:
    """Run ``statement`` on the loaded ``store`` of ``directory``."""
    program = (
        "import sys; from pathlib import Path; from durable_raft.raft.types import Index;"
        "from durable_raft.storage.log.lmdb_store import LmdbLogStore;"
        "from tests.support.log_building import entries_after, point_of, read_all, write;"
        f"store = LmdbLogStore.open(Path(sys.argv[1])); store.load(); {statement}"
    )
    subprocess.run([sys.executable, "-c", program, str(directory)], cwd=ROOT, check=True, timeout=60)


def test_a_compaction_between_two_batches_is_no_wound(filled: LmdbShelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk goes on behind the new base."""
    monkeypatch.setattr(reader_module, "_BATCH_ENTRIES_MAX", 5)
    with LogReader.open(filled.directory) as reader:
        walk = reader.walk()
        walked = [next(walk)]
        _in_another_process(filled.directory, "store.compact(Index(30), 100)")
        walked += walk
    assert [entry.index for entry in walked] == [*range(11, 16), *range(31, 41)]
    assert [entry.wounds for entry in walked if entry.wounds] == []


def test_a_cut_between_two_batches_is_no_wound(filled: LmdbShelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk goes on in what was put in place of the cut suffix, and ends when nothing was."""
    monkeypatch.setattr(reader_module, "_BATCH_ENTRIES_MAX", 5)
    with LogReader.open(filled.directory) as reader:
        walk = reader.walk()
        walked = [next(walk)]
        replace = "store.persist([write(1, entries_after(point_of(read_all(store, 13, 14)[0]), 5, term=9), cut=14)])"
        _in_another_process(filled.directory, replace)
        walked += walk
        walk = reader.walk()
        shorter = [next(walk)]
        _in_another_process(filled.directory, "store.persist([write(1, cut=12)])")
        shorter += walk
    assert [entry.index for entry in walked] == list(range(11, 19))
    assert [entry.ident.term for entry in walked if entry.ident] == [2, 2, 2, 2, 2, 9, 9, 9]
    assert [entry.index for entry in shorter] == list(range(11, 16))
    assert [entry.wounds for entry in walked + shorter if entry.wounds] == []


@pytest.mark.parametrize("journal", [(), ("journal",)], ids=["lmdb", "journal"])
def test_walking_beside_a_writer_finds_no_wounds(
    lmdb_shelf: LmdbShelf, monkeypatch: pytest.MonkeyPatch, journal: tuple[str, ...]
) -> None:
    """Entries that are cut, replaced and compacted between two batches are not taken for damage."""
    monkeypatch.setattr(reader_module, "_BATCH_ENTRIES_MAX", 25)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    command = [sys.executable, "-m", "tests.storage.churn", str(lmdb_shelf.directory), str(seed), *journal]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "round 100\n"
            seen: set[int] = set()
            walks = 0
            while walks < 50 or len(seen) < 1000:
                assert walks < WALKS_MAX, f"seed {seed}: {walks} walks saw {len(seen)} entries"
                walks += 1
                with LogReader.open(lmdb_shelf.directory) as reader:
                    assert reader.overview().meta is not None
                    for entry in reader.walk():
                        assert entry.wounds == (), f"seed {seed}"
                        seen.add(entry.index)
            assert writer.poll() is None
        finally:
            writer.kill()
    home = lmdb_shelf.open()
    JournaledLogStore(home, DiskJournalPlace(home.path), is_used=False).load()


def test_a_point_is_told_of_what_is_stored_and_of_the_base(filled: LmdbShelf) -> None:
    """As the store tells it; nothing of what is not there."""
    store = filled.open()
    store.load()
    stored = {index: store.base_at(Index(index)) for index in (10, 11, 40)}
    filled.close()
    with LogReader.open(filled.directory) as reader:
        assert {index: reader.point_at(index) for index in stored} == stored
        assert (reader.point_at(9), reader.point_at(41)) == (None, None)
        reader.touch()


def test_a_walk_that_begins_in_mid_log_follows_what_is_before_it(filled: LmdbShelf) -> None:
    """A chain that does not continue the entry before is found; where that one is rotten, nothing is blamed on it."""
    flip_bit(filled.directory, "ident", IDENT_KEY.pack(20), 8 * 10)
    with LogReader.open(filled.directory) as reader:
        walked = list(reader.walk(21))
        with pytest.raises(CorruptRecord):
            reader.point_at(20)
    assert [entry.index for entry in walked] == list(range(21, 41))
    assert [entry.wounds for entry in walked if entry.wounds] == []


def test_a_log_that_lmdb_cannot_walk_is_a_wound(filled: LmdbShelf) -> None:
    """Whatever is asked for: no error of LMDB comes out, and the walk ends."""
    lose_root(filled.directory, "ident", "raft")
    with LogReader.open(filled.directory) as reader:
        for read in (reader.overview, lambda: reader.point_at(20)):
            with pytest.raises(WoundedLog, match="tree"):
                read()
        assert [entry.wounds[0].what for entry in reader.walk()] == [WoundKind.TREE]
        reader.touch()


def test_a_missing_table_is_damage(filled: LmdbShelf) -> None:
    """The reader gives its slot back then: it can be opened again and again."""
    with lmdb.open(str(filled.directory / "raft"), max_dbs=4, lib_version=0) as environment:
        handle = environment.open_db(b"ident", create=False)
        with environment.begin(write=True) as transaction:
            transaction.drop(handle)
    for _ in range(3):
        with pytest.raises(CorruptRecord, match="table ident"):
            LogReader.open(filled.directory)
