"""The configuration that counts at a state: in its meta record, at each checkpoint, and in a snapshot that comes in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from durable_raft.errors import CorruptRecord, InvariantViolation
from durable_raft.kv.records import StateSummary
from durable_raft.raft.configuration import MEMBERS_MAX, encode
from durable_raft.raft.types import Base, Configuration, Index, LogPoint, Term
from durable_raft.storage.proven import META, choose_copy, with_proof
from durable_raft.storage.state.backup import BackupReader, BackupWriter
from durable_raft.storage.state.install import KvInstaller
from durable_raft.storage.state.meta import KvMeta, pack_kv_meta, unpack_kv_meta
from durable_raft.storage.state.store import LmdbKvStore
from durable_raft.storage.state.swap import swap
from durable_raft.storage.state.verify import read_checkpoint
from durable_raft.storage.wounds import NewerFormat, WoundedLog, WoundKind
from tests.support.log_building import IDENTITY, MEMBERSHIP, configured
from tests.support.raft_nodes import configuration_of
from tests.support.state_building import base_at, items_of, make_kv, sample, target_of

GOLDEN_1 = (
    "010100000000000000000007000000000000012c00000000000000060000018bcfe56800010203040000000000000005"
    "00000000000000010000000200000000636c75737465722d69642d31362d62796e6f64652d757569642d31362d627974"
    "00026e31000300026e31000e3132372e302e302e313a37303031000f3132372e302e302e313a313730303100026e3200"
    "0e3132372e302e302e313a37303032000f3132372e302e302e313a313730303200026e33000e3132372e302e302e313a"
    "37303033000f3132372e302e302e313a3137303033fac22d23"
)
"""Version 1, as every build before configurations wrote it."""

POINT = LogPoint(Index(300), Term(6), 0x01020304)
VALUE = KvMeta(7, IDENTITY, MEMBERSHIP, Base(POINT, 1_700_000_000_000), StateSummary(5, 1, 2**33))
CHANGED = replace(VALUE, stored_configuration=configured(256, "a"))

ADDED = "000000000000010000000015010001010001610003613a310003613a3200000000"
"""What version 2 has behind version 1: the index, the length, and the payload of the entry."""


# -- the record -------------------------------------------------------------------------------------------------------


def test_while_no_member_changed_the_record_is_the_old_one() -> None:
    """So an older build reads it, and its bytes are read for ever."""
    assert pack_kv_meta(VALUE).hex() == GOLDEN_1
    assert unpack_kv_meta(META, bytes.fromhex(GOLDEN_1)) == VALUE
    assert VALUE.configuration == Configuration.initial(MEMBERSHIP)


def test_golden_bytes_of_a_record_with_a_configuration() -> None:
    """Version 2: what it adds stands behind version 1."""
    packed = pack_kv_meta(CHANGED)
    assert packed[:-4].hex() == "02" + GOLDEN_1[2:-8] + ADDED
    assert unpack_kv_meta(META, packed) == CHANGED
    assert CHANGED.configuration == configured(256, "a")


def test_golden_bytes_of_a_record_with_a_raised_version() -> None:
    """Version 3: what it adds stands behind version 2, or behind an empty configuration."""
    raised, both = replace(VALUE, version=2), replace(CHANGED, version=2**16 - 1)
    assert pack_kv_meta(raised)[:-4].hex() == "03" + GOLDEN_1[2:-8] + "00" * 12 + "0002"
    assert pack_kv_meta(both)[:-4].hex() == "03" + GOLDEN_1[2:-8] + ADDED + "ffff"
    assert [unpack_kv_meta(META, pack_kv_meta(each)) for each in (raised, both)] == [raised, both]
    assert raised.configuration == Configuration.initial(MEMBERSHIP)


def test_a_joint_configuration_of_many_members_comes_back() -> None:
    """With learners, those who leave, and those who are gone."""
    names = [f"n{number:03}" for number in range(MEMBERS_MAX)]
    ids = configuration_of(names).ids()
    joint = replace(
        configured(300, *names),
        voters=ids[:40],
        outgoing=ids[20:60],
        learners=ids[60:],
        leaving=ids[-2:],
        former=configuration_of(["z1", "z2"]).ids(),
        former_filter=bytes(range(256)) * 8,
    )
    value = replace(VALUE, stored_configuration=joint)
    assert unpack_kv_meta(META, pack_kv_meta(value)) == value


def test_every_flipped_bit_of_the_record_is_seen() -> None:
    """And every cut."""
    packed = pack_kv_meta(CHANGED)
    for bit in range(len(packed) * 8):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WoundedLog):
            unpack_kv_meta(META, bytes(flipped))
    for length in range(len(packed)):
        with pytest.raises(WoundedLog):
            unpack_kv_meta(META, packed[:length])


def _with_index(index: int) -> bytes:
    payload = encode(configured(256, "a"))
    return bytes.fromhex("02" + GOLDEN_1[2:-8]) + index.to_bytes(8, "big") + len(payload).to_bytes(4, "big") + payload


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (_with_index(0), "a configuration at 0 in the state at 300"),
        (_with_index(301), "a configuration at 301 in the state at 300"),
        (_with_index(256)[:-1], "bytes"),
        (_with_index(256) + b"x", "1 bytes left"),
        (_with_index(256).replace(b"\x00\x01a", b"\x00\x01\xff"), "no configuration"),
        (bytes.fromhex("02" + GOLDEN_1[2:-8]), "buffer"),
        (bytes.fromhex(GOLDEN_1[:-8] + ADDED), "bytes left"),
        (bytes.fromhex("03" + GOLDEN_1[2:-8] + ADDED), "buffer"),
        (bytes.fromhex("03" + GOLDEN_1[2:-8] + "00" * 11 + "010002"), "a configuration at 0 in the state at 300"),
    ],
    ids=["of none", "behind the state", "cut", "longer", "no text", "without", "in version 1", "no version", "of one"],
)
def test_a_record_that_nobody_writes_is_damage(body: bytes, why: str) -> None:
    """Though its proof is right."""
    with pytest.raises(WoundedLog, match=why) as caught:
        unpack_kv_meta(META, with_proof(body))
    assert [wound.what for wound in caught.value.wounds] == [WoundKind.SHAPE]


def test_one_rotten_copy_is_made_good_by_the_other() -> None:
    """And the older of two copies does not count: its configuration may be another."""
    packed = pack_kv_meta(CHANGED)
    rotten = packed[:-10] + bytes([packed[-10] ^ 1]) + packed[-9:]
    assert choose_copy(rotten, packed, unpack_kv_meta)[0] == CHANGED
    newer = pack_kv_meta(replace(CHANGED, sequence=8))
    assert choose_copy(pack_kv_meta(VALUE), newer, unpack_kv_meta)[0].stored_configuration is not None


# -- checkpoints ------------------------------------------------------------------------------------------------------


def _checkpoint(store: LmdbKvStore, index: int, configuration: Configuration | None) -> None:
    store.write_checkpoint(
        [], is_cleared=False, applied=base_at(index), membership=MEMBERSHIP, configuration=configuration
    )


def test_a_checkpoint_keeps_its_configuration(tmp_path: Path) -> None:
    """For views that began with it, for the next life, and for those who read the directory without its lock."""
    store = LmdbKvStore.open(make_kv(tmp_path, sample()))
    _checkpoint(store, 6, configured(6, "n1", "n2"))
    view = store.view()
    _checkpoint(store, 9, configured(8, "n1"))
    assert view.meta.stored_configuration == configured(6, "n1", "n2")
    view.close()
    assert store.checkpoint.configuration == configured(8, "n1")
    store.close()
    assert read_checkpoint(tmp_path).configuration == configured(8, "n1")
    store = LmdbKvStore.open(tmp_path)
    assert store.checkpoint.configuration == configured(8, "n1")
    store.close()


def test_a_configuration_never_goes_back_nor_ahead_of_its_state(tmp_path: Path) -> None:
    """What a checkpoint covers is committed, so each names the configuration of the one before or a later one."""
    store = LmdbKvStore.open(make_kv(tmp_path, sample()))
    _checkpoint(store, 9, configured(8, "n1"))
    for index, configuration in ((10, None), (10, configured(7, "n1")), (10, configured(11, "n1"))):
        with pytest.raises(InvariantViolation, match="with the configuration at"):
            _checkpoint(store, index, configuration)
    _checkpoint(store, 10, configured(8, "n1"))
    store.close()


# -- snapshots and backups --------------------------------------------------------------------------------------------


def test_a_snapshot_that_comes_in_keeps_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a restart while it comes; a part of one with another configuration is not gone on with."""
    monkeypatch.setattr(KvInstaller, "COMMIT_BYTES", 1)
    state = sample()
    target = replace(target_of(state), stored_configuration=configured(9, "n1", "n2"))
    for begun, left in ((target, None), (target, 5), (target_of(state), None), (target, None)):
        installer = KvInstaller.open(tmp_path, begun)
        assert installer.last_key == (None if left is None else items_of(state)[left - 1][0])
        installer.store_records(items_of(state)[left or 0 : 5])
        installer.close()
    installer = KvInstaller.open(tmp_path, target)
    installer.store_records(items_of(state)[5:])
    installer.complete()
    swap(tmp_path, None)
    assert read_checkpoint(tmp_path) == target


