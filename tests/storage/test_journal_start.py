"""How a journal begins: a generation, a file that is made, and what of it can be read."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from durable_raft.errors import DiskFull, InvariantViolation, StoragePoisoned
from durable_raft.raft.types import ORIGIN, Index, Standing
from durable_raft.storage import headroom
from durable_raft.storage.log import journal
from durable_raft.storage.log.journal import DiskJournalPlace, Journal, journal_path
from durable_raft.storage.log.journal_format import BLOCK_BYTES, RING_AT, Header, pack_header
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.meta import JournalMark
from durable_raft.storage.log.records import IDENT_KEY, LOG_KEY
from tests.storage.raw import flip_bit
from tests.storage.test_journaled_store import loaded
from tests.support.journal_files import MemoryJournalFile, MemoryJournalPlace
from tests.support.log_building import (
    JournalShelf,
    configuration_entry,
    configured,
    entries_after,
    point_of,
    read_all,
    vote,
    write,
)


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


def test_a_cut_behind_a_rotten_ident_is_moved_when_the_record_is_rebuilt(shelf: JournalShelf) -> None:
    """As where LMDB alone has the log: the ident is told by the entry's log record, and the wound is told."""
    old = entries_after(ORIGIN, 4)
    store = loaded(shelf)
    store.persist([write(1, old)])
    store.move()
    new = entries_after(point_of(old[1]), 1, term=2)
    store.persist([write(2, new, cut=3)])
    shelf.close()
    for index in (2, 4):
        flip_bit(shelf.directory, "ident", IDENT_KEY.pack(index), 200)
    store = shelf.open()
    stored = store.load()
    assert (stored.last, stored.rebuilt, stored.lost) == (point_of(new[0]), (), ())
    assert [(wound.table, wound.index) for wound in store.healable] == [("ident", 2), ("ident", 4)]
    assert read_all(store, 1, 4) == old[:2] + new
    store.load()
    assert store.healable == ()


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


def failing_pwrite(error: int) -> Callable[[int, bytes, int], int]:
    """Return a pwrite that fails somewhere in the ring of a journal that is made."""
    real = os.pwrite

    def fails(fd: int, data: bytes, offset: int) -> int:
        if offset > RING_AT:
            raise OSError(error, "injected")
        return real(fd, data, offset)

    return fails


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_without_room_for_a_journal_the_log_goes_on_in_lmdb(
    shelf: JournalShelf, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """As it did before there were journals; nothing half made stays, and the next start finds room."""
    entries = entries_after(ORIGIN, 2)
    monkeypatch.setattr(journal, "_FILL_BYTES", BLOCK_BYTES)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing_pwrite(error))
        store = loaded(shelf)
    assert "injected" in store.trouble
    assert sorted(path.name for path in (shelf.directory / "raft").iterdir()) == ["data.mdb", "lock.mdb"]
    # The mover's thread may be at work in LMDB.
    assert not store.is_quick(write(1, entries[:1]))
    store.persist([write(1, entries[:1])])
    assert (store.has_pending, store.home.last_index, store.home.mark) == (False, 1, None)
    assert store.compact(Index(1), 10) == 1
    store = loaded(shelf)
    store.persist([write(1, entries[1:])])
    assert (store.trouble, store.has_pending, store.home.last_index) == ("", True, 1)


