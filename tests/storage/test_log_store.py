"""The conformance suite of the log store protocol; every store passes all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from durable_raft.errors import EntryUnavailable, InvariantViolation
from durable_raft.raft.ready import Write
from durable_raft.raft.types import (
    ORIGIN,
    Base,
    Entry,
    EntryKind,
    HardState,
    Index,
    LogPoint,
    Standing,
    StoredLog,
    Term,
    make_entry,
)
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.log_store import LogStore
from tests.support.log_building import (
    EVERYTHING,
    IDENTITY,
    MEMBERSHIP,
    JournalShelf,
    LmdbShelf,
    MemoryShelf,
    Shelf,
    configuration_entry,
    configured,
    entries_after,
    point_of,
    read_all,
    vote,
    write,
)


@pytest.fixture(params=["lmdb", "memory", "journal", "moved"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    """Where a store of each kind lies, empty."""
    if request.param == "memory":
        yield MemoryShelf()
        return
    directory = tmp_path / "node"
    kinds = {"lmdb": LmdbShelf, "journal": JournalShelf, "moved": MovedShelf}
    on_disk = kinds[request.param](directory)
    yield on_disk
    on_disk.close()


class MovedStore(JournaledLogStore):
    """Moves each group into LMDB before anybody reads it, which must be the same to whoever does."""

    def persist(self, writes: Sequence[Write], compact_to: Index | None = None) -> None:
        """Persist and move."""
        super().persist(writes, compact_to)
        self.move()


class MovedShelf(JournalShelf):
    """A real directory in which nothing stays pending."""

    kind = MovedStore


def loaded(shelf: Shelf) -> LogStore:
    """Open the store and load it."""
    store = shelf.open()
    store.load()
    return store


def reloaded(shelf: Shelf) -> StoredLog:
    """Open the store again and return what it holds."""
    return shelf.open().load()


def test_a_new_store_is_empty_and_knows_whose_it_is(shelf: Shelf) -> None:
    """Nothing is stored but identity and membership."""
    store = shelf.open()
    assert store.load() == StoredLog(HardState(), ORIGIN, ORIGIN, 0, ())
    assert store.identity == IDENTITY
    assert store.membership == MEMBERSHIP


def test_what_was_persisted_is_there_after_reopening(shelf: Shelf) -> None:
    """Entries of several terms, their points and the hard state come back as they were."""
    first = entries_after(ORIGIN, 3, term=1)
    second = entries_after(point_of(first[-1]), 2, term=4)
    loaded(shelf).persist([write(1, first, hard_state=vote(4, "n2")), write(2, second)])
    stored = reloaded(shelf)
    assert stored.hard_state == vote(4, "n2")
    assert stored.base == ORIGIN
    assert stored.last == point_of(second[-1])
    assert stored.last_timestamp_ms == second[-1].timestamp_ms
    assert stored.term_starts == ((1, 1), (4, 4))
    assert read_all(loaded(shelf), 1, 6) == first + second


def test_the_length_of_a_payload_is_told(shelf: Shelf) -> None:
    """Of one that is stored."""
    store = loaded(shelf)
    entries = [*entries_after(ORIGIN, 1, payload=b"x" * 5_000)]
    store.persist([write(1, entries + entries_after(point_of(entries[0]), 1, payload=b""))])
    assert [store.payload_bytes_at(Index(index)) for index in (1, 2)] == [5_000, 0]
    with pytest.raises(EntryUnavailable):
        store.payload_bytes_at(Index(3))


def test_an_empty_group_changes_nothing(shelf: Shelf) -> None:
    """No write and a write of nothing are both fine."""
    store = loaded(shelf)
    store.persist([])
    store.persist([write(1)])
    assert reloaded(shelf) == StoredLog(HardState(), ORIGIN, ORIGIN, 0, ())


def test_truncated_suffix_is_replaced_and_stays_so(shelf: Shelf) -> None:
    """A cut and what is appended in its place are one change, and the old suffix never comes back (Raft §5.3)."""
    old = entries_after(ORIGIN, 10, term=1)
    new = entries_after(point_of(old[3]), 2, term=3)
    store = loaded(shelf)
    store.persist([write(1, old)])
    store.persist([write(2, new, cut=5)])
    assert reloaded(shelf).last == point_of(new[-1])
    store = shelf.open()
    assert read_all(store, 1, 100) == old[:4] + new
    with pytest.raises(EntryUnavailable):
        store.chain_at(Index(7))


def test_truncating_all_entries_leaves_the_base(shelf: Shelf) -> None:
    """After a cut from the first entry the log is empty and takes another first entry."""
    store = loaded(shelf)
    store.persist([write(1, entries_after(ORIGIN, 5, term=1))])
    store.persist([write(2, cut=1)])
    assert reloaded(shelf).last == ORIGIN
    other = entries_after(ORIGIN, 1, term=2)
    loaded(shelf).persist([write(1, other)])
    assert read_all(loaded(shelf), 1, 2) == other


def test_a_cut_just_behind_the_last_entry_cuts_nothing(shelf: Shelf) -> None:
    """The boundary case is no error."""
    entries = entries_after(ORIGIN, 3)
    loaded(shelf).persist([write(1, entries), write(2, cut=4)])
    assert reloaded(shelf).last == point_of(entries[-1])


def test_truncation_keeps_the_hard_state(shelf: Shelf) -> None:
    """Term and vote are never lost by a cut, in the same group or a later one."""
    store = loaded(shelf)
    store.persist([write(1, entries_after(ORIGIN, 5), hard_state=vote(7, "n3")), write(2, cut=2)])
    store.persist([write(3, cut=1)])
    assert reloaded(shelf).hard_state == vote(7, "n3")


def test_writes_of_one_group_apply_in_order(shelf: Shelf) -> None:
    """A group equals its writes one by one: later cuts undo earlier entries, the last hard state wins."""
    first = entries_after(ORIGIN, 6, term=1)
    second = entries_after(point_of(first[3]), 4, term=2)
    third = entries_after(point_of(second[1]), 1, term=3)
    fourth = entries_after(point_of(first[0]), 2, term=5)
    groups = [
        write(1, first, hard_state=vote(1, "n1")),
        write(2, second, cut=5, hard_state=vote(2)),
        write(3, third, cut=7, hard_state=vote(3, "n2")),
        write(4, fourth, cut=2, hard_state=vote(5)),
    ]
    for size in (1, 2, 3, 4):
        for start in (0, 1):
            one = MemoryShelf()
            store = loaded(one)
            store.persist(groups[:start])
            for at in range(start, len(groups), size):
                store.persist(groups[at : at + size])
            assert reloaded(one).last == point_of(fourth[-1])
    loaded(shelf).persist(groups[:1])
    store = loaded(shelf)
    store.persist([replace(group, number=n) for n, group in enumerate(groups[1:3], 1)])
    assert read_all(store, 1, 100) == first[:4] + second[:2] + third
    store.persist([replace(groups[3], number=3)])
    assert reloaded(shelf).hard_state == vote(5)
    assert read_all(loaded(shelf), 1, 100) == first[:1] + fourth


@pytest.mark.parametrize("size", [0, 1, 1985, 1986, 1987, 2018, 4004, 4005, 20_000, 1 << 20])
def test_payloads_of_every_size_come_back(shelf: Shelf, size: int) -> None:
    """Empty, just below and above one and two pieces, and a megabyte: neighbours are not disturbed."""
    payload = bytes(range(256)) * (size // 256 + 1)
    before = entries_after(ORIGIN, 1)
    large = entries_after(point_of(before[-1]), 2, payload=payload[:size])
    after = entries_after(point_of(large[-1]), 1)
    loaded(shelf).persist([write(1, before + large + after)])
    assert reloaded(shelf).last == point_of(after[-1])
    assert read_all(loaded(shelf), 1, 5) == before + large + after


def test_a_large_entry_is_cut_whole(shelf: Shelf) -> None:
    """No piece of a truncated large entry stays behind to join a later one."""
    store = loaded(shelf)
    store.persist([write(1, entries_after(ORIGIN, 3, payload=b"x" * 9000))])
    replacement = entries_after(ORIGIN, 2, term=2, payload=b"y" * 3000)
    store.persist([write(2, replacement, cut=1)])
    assert reloaded(shelf).last == point_of(replacement[-1])
    assert read_all(loaded(shelf), 1, 3) == replacement


def test_a_noop_keeps_its_kind(shelf: Shelf) -> None:
    """The kind of an entry is stored."""
    noop = make_entry(previous=ORIGIN, term=Term(1), kind=EntryKind.NOOP, timestamp_ms=5, payload=b"")
    loaded(shelf).persist([write(1, [noop])])
    assert read_all(loaded(shelf), 1, 2) == [noop]


def test_entries_stops_at_bytes_max_but_gives_at_least_one(shelf: Shelf) -> None:
    """The bound counts payload; the first entry travels even when it is larger alone."""
    entries = entries_after(ORIGIN, 5, payload=b"x" * 100)
    store = loaded(shelf)
    store.persist([write(1, entries)])
    assert store.entries(Index(1), Index(6), 0) == entries[:1]
    assert store.entries(Index(1), Index(6), 299) == entries[:2]
    assert store.entries(Index(2), Index(6), 300) == entries[1:4]
    assert store.entries(Index(2), Index(4), EVERYTHING) == entries[1:3]
    assert store.entries(Index(4), Index(100), EVERYTHING) == entries[3:]


def test_chain_at_every_index_and_the_base(shelf: Shelf) -> None:
    """The chain value is the entry's own; before the first entry it is the base's."""
    entries = entries_after(ORIGIN, 4)
    store = loaded(shelf)
    store.persist([write(1, entries)])
    assert [store.chain_at(entry.index) for entry in entries] == [entry.chain for entry in entries]
    assert store.chain_at(Index(0)) == 0


def test_what_is_not_stored_is_unavailable(shelf: Shelf) -> None:
    """Reads behind the end or in a compacted prefix say so, and are not taken for damage."""
    store = loaded(shelf)
    with pytest.raises(EntryUnavailable):
        read_all(store, 1, 2)
    store.persist([write(1, entries_after(ORIGIN, 6))])
    store.compact(Index(3), 100)
    for index in (1, 3, 7, 1000):
        with pytest.raises(EntryUnavailable):
            read_all(store, index, index + 1)
    for index in (0, 2, 7):
        with pytest.raises(EntryUnavailable):
            store.chain_at(Index(index))


def test_compaction_goes_in_bounded_steps(shelf: Shelf) -> None:
    """Each call drops at most entries_max and says how far it came; base and rest are right after each."""
    entries = entries_after(ORIGIN, 10)
    store = loaded(shelf)
    store.persist([write(1, entries, hard_state=vote(1, "n1"))])
    assert store.compact(Index(7), 3) == 3
    assert reloaded(shelf).base == point_of(entries[2])
    store = loaded(shelf)
    assert store.compact(Index(7), 3) == 6
    assert store.compact(Index(7), 3) == 7
    assert store.compact(Index(7), 3) == 7
    assert store.compact(Index(2), 3) == 7
    stored = reloaded(shelf)
    assert stored.base == point_of(entries[6])
    assert stored.last == point_of(entries[-1])
    assert stored.term_starts == ((8, 1),)
    assert stored.hard_state == vote(1, "n1")
    store = shelf.open()
    assert store.chain_at(Index(7)) == entries[6].chain
    assert read_all(store, 8, 11) == entries[7:]


def test_compacting_the_whole_log_keeps_point_and_time(shelf: Shelf) -> None:
    """An empty log after a compaction still knows where it ended, and goes on from there."""
    entries = entries_after(ORIGIN, 5, term=3)
    store = loaded(shelf)
    store.persist([write(1, entries)])
    assert store.compact(Index(5), 100) == 5
    stored = reloaded(shelf)
    assert stored.base == stored.last == point_of(entries[-1])
    assert stored.last_timestamp_ms == entries[-1].timestamp_ms
    assert stored.term_starts == ()
    more = entries_after(stored.last, 2, term=3)
    loaded(shelf).persist([write(1, more)])
    assert read_all(loaded(shelf), 6, 8) == more


def test_a_cut_back_to_a_compacted_base_is_possible(shelf: Shelf) -> None:
    """The base's point is known though its entry is gone."""
    entries = entries_after(ORIGIN, 5)
    store = loaded(shelf)
    store.persist([write(1, entries)])
    store.compact(Index(3), 100)
    other = entries_after(point_of(entries[2]), 1, term=2)
    store.persist([write(2, other, cut=4)])
    assert reloaded(shelf).last == point_of(other[-1])


