"""RaftLog's books: what is lost and mended, what a compaction and a snapshot leave, what the cache holds."""

from __future__ import annotations

import pytest

from durable_raft.errors import EntryUnavailable, InvariantViolation
from durable_raft.raft.log import EntriesLost, RaftLog
from durable_raft.raft.types import (
    ORIGIN,
    Base,
    Entry,
    EntryKind,
    Index,
    LogPoint,
    LostEntry,
    Term,
    make_entry,
)
from tests.support.raft_disk import Disk, entries_of

NO_CACHE = 0
LARGE_CACHE = 1 << 20
TERMS = "1 1 2 2 2 3"


def log_of(terms: str, *, cache: int = LARGE_CACHE) -> RaftLog:
    """Return a log that was started from a disk with entries of these terms."""
    disk = Disk(terms)
    return RaftLog(disk.load(), disk, cache)


def cached_log(terms: str, *, cache: int = LARGE_CACHE) -> tuple[RaftLog, Disk]:
    """Return a log whose entries were appended, handed out, flushed, and are all in memory still."""
    disk = Disk()
    log = RaftLog(disk.load(), disk, cache)
    for entry in entries_of(terms):
        log.append(entry)
    disk.persist(log.take_write(0, 1, None))
    log.acknowledge(1)
    return log, disk


def lost(index: int, terms: str = TERMS) -> LostEntry:
    """Return who the entry at ``index`` is."""
    entry = entries_of(terms)[index - 1]
    return LostEntry(entry.index, entry.term, entry.crc, entry.chain)


def base_of(index: int, terms: str = TERMS) -> Base:
    """Return where a snapshot was taken."""
    entry = entries_of(terms)[index - 1]
    return Base(LogPoint(entry.index, entry.term, entry.chain), entry.timestamp_ms)


# -- what is not there -------------------------------------------------------------------------------------------------


def test_nothing_is_known_outside_the_log() -> None:
    """Neither a chain value nor where a term begins: the log says so, whatever the disk would."""
    log = log_of(TERMS)
    for index in (7, -1):
        for ask in (log.chain_at, log.first_index_of_term_at, log.term_at):
            with pytest.raises(EntryUnavailable, match=rf"index {index} is outside the log \[0, 6\]"):
                ask(Index(index))


@pytest.mark.parametrize("index", [1, 4])
def test_a_state_outside_the_log_is_called_that(index: int) -> None:
    """Before its begin or beyond its end."""
    disk = Disk("1 1 2")
    disk.compact(2)
    with pytest.raises(InvariantViolation, match="does not lie in the log"):
        RaftLog(disk.load(), disk, LARGE_CACHE, LogPoint(Index(index), Term(1), 0))


def test_lost_entries_are_named() -> None:
    """Index, term and checksum: another node's entry can be compared by hand; or in the words of who found them."""
    assert str(EntriesLost([lost(2), lost(3)])).startswith("payload lost: index 2 term 1 crc 0x")
    assert "index 3 term 2" in str(EntriesLost([lost(2), lost(3)]))
    assert str(EntriesLost([lost(2)], "page 7 is damaged")) == "page 7 is damaged"


# -- lost and mended ---------------------------------------------------------------------------------------------------


def test_what_is_known_lost_is_not_read() -> None:
    """Though the disk gives it without complaint; what lies before it is read, up to the first of several."""
    log = log_of(TERMS)
    assert log.lose(lost(3))
    assert log.lose(lost(5))
    assert [entry.index for entry in log.entries(Index(1), Index(7), 1000)] == [1, 2]
    assert [entry.index for entry in log.entries(Index(4), Index(7), 1000)] == [4]
    assert [entry.index for entry in log.entries(Index(6), Index(7), 1000)] == [6]
    for index in (3, 5):
        with pytest.raises(EntriesLost, match=f"index {index}"):
            log.entries(Index(index), Index(7), 1000)
    assert log.missing() == [3, 5]
    assert log.take_newly_lost() == [lost(3), lost(5)]
    assert log.take_newly_lost() == []


def test_only_an_entry_that_is_here_and_flushed_is_lost() -> None:
    """Twice is no news; nor is the base, what is not flushed, or another entry of that index."""
    log = log_of("1 1 2")
    log.append(entries_of("1 1 2 2")[3])
    assert not log.lose(lost(4, "1 1 2 2"))
    assert not log.lose(LostEntry(Index(0), Term(0), 0, 0))
    assert not log.lose(lost(3, "1 2 2"))
    assert log.lose(lost(3, "1 1 2"))
    assert not log.lose(lost(3, "1 1 2"))
    assert set(log.lost) == {3}


