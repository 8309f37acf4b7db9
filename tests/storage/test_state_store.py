"""The KV state on the disk: checkpoints, views, and what is refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from durable_raft.errors import DirectoryRefused, InvariantViolation, StoragePoisoned
from durable_raft.kv.layer import Change
from durable_raft.kv.records import EMPTY_STATE, Record, make_record, order_key
from durable_raft.raft.types import NodeId
from durable_raft.storage.state.records import HEADER, due_key, stored_key
from durable_raft.storage.state.store import LmdbKvStore
from durable_raft.storage.state.verify import read_checkpoint
from durable_raft.storage.state.view import open_view
from durable_raft.storage.wounds import WoundedState
from tests.support.log_building import IDENTITY, MEMBERSHIP
from tests.support.state_building import (
    LONG_KEY,
    State,
    base_at,
    checkpoint,
    in_order,
    items_of,
    lose_root,
    make_kv,
    put_raw,
    raw_state,
    read_kv,
    sample,
    summary_of,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a state of 43 records at index 5."""
    return make_kv(tmp_path / "node", sample())


@pytest.fixture
def store(directory: Path) -> Iterator[LmdbKvStore]:
    """Its store, open."""
    opened = LmdbKvStore.open(directory)
    yield opened
    opened.close()


def test_a_new_state_is_empty_and_made_once(tmp_path: Path) -> None:
    """It is that before the first entry; a second creation changes nothing."""
    LmdbKvStore.create(tmp_path, IDENTITY, MEMBERSHIP)
    assert read_kv(tmp_path) == (0, {})
    with pytest.raises(DirectoryRefused, match="already"):
        LmdbKvStore.create(tmp_path, IDENTITY, MEMBERSHIP)
    assert LmdbKvStore.exists(tmp_path)


def test_a_directory_without_a_state_is_refused(tmp_path: Path) -> None:
    """By the store and by those that read without it."""
    assert not LmdbKvStore.exists(tmp_path)
    for read in (LmdbKvStore.open, read_checkpoint):
        with pytest.raises(DirectoryRefused):
            read(tmp_path)


def _random_changes(rng: random.Random, state: State) -> dict[bytes, Record | None]:
    changes: dict[bytes, Record | None] = {}
    for _ in range(rng.randrange(80)):
        key = rng.choice((b"k%d" % rng.randrange(60), LONG_KEY + b"%d" % rng.randrange(6), b""))
        value = rng.randbytes(rng.choice((0, 9, 3000, 90_000)))
        changes[key] = None if rng.random() < 0.3 else make_record(key, value, rng.choice((0, 1, 2**41)))
    return {key: record for key, record in changes.items() if record is not None or key in state or rng.random() < 0.5}


@pytest.mark.parametrize("seed", range(3))
def test_checkpoints_add_up_to_the_state(tmp_path: Path, seed: int) -> None:
    """Whatever changes they bring, both tables and the summary hold what a dict holds, also after a restart."""
    rng = random.Random(seed)
    LmdbKvStore.create(tmp_path, IDENTITY, MEMBERSHIP)
    state: State = {}
    for index in range(1, 13):
        changes = _random_changes(rng, state)
        is_cleared = rng.random() < 0.1
        state = {} if is_cleared else state
        state = {key: record for key, record in {**state, **changes}.items() if record is not None}
        store = LmdbKvStore.open(tmp_path)
        store.write_checkpoint(
            in_order(changes),
            is_cleared=is_cleared,
            applied=base_at(index),
            summary=summary_of(state),
            membership=MEMBERSHIP,
        )
        assert store.commits == 1
        with store.view() as view:
            due = sorted((each.deadline_ms, order_key(key), key) for key, each in state.items() if each.deadline_ms)
            assert view.due(None, 1000) == [(deadline, key) for deadline, _, key in due]
            assert view.counts() == (len(state), len(due))
        store.close()
        assert read_kv(tmp_path) == (index, state)


def test_a_checkpoint_works_in_short_pieces(store: LmdbKvStore) -> None:
    """Between them it pauses: after 32 keys at the latest, and after a quarter of a megabyte of values."""
    state: State = {b"s%03d" % number: make_record(b"s%03d" % number, b"v") for number in range(64)}
    state |= {b"t%03d" % number: make_record(b"t%03d" % number, bytes(100_000)) for number in range(7)}
    taken: list[int] = []
    seen = 0

    def told() -> Iterator[Change]:
        nonlocal seen
        for change in items_of(state):
            seen += 1
            yield change

    store.write_checkpoint(
        told(),
        is_cleared=True,
        applied=base_at(6),
        summary=summary_of(state),
        membership=MEMBERSHIP,
        pause=lambda: taken.append(seen),
    )
    assert taken == [32, 64, 71, 71, 71]