def test_prefix_goes_along_with_a_write(shelf: Shelf) -> None:
    """A group of writes takes a piece of the prefix along in its own transaction."""
    entries = entries_after(ORIGIN, 8)
    store = loaded(shelf)
    store.persist([write(1, entries[:6])])
    _moved(store)
    store.persist([write(2, entries[6:])], Index(4))
    _moved(store)
    assert reloaded(shelf).base == point_of(entries[3])
    assert read_all(loaded(shelf), 5, 9) == entries[4:]


def _moved(store: LogStore) -> None:
    """What is pending drops no prefix before it is in LMDB."""
    if isinstance(store, JournaledLogStore):
        store.move()


def test_what_is_mended_may_be_dropped_by_then(shelf: Shelf) -> None:
    """A prefix that went between the handing over of a write and its turn takes what was to be mended in it along."""
    entries = entries_after(ORIGIN, 6)
    store = loaded(shelf)
    store.persist([write(1, entries[:5])])
    mending = replace(write(2, entries[5:]), mended=(entries[1], entries[3]))
    store.compact(Index(3), 100)
    store.persist([mending])
    assert reloaded(shelf).base == point_of(entries[2])
    assert read_all(loaded(shelf), 4, 7) == entries[3:]


@pytest.mark.parametrize("index", [3, 5, 9])
def test_log_begins_anew_behind_a_snapshot(shelf: Shelf, index: int) -> None:
    """A write with a new base drops everything there was, appends what follows, and goes on from there."""
    store = loaded(shelf)
    store.persist([write(1, entries_after(ORIGIN, 5), hard_state=vote(7, "n1"))])
    base = Base(LogPoint(Index(index), Term(7), 0x1234), 9_000_000)
    first, second = _later(base, 2, term=7)
    group = [
        Write(2, None, Index(5), ()),
        Write(3, HardState(Term(8), None), None, (first, second), base),
        write(4, cut=index + 2),
    ]
    store.persist(group)
    stored = reloaded(shelf)
    assert (stored.base, stored.base_timestamp_ms, stored.last) == (base.point, 9_000_000, point_of(first))
    assert stored.hard_state == vote(8)
    other = _later(base, 1, term=8)
    loaded(shelf).persist([write(1, other, cut=index + 1)])
    assert read_all(loaded(shelf), index + 1, index + 2) == other


