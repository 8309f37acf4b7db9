"""The walk over a whole KV state: every kind of damage is a wound with its place, and nothing sound is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from durable_raft.kv.records import SHORT_KEY_BYTES_MAX, make_record
from durable_raft.storage.proven import META_KEY
from durable_raft.storage.state.records import due_key, pack_due, pack_record, stored_key
from durable_raft.storage.state.verify import WOUNDS_MAX, verify_state
from durable_raft.storage.wounds import WoundKind
from tests.support.state_building import LONG_KEY, lose_root, make_kv, put_raw, raw_state, sample, target_of

DUE_MS = 1_800_000_000_000
LONG_DUE = next(key for key in (LONG_KEY, LONG_KEY + b"2") if sample()[key].deadline_ms)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data file of a state of 43 records at index 5."""
    return make_kv(tmp_path_factory.mktemp("made"), sample()) / "kv" / "data.mdb"


@pytest.fixture
def directory(made: Path, tmp_path: Path) -> Path:
    """A directory with a copy of it."""
    (tmp_path / "kv").mkdir()
    (tmp_path / "kv" / "data.mdb").write_bytes(made.read_bytes())
    return tmp_path


def found(directory: Path) -> set[tuple[str, bytes | None, WoundKind]]:
    """Return the table, key and kind of every wound; the state is sound without any, and only then."""
    verified = verify_state(directory)
    assert verified.is_sound is not bool(verified.wounds)
    return {(wound.table, wound.key, wound.what) for wound in verified.wounds}


def test_a_sound_state_has_no_wounds_and_tells_how_far_it_is(directory: Path) -> None:
    """Its meta is what was written."""
    told: list[int] = []
    verified = verify_state(directory, told.append)
    assert verified.meta is not None
    assert (verified.is_sound, verified.wounds) == (True, ())
    assert verified.meta.summary == target_of(sample()).summary
    assert told[-1] == len(sample())


def test_a_walk_ends_when_it_is_told_to(directory: Path) -> None:
    """By what ``progress`` raises: a node that stops does not wait for it."""

    def stop(count: int) -> None:
        raise InterruptedError(count)

    with pytest.raises(InterruptedError):
        verify_state(directory, stop)


SUMMARY = ("meta", None, WoundKind.DISAGREES)
PLAIN = b"key:0001"
DUE = b"key:0000"


def _rotten(directory: Path) -> None:
    put_raw(directory, "keys", stored_key(PLAIN), pack_record(PLAIN, make_record(b"other", b"value")))


def _cut(directory: Path) -> None:
    put_raw(directory, "keys", stored_key(PLAIN), b"cut")


def _long_cut(directory: Path) -> None:
    put_raw(directory, "keys", stored_key(LONG_KEY), pack_record(b"short", make_record(b"short", b"value")))


def _no_prefix(directory: Path) -> None:
    put_raw(directory, "keys", b"\1" + PLAIN, pack_record(PLAIN, sample()[PLAIN]))


def _lost(directory: Path) -> None:
    put_raw(directory, "keys", stored_key(PLAIN), None)


def _due_lost(directory: Path) -> None:
    put_raw(directory, "deadlines", due_key(DUE_MS, DUE), None)


def _due_rotten(directory: Path) -> None:
    put_raw(directory, "deadlines", due_key(DUE_MS, DUE), b"rot!")


def _due_of_nobody(directory: Path) -> None:
    put_raw(directory, "deadlines", *pack_due(DUE_MS, b"nobody"))


def _due_twice(directory: Path) -> None:
    put_raw(directory, "deadlines", *pack_due(DUE_MS + 1, DUE))


def _due_of_a_lasting_key(directory: Path) -> None:
    put_raw(directory, "deadlines", *pack_due(DUE_MS, PLAIN))


def _due_and_rotten(directory: Path) -> None:
    put_raw(directory, "deadlines", due_key(DUE_MS, b"nobody"), b"rot!")


def _due_of_another_long_key(directory: Path) -> None:
    name, value = pack_due(sample()[LONG_DUE].deadline_ms, LONG_DUE)
    put_raw(directory, "deadlines", name, value[:-1])


