"""Bodies of fixed layout (wire/fixed.py): every field at its bounds and one beyond them, every length but the right."""

from __future__ import annotations

import struct

import pytest

from durable_raft.errors import DamagedFrame
from durable_raft.raft.messages import APPEND_ENTRIES_MAX, AppendEntries, AppendEntriesResponse
from durable_raft.raft.types import DiskRoom, EntryKind, chain_crc, entry_crc
from durable_raft.wire import fixed
from durable_raft.wire.peer import FrameKind, PeerMessage, decode_body, encode_frame
from durable_raft.wire.pieces import PIECE_BYTES
from tests.wire.peer_messages import CLUSTER, EXAMPLES, append_body

NUMBER_BOUNDS = (0, 2**63 - 1, 2**63)
INDEX_BOUNDS = (0, 2**56, 2**56 + 1)
SWITCH_BOUNDS = (0, 1, 2)

ANSWER = {
    "term": NUMBER_BOUNDS,
    "match_index": INDEX_BOUNDS,
    "conflict_index": INDEX_BOUNDS,
    "conflict_term": NUMBER_BOUNDS,
    "rejected_index": INDEX_BOUNDS,
    "read_round": INDEX_BOUNDS,
    "success": SWITCH_BOUNDS,
    "is_voter": SWITCH_BOUNDS,
    "asks_admission": SWITCH_BOUNDS,
    "room": (0, 2, 3),
}
"""By field, in the order of the bytes: its least, its greatest, and what is beyond it."""


def answer_body(**changes: int) -> bytes:
    """Return the body of an AppendEntriesResponse, built from the drawing in the docstring of fixed.py."""
    return struct.pack(">QQQQQQBBBB", *(changes.get(name, 1) for name in ANSWER))


def answered(body: bytes) -> PeerMessage:
    """Return the AppendEntriesResponse with this body."""
    return decode_body(FrameKind.APPEND_ENTRIES_RESPONSE, body)


def appended(body: bytes, *blobs: bytes) -> PeerMessage:
    """Return the AppendEntries with this body."""
    return decode_body(FrameKind.APPEND_ENTRIES, body, blobs)


@pytest.mark.parametrize("name", ANSWER)
def test_a_field_of_an_answer_is_taken_up_to_its_bounds(name: str) -> None:
    """The one beyond is refused by name, and its neighbours keep their places."""
    least, greatest, beyond = ANSWER[name]
    for value in (least, greatest):
        found = answered(answer_body(**{name: value}))
        assert isinstance(found, AppendEntriesResponse)
        assert {each: int(getattr(found, each)) for each in ANSWER} == {**dict.fromkeys(ANSWER, 1), name: value}
    with pytest.raises(DamagedFrame, match=f"AppendEntriesResponse: {name} is {beyond}, expected "):
        answered(answer_body(**{name: beyond}))
    with pytest.raises(DamagedFrame, match=f"AppendEntriesResponse: {name} is .*, expected "):
        answered(answer_body(**{name: 255 if beyond < 256 else 2**64 - 1}))


def test_an_answer_comes_back_with_its_types() -> None:
    """Flags are booleans, the room is the enum's."""
    found = answered(answer_body(room=2))
    assert isinstance(found, AppendEntriesResponse)
    assert (found.success, found.is_voter, found.asks_admission) == (True, True, True)
    assert {type(flag) for flag in (found.success, found.is_voter, found.asks_admission)} == {bool}
    assert found.room is DiskRoom.NONE


def test_an_answer_has_one_length() -> None:
    """A byte less or more is refused, and so is a blob."""
    body = answer_body()
    for wrong in (b"", body[:-1], body + b"\x00"):
        with pytest.raises(DamagedFrame, match=f"AppendEntriesResponse: {len(wrong)} bytes .*, expected 52"):
            answered(wrong)
    with pytest.raises(DamagedFrame, match="52 bytes and 1 blobs"):
        decode_body(FrameKind.APPEND_ENTRIES_RESPONSE, body, [b"blob"])


@pytest.mark.parametrize(
    ("argument", "field", "bounds"),
    [
        ("term", "term", NUMBER_BOUNDS),
        ("prev_index", "prev_log_index", INDEX_BOUNDS),
        ("prev_term", "prev_log_term", NUMBER_BOUNDS),
        ("commit", "leader_commit", INDEX_BOUNDS),
        ("read_round", "read_round", INDEX_BOUNDS),
    ],
)
def test_a_number_of_an_append_entries_is_taken_up_to_its_bounds(
    argument: str, field: str, bounds: tuple[int, int, int]
) -> None:
    """The one beyond is refused by name."""
    least, greatest, beyond = bounds
    for value in (least, greatest):
        found = appended(append_body(**{argument: value}))  # type: ignore[arg-type]
        assert isinstance(found, AppendEntries)
        assert getattr(found, field) == value
    with pytest.raises(DamagedFrame, match=f"AppendEntries: {field} is {beyond}, expected "):
        appended(append_body(**{argument: beyond}))  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [0, 16, 24])