def _later(base: Base, count: int, term: int) -> list[Entry]:
    """Return entries that follow a base in time too."""
    entries: list[Entry] = []
    point = base.point
    for number in range(count):
        stamp = base.timestamp_ms + number
        entries.append(
            make_entry(previous=point, term=Term(term), kind=EntryKind.NOOP, timestamp_ms=stamp, payload=b"")
        )
        point = point_of(entries[-1])
    return entries


def test_impossible_writes_are_refused_and_change_nothing(shelf: Shelf) -> None:
    """Gaps, bad cuts, repeated numbers and entries that do not chain are our bug; the log stays as it was."""
    entries = entries_after(ORIGIN, 5, term=2)
    store = loaded(shelf)
    store.persist([write(1, entries, hard_state=vote(2, "n1"))])
    store.compact(Index(2), 100)
    before = store.load()
    last = point_of(entries[-1])
    following = entries_after(last, 2, term=2)
    elsewhere = LogPoint(last.index, last.term, last.chain ^ 1)
    wrong = {
        "gap": write(2, following[1:]),
        "overlap": write(2, entries[-1:]),
        "cut at the base": write(2, cut=2),
        "cut beyond the end": write(2, cut=7),
        "term falls": write(2, entries_after(last, 1, term=1)),
        "time falls": write(2, [_earlier(following[0], last)]),
        "another chain": write(2, entries_after(elsewhere, 1, term=2)),
        "rotten payload": write(2, [replace(following[0], payload=b"rotten")]),
        "hard state falls": write(2, hard_state=vote(1)),
        "second vote": write(2, hard_state=vote(2, "n2")),
        "mended beyond the end": replace(write(2), mended=(following[0],)),
    }
    for name, bad in wrong.items():
        assert _is_refused(store, bad), name
    with pytest.raises(InvariantViolation):
        store.persist([write(3, following), write(3)])
    with pytest.raises(InvariantViolation):
        store.compact(Index(6), 100)
    assert reloaded(shelf) == before
    assert read_all(loaded(shelf), 3, 6) == entries[2:]