DAMAGE: list[tuple[Callable[[Path], None], set[tuple[str, bytes | None, WoundKind]]]] = [
    (_rotten, {SUMMARY, ("keys", PLAIN, WoundKind.CHECKSUM)}),
    (_cut, {SUMMARY, ("keys", PLAIN, WoundKind.SHAPE)}),
    (_long_cut, {SUMMARY, ("keys", stored_key(LONG_KEY)[1:], WoundKind.CHECKSUM)}),
    (_no_prefix, {SUMMARY, ("keys", PLAIN, WoundKind.SHAPE)}),
    (_lost, {SUMMARY}),
    (_due_lost, {("deadlines", DUE, WoundKind.MISSING)}),
    (_due_rotten, {("deadlines", DUE, WoundKind.CHECKSUM)}),
    (_due_of_nobody, {("deadlines", b"nobody", WoundKind.ORPHAN)}),
    (_due_twice, {("deadlines", DUE, WoundKind.ORPHAN)}),
    (_due_of_a_lasting_key, {("deadlines", PLAIN, WoundKind.ORPHAN)}),
    (_due_and_rotten, {("deadlines", b"nobody", WoundKind.CHECKSUM)}),
    (_due_of_another_long_key, {("deadlines", LONG_DUE, WoundKind.CHECKSUM)}),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGE)
def test_every_kind_of_damage_is_a_wound_with_its_place(
    directory: Path, damage: Callable[[Path], None], expected: set[tuple[str, bytes | None, WoundKind]]
) -> None:
    """What is sound beside it is not blamed; the summary disagrees when a record is missing from it."""
    damage(directory)
    assert found(directory) == expected


def test_a_key_that_broke_the_order_is_found(directory: Path) -> None:
    """LMDB walks on without a word, and would find some keys no more."""
    path = directory / "kv" / "data.mdb"
    data = path.read_bytes()
    assert b"\0key:0007" in data
    path.write_bytes(data.replace(b"\0key:0007", b"\0key:0077"))
    assert ("keys", b"key:0008", WoundKind.ORDER) in found(directory)


@pytest.mark.parametrize("table", ["keys", "deadlines"])
def test_a_table_that_lmdb_cannot_walk_is_a_wound(directory: Path, table: str) -> None:
    """And not an error of LMDB."""
    lose_root(directory, table)
    assert (table, None, WoundKind.TREE) in found(directory) or ("keys", None, WoundKind.TREE) in found(directory)


def test_a_rotten_copy_of_meta_is_told_of_a_sound_state(directory: Path) -> None:
    """Two of them leave nothing to compare the records with."""
    put_raw(directory, "meta", META_KEY, b"rot")
    verified = verify_state(directory)
    assert [wound.table for wound in verified.wounds] == ["meta"]
    assert verified.is_sound
    put_raw(directory, "meta_copy", META_KEY, b"rot")
    verified = verify_state(directory)
    assert (verified.meta, verified.is_sound) == (None, False)
    assert {wound.table for wound in verified.wounds} == {"meta", "meta_copy"}


@pytest.mark.parametrize("table", ["keys", "deadlines"])
def test_the_list_of_wounds_is_bounded(directory: Path, table: str) -> None:
    """A state that is wholly rotten must not fill memory."""
    with raw_state(directory, table) as (transaction, handle):
        for number in range(WOUNDS_MAX + 50):
            transaction.put(b"\0rotten%04d" % number, b"rotten", db=handle)
    verified = verify_state(directory)
    assert WOUNDS_MAX <= len(verified.wounds) <= WOUNDS_MAX + 2


def test_the_order_of_long_keys_is_that_of_their_hashes(directory: Path) -> None:
    """A key at the bound stands as it is."""
    assert found(directory) == set()
    key = b"k" * SHORT_KEY_BYTES_MAX
    assert stored_key(key) == b"\0" + key
    assert len(stored_key(key + b"k")) > len(stored_key(key))
