"""RaftLog on its own: three cursors, runs of terms, the cut, the cache, what an acknowledgement proves."""

from __future__ import annotations

import pytest

from durable_raft.errors import EntryUnavailable, InvariantViolation
from durable_raft.raft.log import EMPTY_LOG, RaftLog
from durable_raft.raft.types import ORIGIN, Base, HardState, Index, LogPoint, Term
from tests.support.raft_disk import Disk, entries_of

NO_CACHE = 0
LARGE_CACHE = 1 << 20


def log_of(terms: str, *, cache: int = LARGE_CACHE, base: int = 0) -> tuple[RaftLog, Disk]:
    """Return a log that was started from a disk with entries of these terms, compacted up to ``base``."""
    disk = Disk(terms)
    if base:
        disk.compact(base)
    return RaftLog(disk.load(), disk, cache), disk


def append_terms(log: RaftLog, terms: str, *, after: int) -> None:
    """Accept the entries after ``after`` of the log of these terms."""
    for entry in entries_of(terms)[after:]:
        log.append(entry)


def flush(log: RaftLog, disk: Disk, number: int) -> None:
    """Hand out a write, make it durable and acknowledge it."""
    disk.persist(log.take_write(0, number, None))
    log.acknowledge(number)


def test_empty_log_begins_at_the_origin() -> None:
    """The origin is index 0 of term 0, and nothing is there to write."""
    log = RaftLog(EMPTY_LOG, Disk(), LARGE_CACHE)

    assert (log.base, log.last, log.first_index) == (ORIGIN, ORIGIN, 1)
    assert (log.term_at(Index(0)), log.chain_at(Index(0))) == (0, 0)
    assert not log.has_unsubmitted()
    assert log.inflight.oldest() is None


def test_term_at_reads_runs() -> None:
    """Every index has its term, across runs, after appends and cuts, without reading an entry."""
    log, _ = log_of("1 1 3")
    append_terms(log, "1 1 3 3 7", after=3)
    assert [log.term_at(Index(index)) for index in range(6)] == [0, 1, 1, 3, 3, 7]

    log.truncate_from(Index(3))
    append_terms(log, "1 1 1 8", after=2)

    assert [log.term_at(Index(index)) for index in range(5)] == [0, 1, 1, 1, 8]


@pytest.mark.parametrize("index", [3, 7])
def test_term_at_outside_the_log_is_refused(index: int) -> None:
    """An index before the base or beyond the end has no term here."""
    log, _ = log_of("1 1 1 1 1 1", base=4)

    with pytest.raises(EntryUnavailable, match=rf"index {index} is outside the log \[4, 6\]"):
        log.term_at(Index(index))


@pytest.mark.parametrize("index", [0, 4, 9])
@pytest.mark.parametrize("cache", [NO_CACHE, LARGE_CACHE])
def test_entries_outside_the_log_are_refused(index: int, cache: int) -> None:
    """Reading from before the first entry or beyond the last one is refused, whether cached or not."""
    log, disk = log_of("1 1 1 1 1 1", base=4, cache=cache)
    append_terms(log, "1 1 1 1 1 1 2 2", after=6)
    flush(log, disk, 1)

    with pytest.raises(EntryUnavailable, match=rf"index {index} is outside the log \[4, 8\]"):
        log.entries(Index(index), Index(index + 1), 100)


def test_entries_join_disk_and_cache() -> None:
    """A range that begins on the disk and ends in memory comes whole, up to the bytes asked for."""
    log, _ = log_of("1 1 1")
    append_terms(log, "1 1 1 2 2", after=3)
    whole = entries_of("1 1 1 2 2")

    assert log.entries(Index(2), Index(6), 1000) == list(whole[1:])
    assert log.entries(Index(2), Index(6), 4 * 3) == list(whole[1:4])
    assert log.entries(Index(2), Index(6), 4) == list(whole[1:2])
    assert log.entries(Index(4), Index(6), 0) == list(whole[3:4]), "one at least"
    assert log.entries(Index(2), Index(3), 1000) == list(whole[1:2])


def test_chain_at_is_the_same_from_memory_and_disk() -> None:
    """The chain value at an index does not depend on where it is read."""
    log, _ = log_of("1 1 1", base=1)
    append_terms(log, "1 1 1 2 2", after=3)

    assert [log.chain_at(Index(index)) for index in range(1, 6)] == [e.chain for e in entries_of("1 1 1 2 2")]


