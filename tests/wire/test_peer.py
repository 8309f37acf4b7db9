"""Frames between nodes: golden bytes, round trips, and the gateway's refusals with what was found and expected."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_raft.checksum import crc32c
from durable_raft.errors import DamagedFrame, ForeignCluster, InvariantViolation, PeerError, UnknownFrameVersion
from durable_raft.raft.messages import TimeoutNow
from durable_raft.raft.types import EntryKind, Index, LogPoint, Term, chain_crc, entry_crc
from durable_raft.wire.fields import TIME_MAX
from durable_raft.wire.messages import AskTime
from durable_raft.wire.peer import (
    FRAME_VERSION,
    FrameEncoder,
    FrameKind,
    FrameParser,
    PeerMessage,
    SnapshotChunk,
    encode_frame,
)
from tests.support.growth import require_linear
from tests.support.letting_go import require_let_go
from tests.wire.golden_frames import GOLDEN
from tests.wire.peer_messages import (
    BODY_BYTES_MAX,
    CLUSTER,
    EXAMPLES,
    MESSAGES,
    OTHER_CLUSTER,
    PREVIOUS,
    append_body,
    append_entries,
    make_entries,
)
from tests.wire.resp_inputs import CUTS, cut


def frame(kind: int, body: bytes, *, flags: int = 0, algorithm: int = 1) -> bytes:
    """Return a frame with good checksums around any body, built from the drawing in the docstring of peer.py."""
    header = (
        b"DRpf" + bytes([FRAME_VERSION, algorithm, kind, flags]) + CLUSTER + struct.pack(">II", len(body), crc32c(body))
    )
    return header + struct.pack(">I", crc32c(header)) + body


def packed(kind: int, fields: object) -> bytes:
    """Return a frame with good checksums whose body is ``fields``."""
    return frame(kind, msgpack.packb(fields))


def decode(*chunks: bytes) -> list[PeerMessage]:
    """Return what a fresh parser makes of ``chunks``."""
    parser = FrameParser(CLUSTER, BODY_BYTES_MAX)
    return [message for chunk in chunks for message in parser.feed(chunk)]


# -- good frames ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_golden_bytes(name: str) -> None:
    """The bytes of each kind of frame never change, and old bytes are still read."""
    assert encode_frame(CLUSTER, EXAMPLES[name]).hex() == GOLDEN[name]
    assert decode(bytes.fromhex(GOLDEN[name])) == [EXAMPLES[name]]


def test_every_kind_has_golden_bytes() -> None:
    """No kind of frame is forgotten; those of large messages are in test_pieces.py."""
    in_pieces = {FrameKind.BULK, FrameKind.PIECE}
    assert {bytes.fromhex(golden)[6] for golden in GOLDEN.values()} == set(FrameKind) - in_pieces


def test_numbers_of_kinds_never_change() -> None:
    """The numbers are what is sent."""
    names = "HELLO HELLO_REPLY REQUEST_VOTE REQUEST_VOTE_RESPONSE APPEND_ENTRIES APPEND_ENTRIES_RESPONSE"
    names += " INSTALL_SNAPSHOT FETCH_SNAPSHOT SNAPSHOT_CHUNK STATE_HASH"
    names += " INTRODUCE INTRODUCE_RESPONSE FETCH_ENTRIES FETCH_ENTRIES_RESPONSE BULK PIECE RESUME RESUME_RESPONSE"
    names += " ASK_TIME TELL_TIME"
    names += " CONFIRM CONFIRMED TIMEOUT_NOW TELL_MEMBERS CHALLENGE PROOF"
    assert [kind.name for kind in sorted(FrameKind)] == names.split()
    assert sorted(FrameKind) == list(range(1, 27))


@pytest.mark.parametrize("field", ["keys", "values", "deadlines_ms", "checksums"])
def test_piece_of_a_snapshot_is_complete(field: str) -> None:
    """A piece of a snapshot in which a key, value, deadline or checksum is missing is damaged."""
    chunk = EXAMPLES["snapshot_chunk"]
    assert isinstance(chunk, SnapshotChunk)
    fewer = SnapshotChunk(**(chunk._asdict() | {field: getattr(chunk, field)[:1]}))
    with pytest.raises(DamagedFrame, match="SnapshotChunk: "):
        decode(encode_frame(CLUSTER, fewer))


@given(messages=st.lists(MESSAGES, max_size=6), cuts=CUTS)
@settings(max_examples=300)
def test_round_trip_at_every_cut(messages: list[PeerMessage], cuts: list[int]) -> None:
    """Messages come back as they were sent, with their types, however the bytes are cut."""
    data = b"".join(encode_frame(CLUSTER, message) for message in messages)
    found = decode(*cut(data, cuts))
    assert found == messages
    assert list(map(type, found)) == list(map(type, messages))


def test_byte_by_byte() -> None:
    """Each message is returned with its last byte, no earlier and no later."""
    parser = FrameParser(CLUSTER, BODY_BYTES_MAX)
    for message in EXAMPLES.values():
        data = encode_frame(CLUSTER, message)
        for byte in data[:-1]:
            assert parser.feed(bytes([byte])) == []
        assert parser.feed(data[-1:]) == [message]


def test_entries_come_back_whole() -> None:
    """Decoded entries have their index, the enum of their kind, and both checksums."""
    (message,) = decode(encode_frame(CLUSTER, EXAMPLES["append_entries"]))
    assert message == EXAMPLES["append_entries"]
    entry = message.entries[1]  # type: ignore[union-attr]
    assert (entry.index, entry.kind) == (8, EntryKind.COMMANDS)
    assert type(entry.kind) is EntryKind


# -- frames that are not believed -------------------------------------------------------------------------------------


def test_remembered_frame_is_the_messages_own() -> None:
    """Whatever was encoded before it, also when two messages of different kinds have equal fields."""
    encoder = FrameEncoder(CLUSTER)
    handed_over, asked = TimeoutNow(Term(7)), AskTime(7)
    assert tuple(handed_over) == tuple(asked)
    for message in (*EXAMPLES.values(), handed_over, asked, handed_over):
        assert encoder.encode(message) == encode_frame(CLUSTER, message)
        assert encoder.encode(message) == encode_frame(CLUSTER, message)


def test_foreign_cluster() -> None:
    """A frame of another cluster is refused, with both ids, before its body is there."""
    data = encode_frame(OTHER_CLUSTER, EXAMPLES["hello"])
    with pytest.raises(ForeignCluster, match=f"{OTHER_CLUSTER.hex()}.*{CLUSTER.hex()}"):
        decode(data[:36])


def test_unknown_version_is_not_damage() -> None:
    """Another frame version is named as such as soon as it is seen: its layout is not ours to judge."""
    with pytest.raises(UnknownFrameVersion, match="frame version 1, known 5"):
        decode(b"DRpf\x01")


def test_unknown_checksum_algorithm_is_not_damage() -> None:
    """A checksum that this build cannot compute is a newer format."""
    with pytest.raises(UnknownFrameVersion, match="checksum algorithm 2, known 1"):
        decode(frame(1, b"", algorithm=2))


@pytest.mark.parametrize("data", [b"P", b"PING\r\n", b"DRpg", b"\x16\x03\x01\x02", b"DR" + b"\x00"])
def test_what_is_no_frame_is_refused_at_once(data: bytes) -> None:
    """Whoever else dials the peer port is not left waiting for the rest of a header."""
    with pytest.raises(DamagedFrame, match="begins with b'DRpf'"):
        decode(data)
    with pytest.raises(DamagedFrame, match="begins with b'DRpf'"):
        decode(*[bytes([byte]) for byte in data])


def test_body_over_the_limit_is_refused_with_its_header() -> None:
    """A length is checked before the body is waited for."""
    data = frame(1, b"x" * (BODY_BYTES_MAX + 1))
    with pytest.raises(DamagedFrame, match="body of 1048577 bytes, at most 1048576"):
        decode(data[:36])
    assert decode(frame(1, b"x" * BODY_BYTES_MAX)[:36]) == []


def test_damaged_length_is_noticed_with_the_header() -> None:
    """A flipped bit in a length does not make the link wait for bytes that nobody sends."""
    data = bytearray(encode_frame(CLUSTER, EXAMPLES["heartbeat"]))
    data[25] ^= 1
    with pytest.raises(DamagedFrame, match="frame header: crc"):
        decode(bytes(data[:36]))


def test_damaged_body_names_both_checksums() -> None:
    """The checksum of the body is told as found and as expected."""
    data = encode_frame(CLUSTER, EXAMPLES["heartbeat"])
    found, expected = crc32c(data[36:-1] + b"\x08"), crc32c(data[36:])
    with pytest.raises(DamagedFrame, match=f"body of 47 bytes: crc {found:08x}, expected {expected:08x}"):
        decode(data[:-1] + b"\x08")


def test_error_is_final() -> None:
    """After an error every call raises it again: nothing behind the damage is believed."""
    parser = FrameParser(CLUSTER, BODY_BYTES_MAX)
    good = encode_frame(CLUSTER, EXAMPLES["heartbeat"])
    with pytest.raises(DamagedFrame) as first:
        parser.feed(good + b"rubbish")
    with pytest.raises(PeerError) as second:
        parser.feed(good)
    assert (type(second.value), str(second.value)) == (type(first.value), str(first.value))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (frame(0, b"\x90"), "frame kind 0, known 1..26"),
        (frame(27, b"\x90"), "frame kind 27, known 1..26"),
        (frame(4, b"\x93\x07\xc3\xc2", flags=1), "a frame with a tag on a link on which no cluster secret was proven"),
        (frame(4, b"\x93\x07\xc3\xc2", flags=2), "flags 0x02, known 0x00 and 0x01"),
        (frame(4, b""), "RequestVoteResponse: the body is no msgpack"),
        (frame(4, b"\x93\x07\xc3"), "RequestVoteResponse: the body is no msgpack"),
        (frame(4, b"\x93\x07\xc3\xc2\x00"), "RequestVoteResponse: the body is no msgpack of this kind: ExtraData"),
        (frame(4, b"\xc1"), "RequestVoteResponse: the body is no msgpack of this kind: FormatError"),
        (frame(4, b"\x81\x90\x00"), "RequestVoteResponse: the body is no msgpack"),
        (frame(4, b"\x91" * 100_000 + b"\x00"), "RequestVoteResponse: the body is no msgpack"),
        (frame(4, b"\xdd\xff\xff\xff\xff"), "RequestVoteResponse: the body is no msgpack"),
        (frame(4, b"\xa1\xff"), "RequestVoteResponse: the body is no msgpack of this kind: UnicodeDecodeError"),
        (packed(4, 5), "RequestVoteResponse: 5, expected an array of 3: term, vote_granted, pre_vote"),
        (packed(4, {"term": 5}), "RequestVoteResponse: the body is no msgpack of this kind: .* exceeds max_map_len"),
        (packed(4, [7, True]), "RequestVoteResponse: an array of 2, expected an array of 3"),
        (packed(4, [7, True, False, 0]), "RequestVoteResponse: an array of 4, expected an array of 3"),
        (packed(4, [-1, True, False]), r"RequestVoteResponse: term is -1, expected an integer in \[0, 2\^63\)"),
        (packed(4, [2**63, True, False]), "RequestVoteResponse: term is 9223372036854775808"),
        (packed(4, [1.0, True, False]), "term is 1.0, expected an integer"),
        (packed(4, [True, True, False]), "term is True, expected an integer"),
        (packed(4, [None, True, False]), "term is None, expected an integer"),
        (packed(4, [7, 1, False]), "vote_granted is 1, expected a boolean"),
        (packed(4, [7, True, None]), "pre_vote is None, expected a boolean"),
        (packed(1, ["", b"u" * 16, "n2", "1", b"c" * 16]), "Hello: node_id is '', expected text that is not empty"),
        (packed(1, [b"n1", b"u" * 16, "n2", "1", b"c" * 16]), "Hello: node_id is b'n1', expected text"),
        (
            packed(1, ["n1", b"u" * 15, "n2", "1", b"c" * 16]),
            "Hello: node_uuid is b'uuuuuuuuuuuuuuu', expected 16 bytes",
        ),
        (
            packed(1, ["n1", "u" * 16, "n2", "1", b"c" * 16]),
            "Hello: node_uuid is 'uuuuuuuuuuuuuuuu', expected 16 bytes",
        ),
        (packed(1, ["n1", b"u" * 16, "n2", b"1", b"c" * 16]), "Hello: version is b'1', expected text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "frame",
)
def test_wrong_shape(data: bytes, complaint: str) -> None:
    """A frame with good checksums and a wrong shape is refused; the error says which field, and what was found."""
    with pytest.raises(DamagedFrame, match=complaint):
        decode(data)


# -- entries that are not believed -----------------------------------------------------------------------------------


def fields_of(index: int, chain_before: int, /, **changes: Any) -> dict[str, Any]:
    """Return a good entry by field, its checksums those of ``changes``; crc and chain can be changed too."""
    fields = {"term": 3, "kind": 1, "timestamp_ms": 5, "payload": b"payload", **changes}
    if "crc" not in fields:
        fields["crc"] = entry_crc(index, fields["term"], fields["kind"], fields["timestamp_ms"], fields["payload"])
    if "chain" not in fields:
        fields["chain"] = chain_crc(chain_before, fields["crc"])
    return fields


def with_rows(*rows: dict[str, Any], prev_index: int = 6, prev_chain: int = 77) -> bytes:
    """Return a frame with an AppendEntries of term 7 whose entries are ``rows``."""
    return frame(5, append_body(*rows, prev_index=prev_index, prev_chain=prev_chain))


def test_row_is_good() -> None:
    """What the tests below damage is accepted as it is."""
    first = fields_of(7, 77)
    assert decode(with_rows(first, fields_of(8, first["chain"], term=7)))


def test_damaged_payload_names_index_and_checksums() -> None:
    """A payload that is not what its crc was computed over is refused, wherever on the way it was damaged."""
    good = fields_of(7, 77)
    found = entry_crc(7, 3, 1, 5, b"damaged")
    with pytest.raises(DamagedFrame, match=f"entry 7: crc of its content {found:08x}, expected {good['crc']:08x}"):
        decode(with_rows({**good, "payload": b"damaged"}))


@pytest.mark.parametrize(("name", "value"), [("term", 4), ("kind", 0), ("timestamp_ms", 6), ("crc", 1)])
def test_damaged_field_is_refused(name: str, value: int) -> None:
    """The crc covers an entry's term, kind and timestamp as well."""
    with pytest.raises(DamagedFrame, match="entry 7: crc of its content"):
        decode(with_rows({**fields_of(7, 77), name: value}))