def test_a_backup_names_its_configuration(tmp_path: Path) -> None:
    """In its head, whose every byte is covered; one of an unchanged cluster is as ever."""
    state = sample()
    target = replace(target_of(state), stored_configuration=configured(9, "n1", "n2"))
    for name, meta in (("changed", target), ("fixed", target_of(state))):
        with BackupWriter(tmp_path / name, meta) as writer:
            writer.write_items(items_of(state))
            writer.complete()
        with BackupReader(tmp_path / name) as reader:
            assert reader.meta == meta
    changed, fixed = ((tmp_path / name).read_bytes() for name in ("changed", "fixed"))
    assert (changed[16], fixed[16]) == (2, 1)
    at = changed.index(encode(configured(9, "n1", "n2")))
    (tmp_path / "rotten").write_bytes(changed[: at + 8] + bytes([changed[at + 8] ^ 1]) + changed[at + 9 :])
    with pytest.raises(CorruptRecord, match="head"):
        BackupReader(tmp_path / "rotten")


def test_a_newer_record_is_not_damage() -> None:
    """Nor is version 3 to an older build, which refuses it in the same way."""
    with pytest.raises(NewerFormat):
        unpack_kv_meta(META, with_proof(b"\x04" + pack_kv_meta(CHANGED)[1:-4]))
