"""Large messages in pieces: round trips between small ones, bounds, and pieces that are not believed."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durable_raft.checksum import crc32c
from durable_raft.errors import DamagedFrame, PeerError
from durable_raft.kv.records import make_record
from durable_raft.raft.messages import FetchEntriesResponse
from durable_raft.raft.types import LogPoint, Term
from durable_raft.wire import fixed, peer, pieces
from durable_raft.wire.peer import FrameEncoder, FrameKind, FrameParser, PeerMessage, encode_frame
from durable_raft.wire.pieces import FRAME_BODY_BYTES_MAX, PIECE_BYTES, Bulk
from tests.support.growth import require_even_as_in_a_node
from tests.wire.feeding import feed_all, require_damage_noticed
from tests.wire.peer_messages import CLUSTER, EXAMPLES, MESSAGES, PREVIOUS, append_entries, chunk_of, make_entries
from tests.wire.resp_inputs import CUTS, cut

BULK_BYTES_MAX = 1 << 30
HEADER_BYTES = 36


def large(size: int, seed: bytes = b"large") -> bytes:
    """Return bytes in which no two pieces are equal."""
    return b"".join(seed + struct.pack(">Q", number) for number in range(size // (len(seed) + 8) + 1))[:size]


def sent_with(*payloads: bytes) -> PeerMessage:
    """Return an AppendEntries with these payloads."""
    return append_entries(7, PREVIOUS, make_entries(PREVIOUS, [(3, payload) for payload in payloads]))


def new_parser() -> FrameParser:
    """Return a parser as it is behind the handshake."""
    return FrameParser(CLUSTER, FRAME_BODY_BYTES_MAX, BULK_BYTES_MAX)


def decode(*chunks: bytes) -> list[PeerMessage]:
    """Return what a fresh parser makes of ``chunks``."""
    parser = new_parser()
    return [message for chunk in chunks for message in parser.feed(chunk)]


def frame(kind: int, body: bytes) -> bytes:
    """Return a frame with good checksums around any body."""
    header = b"DRpf" + bytes([peer.FRAME_VERSION, 1, kind, 0]) + CLUSTER + struct.pack(">II", len(body), crc32c(body))
    return header + struct.pack(">I", crc32c(header)) + body


def announced(kind: int, *lengths: int) -> bytes:
    """Return the frame that announces a bulk."""
    return frame(FrameKind.BULK, msgpack.packb([kind, lengths]))


def piece(number: int, data: bytes) -> bytes:
    """Return the frame of a piece."""
    return frame(FrameKind.PIECE, struct.pack(">I", number) + data)


LARGE_MESSAGES = {
    "one payload": sent_with(large(PIECE_BYTES * 3 + 5)),
    "one piece exactly": sent_with(large(PIECE_BYTES * 2)),
    "among small ones": sent_with(b"a", large(PIECE_BYTES + 1), b"b", large(PIECE_BYTES + 7, b"other"), b""),
    "many small ones": sent_with(*[large(1000)] * 400),
    "snapshot": chunk_of(
        [make_record(b"a", b"x"), make_record(b"k", large(PIECE_BYTES * 2))], [b"a", large(PIECE_BYTES + 3)]
    ),
    "healing": FetchEntriesResponse(
        Term(7),
        make_entries(PREVIOUS, [(3, large(PIECE_BYTES + 1)), (7, large(PIECE_BYTES + 2))]),
        (PREVIOUS,),
        PREVIOUS,
        LogPoint(PREVIOUS.index, Term(1), 5),
    ),
}


@pytest.mark.parametrize("name", LARGE_MESSAGES)
def test_round_trip(name: str) -> None:
    """A message of any size comes back as it was sent, and none of its frames is longer than one piece."""
    message = LARGE_MESSAGES[name]
    frames = list(FrameEncoder(CLUSTER).frames(message))
    assert len(frames) > 2
    assert max(map(len, frames)) <= HEADER_BYTES + FRAME_BODY_BYTES_MAX
    assert decode(*frames) == [message]
    data = b"".join(frames)
    assert decode(*[data[at : at + 70_001] for at in range(0, len(data), 70_001)]) == [message]
    assert decode(data + data) == [message, message]


def test_golden_bytes() -> None:
    """The frames of a bulk never change: the announcement, the head with its blob's place, the blob."""
    message = sent_with(b"v" * (PIECE_BYTES + 1))
    announcement, head, first, last = FrameEncoder(CLUSTER).frames(message)
    assert announcement[6:7] + announcement[HEADER_BYTES:] == b"\x0f" + bytes.fromhex("9205924cce0003fffd")
    assert head[6:7] + head[HEADER_BYTES : HEADER_BYTES + 4] == b"\x10" + bytes(4)
    assert head[-5:] == bytes.fromhex("0003fffd01")
    assert first[HEADER_BYTES:] == bytes.fromhex("00000001") + b"v" * PIECE_BYTES
    assert last[HEADER_BYTES:] == bytes.fromhex("00000002") + b"v"