def test_entry_at_another_index_is_refused() -> None:
    """The crc covers the index: an entry cannot be taken for one elsewhere in the log."""
    with pytest.raises(DamagedFrame, match="entry 8: crc of its content"):
        decode(with_rows(fields_of(7, 77), prev_index=7))


def test_broken_chain_names_index_and_values() -> None:
    """An entry whose chain does not continue the chain before it is refused."""
    first, second = fields_of(7, 77), fields_of(8, 78)
    expected, found = chain_crc(first["chain"], second["crc"]), second["chain"]
    with pytest.raises(
        DamagedFrame, match=f"entry 8: chain after the entry before {expected:08x}, expected {found:08x}"
    ):
        decode(with_rows(first, second))
    with pytest.raises(DamagedFrame, match="entry 7: chain"):
        decode(with_rows(first, prev_chain=76))


@pytest.mark.parametrize(
    ("terms", "complaint"),
    [
        ([2], r"entry 7: term 2, expected \[3, 7\]"),
        ([8], r"entry 7: term 8, expected \[3, 7\]"),
        ([5, 4], r"entry 8: term 4, expected \[5, 7\]"),
    ],
)
def test_terms_out_of_order(terms: list[int], complaint: str) -> None:
    """Terms of entries never fall, and none is above the leader's."""
    rows, chain = [], 77
    for index, term in enumerate(terms, start=7):
        rows.append(fields_of(index, chain, term=term))
        chain = rows[-1]["chain"]
    with pytest.raises(DamagedFrame, match=complaint):
        decode(with_rows(*rows))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"kind": 5}, "entry 7: kind is 5, expected an entry kind"),
        ({"kind": 255}, "entry 7: kind is 255, expected an entry kind"),
        ({"timestamp_ms": TIME_MAX + 1}, "entry 7: timestamp_ms is 9223372036855, expected a time"),
        ({"term": 2**63}, r"entry 7: term 9223372036854775808, expected \[3, 7\]"),
        ({"size": 6}, "AppendEntries: 1 bytes behind the last of 1 entries"),
        ({"size": 8}, "entry 7: a payload of 7 bytes, expected 8"),
        ({"size": 2**32 - 1}, "entry 7: a payload of 0 bytes, expected 4294967295"),
    ],
)
def test_wrong_entry_field(changes: dict[str, Any], complaint: str) -> None:
    """Each field of an entry is in its range, and its payload as long as it says."""
    with pytest.raises(DamagedFrame, match=complaint):
        decode(with_rows(fields_of(7, 77, **changes)))