def test_append_out_of_order_is_refused() -> None:
    """Only the next index is accepted, and no term below the last one (§5.3)."""
    log, _ = log_of("1 3")

    with pytest.raises(InvariantViolation, match="does not follow"):
        log.append(entries_of("1 3 3 3")[3])
    with pytest.raises(InvariantViolation, match="entry 3 of term 2 does not follow 2 of term 3"):
        log.append(entries_of("1 1 2")[2])
    assert log.last.index == 2


def test_truncate_never_takes_what_is_committed() -> None:
    """A cut at or below commit_index is a bug and stops the node."""
    log, _ = log_of("1 1 1")
    log.commit_to(Index(2))

    with pytest.raises(InvariantViolation, match=r"cut from 2 would take committed entries \(commit_index 2\)"):
        log.truncate_from(Index(2))
    log.truncate_from(Index(3))

    assert log.last.index == 2


def test_truncate_down_to_an_empty_log() -> None:
    """A log that is cut from its first entry on is as empty as a new one, and says so to the disk."""
    log, disk = log_of("1 1")

    log.truncate_from(Index(1))

    assert (log.last, log.last_timestamp_ms, log.flushed) == (ORIGIN, 0, 0)
    write = log.take_write(0, 1, None)
    assert (write.truncate_from, write.entries) == (1, ())
    disk.persist(write)
    assert disk.terms() == []


@pytest.mark.parametrize("cache", [NO_CACHE, LARGE_CACHE])
def test_truncate_restores_the_last_timestamp(cache: int) -> None:
    """The floor for the next timestamp is that of the entry that is last now."""
    log, _ = log_of("1 1 1 1", cache=cache)

    log.truncate_from(Index(3))

    assert log.last_timestamp_ms == 2


def test_commit_to_never_falls_and_never_leaves_the_log() -> None:
    """commit_index only rises, and only to what is there."""
    log, _ = log_of("1 1 1")

    assert log.commit_to(Index(2))
    assert not log.commit_to(Index(1))
    with pytest.raises(InvariantViolation, match="commit 4 is beyond the last entry 3"):
        log.commit_to(Index(4))

    assert log.commit_index == 2


def test_take_committed_hands_out_each_entry_once_within_bytes() -> None:
    """Committed entries come in order, each once, in portions."""
    log, _ = log_of("1 1 1 1 1")
    log.commit_to(Index(4))

    portions = [log.take_committed(8), log.take_committed(8), log.take_committed(8)]

    assert [[entry.index for entry in portion] for portion in portions] == [[1, 2], [3, 4], []]
    assert log.last_applied == 4


# -- three cursors -----------------------------------------------------------------------------------------------------


def test_cursors_follow_accepted_submitted_flushed() -> None:
    """An entry is accepted when appended, submitted when handed out, flushed when acknowledged."""
    log, _ = log_of("1")
    append_terms(log, "1 1 1", after=1)
    assert (log.flushed, log.submitted, log.last.index) == (1, 1, 3)

    write = log.take_write(70, 1, HardState(Term(2), None))
    assert [entry.index for entry in write.entries] == [2, 3]
    assert write.hard_state == HardState(Term(2), None)
    assert (log.flushed, log.submitted, log.last.index) == (1, 3, 3)
    assert log.inflight.oldest() == (70, 2 * len(b"2/t1"))

    log.acknowledge(1)
    assert (log.flushed, log.submitted, log.last.index) == (3, 3, 3)
    assert log.inflight.oldest() is None


def test_oldest_in_flight_is_the_oldest_of_several() -> None:
    """While several writes are in flight, the first one's age counts."""
    log, _ = log_of("")
    for number, at in ((1, 10), (2, 20)):
        log.append(entries_of("1 1")[number - 1])
        log.take_write(at, number, None)
    assert log.inflight.oldest() == (10, 8)

    log.acknowledge(1)

    assert log.inflight.oldest() == (20, 8), "it waited behind the first"


def test_cut_lowers_what_a_write_in_flight_proves() -> None:
    """ABA: the late acknowledgement of a write whose entries were replaced proves only what was not."""
    log, _ = log_of("1")
    append_terms(log, "1 1 1 1", after=1)
    log.take_write(0, 1, None)
    log.truncate_from(Index(3))
    append_terms(log, "1 1 2 2", after=2)
    second = log.take_write(0, 2, None)
    assert (second.truncate_from, [entry.term for entry in second.entries]) == (3, [2, 2])

    log.acknowledge(1)
    assert log.flushed == 2
    log.acknowledge(2)

    assert log.flushed == 4


