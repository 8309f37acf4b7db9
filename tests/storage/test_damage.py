"""Damage under a closed store: what ``load`` and reads find, and what is survived."""

from __future__ import annotations

import re
import struct
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from durable_raft.checksum import crc32c
from durable_raft.errors import CorruptRecord, UnknownFormatVersion
from durable_raft.raft.types import ORIGIN, Entry, EntryKind, Index
from durable_raft.storage.log.pages import place_of
from durable_raft.storage.log.records import IDENT_KEY, LOG_KEY, pack_entries, unpack_ident
from durable_raft.storage.log.stored_log import kept_payload
from durable_raft.storage.wounds import Wound, WoundedLog, WoundKind
from tests.storage.raw import change, flip_bit, rekey, value_of
from tests.support.log_building import (
    LmdbShelf,
    configuration_entry,
    configured,
    entries_after,
    point_of,
    read_all,
    vote,
    write,
)
from tests.support.state_building import lose_root

KEY5 = IDENT_KEY.pack(5)
LOG5 = LOG_KEY.pack(5, 0)


@pytest.fixture
def filled(lmdb_shelf: LmdbShelf) -> LmdbShelf:
    """A closed directory with the entries 1..9, of terms 1 and 3, and a vote."""
    first = entries_after(ORIGIN, 4, term=1)
    second = entries_after(point_of(first[-1]), 5, term=3)
    store = lmdb_shelf.open()
    store.load()
    store.persist([write(1, first + second, hard_state=vote(3, "n2"))])
    lmdb_shelf.close()
    return lmdb_shelf


def wounds_of(shelf: LmdbShelf) -> list[Wound]:
    """Return what ``load`` finds."""
    store = shelf.open()
    try:
        store.load()
    except WoundedLog as error:
        return list(error.wounds)
    return list(store.healable)


def summary(wounds: list[Wound]) -> list[tuple[str, int | None, WoundKind]]:
    """Return table, index and kind of each wound."""
    return [(wound.table, wound.index, wound.what) for wound in wounds]


IDENT_FIELDS = {
    "version": 0, "algorithm": 1, "kind": 2, "padding": 3, "term": 4, "timestamp": 12, "length": 20, "crc": 24,
    "chain": 28, "proof": 32,
}  # fmt: skip
LOG_FIELDS = {
    "version": 0, "algorithm": 1, "kind": 2, "padding": 3, "term": 4, "timestamp": 12, "length": 20, "crc": 24,
    "head proof": 28, "payload": 32,
}  # fmt: skip


@pytest.mark.parametrize("field", IDENT_FIELDS)
def test_a_flipped_bit_in_any_field_of_ident_is_found(filled: LmdbShelf, field: str) -> None:
    """Load names the table and the index, and nothing else is called wounded."""
    flip_bit(filled.directory, "ident", KEY5, IDENT_FIELDS[field] * 8 + 1)
    assert summary(wounds_of(filled)) == [("ident", 5, WoundKind.CHECKSUM)]
    with pytest.raises(CorruptRecord):
        filled.open().chain_at(Index(5))


@pytest.mark.parametrize("field", LOG_FIELDS)
def test_a_flipped_bit_in_any_field_of_log_is_found(filled: LmdbShelf, field: str) -> None:
    """Load names the table and the index; reading that entry fails, its neighbours are still given."""
    flip_bit(filled.directory, "log", LOG5, LOG_FIELDS[field] * 8 + 1)
    assert summary(wounds_of(filled)) == [("log", 5, WoundKind.CHECKSUM)]
    store = filled.open()
    with pytest.raises(CorruptRecord):
        read_all(store, 5, 6)
    assert [entry.index for entry in read_all(store, 1, 5) + read_all(store, 6, 10)] == [1, 2, 3, 4, 6, 7, 8, 9]


