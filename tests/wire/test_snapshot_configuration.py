"""The configuration that a snapshot names, as it travels between nodes."""

from __future__ import annotations

import re

import msgpack
import pytest

from durable_raft.errors import DamagedFrame
from durable_raft.raft.configuration import MEMBERS_MAX, encode
from durable_raft.raft.types import Configuration, Index, Member, NodeId
from durable_raft.wire.messages import FrameKind, SnapshotChunk
from durable_raft.wire.peer import FrameParser, decode_body, encode_frame
from tests.support.raft_nodes import configuration_of
from tests.wire.peer_messages import BODY_BYTES_MAX, CLUSTER, EXAMPLES

GOOD_PAYLOAD = encode(configuration_of(["a"]))


def test_the_configuration_of_a_snapshot_stands_behind_what_was_always_sent() -> None:
    """A piece of a snapshot of a cluster whose members never changed is as older builds send and take it."""
    changed, fixed = EXAMPLES["snapshot_chunk_of_changed_members"], EXAMPLES["snapshot_chunk"]
    assert isinstance(changed, SnapshotChunk)
    assert isinstance(fixed, SnapshotChunk)
    assert changed.configuration is not None
    old, new = (msgpack.unpackb(encode_frame(CLUSTER, each)[36:]) for each in (fixed, changed))
    assert (len(old), len(new)) == (14, 15)
    assert new[14] == [256, encode(changed.configuration)]


def test_the_version_of_the_cluster_stands_behind_the_configuration() -> None:
    """Or behind an empty one; while it is 1 it is not sent, so that nodes of 0.1.0 take the piece."""
    raised, changed = EXAMPLES["snapshot_chunk_of_a_raised_version"], EXAMPLES["snapshot_chunk_of_changed_members"]
    assert isinstance(changed, SnapshotChunk)
    both = changed._replace(version=7)
    fields, of_both = (msgpack.unpackb(encode_frame(CLUSTER, each)[36:]) for each in (raised, both))
    assert fields[14:] == [[], 2]
    assert (len(of_both), of_both[15]) == (16, 7)
    assert [decode_body(FrameKind.SNAPSHOT_CHUNK, msgpack.packb(each)) for each in (fields, of_both)] == [raised, both]
    for version in (0, 1, 2**16, "2", None):
        with pytest.raises(DamagedFrame, match=r"version is .*, expected a version above 1"):
            decode_body(FrameKind.SNAPSHOT_CHUNK, msgpack.packb([*fields[:15], version]))
    with pytest.raises(DamagedFrame, match="expected an array of 16"):
        decode_body(FrameKind.SNAPSHOT_CHUNK, msgpack.packb([*fields, 0]))


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (None, "configuration is None, expected an array"),
        ([], "expected an array of 2"),
        ([256], "expected an array of 2"),
        ([256, GOOD_PAYLOAD, 0], "expected an array of 2"),
        (["256", GOOD_PAYLOAD], "index is '256'"),
        ([0, GOOD_PAYLOAD], "the configuration at 0 in a snapshot at 300"),
        ([301, GOOD_PAYLOAD], "the configuration at 301 in a snapshot at 300"),
        ([2**56 + 1, GOOD_PAYLOAD], "expected an integer in"),
        ([256, "text"], "payload is 'text'"),
        ([256, b""], "no configuration"),
        ([256, GOOD_PAYLOAD[:-1]], "no configuration"),
        ([256, GOOD_PAYLOAD + b"x"], "would be written otherwise"),
        ([256, b"\x02" + GOOD_PAYLOAD[1:]], "a configuration of version 2, known 1"),
        ([256, bytes.fromhex("01000000000000")], "no lawful configuration"),
    ],
)
def test_a_snapshot_with_no_lawful_configuration_is_refused(row: object, why: str) -> None:
    """Whatever else is right in the piece: nobody could be counted by it."""
    fields = msgpack.unpackb(encode_frame(CLUSTER, EXAMPLES["snapshot_chunk_of_changed_members"])[36:])
    with pytest.raises(DamagedFrame, match=f"^(SnapshotChunk|configuration): .*{re.escape(why)}"):
        decode_body(FrameKind.SNAPSHOT_CHUNK, msgpack.packb([*fields[:14], row]))


def test_the_largest_configuration_travels_whole() -> None:
    """Of as many members with as long addresses as there may be; it goes in pieces, as a large value does."""
    names = [f"{number:0255}" for number in range(MEMBERS_MAX)]
    members = tuple(Member(NodeId(name), "c" * 255, "p" * 255) for name in names)
    largest = Configuration(Index(7), members, tuple(NodeId(name) for name in names), former_filter=bytes(2048))
    chunk = EXAMPLES["snapshot_chunk_of_changed_members"]
    assert isinstance(chunk, SnapshotChunk)
    data = encode_frame(CLUSTER, chunk._replace(configuration=largest))
    assert len(data) > 49_000
    parser = FrameParser(CLUSTER, BODY_BYTES_MAX, 1 << 20)
    (found,) = parser.feed(data)
    assert isinstance(found, SnapshotChunk)
    assert found.configuration == largest