def _is_refused(store: LogStore, bad: Write) -> bool:
    try:
        store.persist([bad])
    except InvariantViolation:
        return True
    return False


def _earlier(entry: Entry, previous: LogPoint) -> Entry:
    """Return ``entry`` with a timestamp below that of the entry before, its checksums right."""
    return make_entry(previous=previous, term=entry.term, kind=entry.kind, timestamp_ms=1, payload=entry.payload)


def test_nothing_is_written_before_load(shelf: Shelf) -> None:
    """A log that was not verified is not extended."""
    with pytest.raises(InvariantViolation):
        shelf.open().persist([write(1, entries_after(ORIGIN, 1))])
    with pytest.raises(InvariantViolation):
        shelf.open().compact(Index(0), 1)


def test_write_numbers_start_again_with_each_life(shelf: Shelf) -> None:
    """A core counts its writes from 1 after each load."""
    entries = entries_after(ORIGIN, 2)
    loaded(shelf).persist([write(1, entries[:1])])
    loaded(shelf).persist([write(1, entries[1:])])
    assert reloaded(shelf).last == point_of(entries[1])


def test_a_cut_within_one_group_keeps_what_is_before_it(shelf: Shelf) -> None:
    """Entries that the same group appended, as if written one by one; a standing goes along."""
    entries = entries_after(ORIGIN, 6, term=1)
    other = entries_after(point_of(entries[3]), 1, term=2)
    standing = Standing(False, ())
    group = [write(1, entries), replace(write(2, cut=5), standing=standing), write(3, other)]
    loaded(shelf).persist(group)
    stored = reloaded(shelf)
    assert (stored.last, stored.standing) == (point_of(other[0]), standing)
    assert read_all(loaded(shelf), 1, 6) == entries[:4] + other
    assert [entry.index for entry in entries_after(stored.last, 1)] == [6]