def test_what_is_lost_and_in_memory_is_not_missing() -> None:
    """The next write takes it from there."""
    log, _ = cached_log("1 1")
    assert log.lose(lost(2, "1 1"))
    assert log.missing() == []
    assert log.wanted() == []
    assert [entry.index for entry in log.take_write(0, 2, None).mended] == [2]
    assert set(log.lost) == {2}
    log.acknowledge(2)
    assert not log.lost


def test_a_copy_is_taken_if_it_is_the_entry_that_was_lost() -> None:
    """One that was not lost, and another of the same index, are not."""
    log = log_of(TERMS)
    log.lose(lost(3))
    log.lose(lost(5))
    assert not log.mend(entries_of(TERMS)[1])
    assert not log.mend(entries_of("1 1 3")[2])
    assert [each.index for each in log.wanted()] == [3, 5]
    assert log.mend(entries_of(TERMS)[2])
    assert [each.index for each in log.wanted()] == [5], "its copy waits for the next write"
    log.take_write(0, 1, None)
    assert [each.index for each in log.wanted()] == [5], "its copy is on the way to the disk"


def test_acknowledged_is_what_lies_before_the_first_loss_that_is_not_committed() -> None:
    """What is known committed was promised by a majority already."""
    log = log_of(TERMS)
    assert log.acknowledgeable(Index(6)) == 6
    log.lose(lost(2))
    log.lose(lost(4))
    assert (log.acknowledgeable(Index(6)), log.acknowledgeable(Index(1))) == (1, 1)
    log.commit_to(Index(2))
    assert log.acknowledgeable(Index(6)) == 3
    log.commit_to(Index(4))
    assert log.acknowledgeable(Index(6)) == 6


# -- runs of terms -----------------------------------------------------------------------------------------------------


def test_a_term_begins_where_it_was_appended_first() -> None:
    """Entries of one term are one run, whichever term the log began with."""
    log, _ = cached_log("1 2 2 2 3 3")
    assert [log.first_index_of_term_at(Index(index)) for index in range(1, 7)] == [1, 2, 2, 2, 5, 5]


def test_a_run_that_is_cut_whole_is_gone() -> None:
    """An earlier term may follow what is left."""
    log, _ = cached_log("1 1 2")
    log.truncate_from(Index(3))
    log.append(entries_of("1 1 1")[2])
    assert log.last_index_not_after_term(Term(1)) == 3
    assert log.first_index_of_term_at(Index(3)) == 1


# -- compaction --------------------------------------------------------------------------------------------------------


def compacted(upto: int) -> RaftLog:
    """Return a log of which all is applied, that begins behind ``upto``."""
    log, _ = cached_log(TERMS)
    log.commit_to(Index(6))
    log.take_committed(1000)
    log.compact(Index(upto))
    return log


@pytest.mark.parametrize("upto", range(7))
def test_a_compacted_log_knows_the_terms_that_are_left(upto: int) -> None:
    """Up to what is applied, in the middle of a run as well as at its end."""
    log = compacted(upto)
    terms = [int(term) for term in TERMS.split()]
    for index in range(upto + 1, 7):
        assert log.term_at(Index(index)) == terms[index - 1]
        assert log.first_index_of_term_at(Index(index)) == max(terms.index(terms[index - 1]) + 1, upto + 1)
    for term in range(5):
        expected = max([index for index in range(upto + 1, 7) if terms[index - 1] <= term], default=upto)
        assert log.last_index_not_after_term(Term(term)) == expected
    assert (log.base.index, log.last.index, log.first_index) == (upto, 6, upto + 1)


@pytest.mark.parametrize("upto", range(7))
def test_a_compacted_log_keeps_the_books_of_its_cache(upto: int) -> None:
    """Neither an entry nor its bytes stay behind; what is left can be read, and more be appended."""
    log = compacted(upto)
    whole = entries_of(TERMS + " 4")
    assert log._cache_bytes == sum(len(entry.payload) for entry in whole[upto:6])
    log.append(whole[6])
    assert log.entries(Index(upto + 1), Index(8), 1000) == list(whole[upto:])
    log.truncate_from(Index(7))
    assert sorted(log._cache) == list(range(upto + 1, 7))
    assert log._cache_bytes == sum(len(entry.payload) for entry in whole[upto:6])