@pytest.mark.parametrize("field", range(0, 60, 3))
@pytest.mark.parametrize("table", ["meta", "meta_copy"])
def test_one_rotten_copy_of_meta_is_survived_and_mended(filled: LmdbShelf, table: str, field: int) -> None:
    """Vote and term come from the other copy; the next write of the hard state makes both whole."""
    flip_bit(filled.directory, table, b"meta", field * 8)
    store = filled.open()
    assert [wound.table for wound in store.tolerated] == [table]
    assert store.load().hard_state == vote(3, "n2")
    store.persist([write(1, hard_state=vote(4))])
    assert store.tolerated == ()
    store = filled.open()
    assert store.tolerated == ()
    assert store.load().hard_state == vote(4)


def test_two_rotten_copies_of_meta_refuse_to_open(filled: LmdbShelf) -> None:
    """A node that forgot its vote could vote twice: it does not start, and the directory is free again."""
    flip_bit(filled.directory, "meta", b"meta", 100)
    flip_bit(filled.directory, "meta_copy", b"meta", 101)
    for _ in range(2):
        with pytest.raises(CorruptRecord, match=r"meta: checksum.*meta_copy: checksum"):
            filled.open()


def test_every_wound_is_listed(filled: LmdbShelf) -> None:
    """Load does not stop at the first wound, and says index, term, expected and found of each."""
    flip_bit(filled.directory, "ident", IDENT_KEY.pack(2), 40)
    flip_bit(filled.directory, "log", LOG5, 33 * 8)
    change(filled.directory, "log", LOG_KEY.pack(7, 0), None)
    wounds = wounds_of(filled)
    assert summary(wounds) == [
        ("ident", 2, WoundKind.CHECKSUM),
        ("log", 5, WoundKind.CHECKSUM),
        ("log", 7, WoundKind.MISSING),
    ]
    assert wounds[1].term == 3
    assert "crc 0x" in wounds[1].expected
    assert wounds[1].found.startswith("0x")


def test_a_lost_ident_is_not_confused_with_other_damage(filled: LmdbShelf) -> None:
    """The log record still proves itself and carries the chain on, so that one record makes one wound."""
    change(filled.directory, "ident", KEY5, None)
    assert summary(wounds_of(filled)) == [("ident", 5, WoundKind.MISSING)]
    with pytest.raises(CorruptRecord):
        read_all(filled.open(), 5, 6)
    with pytest.raises(CorruptRecord):
        read_all(filled.open(), 3, 9)


def test_a_hole_in_both_tables_is_found(filled: LmdbShelf) -> None:
    """Indexes are contiguous, whatever their records say."""
    change(filled.directory, "ident", KEY5, None)
    change(filled.directory, "log", LOG5, None)
    assert summary(wounds_of(filled)) == [("ident", 5, WoundKind.MISSING)]
    with pytest.raises(CorruptRecord):
        filled.open().chain_at(Index(5))


def test_an_orphaned_log_record_is_found(filled: LmdbShelf) -> None:
    """A record behind the last ident belongs to nothing that was persisted whole."""
    _, items = pack_entries(entries_after(point_of(_entries(filled)[-1]), 1, term=3))
    change(filled.directory, "log", items[0][0], bytes(items[0][1]))
    assert summary(wounds_of(filled)) == [("ident", 10, WoundKind.MISSING)]


def test_valid_records_of_another_history_are_found(filled: LmdbShelf) -> None:
    """A stale page holds records that prove themselves: order, chain and agreement give them away."""
    entries = _entries(filled)
    other = entries_after(point_of(entries[3]), 2, term=2, payload=b"another history")
    ident_items, log_items = pack_entries(other)
    change(filled.directory, "ident", KEY5, bytes(ident_items[0][1]))
    change(filled.directory, "log", LOG5, bytes(log_items[0][1]))
    assert summary(wounds_of(filled)) == [("ident", 6, WoundKind.CHAIN)]
    with pytest.raises(CorruptRecord, match="chain"):
        read_all(filled.open(), 5, 7)


