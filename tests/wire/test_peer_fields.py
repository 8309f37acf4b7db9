"""Every kind of field of a frame between nodes, at its bounds and one beyond them; frames that are remembered."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from durable_raft.checksum import crc32c
from durable_raft.errors import DamagedFrame, UnknownFrameVersion
from durable_raft.raft.messages import FetchEntries
from durable_raft.raft.types import Index, LogPoint, Term, entry_crc
from durable_raft.wire import peer
from durable_raft.wire.peer import FRAME_VERSION, FrameEncoder, FrameKind, FrameParser, PeerMessage, encode_frame
from tests.wire.peer_messages import BODY_BYTES_MAX, CLUSTER, EXAMPLES

NUMBERS = ([0, 1, 2**63 - 1], [-1, 2**63, True, 1.0, "1", b"1", None, []])
INDEXES = ([0, 1, 2**56], [-1, 2**56 + 1, True, 1.0, "1", b"1", None, []])
TIMES = ([0, 1, 9_223_372_036_854], [-1, 9_223_372_036_855, True, 1.0, "1", None])
SUMS = ([0, 1, 2**32 - 1], [-1, 2**32, True, 1.0, "1", None])
HASHES = ([0, 1, 2**63, 2**64 - 1], [-1, True, 1.0, "1", b"", None])
FLAGS = ([True, False], [0, 1, None, "yes"])
TEXTS = (["", "é"], [b"", 1, None])
NAMES = (["n", "n1"], ["", b"n1", 1, None])
UUIDS = ([b"u" * 16], [b"", b"u" * 15, b"u" * 17, "u" * 16, None, 16])
PROOFS = ([b"p" * 32], [b"", b"p" * 31, b"p" * 33, "p" * 32, None, 32])
BYTES = ([b"", b"k"], ["", 1, None, []])


def fields_of(name: str) -> list[Any]:
    """Return the fields of an example as they are sent."""
    fields = msgpack.unpackb(encode_frame(CLUSTER, EXAMPLES[name])[36:])
    assert isinstance(fields, list)
    return fields


def decode(name: str, fields: list[Any]) -> PeerMessage:
    """Return what a parser makes of a frame of the example's kind with these fields."""
    example = encode_frame(CLUSTER, EXAMPLES[name])
    return peer.decode_body(example[6], msgpack.packb(fields))


CASES = [
    ("hello", 0, NAMES),
    ("hello", 1, UUIDS),
    ("hello", 2, NAMES),
    ("hello", 3, TEXTS),
    ("hello_reply", 0, FLAGS),
    ("hello_reply", 1, TEXTS),
    ("hello_reply", 2, NAMES),
    ("hello_reply", 3, UUIDS),
    ("hello", 4, UUIDS),
    ("confirm", 0, UUIDS),
    ("confirmed", 0, UUIDS),
    ("challenge", 0, UUIDS),
    ("proof", 0, PROOFS),
    *(("request_vote", place, NUMBERS) for place in (0, 2)),
    ("request_vote", 1, INDEXES),
    ("request_vote", 3, FLAGS),
    *(("install_snapshot", place, NUMBERS) for place in (0, 2)),
    *(("install_snapshot", place, INDEXES) for place in (1, 4)),
    ("install_snapshot", 3, SUMS),
    *(("fetch_snapshot", place, INDEXES) for place in (0, 3)),
    *(("snapshot_chunk", place, INDEXES) for place in (0, 4, 5)),
    ("snapshot_chunk", 3, TIMES),
    *(("state_hash", place, INDEXES) for place in (0, 2)),
    ("fetch_snapshot", 1, FLAGS),
    ("fetch_snapshot", 2, BYTES),
    ("snapshot_chunk", 2, SUMS),
    ("snapshot_chunk", 6, HASHES),
    ("snapshot_chunk", 7, FLAGS),
    ("snapshot_chunk", 8, BYTES),
    ("snapshot_chunk", 13, FLAGS),
    ("state_hash", 1, SUMS),
    ("state_hash", 3, HASHES),
    ("ask_time", 0, NUMBERS),
    ("tell_time", 0, NUMBERS),
    *(("tell_time", place, TIMES) for place in (1, 2)),
    ("tell_time", 3, INDEXES),
    ("introduce", 0, UUIDS),
    ("introduce_response", 1, FLAGS),
]


@pytest.mark.parametrize(("name", "place", "values"), CASES, ids=lambda value: str(value) if value != () else "")
def test_a_field_is_taken_up_to_its_bounds_and_not_beyond(
    name: str, place: int, values: tuple[list[Any], list[Any]]
) -> None:
    """Of the right type, and in its range."""
    good, bad = values
    for value in good:
        fields = fields_of(name)
        fields[place] = value
        decoded = decode(name, fields)
        assert decoded[place] == value
        assert type(decoded[place]) is type(value)
    for value in bad:
        fields = fields_of(name)
        fields[place] = value
        with pytest.raises(DamagedFrame, match="expected"):
            decode(name, fields)