def test_the_largest_byte_string_of_a_small_message_is_no_blob() -> None:
    """What fits into a frame travels in one."""
    assert isinstance(FrameEncoder(CLUSTER).encode(sent_with(large(PIECE_BYTES - 100))), bytes)
    assert isinstance(FrameEncoder(CLUSTER).encode(sent_with(large(PIECE_BYTES))), Bulk)


def test_small_messages_pass_between_the_pieces() -> None:
    """They are returned when they are there, whatever is under way."""
    message = LARGE_MESSAGES["one payload"]
    small = list(EXAMPLES.values())
    parser = new_parser()
    found: list[list[PeerMessage]] = []
    frames = list(FrameEncoder(CLUSTER).frames(message))
    for number, each in enumerate(frames):
        found.append(parser.feed(each + encode_frame(CLUSTER, small[number])))
    assert found[:-1] == [[each] for each in small[: len(frames) - 1]]
    assert found[-1] == [message, small[len(frames) - 1]]


def test_blobs_are_not_copied_to_be_encoded() -> None:
    """The bulk holds the payload itself; a piece of it is copied when it is sent."""
    payload = large(PIECE_BYTES * 4)
    bulk = FrameEncoder(CLUSTER).encode(sent_with(payload))
    assert isinstance(bulk, Bulk)
    assert any(part is payload for part in bulk._parts)
    assert PIECE_BYTES * 4 < len(bulk) < PIECE_BYTES * 4 + 200


def test_no_piece_takes_long() -> None:
    """Of 64 MiB the longest turn, encoding or decoding, takes a small part of the whole.

    The last one may take more: it computes the checksum of the whole entry. Every other one has 256 KiB to copy.
    """
    require_even_as_in_a_node(turns_of_a_large_message, 1 / 8)


def turns_of_a_large_message() -> Iterator[None]:
    """Return the steps of sending and receiving a message of 64 MiB, a frame each; it is made before them."""
    message = sent_with(large(64 << 20))

    def turns() -> Iterator[None]:
        parser = new_parser()
        found: list[PeerMessage] = []
        for data in FrameEncoder(CLUSTER).frames(message):
            found += parser.feed(data)
            yield
        assert found == [message]

    return turns()


# -- what is not believed -------------------------------------------------------------------------------------------

HEAD = b"\x93\x07\xc3\xc2"
"""Body of a RequestVoteResponse."""