def test_what_was_lost_before_the_new_begin_is_forgotten() -> None:
    """It is not needed any more; what lies behind it is."""
    log = log_of(TERMS)
    for index in (4, 2, 3):
        log.lose(lost(index))
    log.commit_to(Index(6))
    log.last_applied = Index(6)
    log.mend(entries_of(TERMS)[1])
    log.compact(Index(3))
    assert set(log.lost) == {4}
    assert log.take_write(0, 1, None).mended == ()


# -- a snapshot --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terms", ["", "1", "1 1 1", "1 1 1 1 1 1"])
def test_a_log_that_a_snapshot_replaced_is_a_new_one(terms: str) -> None:
    """Whatever was there before, in memory or lost: it begins behind the snapshot, and is empty."""
    log, _ = cached_log(terms)
    if terms:
        log._cache.clear()
        log.lose(lost(1, terms))
    log.install(base_of(4))
    point = base_of(4).point
    assert (log.base, log.last, log.flushed, log.submitted, log.commit_index, log.last_applied) == (
        point,
        point,
        4,
        4,
        4,
        4,
    )
    assert not log.lost
    assert log.last_timestamp_ms == 4
    assert log.last_index_not_after_term(Term(9)) == 4
    assert log.last_index_not_after_term(Term(0)) == 4
    assert (log._cache, log._cache_bytes) == ({}, 0)
    for entry in entries_of(TERMS)[4:]:
        log.append(entry)
    assert log.entries(Index(5), Index(7), 1000) == list(entries_of(TERMS)[4:])
    assert [log.first_index_of_term_at(Index(index)) for index in (5, 6)] == [5, 6]
    log.truncate_from(Index(5))
    assert (log.last_timestamp_ms, log._cache, log._cache_bytes) == (4, {}, 0)


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_the_cache_holds_as_much_as_it_may() -> None:
    """Its bound is reached, not passed."""
    log, _ = cached_log("1 1 1", cache=8)
    log.commit_to(Index(3))
    log.take_committed(1000)
    assert (sorted(log._cache), log._cache_bytes) == ([2, 3], 8)
    log, _ = cached_log("1 1 1", cache=7)
    log.commit_to(Index(3))
    log.take_committed(1000)
    assert (sorted(log._cache), log._cache_bytes) == ([3], 4)


def test_entries_in_memory_are_handed_out_without_a_gap() -> None:
    """A large one ends the list, though a small one behind it would fit."""
    disk = Disk()
    log = RaftLog(disk.load(), disk, LARGE_CACHE)
    previous = ORIGIN
    appended: list[Entry] = []
    for payload in (b"a", b"a large one", b"b"):
        entry = make_entry(previous=previous, term=Term(1), kind=EntryKind.COMMANDS, timestamp_ms=1, payload=payload)
        log.append(entry)
        appended.append(entry)
        previous = log.last
    assert log.entries(Index(1), Index(4), 5) == appended[:1]
    assert log.entries(Index(1), Index(4), 12) == appended[:2]


def test_commit_says_whether_it_moved() -> None:
    """Up: yes; where it stands, or down: no."""
    log = log_of("1 1 1")
    assert [log.commit_to(Index(index)) for index in (2, 2, 1, 3)] == [True, False, False, True]


def test_an_entry_with_another_chain_is_refused() -> None:
    """It follows another log, though its index and term fit."""
    log = log_of("1 1")
    other = entries_of("1 2 2")[2]
    with pytest.raises(InvariantViolation, match="entry 3: chain expected 0x"):
        log.append(other)
    assert log.last.index == 2


def test_a_copy_that_is_flushed_late_heals_only_what_it_was_made_for() -> None:
    """The entry may have been cut and another be lost at the same index meanwhile."""
    log, disk = cached_log("1 1 2")
    log._cache.clear()
    log.lose(lost(3, "1 1 2"))
    log.mend(entries_of("1 1 2")[2])
    log.take_write(0, 2, None)
    log.truncate_from(Index(3))
    log._cache_first = Index(3)
    log.append(entries_of("1 1 3")[2])
    disk.persist(log.take_write(0, 3, None))
    log.acknowledge(2)
    assert log.healed == 0
    log.acknowledge(3)
    assert log.lose(lost(3, "1 1 3"))
    assert set(log.lost) == {3}
