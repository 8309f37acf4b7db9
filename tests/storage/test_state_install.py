"""A snapshot that is received in pieces, and how it takes the place of the state: nothing unwhole is ever opened."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from durable_raft.errors import CorruptRecord, DirectoryRefused, InvariantViolation, StoragePoisoned
from durable_raft.kv.records import Record, StateSummary, make_record
from durable_raft.raft.types import Index
from durable_raft.storage.state.install import KvInstaller
from durable_raft.storage.state.meta import KvMeta, pack_kv_meta
from durable_raft.storage.state.store import LmdbKvStore
from durable_raft.storage.state.swap import complete_swap, discard_old, set_aside, swap
from tests.support.state_building import (
    State,
    items_of,
    lose_root,
    make_kv,
    put_raw,
    read_kv,
    sample,
    summary_of,
    target_of,
)


def large(count: int = 30) -> State:
    """Return records of 100 kB: a commit becomes due after about ten."""
    return {b"big%03d" % number: make_record(b"big%03d" % number, bytes(100_000)) for number in range(count)}


def received(directory: Path, state: State, index: int = 9) -> Path:
    """Receive all of ``state`` as a snapshot at ``index`` that waits for its turn."""
    installer = KvInstaller.open(directory, target_of(state, index))
    installer.store_records(items_of(state))
    installer.complete()
    return directory


def names(directory: Path) -> set[str]:
    """Return what the directory holds."""
    return {path.name for path in directory.iterdir()} - {"LOCK"}


def test_what_was_sent_becomes_the_state(tmp_path: Path) -> None:
    """Whole, with meta and deadlines; the state before it is gone."""
    make_kv(tmp_path, {b"old": make_record(b"old", b"")}, 5)
    state = sample()
    installer = KvInstaller.open(tmp_path, target_of(state))
    assert (installer.key_count, installer.last_key, installer.target) == (0, None, target_of(state))
    for item in items_of(state):
        installer.store_records([item])
        assert installer.last_key == item[0]
    assert installer.key_count == len(state)
    installer.complete()
    assert names(tmp_path) == {"kv", "kv.new"}
    swap(tmp_path, Index(5))
    assert names(tmp_path) == {"kv", "kv.old"}
    discard_old(tmp_path)
    assert read_kv(tmp_path) == (9, state)


def test_receiving_goes_on_behind_the_last_commit(tmp_path: Path) -> None:
    """A restart loses at most a megabyte; whatever is asked for again from there makes the same state."""
    state = large()
    items = items_of(state)
    pauses: list[None] = []
    installer = KvInstaller.open(tmp_path, target_of(state))
    installer.store_records(items[:25], lambda: pauses.append(None))
    assert pauses
    installer.close()
    installer = KvInstaller.open(tmp_path, target_of(state))
    position = installer.key_count
    assert 25 - 11 <= position <= 25
    assert installer.last_key == items[position - 1][0]
    installer.store_records(items[position:])
    installer.complete()
    swap(tmp_path, None)
    assert read_kv(tmp_path) == (9, state)


def _other_target(directory: Path, target: KvMeta) -> KvMeta:
    del directory
    return replace(target, applied=replace(target.applied, timestamp_ms=1))


def _damaged(directory: Path, target: KvMeta) -> KvMeta:
    lose_root(directory, "keys", "kv.partial")
    return target


def _cut(directory: Path, target: KvMeta) -> KvMeta:
    (directory / "kv.partial" / "data.mdb").write_bytes(b"short")
    return target


def _newer_format(directory: Path, target: KvMeta) -> KvMeta:
    from durable_raft.storage.proven import with_proof

    packed = pack_kv_meta(target)
    put_raw(directory, "meta", b"received", with_proof(b"\xff" + packed[1:-4]), "kv.partial")
    return target


def _rotten_record(directory: Path, target: KvMeta) -> KvMeta:
    put_raw(directory, "keys", b"\0big999", b"rot", "kv.partial")
    return target


@pytest.mark.parametrize("change", [_other_target, _damaged, _cut, _newer_format, _rotten_record])
def test_a_part_that_is_not_of_this_snapshot_is_not_gone_on_with(
    tmp_path: Path, change: Callable[[Path, KvMeta], KvMeta]
) -> None:
    """Another snapshot's, or one that is damaged: it begins from nothing, and becomes the right state."""
    state = large(15)
    installer = KvInstaller.open(tmp_path, target_of(state))
    installer.store_records(items_of(state))
    installer.close()
    installer = KvInstaller.open(tmp_path, change(tmp_path, target_of(state)))
    assert (installer.key_count, installer.last_key) == (0, None)
    installer.store_records(items_of(state))
    installer.complete()
    swap(tmp_path, None)
    assert read_kv(tmp_path) == (9, state)


def test_a_bad_record_is_not_taken_and_may_come_again(tmp_path: Path) -> None:
    """One whose checksum is wrong, and one out of order; those before it are kept."""
    state = sample()
    items = items_of(state)
    installer = KvInstaller.open(tmp_path, target_of(state))
    with pytest.raises(CorruptRecord, match="does not give its crc"):
        installer.store_records([*items[:3], (items[3][0], replace_value(items[3][1]))])
    for wrong in (items[2], items[1]):
        with pytest.raises(CorruptRecord, match="does not follow"):
            installer.store_records([wrong])
    assert installer.key_count == 3
    installer.store_records(items[3:])
    installer.complete()