@pytest.mark.parametrize(
    ("frames", "complaint"),
    [
        ([piece(0, HEAD)], "a piece of a bulk that was not announced"),
        ([announced(4, 4), announced(4, 4)], "another bulk before piece 0 of one of kind 4"),
        ([announced(4, 4), piece(1, HEAD)], "piece 1 of 4 bytes, expected piece 0 of 4"),
        ([announced(4, 4), piece(0, HEAD[:3])], "piece 0 of 3 bytes, expected piece 0 of 4"),
        ([announced(4, 4), piece(0, HEAD + b"x")], "piece 0 of 5 bytes, expected piece 0 of 4"),
        ([announced(4, 4), frame(FrameKind.PIECE, b"")], "piece 0 of -4 bytes"),
        ([announced(4, 4), piece(0, HEAD), piece(1, HEAD)], "that was not announced"),
        ([announced(4, 4, 3), piece(0, HEAD), piece(1, b"abcd")], "piece 1 of 4 bytes, expected piece 1 of 3"),
        ([announced(4, 4, 3), piece(0, HEAD), piece(1, b"abc")], "0 of 1 blobs have a place"),
        ([announced(4, 6), piece(0, b"\xd6\x01\x00\x00\x00\x03")], "where 0 of 0 blobs are left"),
        ([announced(4, 6, 4), piece(0, b"\xd6\x01\x00\x00\x00\x03"), piece(1, b"abcd")], "where 1 of 1 blobs are left"),
        ([announced(4, 6, 3), piece(0, b"\xd6\x02\x00\x00\x00\x03"), piece(1, b"abc")], "extension 2 00000003"),
        ([announced(15, 4), piece(0, HEAD)], "frame kind 15"),
        ([announced(99, 4), piece(0, HEAD)], "frame kind 99"),
        ([announced(4)], r"lengths \[\], expected"),
        ([announced(4, 4, 0)], r"lengths \[4, 0\], expected"),
        ([announced(4, 2**32)], "lengths .*, expected"),
        ([announced(4, 2**29, 2**29, 1)], "a bulk of 1073741825 bytes, at most 1073741824 are taken"),
        ([frame(FrameKind.BULK, b"\xc1")], "announcement: the body is no msgpack"),
        ([frame(FrameKind.BULK, msgpack.packb([4]))], "expected a kind and an array of lengths"),
        ([frame(FrameKind.BULK, msgpack.packb({"kind": 4}))], "announcement: the body is no msgpack"),
        ([frame(FrameKind.BULK, msgpack.packb([True, [4]]))], "expected a kind and an array of lengths"),
        ([frame(FrameKind.BULK, msgpack.packb([4, [True]]))], "expected integers"),
        ([frame(FrameKind.BULK, msgpack.packb([4, 4]))], "expected a kind and an array of lengths"),
    ],
    ids=lambda value: value if isinstance(value, str) else "frames",
)
def test_not_believed(frames: list[bytes], complaint: str) -> None:
    """Pieces that no correct node sends end the link with what was found and expected."""
    with pytest.raises(DamagedFrame, match=complaint):
        decode(*frames)


def test_a_small_message_may_come_as_a_bulk() -> None:
    """Its size is the sender's affair."""
    (expected,) = decode(frame(4, HEAD))
    assert decode(announced(4, 4), piece(0, HEAD)) == [expected]