def test_a_journal_takes_nothing_of_the_reserve(shelf: JournalShelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a disk that just had room for writes would have none because of it."""
    home = LmdbLogStore.open(shelf.directory)
    ring, reserve = 16 * BLOCK_BYTES, 1 << 20
    with closing(JournaledLogStore(home, DiskJournalPlace(home.path, reserve), ring_bytes=ring)) as store:
        needed = RING_AT + ring + reserve
        monkeypatch.setattr(journal, "disk_free_bytes", lambda _: needed - 1)
        store.load()
        assert f"{needed} needed" in store.trouble
        assert not journal_path(home.path).exists()
        monkeypatch.setattr(journal, "disk_free_bytes", lambda _: needed)
        store.load()
        assert store.trouble == ""
        assert journal_path(home.path).exists()


def test_what_a_crash_left_of_a_journal_does_not_take_the_room_of_the_next(
    shelf: JournalShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one that was made and never named, nor one that was half made."""
    home = LmdbLogStore.open(shelf.directory)
    path, ring = journal_path(home.path), 16 * BLOCK_BYTES
    left = [path, path.with_name("journal.creating")]
    for each in left:
        each.write_bytes(bytes(ring))

    def free(_: Path) -> int:
        return RING_AT + ring + 1 - (ring if any(each.exists() for each in left) else 0)

    monkeypatch.setattr(journal, "disk_free_bytes", free)
    with closing(JournaledLogStore(home, DiskJournalPlace(home.path, 1), ring_bytes=ring)) as store:
        store.load()
        assert (store.trouble, [each.exists() for each in left]) == ("", [True, False])


def test_a_user_who_may_not_make_a_journal_goes_on_in_lmdb(
    shelf: JournalShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its two files are enough for that."""
    real = os.open

    def refuses(path: str | Path, flags: int, *rest: int) -> int:
        if flags & os.O_CREAT and "journal" in Path(path).name:
            raise PermissionError(errno.EACCES, "injected")
        return real(path, flags, *rest)

    entries = entries_after(ORIGIN, 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuses)
        store = loaded(shelf)
    assert "injected" in store.trouble
    store.persist([write(1, entries)])
    assert read_all(loaded(shelf), 1, 3) == entries


def limited_pwrite(room: int) -> Callable[[int, bytes, int], int]:
    """Return a pwrite on a file system that has so many bytes left: the last one takes what there is, as Linux does."""
    real = os.pwrite

    def write(fd: int, data: bytes, offset: int) -> int:
        if offset >= room:
            raise OSError(errno.ENOSPC, "injected")
        return real(fd, data[: room - offset], offset)

    return write


@pytest.mark.parametrize("room", [100, BLOCK_BYTES + 100, RING_AT + 5 * BLOCK_BYTES + 100])
def test_a_journal_of_which_a_part_finds_room_is_not_made(
    shelf: JournalShelf, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """Where the room ends a write takes less than it was given: of the ring, or of the header that nobody read back."""
    entries = entries_after(ORIGIN, 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", limited_pwrite(room))
        store = loaded(shelf)
    assert "injected" in store.trouble
    assert sorted(path.name for path in (shelf.directory / "raft").iterdir()) == ["data.mdb", "lock.mdb"]
    store.persist([write(1, entries)])
    assert read_all(loaded(shelf), 1, 3) == entries


def test_a_disk_that_fails_under_a_new_journal_is_no_full_one(
    shelf: JournalShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is final; the directory opens afterwards as if nothing had been tried."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing_pwrite(errno.EIO))
        patch.setattr(journal, "_FILL_BYTES", BLOCK_BYTES)
        with pytest.raises(StoragePoisoned, match="injected"):
            shelf.open().load()
    assert sorted(path.name for path in (shelf.directory / "raft").iterdir()) == ["data.mdb", "lock.mdb"]
    loaded(shelf).persist([write(1, entries_after(ORIGIN, 1))])


@pytest.mark.parametrize("is_used", [True, False])
def test_a_start_without_room_keeps_pending_what_it_finds(
    shelf: JournalShelf, monkeypatch: pytest.MonkeyPatch, *, is_used: bool
) -> None:
    """One log for whoever reads; nothing is written before LMDB takes it, and nothing is lost by another start."""
    old = entries_after(ORIGIN, 5)
    new = entries_after(point_of(old[2]), 2, term=3)
    standing = Standing(is_voter=False)
    store = loaded(shelf)
    store.persist([write(1, old, hard_state=vote(1))])
    store.move()
    store.persist([replace(write(2, cut=4, hard_state=vote(3, "n2")), standing=standing)])
    store.persist([write(3, new)])
    more = entries_after(point_of(new[-1]), 1, term=3)
    shelf.close()
    flip_bit(shelf.directory, "log", LOG_KEY.pack(5, 0), 260)
    flip_bit(shelf.directory, "log", LOG_KEY.pack(2, 0), 260)
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(headroom, "_fallocate", lambda *_: errno.ENOSPC)
            store = shelf.open(is_used=is_used)
            stored = store.load()
            assert (stored.hard_state, stored.standing) == (vote(3, "n2"), standing)
            assert (stored.last, stored.last_timestamp_ms) == (point_of(new[-1]), new[-1].timestamp_ms)
            assert stored.term_starts == ((1, 1), (4, 3))
            assert [lost.index for lost in stored.lost] == [2]
            assert (read_all(store, 3, 6), store.chain_at(Index(3))) == ([old[2], *new], old[2].chain)
            with pytest.raises(DiskFull):
                store.move()
            with pytest.raises(DiskFull):
                store.persist([write(1, more)])
            with pytest.raises(DiskFull):
                store.compact(Index(1), 1)
            assert (store.home.last_index, store.has_pending) == (5, True)
    store.persist([write(1, more)])
    assert (store.home.last_index, store.has_pending) == (6, False)
    assert journal_path(store.path).exists() == is_used
    last = entries_after(point_of(more[-1]), 1, term=3)
    store.persist([write(2, last)])
    assert store.has_pending == is_used
    shelf.close()
    found = loaded(shelf)
    assert read_all(found, 3, 8) == [old[2], *new, *more, *last]


def test_a_start_without_room_goes_by_the_configurations_that_are_pending(
    shelf: JournalShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They count from their append to their cut (Raft §6), wherever their entries are."""
    first = configuration_entry(ORIGIN, "n1")
    cut = configuration_entry(point_of(first), "n1", "n2")
    last = configuration_entry(point_of(first), "n2", "n3")
    store = loaded(shelf)
    store.persist([write(1, [first, cut])])
    store.move()
    store.persist([write(2, [last], cut=2)])
    shelf.close()
    with monkeypatch.context() as patch:
        patch.setattr(headroom, "_fallocate", lambda *_: errno.ENOSPC)
        store = shelf.open()
        stored = store.load()
    assert store.has_pending
    assert stored.configurations == (configured(1, "n1"), configured(2, "n2", "n3"))


def test_what_a_start_had_no_room_for_is_moved_when_there_is_some(
    shelf: JournalShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mover does it; then groups go to the journal again."""
    entries = entries_after(ORIGIN, 3)
    loaded(shelf).persist([write(1, entries[:1])])
    with monkeypatch.context() as patch:
        patch.setattr(headroom, "_fallocate", lambda *_: errno.ENOSPC)
        store = loaded(shelf)
        assert store.space().owned_bytes == 0
    store.move()
    assert (store.home.last_index, store.has_pending) == (1, False)
    store.persist([write(1, entries[1:2])])
    assert (store.home.last_index, store.has_pending) == (1, True)
    store = loaded(shelf)
    store.persist([write(1, entries[2:])])
    assert read_all(loaded(shelf), 1, 4) == entries


def test_a_record_to_be_rebuilt_and_no_room_for_it_is_a_full_disk(
    shelf: JournalShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where LMDB alone has the log: who the entry is could not be told to anybody."""
    entries = entries_after(ORIGIN, 3)
    store = loaded(shelf)
    store.persist([write(1, entries[:2])])
    store.move()
    store.persist([write(2, entries[2:])])
    shelf.close()
    flip_bit(shelf.directory, "ident", IDENT_KEY.pack(1), 200)
    with monkeypatch.context() as patch:
        patch.setattr(headroom, "_fallocate", lambda *_: errno.ENOSPC)
        with pytest.raises(DiskFull):
            shelf.open().load()
    assert read_all(loaded(shelf), 1, 4) == entries


def punch(path: Path) -> None:
    """Copy a file as some tools do: with holes where there were zeros."""
    image = path.read_bytes()
    with path.open("wb") as file:
        file.truncate(len(image))
        for at in range(0, len(image), BLOCK_BYTES):
            if any(block := image[at : at + BLOCK_BYTES]):
                file.seek(at)
                file.write(block)


def first_hole(path: Path) -> int:
    """Return where the first hole of a file begins; its size when it has none."""
    with path.open("rb") as file:
        return os.lseek(file.fileno(), 0, os.SEEK_HOLE)


@pytest.mark.parametrize("is_full", [False, True])
def test_a_journal_that_was_copied_with_holes_meets_no_full_disk(
    shelf: JournalShelf, monkeypatch: pytest.MonkeyPatch, *, is_full: bool
) -> None:
    """A start gives it all its room; without that it is left as if it were not to be used, and a next one is made."""
    entries = entries_after(ORIGIN, 3)
    loaded(shelf).persist([write(1, entries[:1])])
    shelf.close()
    path = journal_path(shelf.directory / "raft")
    punch(path)
    if first_hole(path) == path.stat().st_size:
        pytest.skip("no holes on this file system")
    allocated: list[str] = []
    real = headroom._fallocate

    def fallocate(fd: int, offset: int, length: int) -> int:
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        allocated.append(name)
        return errno.ENOSPC if is_full and name == "journal" else real(fd, offset, length)

    with monkeypatch.context() as patch:
        patch.setattr(headroom, "_fallocate", fallocate)
        store = loaded(shelf)
    assert "journal" in allocated
    assert ("holes" in store.trouble, path.exists()) == (is_full, not is_full)
    store.persist([write(1, entries[1:2])])
    assert (store.has_pending, store.home.last_index) == (not is_full, 2 - (not is_full))
    store = loaded(shelf)
    store.persist([write(1, entries[2:])])
    assert (store.trouble, store.has_pending) == ("", True)
    assert read_all(loaded(shelf), 1, 4) == entries


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