@pytest.mark.parametrize(
    ("place", "good", "bad"),
    [
        (9, [b"", b"k"], ["k", 1, None]),
        (10, [b"", b"v"], ["v", 1, None]),
        (11, [0, 2**63 - 1], [-1, 2**63, True, None]),
        (12, [0, 2**32 - 1], [-1, 2**32, True, None]),
    ],
)
def test_an_array_is_taken_with_what_may_stand_in_it(place: int, good: list[Any], bad: list[Any]) -> None:
    """And nothing else, at any place of it; nor anything that is no array."""
    fields = fields_of("snapshot_chunk")
    fields[place] = good
    assert decode("snapshot_chunk", fields)[place] == good
    for value in bad:
        for wrong in ([good[0], value], [value, good[0]], value):
            fields[place] = wrong
            with pytest.raises(DamagedFrame, match="expected an array of"):
                decode("snapshot_chunk", fields)


@pytest.mark.parametrize("value", [5, None, [], [7, 3, 1, 5, 0, 0], [7, 3, 1, 5, 0, 0, b"", 0], b"1234567"])
def test_a_fetched_entry_of_another_shape_is_refused(value: object) -> None:
    """Seven fields in an array, each of its kind."""
    point = [6, 3, 77]
    with pytest.raises(DamagedFrame, match=r"entry: .*expected an array of 7"):
        decode("fetch_entries_response", [7, [value], [], point, point])


@pytest.mark.parametrize("place", range(7))
def test_a_fetched_entry_has_each_field_of_its_kind(place: int) -> None:
    """What is sent alone is checked as what is sent in order."""
    point = [6, 3, 77]
    row: list[Any] = [7, 3, 1, 5, entry_crc(7, 3, 1, 5, b"x"), 0, b"x"]
    assert decode("fetch_entries_response", [7, [row], [], point, point])
    row[place] = None
    with pytest.raises(DamagedFrame, match="expected"):
        decode("fetch_entries_response", [7, [row], [], point, point])


def test_points_are_sent_as_they_are() -> None:
    """Index, term and chain, in this order."""
    message = FetchEntries((LogPoint(Index(1), Term(2), 3), LogPoint(Index(4), Term(5), 6)))
    assert msgpack.unpackb(encode_frame(CLUSTER, message)[36:]) == [[[1, 2, 3], [4, 5, 6]]]


def test_a_whole_frame_of_another_version_is_not_believed() -> None:
    """Its checksums are right; what its fields mean is not known."""
    data = bytearray(encode_frame(CLUSTER, EXAMPLES["heartbeat"]))
    data[4] = FRAME_VERSION + 1
    data[32:36] = crc32c(bytes(data[:32])).to_bytes(4, "big")
    with pytest.raises(UnknownFrameVersion, match="frame version 6, known 5"):
        FrameParser(CLUSTER, BODY_BYTES_MAX).feed(bytes(data))
    data[4] = FRAME_VERSION
    data[0] = ord("X")
    data[32:36] = crc32c(bytes(data[:32])).to_bytes(4, "big")
    with pytest.raises(DamagedFrame, match="begins with"):
        FrameParser(CLUSTER, BODY_BYTES_MAX).feed(bytes(data))


def test_the_newest_frame_is_remembered() -> None:
    """What is told to all is encoded once; another message, or another class with equal fields, anew."""
    encoder = FrameEncoder(CLUSTER)
    first = encoder.encode(EXAMPLES["heartbeat"])
    assert encoder.encode(EXAMPLES["heartbeat"]) is first
    assert encoder.encode(EXAMPLES["hello"]) != first
    again = encoder.encode(EXAMPLES["heartbeat"])
    assert again == first
    assert again is not first


def test_numbers_of_kinds_are_those_of_the_frames() -> None:
    """From 1 on, without a gap."""
    assert [kind.value for kind in FrameKind] == list(range(1, 27))


def test_a_frame_is_returned_when_its_last_byte_is_there() -> None:
    """Wherever in the chunk it began."""
    data = encode_frame(CLUSTER, EXAMPLES["heartbeat"])
    parser = FrameParser(CLUSTER, BODY_BYTES_MAX)
    assert parser.feed(data + data + data[:-3]) == [EXAMPLES["heartbeat"]] * 2
    assert parser.feed(data[-3:-1]) == []
    assert parser.feed(data[-1:]) == [EXAMPLES["heartbeat"]]


def test_a_header_is_read_once_while_its_body_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """And again when the frame is whole: what comes in between only has to be kept."""
    reads: list[bytes] = []
    read_header = FrameParser._read_header

    def count(parser: FrameParser, header: bytes) -> tuple[int, int, int]:
        reads.append(header)
        return read_header(parser, header)

    monkeypatch.setattr(FrameParser, "_read_header", count)
    data = encode_frame(CLUSTER, EXAMPLES["append_entries"])
    parser = FrameParser(CLUSTER, BODY_BYTES_MAX)
    assert parser.feed(data[:40]) == []
    for byte in data[40:-1]:
        assert parser.feed(bytes([byte])) == []
    assert len(reads) == 1
    assert parser.feed(data[-1:]) == [EXAMPLES["append_entries"]]
    assert len(reads) == 2