def test_a_damaged_payload_is_noticed_though_its_pieces_are_sound() -> None:
    """The entry's own checksum covers what the pieces make together."""
    frames = list(FrameEncoder(CLUSTER).frames(LARGE_MESSAGES["one payload"]))
    body = frames[3][HEADER_BYTES:]
    frames[3] = frame(FrameKind.PIECE, body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(DamagedFrame, match="crc of its content"):
        decode(*frames)


@pytest.mark.parametrize("place", range(5))
def test_a_lost_or_doubled_frame_is_noticed(place: int) -> None:
    """Whichever it is, when the next frame comes, or the next bulk."""
    frames = list(FrameEncoder(CLUSTER).frames(LARGE_MESSAGES["one payload"])) * 2
    with pytest.raises(DamagedFrame):
        decode(*frames[:place], *frames[place + 1 :])
    with pytest.raises(DamagedFrame):
        decode(*frames[: place + 1], *frames[place:])


def test_nothing_in_pieces_and_nothing_long_before_the_handshake() -> None:
    """What a stranger may send is bounded by 64 KiB in one frame; behind the handshake by one piece."""
    stranger = FrameParser(CLUSTER, 64 << 10)
    assert stranger.feed(frame(1, b"x" * (64 << 10))[:HEADER_BYTES]) == []
    with pytest.raises(DamagedFrame, match="at most 65536 are taken"):
        FrameParser(CLUSTER, 64 << 10).feed(frame(1, b"x" * (1 + (64 << 10)))[:HEADER_BYTES])
    with pytest.raises(DamagedFrame, match="a bulk of 4 bytes, at most 0 are taken"):
        FrameParser(CLUSTER, 64 << 10).feed(announced(4, 4))
    parser = FrameParser(CLUSTER, 64 << 10)
    parser.widen(FRAME_BODY_BYTES_MAX, BULK_BYTES_MAX)
    assert parser.feed(frame(1, b"x" * FRAME_BODY_BYTES_MAX)[:HEADER_BYTES]) == []
    with pytest.raises(DamagedFrame, match="at most 262144 are taken"):
        new_parser().feed(frame(1, b"x" * (FRAME_BODY_BYTES_MAX + 1))[:HEADER_BYTES])


def test_what_is_announced_takes_no_memory() -> None:
    """Only what has come is kept."""
    parser = new_parser()
    parser.feed(announced(5, 50, 1 << 29))
    assert parser._assembly._part.getbuffer().nbytes == 0
    parser.feed(piece(0, b"x" * 50))
    parser.feed(piece(1, b"x" * PIECE_BYTES))
    assert parser._assembly._part.getbuffer().nbytes == PIECE_BYTES


# -- fuzzing, with pieces of a few bytes -----------------------------------------------------------------------------


@pytest.fixture
def _tiny_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pieces, fixed):
        monkeypatch.setattr(module, "PIECE_BYTES", 7)
    monkeypatch.setattr(peer, "FRAME_BODY_BYTES_MAX", 11)


def parser_here() -> FrameParser:
    """Return a parser with the bounds of these tests."""
    return FrameParser(CLUSTER, 1 << 16, 1 << 20)


@pytest.mark.usefixtures("_tiny_pieces")
@given(messages=st.lists(MESSAGES, max_size=6), cuts=CUTS)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_message_in_pieces_at_every_cut(messages: list[PeerMessage], cuts: list[int]) -> None:
    """Whatever is in a message, its pieces make it again."""
    data = b"".join(encode_frame(CLUSTER, message) for message in messages)
    assert feed_all(parser_here(), cut(data, cuts)) == messages


@pytest.mark.usefixtures("_tiny_pieces")
@given(
    messages=st.lists(MESSAGES, min_size=1, max_size=4),
    moves=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.sampled_from(["drop", "double", "swap"]))),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_frames_lost_doubled_and_reordered(messages: list[PeerMessage], moves: list[tuple[int, int, str]]) -> None:
    """A parser believes messages that were sent, or none: it never makes one of pieces of two."""
    frames = [each for message in messages for each in FrameEncoder(CLUSTER).frames(message)]
    for here, there, move in moves:
        here, there = here % len(frames), there % len(frames)
        if move == "drop" and len(frames) > 1:
            del frames[here]
        elif move == "double":
            frames.insert(there, frames[here])
        else:
            frames[here], frames[there] = frames[there], frames[here]
    parser = FrameParser(CLUSTER, 1 << 16, 1 << 20)
    for each in frames:
        try:
            found = parser.feed(each)
        except PeerError:
            break
        # Two messages of one shape may be mixed in their blobs only if a checksum of the message covers neither.
        assert all(type(message) in {type(sent) for sent in messages} for message in found)


@pytest.mark.usefixtures("_tiny_pieces")
@given(
    messages=st.lists(MESSAGES, min_size=1, max_size=3),
    at=st.integers(0, 10_000),
    added=st.binary(max_size=4),
    removed=st.integers(0, 4),
    cuts=CUTS,
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_bytes(messages: list[PeerMessage], at: int, added: bytes, removed: int, cuts: list[int]) -> None:
    """Bytes replaced, removed or added give the messages before the damage at most, and no other error."""
    require_damage_noticed(parser_here(), messages, at, added, removed, cuts)