def test_a_disk_that_is_admitted_has_its_name(length: int) -> None:
    """A uuid, with a life or without, or nothing."""
    found = appended(append_body(admits=b"d" * length))
    assert isinstance(found, AppendEntries)
    assert found.admits == b"d" * length


@pytest.mark.parametrize("length", [1, 15, 17, 23, 25, 255])
def test_what_is_admitted_has_no_other_length(length: int) -> None:
    """Neither when it is there nor when it is only said."""
    with pytest.raises(DamagedFrame, match=r"AppendEntries: admits is .*, expected 16 or 24 bytes or none"):
        appended(append_body(admits=b"d" * length))
    with pytest.raises(DamagedFrame, match=f"AppendEntries: 47 bytes, expected {47 + length} at least"):
        appended(append_body(admits_bytes=length))


def entry_row(index: int, chain: int, payload: bytes) -> dict[str, object]:
    """Return the fields of an entry."""
    crc = entry_crc(index, 3, EntryKind.COMMANDS, 5, payload)
    chained = chain_crc(chain, crc)
    return {"term": 3, "kind": 1, "timestamp_ms": 5, "payload": payload, "crc": crc, "chain": chained}


def test_every_other_length_of_a_body_is_refused() -> None:
    """Cut anywhere, or with a byte behind its end."""
    body = append_body(entry_row(7, 77, b"payload"))
    assert appended(body)
    for cut in range(len(body)):
        with pytest.raises(DamagedFrame, match=r"AppendEntries: |entry 7: "):
            appended(body[:cut])
    with pytest.raises(DamagedFrame, match="AppendEntries: 1 bytes behind the last of 1 entries"):
        appended(body + b"\x00")
    with pytest.raises(DamagedFrame, match=f"AppendEntries: {len(body) - 47} bytes behind the last of 0 entries"):
        appended(append_body(entry_row(7, 77, b"payload"), count=0))
    with pytest.raises(DamagedFrame, match="entry 8: 0 bytes, expected 29 at least"):
        appended(append_body(entry_row(7, 77, b"payload"), count=2))


def test_more_entries_than_are_sent_at_once_are_not_looked_at() -> None:
    """However few bytes there are: the number alone is enough."""
    with pytest.raises(DamagedFrame, match=f"{APPEND_ENTRIES_MAX + 1} entries, at most {APPEND_ENTRIES_MAX}"):
        appended(append_body(count=APPEND_ENTRIES_MAX + 1))
    with pytest.raises(DamagedFrame, match="entry 7: 0 bytes"):
        appended(append_body(count=APPEND_ENTRIES_MAX))


def test_the_last_index_there_can_be_is_taken() -> None:
    """An entry may stand there, and none behind it."""
    previous = 2**56 - 1
    found = appended(append_body(entry_row(2**56, 77, b"x"), prev_index=previous))
    assert isinstance(found, AppendEntries)
    assert found.entries[0].index == 2**56
    with pytest.raises(DamagedFrame, match="2 entries after 72057594037927935 go beyond"):
        appended(append_body(*[entry_row(2**56, 77, b"x")] * 2, prev_index=previous))


def test_a_long_payload_is_the_next_blob() -> None:
    """A shorter one stands in the body; each blob has its place and the length that is said."""
    long, longer = b"a" * (PIECE_BYTES + 1), b"b" * (PIECE_BYTES + 2)
    first = entry_row(7, 77, long)
    second = entry_row(8, int(str(first["chain"])), b"short")
    third = entry_row(9, int(str(second["chain"])), longer)
    apart = [{**first, "payload": b"", "size": len(long)}, second, {**third, "payload": b"", "size": len(longer)}]
    body = append_body(*apart)
    found = appended(body, long, longer)
    assert isinstance(found, AppendEntries)
    assert [entry.payload for entry in found.entries] == [long, b"short", longer]
    blobs: list[bytes] = []
    assert fixed.pack_append_entries(found, blobs) == body
    assert blobs == [long, longer]
    with pytest.raises(DamagedFrame, match=f"entry 7: a payload of {len(longer)} bytes, expected {len(long)}"):
        appended(body, longer, long)
    with pytest.raises(DamagedFrame, match="entry 9: a payload of 0 bytes"):
        appended(body, long)
    with pytest.raises(DamagedFrame, match="AppendEntries: 5 bytes behind the last of 3 entries"):
        appended(body, long, longer, b"spare")


def test_a_payload_as_long_as_a_piece_stands_in_the_body() -> None:
    """Only what is longer is a blob."""
    body = append_body(entry_row(7, 77, b"p" * PIECE_BYTES))
    found = appended(body)
    assert isinstance(found, AppendEntries)
    blobs: list[bytes] = []
    assert fixed.pack_append_entries(found, blobs) == body
    assert blobs == []


@pytest.mark.parametrize("name", ["heartbeat", "append_entries", "append_entries_response"])
def test_bodies_are_those_of_the_drawing(name: str) -> None:
    """What is sent, taken apart again, is the message."""
    data = encode_frame(CLUSTER, EXAMPLES[name])
    assert decode_body(data[6], data[36:]) == EXAMPLES[name]