def test_a_term_that_falls_is_found(filled: LmdbShelf) -> None:
    """Terms and timestamps never fall along a log."""
    entries = _entries(filled)
    ident_items, log_items = pack_entries(entries_after(point_of(entries[6]), 1, term=1))
    change(filled.directory, "ident", IDENT_KEY.pack(8), bytes(ident_items[0][1]))
    change(filled.directory, "log", LOG_KEY.pack(8, 0), bytes(log_items[0][1]))
    found = summary(wounds_of(filled))
    assert ("ident", 8, WoundKind.ORDER) in found
    assert ("ident", 9, WoundKind.CHAIN) in found


def test_ident_and_log_of_different_entries_are_found(filled: LmdbShelf) -> None:
    """Each record is valid; together they contradict each other."""
    entries = _entries(filled)
    _, log_items = pack_entries(entries_after(point_of(entries[3]), 1, term=3, payload=b"something else"))
    change(filled.directory, "log", LOG5, bytes(log_items[0][1]))
    assert summary(wounds_of(filled)) == [("log", 5, WoundKind.DISAGREES)]
    with pytest.raises(CorruptRecord, match="disagrees"):
        read_all(filled.open(), 5, 6)


def test_a_base_that_does_not_meet_the_log_is_found(filled: LmdbShelf) -> None:
    """The first entry has to follow the base."""
    change(filled.directory, "ident", IDENT_KEY.pack(1), None)
    change(filled.directory, "log", LOG_KEY.pack(1, 0), None)
    assert summary(wounds_of(filled)) == [("ident", 1, WoundKind.MISSING)]


def test_missing_and_swapped_pieces_are_found(lmdb_shelf: LmdbShelf) -> None:
    """A large payload is whole or wounded."""
    store = lmdb_shelf.open()
    store.load()
    store.persist([write(1, entries_after(ORIGIN, 3, payload=b"0123456789" * 1000))])
    lmdb_shelf.close()
    directory = lmdb_shelf.directory
    second = value_of(directory, "log", LOG_KEY.pack(2, 1))
    change(directory, "log", LOG_KEY.pack(2, 1), value_of(directory, "log", LOG_KEY.pack(2, 2)))
    assert summary(wounds_of(lmdb_shelf)) == [("log", 2, WoundKind.CHECKSUM)]
    lmdb_shelf.close()
    change(directory, "log", LOG_KEY.pack(2, 1), None)
    assert summary(wounds_of(lmdb_shelf)) == [("log", 2, WoundKind.MISSING)]
    with pytest.raises(CorruptRecord, match="piece 1"):
        read_all(lmdb_shelf.open(), 2, 3)
    lmdb_shelf.close()
    change(directory, "log", LOG_KEY.pack(3, 4), None)
    with pytest.raises(CorruptRecord, match="piece 4"):
        read_all(lmdb_shelf.open(), 3, 4)
    lmdb_shelf.close()
    change(directory, "log", LOG_KEY.pack(3, 4), value_of(directory, "log", LOG_KEY.pack(1, 4)))
    change(directory, "log", LOG_KEY.pack(2, 1), second)
    lmdb_shelf.open().load()


@pytest.mark.parametrize("new", [2, 4, 6, 7, 1 << 40], ids=str)
def test_a_rotten_key_of_ident_wounds_one_entry(filled: LmdbShelf, new: int) -> None:
    """The record that carries the rotten key and the entry that lost it are named; the rest stays whole."""
    rekey(filled.directory, "ident", KEY5, IDENT_KEY.pack(new))
    found = summary(wounds_of(filled))
    assert ("ident", 5, WoundKind.MISSING) in found
    assert {index for _, index, _ in found} == {5, new}


@pytest.mark.parametrize("new", [2, 4, 6, 7, 1 << 40], ids=str)
def test_a_rotten_key_of_log_wounds_few_entries(filled: LmdbShelf, new: int) -> None:
    """The entry that lost its record is named, and no entry beyond the one whose key was taken."""
    rekey(filled.directory, "log", LOG5, LOG_KEY.pack(new, 0))
    found = summary(wounds_of(filled))
    assert ("log", 5, WoundKind.MISSING) in found
    assert {index for _, index, _ in found} <= {5, new, None}


