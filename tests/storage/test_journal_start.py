"""How a journal begins: a generation, a file that is made, and what of it can be read."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from durable_raft.errors import (
    InvariantViolation,
    StoragePoisoned,
)
from durable_raft.raft.types import ORIGIN
from durable_raft.storage.log import journal
from durable_raft.storage.log.journal import Journal, journal_path
from durable_raft.storage.log.journal_format import BLOCK_BYTES, RING_AT, Header, pack_header
from durable_raft.storage.log.journaled_store import (
    JournaledLogStore,
)
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.meta import JournalMark
from tests.storage.raw import flip_bit
from tests.storage.test_journaled_store import loaded
from tests.support.journal_files import MemoryJournalFile, MemoryJournalPlace
from tests.support.log_building import JournalShelf, entries_after, read_all, write


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[JournalShelf]:
    """A fresh data directory with an empty log."""
    shelf = JournalShelf(tmp_path / "node")
    yield shelf
    shelf.close()


def test_the_start_of_a_generation_is_atomic(shelf: JournalShelf) -> None:
    """A crash between the journal's header and LMDB's mark leaves what was there before."""
    entries = entries_after(ORIGIN, 2)
    store = loaded(shelf)
    store.persist([write(1, entries)])
    mark = store.home.mark
    assert mark is not None
    shelf.close()
    path = journal_path(shelf.directory / "raft")
    image = path.read_bytes()
    path.write_bytes(pack_header(Header(mark.uuid, mark.generation + 1, len(image) - RING_AT)) + image[RING_AT:])
    assert read_all(loaded(shelf), 1, 3) == entries


@pytest.mark.parametrize("flushed", [0, 1])
@pytest.mark.parametrize("rotten", [None, 0, BLOCK_BYTES])
def test_a_torn_header_leaves_the_other_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rotten: int | None, flushed: int
) -> None:
    """Whatever the power cut makes of the copy under way, also when the other one was rotten."""
    place = MemoryJournalPlace()
    shelf = JournalShelf(tmp_path / "node")

    def opened() -> JournaledLogStore:
        return JournaledLogStore(LmdbLogStore.open(shelf.directory), place, ring_bytes=16 * BLOCK_BYTES)

    entries = entries_after(ORIGIN, 2)
    store = opened()
    store.load()
    store.persist([write(1, entries)])
    store.close()
    file = place.open()
    if rotten is not None:
        file.damage(rotten, b"rot")
    until, flush = file.flushes + flushed, MemoryJournalFile.flush

    def cut(self: MemoryJournalFile) -> None:
        if self.flushes < until:
            flush(self)
            return
        torn = [at + block for at, data in self.unflushed for block in range(0, len(data), BLOCK_BYTES)]
        self.cut_power(())
        for at in torn:
            self.damage(at, b"torn")
        raise OSError(errno.EIO, "the power is off")

    with monkeypatch.context() as patch, closing(opened()) as dying:
        patch.setattr(MemoryJournalFile, "flush", cut)
        with pytest.raises(StoragePoisoned):
            dying.load()
    with closing(opened()) as store:
        store.load()
        assert read_all(store, 1, 3) == entries


def test_a_rotten_copy_of_meta_is_told_though_the_load_mends_it(shelf: JournalShelf) -> None:
    """It names the next generation in meta, and so writes both copies."""
    loaded(shelf)
    shelf.close()
    flip_bit(shelf.directory, "meta_copy", b"meta", 101)
    store = loaded(shelf)
    assert [wound.table for wound in store.tolerated] == ["meta_copy"]
    assert not store.is_meta_wounded()
    store.load()
    assert store.tolerated == ()


def test_a_journal_that_nothing_names_is_made_anew(shelf: JournalShelf, tmp_path: Path) -> None:
    """A crash after the first journal was made and before LMDB named it; or after LMDB forgot it."""
    loaded(shelf).persist([write(1, entries_after(ORIGIN, 1))])
    shelf.close()
    other = JournalShelf(tmp_path / "other")
    shutil.copy(journal_path(shelf.directory / "raft"), journal_path(other.directory / "raft"))
    assert other.open().load().last == ORIGIN
    other.close()


def test_nothing_is_written_before_the_load(shelf: JournalShelf) -> None:
    """As in every store; nothing is moved either."""
    store = shelf.open()
    store.move()
    with pytest.raises(InvariantViolation):
        store.persist([write(1, entries_after(ORIGIN, 1))])


def test_a_journal_that_finds_no_room_leaves_none(shelf: JournalShelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing half made stays; the directory opens afterwards as if nothing had been tried."""
    real = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if offset > RING_AT:
            raise OSError(errno.ENOSPC, "injected")
        return real(fd, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        patch.setattr(journal, "_FILL_BYTES", BLOCK_BYTES)
        with pytest.raises(StoragePoisoned, match="injected"):
            shelf.open().load()
    assert sorted(path.name for path in (shelf.directory / "raft").iterdir()) == ["data.mdb", "lock.mdb"]
    loaded(shelf).persist([write(1, entries_after(ORIGIN, 1))])


def test_unreadable_blocks_are_as_damaged_ones(shelf: JournalShelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that gives one page no more loses nothing, as each group is there twice."""
    entries = entries_after(ORIGIN, 3)
    store = loaded(shelf)
    for number, entry in enumerate(entries, 1):
        store.persist([write(number, [entry])])
    shelf.close()
    real, bad = os.pread, RING_AT + 2 * BLOCK_BYTES

    def unreadable(fd: int, length: int, offset: int) -> bytes:
        if offset <= bad < offset + length:
            raise OSError(errno.EIO, "injected")
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", unreadable)
    assert read_all(loaded(shelf), 1, 4) == entries


def test_a_short_write_or_a_ring_without_room_is_final() -> None:
    """Neither is a group."""
    header = Header(b"u" * 16, 1, 2 * BLOCK_BYTES)
    file = MemoryJournalFile(header)
    ring = Journal(file, JournalMark(header.uuid, 1, 0, 0), header.ring_bytes)
    ring.append(1, b"body")
    assert not ring.has_room(0)
    with pytest.raises(StoragePoisoned, match="no room"):
        ring.append(2, b"body")