def test_a_fetched_entry_is_checked_by_itself() -> None:
    """It follows no other in its frame; its own crc is checked, and the points are points."""
    good = [7, *(fields_of(7, 77)[name] for name in ("term", "kind", "timestamp_ms", "crc", "chain", "payload"))]
    point = [6, 3, 77]
    assert decode(packed(14, [7, [good], [point], point, point]))
    with pytest.raises(DamagedFrame, match="entry 7: crc of its content"):
        decode(packed(14, [7, [[*good[:6], b"damaged"]], [], point, point]))
    with pytest.raises(DamagedFrame, match=r"point of the log: chain is -1, expected an integer in \[0, 2\^32\)"):
        decode(packed(13, [[[6, 3, -1]]]))
    with pytest.raises(DamagedFrame, match=r"point of the log: .*expected an array of 3"):
        decode(packed(14, [7, [good], [[6, 3]], point, point]))


def test_entries_with_a_gap_are_not_sent() -> None:
    """Indexes are not sent, so entries that do not follow prev_log_index are our own bug."""
    entries = make_entries(PREVIOUS, [(3, b"one"), (3, b"two"), (3, b"three")])
    for wrong in (entries[1:], entries[::2], (entries[1], *entries[1:])):
        with pytest.raises(InvariantViolation, match="AppendEntries after 6"):
            encode_frame(CLUSTER, append_entries(7, PREVIOUS, wrong))