@pytest.mark.parametrize("table", ["ident", "log"])
def test_a_record_of_a_newer_version_is_not_damage(filled: LmdbShelf, table: str) -> None:
    """A log that a newer build wrote is refused as such."""
    key, proof_at = (KEY5, 32) if table == "ident" else (LOG5, 28)
    value = bytearray(value_of(filled.directory, table, key))
    value[0] = 2
    value[proof_at : proof_at + 4] = struct.pack(">I", crc32c(KEY5 + bytes(value[:proof_at])))
    change(filled.directory, table, key, bytes(value))
    store = filled.open()
    with pytest.raises(UnknownFormatVersion, match="version 2"):
        store.load()


@pytest.mark.parametrize("table", ["ident", "log"])
def test_records_that_vanished_with_their_page_are_found(filled: LmdbShelf, table: str) -> None:
    """The tree's own count of records is a witness: without it a log whose last page went missing would look whole."""
    data = bytearray(_data_file(filled).read_bytes())
    # A table's description in the main tree: its name, then 32 bytes, then the number of its records.
    for found in re.finditer(table.encode(), bytes(data)):
        at = found.end() + 32
        if data[at : at + 8] == struct.pack("=Q", 9):
            data[at] = 12
    _data_file(filled).write_bytes(data)
    assert summary(wounds_of(filled)) == [(table, None, WoundKind.TREE)]


def _entries(shelf: LmdbShelf) -> list[Entry]:
    entries = read_all(shelf.open(), 1, 100)
    shelf.close()
    return entries


def _data_file(shelf: LmdbShelf) -> Path:
    return shelf.directory / "raft" / "data.mdb"


