"""Golden bytes of each record, format version 1 (only ever added to), and what flipped bits and newer versions get."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_raft.checksum import crc32c
from durable_raft.raft.configuration import encode
from durable_raft.raft.types import (
    ORIGIN,
    Base,
    Configuration,
    EntryKind,
    HardState,
    Index,
    KnownDisk,
    Life,
    LogPoint,
    Member,
    Membership,
    NodeId,
    Standing,
    Term,
    make_entry,
)
from durable_raft.storage.log.meta import JournalMark, Meta, choose_meta, pack_meta, unpack_meta
from durable_raft.storage.log.records import (
    PIECE_BYTES_MAX,
    entry_of,
    pack_entries,
    piece_count,
    unpack_ident,
    unpack_log,
)
from durable_raft.storage.proven import META, META_COPY, with_proof
from durable_raft.storage.state.meta import first_meta, pack_kv_meta, unpack_kv_meta
from durable_raft.storage.wounds import NewerFormat, WoundedLog, WoundKind
from tests.support.log_building import IDENTITY, MEMBERSHIP, vote

ENTRY = make_entry(
    previous=LogPoint(Index(6), Term(2), 0x01020304),
    term=Term(3),
    kind=EntryKind.COMMANDS,
    timestamp_ms=1_700_000_000_123,
    payload=b"payload",
)
META_VALUE = Meta(
    sequence=5,
    hard_state=vote(3, "n2"),
    identity=IDENTITY,
    membership=Membership(MEMBERSHIP.voters[:1]),
    base=Base(LogPoint(Index(6), Term(2), 0x01020304), 1_700_000_000_000),
)
STANDING = Standing(
    False,
    (
        KnownDisk(NodeId("n2"), b"a disk of node 2", (b"the disk before!",)),
        KnownDisk(NodeId("n3"), b"a disk of node 3", ()),
    ),
)

MEMORY = Standing(
    is_voter=False,
    peers=(
        KnownDisk(
            NodeId("n2"), b"a disk of node 2", (b"the disk before!",), Life(4, b"nonce 4."), Term(3), Index(8), Term(5)
        ),
        KnownDisk(NodeId("n3"), b"a disk of node 3", ()),
    ),
    committed=LogPoint(Index(9), Term(3), 0x01020304),
    is_copy=True,
    lives=(Life(1, b"nonce 1!"), Life(2, b"nonce 2!")),
    cut_in=Term(4),
    place=b"an inode",
)

GOLDEN_IDENT_KEY = "0000000000000007"
GOLDEN_IDENT = "0101010000000000000000030000018bcfe5687b00000007e9558ab2978382015f470676"
GOLDEN_LOG_KEY = "000000000000000700000000"
GOLDEN_LOG = "0101010000000000000000030000018bcfe5687b00000007e9558ab27b63124e7061796c6f6164"
GOLDEN_META = (
    "0101000000000000000000050000000000000003000000000000000600000000000000020000018bcfe5680001020304636c75737465722d"
    "69642d31362d62796e6f64652d757569642d31362d6279740100026e3200026e31000100026e31000e3132372e302e302e313a3730303100"
    "0f3132372e302e302e313a3137303031e6a1a2fe"
)

GOLDEN_META_2 = (
    "0201000000000000000000050000000000000003000000000000000600000000000000020000018bcfe5680001020304636c75737465722d"
    "69642d31362d62796e6f64652d757569642d31362d6279740100026e3200026e31000100026e31000e3132372e302e302e313a3730303100"
    "0f3132372e302e302e313a313730303100000200026e3261206469736b206f66206e6f646520320001746865206469736b206265666f7265"
    "2100026e3361206469736b206f66206e6f646520330000b1debceb"
)
GOLDEN_META_3 = (
    "0301000000000000000000050000000000000003000000000000000600000000000000020000018bcfe5680001020304636c75737465722d"
    "69642d31362d62796e6f64652d757569642d31362d6279740100026e3200026e31000100026e31000e3132372e302e302e313a3730303100"
    "0f3132372e302e302e313a313730303100000200026e3261206469736b206f66206e6f646520320001746865206469736b206265666f7265"
    "2100026e3361206469736b206f66206e6f646520330000010000000000000009000000000000000301020304000000000000000400103631"
    "3665323036393665366636343635000200000000000000016e6f6e636520312100000000000000026e6f6e63652032210000000000000004"
    "6e6f6e636520342e000000000000000300000000000000080000000000000005000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000021c6b692"
)
GOLDEN_META_4 = (
    "04" + GOLDEN_META_3[2:-8] + "6a6f75726e616c2d757569642d31366200000000000000050000000000000009aabbccdd78ec0da1"
)


def test_ident_record_golden_bytes() -> None:
    """The ident record of version 1 is packed and unpacked as it always was."""
    ident_items, _ = pack_entries([ENTRY])
    assert [(key.hex(), bytes(value).hex()) for key, value in ident_items] == [(GOLDEN_IDENT_KEY, GOLDEN_IDENT)]
    ident = unpack_ident(bytes.fromhex(GOLDEN_IDENT_KEY), bytes.fromhex(GOLDEN_IDENT))
    assert entry_of(7, ident, b"payload") == ENTRY


def test_log_record_golden_bytes() -> None:
    """The log record of version 1 is packed and unpacked as it always was."""
    _, log_items = pack_entries([ENTRY])
    assert [(key.hex(), bytes(value).hex()) for key, value in log_items] == [(GOLDEN_LOG_KEY, GOLDEN_LOG)]
    log = unpack_log(7, bytes.fromhex(GOLDEN_LOG))
    assert log == (EntryKind.COMMANDS, 3, 1_700_000_000_123, ENTRY.crc, b"payload")


def test_meta_record_golden_bytes() -> None:
    """Versions 1 and 2 are unpacked; 3 is packed and unpacked without a journal, 4 with one; as they always were."""
    assert unpack_meta(META, bytes.fromhex(GOLDEN_META)) == META_VALUE
    assert unpack_meta(META, bytes.fromhex(GOLDEN_META_2)) == replace(META_VALUE, standing=STANDING)
    value = replace(META_VALUE, standing=MEMORY)
    assert pack_meta(value).hex() == GOLDEN_META_3
    assert unpack_meta(META, bytes.fromhex(GOLDEN_META_3)) == value
    journaled = replace(value, journal=JournalMark(b"journal-uuid-16b", 5, 9, 0xAABBCCDD))
    assert pack_meta(journaled).hex() == GOLDEN_META_4
    assert unpack_meta(META, bytes.fromhex(GOLDEN_META_4)) == journaled


def test_meta_with_configurations() -> None:
    """Version 5, with a journal and without; what it adds stands behind version 4."""
    members = (Member(NodeId("a"), "c", "p"),)
    configuration = Configuration(Index(6), members, (NodeId("a"),), former=(NodeId("z"),))
    value = replace(META_VALUE, standing=MEMORY, configurations=(configuration,))
    assert value.configuration == configuration
    assert META_VALUE.configuration == Configuration.initial(META_VALUE.membership)
    added = "0000000100000000000000060000001401000101000161000163000170000100017a0000"
    assert pack_meta(value).hex()[2:-8] == GOLDEN_META_3[2:-8] + "00" * 36 + added
    journaled = replace(value, journal=JournalMark(b"journal-uuid-16b", 5, 9, 0xAABBCCDD))
    assert pack_meta(journaled).hex()[2:-8] == GOLDEN_META_4[2:-8] + added
    for each in (value, journaled):
        assert pack_meta(each)[0] == 5
        assert unpack_meta(META, pack_meta(each)) == each
    rotten = pack_meta(value)[:-4].replace(b"\x00\x01z", b"\x00\x01a")
    with pytest.raises(WoundedLog, match="no lawful configuration"):
        unpack_meta(META, with_proof(rotten))


def test_no_number_of_configurations_is_too_large_for_meta() -> None:
    """A peer that leads may send any number of them, and no message ends a node."""
    one = Configuration(Index(1), (Member(NodeId("a"), "c", "p"),), (NodeId("a"),))
    value = replace(META_VALUE, standing=MEMORY, configurations=(one,))
    many = replace(value, configurations=(one,) * (1 << 16))
    index_and_length = 12
    each = index_and_length + len(encode(one))
    assert len(pack_meta(many)) == len(pack_meta(value)) + each * (len(many.configurations) - 1)


def test_meta_without_a_vote_is_not_a_vote_for_nobody() -> None:
    """None and a node id survive as what they are."""
    meta = replace(META_VALUE, hard_state=HardState(Term(9), None))
    assert unpack_meta(META, pack_meta(meta)).hard_state.voted_for is None


@given(size=st.integers(0, 20_000))
def test_pieces_join_to_the_record(size: int) -> None:
    """Pieces are numbered from 0, none is larger than a half page takes, and their number follows from the length."""
    entry = make_entry(
        previous=ORIGIN,
        term=Term(1),
        kind=EntryKind.COMMANDS,
        timestamp_ms=1,
        payload=bytes(i % 251 for i in range(size)),
    )
    _, items = pack_entries([entry])
    assert [key for key, _ in items] == [struct.pack(">QI", 1, n) for n in range(piece_count(size))]
    assert all(0 < len(value) <= PIECE_BYTES_MAX for _, value in items)
    assert unpack_log(1, b"".join(bytes(value) for _, value in items)).payload == entry.payload


def _unpack_meta(data: bytes) -> object:
    return unpack_meta(META, data)


def _unpack_ident(data: bytes) -> object:
    return unpack_ident(data[:8], data[8:])


def _unpack_log(data: bytes) -> object:
    return unpack_log(int.from_bytes(data[:8], "big"), data[8:])


RECORDS = {
    "meta": (_unpack_meta, bytes.fromhex(GOLDEN_META)),
    "meta of version 2": (_unpack_meta, bytes.fromhex(GOLDEN_META_2)),
    "meta of version 4": (_unpack_meta, bytes.fromhex(GOLDEN_META_4)),
    "ident with key": (_unpack_ident, bytes.fromhex(GOLDEN_IDENT_KEY + GOLDEN_IDENT)),
    "log with index": (_unpack_log, bytes.fromhex(GOLDEN_IDENT_KEY + GOLDEN_LOG)),
}


@pytest.mark.parametrize("name", RECORDS)
def test_every_flipped_bit_is_damage(name: str) -> None:
    """Each single bit of each record, its version and algorithm included, is found, and never taken for newer."""
    unpack, data = RECORDS[name]
    unpack(data)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WoundedLog):
            unpack(bytes(flipped))


@pytest.mark.parametrize("name", RECORDS)
def test_every_cut_and_extension_is_damage(name: str) -> None:
    """A record of another length is found."""
    unpack, data = RECORDS[name]
    start = 0 if name == "meta" else 8
    for length in range(start, len(data)):
        with pytest.raises(WoundedLog):
            unpack(data[:length])
    with pytest.raises(WoundedLog):
        unpack(data + b"\x00")


def _with_proof(data: bytes, at: int, value: int, proof_at: int, covered: Callable[[bytes], bytes]) -> bytes:
    changed = bytearray(data)
    changed[at] = value
    changed[proof_at : proof_at + 4] = crc32c(covered(bytes(changed))).to_bytes(4, "big")
    return bytes(changed)


@pytest.mark.parametrize("at", [0, 1, 2, 3], ids=["version", "algorithm", "kind", "padding"])
def test_a_newer_entry_record_is_not_damage(at: int) -> None:
    """An unknown version, algorithm or kind under a right proof is a newer format."""
    ident = _with_proof(RECORDS["ident with key"][1], 8 + at, 9, 40, lambda data: data[:-4])
    with pytest.raises(NewerFormat, match=r"expected .* found .*9"):
        _unpack_ident(ident)
    log = _with_proof(RECORDS["log with index"][1], 8 + at, 9, 36, lambda data: data[:36])
    with pytest.raises(NewerFormat, match=r"expected .* found .*9"):
        _unpack_log(log)


@pytest.mark.parametrize("at", [0, 1], ids=["version", "algorithm"])
def test_a_newer_meta_record_is_not_damage(at: int) -> None:
    """One newer copy is enough to refuse: a newer build was here."""
    good = bytes.fromhex(GOLDEN_META)
    newer = _with_proof(good, at, 9, len(good) - 4, lambda data: data[:-4])
    with pytest.raises(NewerFormat):
        unpack_meta(META, newer)
    with pytest.raises(NewerFormat):
        choose_meta(good, newer)


def test_one_rotten_copy_of_meta_is_tolerated_and_reported() -> None:
    """The other copy speaks, and the wound names the table."""
    good = pack_meta(META_VALUE)
    rotten = good[:20] + bytes([good[20] ^ 4]) + good[21:]
    for first, copy, table in (
        (rotten, good, META),
        (good, rotten, META_COPY),
        (None, good, META),
        (good, None, META_COPY),
    ):
        meta, wounds = choose_meta(first, copy)
        assert meta == META_VALUE
        assert [wound.table for wound in wounds] == [table]


def test_two_rotten_copies_of_meta_are_fatal() -> None:
    """Nothing is guessed; both wounds are told."""
    rotten = pack_meta(META_VALUE)[:-1] + b"?"
    with pytest.raises(WoundedLog) as caught:
        choose_meta(rotten, None)
    assert [wound.what for wound in caught.value.wounds] == [WoundKind.CHECKSUM, WoundKind.MISSING]


def test_the_newest_copy_of_meta_wins() -> None:
    """A copy left behind is a wound of its own."""
    newer = replace(META_VALUE, sequence=6, hard_state=vote(4))
    meta, wounds = choose_meta(pack_meta(META_VALUE), pack_meta(newer))
    assert meta == newer
    assert [(wound.table, wound.what) for wound in wounds] == [(META, WoundKind.DISAGREES)]


def test_two_valid_copies_of_one_sequence_must_agree() -> None:
    """Which of two contradicting votes was promised cannot be known."""
    with pytest.raises(WoundedLog):
        choose_meta(pack_meta(META_VALUE), pack_meta(replace(META_VALUE, hard_state=vote(3, "n3"))))


@given(
    sequence=st.integers(1, 2**64 - 1),
    term=st.integers(0, 2**64 - 1),
    candidate=st.none() | st.text(min_size=1, max_size=40),
    names=st.lists(st.text(max_size=30), max_size=9),
)
def test_meta_round_trip(sequence: int, term: int, candidate: str | None, names: list[str]) -> None:
    """Any term, vote and membership comes back."""
    voters = tuple(Member(IDENTITY.node_id, name, name[::-1]) for name in names)
    meta = replace(META_VALUE, sequence=sequence, hard_state=vote(term, candidate), membership=Membership(voters))
    assert unpack_meta(META, pack_meta(meta)) == meta


def _changed(at: int, value: int) -> Callable[[bytes], bytes]:
    return lambda body: body[:at] + bytes([value]) + body[at + 1 :]


@pytest.mark.parametrize(
    "change",
    [
        _changed(3, 1),
        lambda body: body[:-1],
        lambda body: body + b"x",
        lambda body: body[:60],
        lambda body: body.replace(b"n1", b"\xff1"),
        lambda body: body.replace(b"\x00\x02n1", b"\xf0\x02n1"),
    ],
    ids=["padding", "cut", "longer", "no text", "no UTF-8", "long text"],
)
@pytest.mark.parametrize("kind", ["log", "state"])
def test_a_layout_that_no_version_writes_is_damage(kind: str, change: Callable[[bytes], bytes]) -> None:
    """Though its proof is right: whoever wrote it was not this program."""
    if kind == "log":
        with pytest.raises(WoundedLog, match="layout"):
            unpack_meta(META, with_proof(change(pack_meta(META_VALUE)[:-4])))
    else:
        kv_meta = first_meta(IDENTITY, META_VALUE.membership)
        with pytest.raises(WoundedLog, match="layout"):
            unpack_kv_meta(META, with_proof(change(pack_kv_meta(kv_meta)[:-4])))


def test_a_standing_that_is_neither_voter_nor_not_is_damage() -> None:
    """Nor is one whose peer's disk is cut off."""
    body = pack_meta(replace(META_VALUE, standing=STANDING))[:-4]
    at = body.rindex(b"\x00\x00\x02\x00\x02n2")
    for wrong in (_changed(at, 2)(body), body[:-10]):
        with pytest.raises(WoundedLog, match="layout"):
            unpack_meta(META, with_proof(wrong))