def test_two_cuts_before_one_write_keep_the_lower_one() -> None:
    """Several cuts between two writes reach the disk as the lowest of them."""
    log, disk = log_of("1 1 1 1")
    log.truncate_from(Index(4))
    log.append(entries_of("1 1 1 2")[3])
    log.truncate_from(Index(2))
    append_terms(log, "1 3", after=1)

    write = log.take_write(0, 1, None)

    assert (write.truncate_from, [entry.term for entry in write.entries]) == (2, [3])
    disk.persist(write)
    assert disk.terms() == [1, 3]


def test_cut_of_entries_never_submitted_needs_no_write() -> None:
    """What the disk never saw is not cut there."""
    log, _ = log_of("1")
    append_terms(log, "1 1 1", after=1)

    log.truncate_from(Index(2))

    assert not log.has_unsubmitted()


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_cache_forgets_only_what_is_flushed() -> None:
    """However small the cache, what is not flushed is kept: the disk cannot give it back."""
    log, disk = log_of("", cache=NO_CACHE)
    append_terms(log, "1 1 1", after=0)
    log.commit_to(Index(2))
    log.take_committed(1000)
    assert len(log._cache) == 3, "nothing is flushed"

    flush(log, disk, 1)

    assert len(log._cache) == 0
    assert log._cache_bytes == 0
    assert log.entries(Index(1), Index(4), 1000) == list(entries_of("1 1 1")), "the disk has them"


def test_entries_that_wait_to_be_applied_do_not_fill_the_memory() -> None:
    """A node whose checkpoints are slow takes entries and applies none: it keeps twice the cache, and reads the rest.

    It kept all of them in memory, without a bound.
    """
    entries = entries_of(" ".join(["1"] * 40))
    size = len(entries[0].payload)
    log, disk = log_of("", cache=5 * size)
    for number, entry in enumerate(entries, start=1):
        log.append(entry)
        flush(log, disk, number)
        assert log.cache_bytes <= 10 * len(entry.payload)
    log.commit_to(Index(40))
    applied = []
    while taken := log.take_committed(3 * size):
        applied += taken
    assert applied == list(entries)
    assert log.cache_bytes <= 5 * len(entries[-1].payload)


def test_cut_keeps_the_books_of_the_cache() -> None:
    """A cut takes its bytes out of the cache's count, whether or not part of the log lies on the disk only."""
    log, _ = log_of("1 1 1 1")
    append_terms(log, "1 1 1 1 2 2", after=4)

    log.truncate_from(Index(6))
    assert log._cache_bytes == 4
    log.truncate_from(Index(2))
    assert (log._cache_bytes, log._cache_first) == (0, 2)
    append_terms(log, "1 3", after=1)

    assert log.entries(Index(1), Index(3), 1000) == list(entries_of("1 3"))


# -- where logs may meet -----------------------------------------------------------------------------------------------


def test_first_index_of_term_at_finds_the_run() -> None:
    """A refusal names where the refused term begins here."""
    log, _ = log_of("1 1 4 4 4 6", base=1)

    assert [log.first_index_of_term_at(Index(index)) for index in range(1, 7)] == [1, 2, 3, 3, 3, 6]


@pytest.mark.parametrize(("term", "index"), [(0, 1), (1, 2), (3, 2), (4, 5), (5, 5), (6, 6), (9, 6)])
def test_last_index_not_after_term(term: int, index: int) -> None:
    """The last index of a term at most the given one; the base when all terms are later."""
    log, _ = log_of("1 1 4 4 4 6", base=1)

    assert log.last_index_not_after_term(Term(term)) == index


def test_is_up_to_date_is_the_order_of_term_then_index() -> None:
    """§5.4.1 against its own sentence, over all small cases (a vector comparison is the known mistake)."""
    for terms in ("", "1", "1 1", "1 2", "2 2 2"):
        log, _ = log_of(terms)
        mine = (log.last.term, log.last.index)
        for term in range(4):
            for index in range(5):
                expected = term > mine[0] or (term == mine[0] and index >= mine[1])
                assert log.is_up_to_date(Index(index), Term(term)) is expected


# -- a snapshot --------------------------------------------------------------------------------------------------------


def test_snapshot_that_contradicts_what_is_committed_is_refused() -> None:
    """Two committed entries at one index cannot be (State Machine Safety): the node stops and drops nothing."""
    log, _ = log_of("1 1 1")
    log.commit_to(Index(2))
    other = entries_of("1 2")[1]

    with pytest.raises(InvariantViolation, match="conflicts with entries committed up to 2"):
        log.install(Base(LogPoint(other.index, other.term, other.chain), other.timestamp_ms))

    assert (log.base, log.last.index) == (ORIGIN, 3)