def test_a_gap_between_the_transaction_ids_of_the_meta_pages_is_found(filled: LmdbShelf) -> None:
    """A flipped bit in the newer id would silently open the older state; no bit of either id may flip unseen."""
    sound = _data_file(filled).read_bytes()
    for page in (0, 1):
        for bit in range(64):
            data = bytearray(sound)
            data[page * 4096 + 144 + bit // 8] ^= 1 << bit % 8
            _data_file(filled).write_bytes(data)
            with pytest.raises(CorruptRecord, match="transaction ids"):
                filled.open()
    _data_file(filled).write_bytes(sound)
    filled.open().load()


@pytest.mark.parametrize(
    "offset", [16, 20, 4096 + 16, 4096 + 10, 40], ids=["magic", "version", "magic1", "flags", "psize"]
)
def test_a_damaged_meta_page_is_refused(filled: LmdbShelf, offset: int) -> None:
    """LMDB never gets to map such a file."""
    data = bytearray(_data_file(filled).read_bytes())
    data[offset] ^= 0x28
    _data_file(filled).write_bytes(data)
    with pytest.raises((CorruptRecord, UnknownFormatVersion), match=r"data\.mdb"):
        filled.open()


@pytest.mark.parametrize("keep", [0, 100, 4096, 8192, -4096, -1])
def test_a_truncated_file_is_refused(filled: LmdbShelf, keep: int) -> None:
    """Reading behind the end of a mapped file would kill the process."""
    data = _data_file(filled).read_bytes()
    _data_file(filled).write_bytes(data[:keep])
    with pytest.raises(CorruptRecord, match=r"data\.mdb"):
        filled.open()


@pytest.mark.parametrize("count", [9, 3000])
def test_a_wound_has_a_place_in_the_file(lmdb_shelf: LmdbShelf, count: int) -> None:
    """Page and offset lead to the very bytes, in a tree of one page and in one of several levels."""
    store = lmdb_shelf.open()
    store.load()
    entries = entries_after(ORIGIN, count, payload=b"some payload")
    store.persist([write(1, entries)])
    lmdb_shelf.close()
    data = _data_file(lmdb_shelf).read_bytes()
    for index in {1, 2, count // 2, count}:
        idents, pieces = pack_entries([entries[index - 1]])
        for table, items in (("ident", idents), ("log", pieces)):
            place = place_of(_data_file(lmdb_shelf).parent, Wound(table, index, None, "", "", WoundKind.CHECKSUM))
            assert place is not None
            assert place.page == place.offset // 4096
            assert data[place.offset :].startswith(bytes(items[0][1]))
    assert place_of(_data_file(lmdb_shelf).parent, Wound("log", count + 1, None, "", "", WoundKind.MISSING)) is None


def test_trees_that_lmdb_cannot_walk_are_wounds(filled: LmdbShelf) -> None:
    """Of whichever table, and whichever way they are read: no error of LMDB comes out of the store."""
    sound = _data_file(filled).read_bytes()
    for table in ("ident", "log"):
        lose_root(filled.directory, table, "raft")
        store = filled.open()
        with pytest.raises(WoundedLog, match="tree"):
            store.load()
        with pytest.raises(WoundedLog, match="tree"):
            read_all(store, 2, 5)
        if table == "ident":
            with pytest.raises(WoundedLog, match="tree"):
                store.chain_at(Index(5))
        filled.close()
        _data_file(filled).write_bytes(sound)
    lose_root(filled.directory, "meta", "raft")
    with pytest.raises(WoundedLog, match="tree"):
        filled.open()


def test_an_ident_whose_payload_tells_what_follows_is_rebuilt(filled: LmdbShelf) -> None:
    """Only where the chain before it is known: behind another lost one nothing vouches for it."""
    for index in (4, 5):
        flip_bit(filled.directory, "ident", IDENT_KEY.pack(index), 8 * 3)
    assert summary(wounds_of(filled)) == [("ident", 4, WoundKind.CHECKSUM), ("ident", 5, WoundKind.CHECKSUM)]
    filled.close()
    flip_bit(filled.directory, "log", LOG_KEY.pack(4, 0), 8 * 3)
    found = summary(wounds_of(filled))
    assert ("log", 4, WoundKind.CHECKSUM) in found
    assert ("ident", 5, WoundKind.CHECKSUM) in found


def test_a_cut_behind_an_ident_that_is_rebuilt_in_the_same_group(filled: LmdbShelf) -> None:
    """The entry before the cut is the one that is written again."""
    flip_bit(filled.directory, "ident", KEY5, 40)
    store = filled.open()
    rebuilt = store.load().rebuilt
    other = entries_after(point_of(rebuilt[0]), 1, term=4)
    store.persist([replace(write(1), mended=rebuilt), write(2, other, cut=6)])
    stored = filled.open().load()
    assert (stored.last, stored.rebuilt) == (point_of(other[0]), ())


def test_a_rotten_copy_of_meta_is_looked_for_while_the_store_is_open(filled: LmdbShelf) -> None:
    """The next write mends it."""
    change(filled.directory, "meta_copy", b"meta", b"rot")
    store = filled.open()
    store.load()
    assert store.is_meta_wounded()
    store.persist([write(1, hard_state=vote(4))])
    assert not store.is_meta_wounded()


@pytest.mark.parametrize("damage", ["cut", "page size", "table", "missing"])
def test_a_place_is_told_only_as_far_as_branches_lead(filled: LmdbShelf, damage: str) -> None:
    """It is for people who look for rot: a file that cannot be read has none."""
    path = _data_file(filled)
    wound = Wound("log", 5, None, "", "", WoundKind.CHECKSUM)
    assert place_of(path.parent, wound) is not None
    assert place_of(path.parent, Wound("meta", None, None, "", "", WoundKind.CHECKSUM)) is None
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[:100])
    elif damage == "page size":
        path.write_bytes(data[:40] + b"\xff\xff\xff\xff" + data[44:])
    elif damage == "table":
        path.write_bytes(data.replace(b"log", b"lag"))
    else:
        path.unlink()
    assert place_of(path.parent, wound) is None


def test_a_free_tree_that_leads_nowhere_is_damage(filled: LmdbShelf) -> None:
    """Its root behind the file, in itself, or on a page of another kind: LMDB never gets to map such a file."""
    sound = _data_file(filled).read_bytes()
    newest = max((0, 1), key=lambda page: sound[page * 4096 + 144 : page * 4096 + 152][::-1])
    for root in (1 << 40, 1 << 62, 0, 2):
        data = bytearray(sound)
        data[newest * 4096 + 80 : newest * 4096 + 88] = root.to_bytes(8, sys.byteorder)
        _data_file(filled).write_bytes(data)
        with pytest.raises(CorruptRecord):
            filled.open()


def test_a_free_tree_that_runs_in_a_circle_is_damage(filled: LmdbShelf) -> None:
    """A branch that names itself: the search ends."""
    data = bytearray(_data_file(filled).read_bytes())
    for page in (0, 1):
        root = int.from_bytes(data[page * 4096 + 80 : page * 4096 + 88], sys.byteorder)
        start = root * 4096
        data[start + 10 : start + 12] = (1).to_bytes(2, sys.byteorder)
        (end,) = struct.unpack_from("=H", data, start + 12)
        (node,) = struct.unpack_from("=H", data, start + end - 2)
        struct.pack_into("=HHH", data, start + node, root & 0xFFFF, root >> 16, 0)
    _data_file(filled).write_bytes(data)
    with pytest.raises(CorruptRecord, match="deeper than"):
        filled.open()


def test_both_meta_pages_say_one_page_size_and_a_version(filled: LmdbShelf) -> None:
    """Two that differ are damage; two of another version are of another LMDB."""
    sound = _data_file(filled).read_bytes()
    for pages, at, value, error in (
        ((1,), 40, 8192, CorruptRecord),
        ((1,), 20, 2, CorruptRecord),
        ((0, 1), 20, 2, UnknownFormatVersion),
        ((0,), 40, 5000, CorruptRecord),
    ):
        data = bytearray(sound)
        for page in pages:
            data[page * 4096 + at : page * 4096 + at + 4] = value.to_bytes(4, sys.byteorder)
        _data_file(filled).write_bytes(data)
        with pytest.raises(error, match=r"data\.mdb"):
            filled.open()


@pytest.fixture
def configured_log(lmdb_shelf: LmdbShelf) -> tuple[LmdbShelf, list[Entry]]:
    """A closed directory with three entries of which the second is a configuration."""
    entries = entries_after(ORIGIN, 1)
    entries.append(configuration_entry(point_of(entries[-1]), "n1", "n4"))
    entries += entries_after(point_of(entries[-1]), 1)
    store = lmdb_shelf.open()
    store.load()
    store.persist([write(1, entries)])
    lmdb_shelf.close()
    return lmdb_shelf, entries


@pytest.mark.parametrize("field", ["payload", "head proof", "length"])
def test_a_rotten_configuration_is_rebuilt_from_meta(configured_log: tuple[LmdbShelf, list[Entry]], field: str) -> None:
    """It is no lost entry: no other node is needed for it."""
    shelf, entries = configured_log
    flip_bit(shelf.directory, "log", LOG_KEY.pack(2, 0), LOG_FIELDS[field] * 8)
    store = shelf.open()
    stored = store.load()
    assert (stored.lost, stored.rebuilt, stored.configurations) == ((), (entries[1],), (configured(2, "n1", "n4"),))
    assert [wound.index for wound in store.healable] == [2]
    store.persist([replace(write(1), mended=stored.rebuilt)])
    assert store.load().rebuilt == ()
    assert read_all(store, 1, 4) == entries


def test_a_configuration_that_gives_another_checksum_is_not_taken_for_the_entry(
    configured_log: tuple[LmdbShelf, list[Entry]],
) -> None:
    """What meta says is of another entry than ident does: the entry is lost, and other nodes may have it."""
    shelf, entries = configured_log
    ident = unpack_ident(IDENT_KEY.pack(2), value_of(shelf.directory, "ident", IDENT_KEY.pack(2)))
    assert kept_payload([configured(2, "n1", "n4")], 2, ident) == entries[1].payload
    assert kept_payload([configured(2, "n1", "n5")], 2, ident) is None
    assert kept_payload([configured(1, "n1", "n4")], 2, ident) is None
    assert kept_payload([configured(2, "n1", "n4")], 2, ident._replace(kind=EntryKind.COMMANDS)) is None
    assert kept_payload([], 2, ident) is None