def test_configurations_are_known_before_the_log_is_read(shelf: Shelf) -> None:
    """They come and go with their entries, in the same transaction; the one at the base outlives its entry."""
    first = configuration_entry(ORIGIN, "n1")
    second = configuration_entry(point_of(first), "n1", "n2")
    rest = [*entries_after(point_of(second), 1)]
    third = configuration_entry(point_of(rest[-1]), "n2")
    loaded(shelf).persist([write(1, [first, second]), write(2, [*rest, third])])
    assert reloaded(shelf).configurations == (configured(1, "n1"), configured(2, "n1", "n2"), configured(4, "n2"))
    loaded(shelf).persist([write(1, cut=4)])
    assert reloaded(shelf).configurations == (configured(1, "n1"), configured(2, "n1", "n2"))
    store = loaded(shelf)
    while store.compact(Index(3), 1) < 3:
        pass
    assert reloaded(shelf).configurations == (configured(2, "n1", "n2"),)
    base = Base(LogPoint(Index(9), Term(1), 5), 3_000)
    for number, there in ((1, configured(8, "n3")), (2, None)):
        loaded(shelf).persist([replace(write(1), new_base=base, base_configuration=there)])
        assert reloaded(shelf).configurations == (() if there is None else (there,)), number


def test_a_configuration_that_is_cut_in_the_same_group_was_never_there(shelf: Shelf) -> None:
    """A group is what it amounts to."""
    first = configuration_entry(ORIGIN, "n1")
    loaded(shelf).persist([write(1, [first]), write(2, entries_after(ORIGIN, 1, term=2), cut=1)])
    assert reloaded(shelf).configurations == ()