# -- time and memory ------------------------------------------------------------------------------------------------


def test_large_frame_in_small_chunks_is_linear() -> None:
    """A frame in chunks of 512 bytes takes as long as it is, and nothing of it is kept."""
    previous = LogPoint(Index(0), Term(0), 0)

    def work(size: int) -> None:
        message = append_entries(3, previous, make_entries(previous, [(3, b"v" * size)]))
        data = encode_frame(CLUSTER, message)
        parser = FrameParser(CLUSTER, BODY_BYTES_MAX, 32 << 20)
        found = [got for at in range(0, len(data), 512) for got in parser.feed(data[at : at + 512])]
        assert found == [message]
        assert len(parser._buffer) == 0

    require_linear(work, 8 << 20)


def _is_refused(parser: FrameParser, data: bytes) -> bool:
    """Feed a parser; return whether it refuses, and keep nothing of the error."""
    try:
        parser.feed(data)
    except DamagedFrame:
        return True
    return False


def test_a_refused_parser_is_let_go_of_at_once() -> None:
    """The error it keeps holds nothing of it: a flood of bad frames would wait for the garbage collector."""

    def refused() -> FrameParser:
        parser = FrameParser(CLUSTER, BODY_BYTES_MAX)
        assert [_is_refused(parser, b"x" * 100_000) for _ in range(2)] == [True, True]
        return parser

    require_let_go(refused)