def test_a_view_shows_its_checkpoint_whatever_is_written_later(store: LmdbKvStore) -> None:
    """And the next one what was written."""
    state = sample()
    with store.view() as before:
        changed = {**state, b"key:0000": make_record(b"key:0000", b"new")}
        checkpoint(store, changed, 6, [(b"key:0000", changed[b"key:0000"])])
        assert before.get(b"key:0000") == state[b"key:0000"]
        assert before.summary == summary_of(state)
        assert before.meta.applied == base_at(5)
    with store.view() as after:
        assert after.get(b"key:0000") == changed[b"key:0000"]
        assert after.get(b"none") is None


def test_records_are_read_behind_a_key(store: LmdbKvStore) -> None:
    """By number and by bytes, also behind a key that is not there; a piece has a record while there is one."""
    items = items_of(sample())
    with store.view() as view:
        assert view.after(None, 3, 1 << 20) == items[:3]
        assert view.after(items[4][0], 3, 1 << 20) == items[5:8]
        assert view.after(items[4][0] + b"x", 3, 1 << 20) == items[5:8]
        assert view.after(items[-1][0], 3, 1 << 20) == []
        assert view.piece(None, 1) == items[:1]
        assert view.piece(items[0][0], 1 << 20) == items[1:]
        assert view.piece(items[-1][0], 1) == []
        first = view.due(None, 1)[0]
        assert view.due(first, 100) == view.due(None, 100)[1:]
        assert view.due((2**60, b""), 1) == []


def test_a_closed_state_is_read_without_a_store(directory: Path) -> None:
    """As offline tools do."""
    with open_view(directory) as view:
        assert dict(view.after(None, 100, 1 << 20)) == sample()
    assert read_checkpoint(directory).summary == summary_of(sample())


def test_a_view_ends(store: LmdbKvStore) -> None:
    """It is never read after that; a second end does nothing."""
    view = store.view()
    view.close()
    view.close()
    for read in (
        lambda: view.get(b"key:0000"),
        lambda: view.after(None, 1, 1 << 20),
        lambda: view.piece(None, 1),
        lambda: view.due(None, 1),
    ):
        with pytest.raises(InvariantViolation, match="after its end"):
            read()


def test_every_read_of_a_view_checks_what_it_reads(directory: Path) -> None:
    """A flipped bit in a record, a long key, or a deadline is never believed."""
    with raw_state(directory, "keys") as (transaction, keys):
        for key, at in ((b"key:0001", HEADER.size), (LONG_KEY, HEADER.size + 10)):
            value = bytearray(transaction.get(stored_key(key), db=keys) or b"")
            value[at] ^= 1
            transaction.put(stored_key(key), bytes(value), db=keys)
        transaction.put(stored_key(b"key:0002"), b"short", db=keys)
    put_raw(directory, "deadlines", due_key(1_800_000_000_000, b"key:0000"), b"\0\0\0\0")
    store = LmdbKvStore.open(directory)
    with store.view() as view:
        for key in (b"key:0001", b"key:0002", LONG_KEY):
            with pytest.raises(WoundedState, match="keys key"):
                view.get(key)
        with pytest.raises(WoundedState):
            view.after(None, 100, 1 << 20)
        with pytest.raises(WoundedState):
            view.piece(b"key:0000", 100)
        with pytest.raises(WoundedState, match="deadlines key"):
            view.due(None, 100)
    store.close()


@pytest.mark.parametrize("table", ["keys", "deadlines"])
def test_a_tree_that_lmdb_cannot_walk_is_a_wound(directory: Path, table: str) -> None:
    """Not an error of LMDB, which nobody above would take for damage."""
    lose_root(directory, table)
    with pytest.raises(WoundedState, match=f"{table}: tree"), open_view(directory) as view:
        view.due(None, 1)


def test_a_state_belongs_to_its_log(store: LmdbKvStore) -> None:
    """One of another node, or of another disk of the same node, is refused."""
    store.expect(IDENTITY)
    for other in (replace(IDENTITY, node_id=NodeId("n2")), replace(IDENTITY, node_uuid=b"another-16-bytes")):
        with pytest.raises(DirectoryRefused, match="belongs to node 'n1'"):
            store.expect(other)


def test_room_shrinks_with_what_is_written(store: LmdbKvStore) -> None:
    """Bytes in use, of the file, and what can still be written."""
    before = store.room()
    state = {b"big": make_record(b"big", bytes(500_000))}
    checkpoint(store, state, 6)
    after = store.room()
    assert after.used_bytes >= before.used_bytes + 400_000
    assert after.file_bytes >= after.used_bytes
    assert after.writable_bytes <= before.writable_bytes