def replace_value(record: Record) -> Record:
    """Return the record with another value and the old checksum."""
    return record._replace(value=b"rot")


@pytest.mark.parametrize("missing", [0, 20, 42])
def test_a_snapshot_that_is_not_whole_is_never_opened(tmp_path: Path, missing: int) -> None:
    """Whichever record is missing: what came is deleted, and the state is the one before."""
    make_kv(tmp_path, {}, 5)
    state = sample()
    items = items_of(state)
    del items[missing]
    installer = KvInstaller.open(tmp_path, target_of(state))
    installer.store_records(items)
    with pytest.raises(CorruptRecord, match="expected"):
        installer.complete()
    assert read_kv(tmp_path) == (5, {})
    assert names(tmp_path) == {"kv"}


def test_a_snapshot_that_is_not_wanted_any_more_is_deleted(tmp_path: Path) -> None:
    """Its part too; a second time does nothing."""
    KvInstaller.open(tmp_path, target_of(large())).close()
    assert names(tmp_path) == {"kv.partial"}
    KvInstaller.discard(tmp_path)
    KvInstaller.discard(tmp_path)
    assert names(tmp_path) == set()


def test_a_disk_that_takes_no_more_is_final(tmp_path: Path) -> None:
    """The installer takes nothing after a commit that failed; neither does one that cannot begin."""
    state = large()
    installer = KvInstaller.open(tmp_path, target_of(state), map_bytes=600_000)
    with pytest.raises(StoragePoisoned, match="MAP_FULL"):
        installer.store_records(items_of(state))
    with pytest.raises(StoragePoisoned, match="earlier"):
        installer.complete()
    installer.close()
    KvInstaller.discard(tmp_path)
    for pages in range(4, 12):
        with contextlib.suppress(StoragePoisoned):
            KvInstaller.open(tmp_path, target_of(state), map_bytes=pages * 4096).close()
        KvInstaller.discard(tmp_path)


def test_only_a_newer_state_takes_the_place_of_a_state(tmp_path: Path) -> None:
    """An equal one only where any may; none when none waits."""
    make_kv(tmp_path, {}, 9)
    with pytest.raises(DirectoryRefused, match=r"no kv\.new"):
        swap(tmp_path, None)
    received(tmp_path, sample(), 9)
    for over in (9, 10):
        with pytest.raises(InvariantViolation, match="would replace"):
            swap(tmp_path, Index(over))
    assert names(tmp_path) == {"kv", "kv.new"}
    swap(tmp_path, None)
    assert read_kv(tmp_path) == (9, sample())


# What a swap goes through, each a crash: (names it leaves the states at 5 and 9 under) -> the index that is opened.
CRASHES = [
    ({"kv": 5, "kv.new": 9}, 9),
    ({"kv.old": 5, "kv.new": 9}, 9),
    ({"kv.old": 5, "kv": 9}, 9),
    ({"kv": 5, "kv.new": 9, "kv.old": 4}, 9),
    ({"kv.new": 9}, 9),
    ({"kv": 9}, 9),
    # The log went on without the snapshot.
    ({"kv": 9, "kv.new": 9}, 9),
    ({"kv": 10, "kv.new": 9}, 10),
]


@pytest.mark.parametrize(("lying", "expected"), CRASHES)
def test_an_interrupted_swap_is_ended_before_anything_is_opened(
    tmp_path: Path, lying: dict[str, int], expected: int
) -> None:
    """The state that is opened is the newest whole one, and nothing else is left."""
    for name, index in lying.items():
        make_kv(tmp_path / name, sample(index), index)
        (tmp_path / name / "kv").rename(tmp_path / f"{name}.made")
        shutil.rmtree(tmp_path / name)
        (tmp_path / f"{name}.made").rename(tmp_path / name)
    assert LmdbKvStore.exists(tmp_path)
    assert read_kv(tmp_path) == (expected, sample(expected))
    assert names(tmp_path) == {"kv"}


def test_a_state_that_is_there_no_more_is_not_deleted_without_another(tmp_path: Path) -> None:
    """``kv.old`` alone is kept: somebody may still want it."""
    make_kv(tmp_path, sample(), 5)
    (tmp_path / "kv").rename(tmp_path / "kv.old")
    complete_swap(tmp_path)
    assert names(tmp_path) == {"kv.old"}


def test_a_damaged_state_is_set_aside_once_under_a_name(tmp_path: Path) -> None:
    """Nothing is overwritten and nothing deleted."""
    make_kv(tmp_path, sample(), 5)
    set_aside(tmp_path, "kv.wounded")
    for name in ("kv.wounded", "kv.other"):
        with pytest.raises(DirectoryRefused, match="cannot be set aside"):
            set_aside(tmp_path, name)
    (tmp_path / "kv.wounded").rename(tmp_path / "kv")
    assert read_kv(tmp_path) == (5, sample())


def test_an_empty_snapshot_is_a_whole_one(tmp_path: Path) -> None:
    """Every key may have been deleted."""
    received(tmp_path, {})
    swap(tmp_path, None)
    assert read_kv(tmp_path) == (9, {})
    assert summary_of({}) == StateSummary()