def test_one_rotten_copy_of_meta_is_tolerated_until_the_next_checkpoint(directory: Path) -> None:
    """Then it is mended; two rotten ones are fatal."""
    put_raw(directory, "meta_copy", b"meta", b"rot")
    store = LmdbKvStore.open(directory)
    assert [wound.table for wound in store.tolerated] == ["meta_copy"]
    checkpoint(store, sample(), 6)
    assert store.tolerated == ()
    store.close()
    assert read_kv(directory)[0] == 6
    put_raw(directory, "meta", b"meta", None)
    put_raw(directory, "meta_copy", b"meta", b"rot")
    with pytest.raises(WoundedState):
        LmdbKvStore.open(directory)


@pytest.mark.parametrize("index", [4, 0])
def test_a_checkpoint_never_goes_back(store: LmdbKvStore, index: int) -> None:
    """It is refused before anything is written."""
    with pytest.raises(InvariantViolation, match="after one at"):
        checkpoint(store, sample(), index)
    checkpoint(store, sample(), 6)


def _wrong_summary(store: LmdbKvStore) -> None:
    state = sample()
    checkpoint(store, {**state, b"more": make_record(b"more", b"")}, 6, [])


def _not_ascending(store: LmdbKvStore) -> None:
    state = sample()
    store.write_checkpoint(
        reversed(items_of(state)),
        is_cleared=True,
        applied=base_at(6),
        summary=summary_of(state),
        membership=MEMBERSHIP,
    )


@pytest.mark.parametrize(("attempt", "match"), [(_wrong_summary, "expected"), (_not_ascending, "do not ascend")])
def test_a_checkpoint_that_does_not_add_up_is_final(
    directory: Path, store: LmdbKvStore, attempt: object, match: str
) -> None:
    """Nothing of it is there, and the store writes no more: a right one fails too."""
    assert callable(attempt)
    with pytest.raises(StoragePoisoned, match=match) as failed:
        attempt(store)
    assert isinstance(failed.value.__cause__, InvariantViolation)
    with pytest.raises(StoragePoisoned, match="earlier write failed"):
        checkpoint(store, sample(), 7)
    store.close()
    assert read_kv(directory) == (5, sample())


def test_an_old_record_that_contradicts_its_deadline_is_final(directory: Path) -> None:
    """Else a replica would keep a deadline that the others do not have."""
    key = b"key:0000"
    put_raw(directory, "deadlines", due_key(1_800_000_000_000, key), None)
    store = LmdbKvStore.open(directory)
    state = {name: record for name, record in sample().items() if name != key}
    with pytest.raises(StoragePoisoned, match="deadline") as failed:
        checkpoint(store, state, 6, [(key, None)])
    assert isinstance(failed.value.__cause__, WoundedState)
    store.close()


def test_counts_that_are_not_those_of_the_tables_are_final(directory: Path) -> None:
    """What is settled from old records must add up to what LMDB holds: here a record vanished without a trace."""
    put_raw(directory, "keys", stored_key(b"key:0003"), None)
    store = LmdbKvStore.open(directory)
    with pytest.raises(StoragePoisoned, match="are stored, expected") as failed:
        store.write_checkpoint(
            [(b"new", make_record(b"new", b"v"))], is_cleared=False, applied=base_at(6), membership=MEMBERSHIP
        )
    assert isinstance(failed.value.__cause__, InvariantViolation)
    store.close()


def test_what_a_checkpoint_is_settled_to_is_returned(store: LmdbKvStore) -> None:
    """And kept: nobody has to say it before."""
    state = {**sample(), b"new": make_record(b"new", b"v", 77)}
    changes: list[Change] = [(b"new", state[b"new"])]
    found = store.write_checkpoint(changes, is_cleared=False, applied=base_at(6), membership=MEMBERSHIP)
    assert found == store.checkpoint.summary == store.verify() == summary_of(state)


def test_the_head_of_a_record_is_read_without_its_value(directory: Path, store: LmdbKvStore) -> None:
    """Checksum and deadline, also of a record whose value is damaged; one that has no room for them is a wound."""
    with store.view() as view:
        for key, record in sample().items():
            assert view.head(key) == (record.crc, record.deadline_ms)
        assert view.head(b"none") is None
    store.close()
    put_raw(directory, "keys", stored_key(b"key:0003"), b"short")
    with open_view(directory) as view, pytest.raises(WoundedState, match="12 bytes or more"):
        view.head(b"key:0003")


def test_the_state_before_the_first_entry_is_empty() -> None:
    """As every other one is read."""
    assert (EMPTY_STATE.get(b""), EMPTY_STATE.after(None, 1, 1), EMPTY_STATE.due(None, 1)) == (None, (), ())
