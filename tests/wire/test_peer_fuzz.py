"""Frames against damage: rubbish raises only what it may, and no flipped bit goes unseen."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_raft.errors import DamagedFrame, PeerError
from durable_raft.raft.messages import AppendEntries
from durable_raft.raft.types import chain_crc, entry_crc
from durable_raft.wire.peer import FrameKind, FrameParser, PeerMessage, decode_body, encode_frame
from tests.wire.feeding import feed_all, require_damage_noticed
from tests.wire.peer_messages import BODY_BYTES_MAX, CLUSTER, EXAMPLES, MESSAGES, append_body
from tests.wire.resp_inputs import CUTS, cut


def parser_here() -> FrameParser:
    """Return a parser with the bounds of these tests."""
    return FrameParser(CLUSTER, BODY_BYTES_MAX)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_flipped_bit_is_detected(name: str) -> None:
    """With any one bit flipped, a frame followed by a good one raises; no message of it is believed."""
    good = encode_frame(CLUSTER, EXAMPLES[name])
    for bit in range(len(good) * 8):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        assert isinstance(feed_all(parser_here(), [bytes(damaged)]), PeerError), f"bit {bit} of {name}"


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_cut_off_frame_is_waited_for(name: str) -> None:
    """A frame that ends early gives nothing, and no error: the rest may come."""
    good = encode_frame(CLUSTER, EXAMPLES[name])
    for length in range(len(good)):
        assert feed_all(parser_here(), [good[:length]]) == []


@given(data=st.binary(max_size=100), cuts=CUTS)
def test_rubbish(data: bytes, cuts: list[int]) -> None:
    """Random bytes raise a PeerError, unless they are the beginning of a frame."""
    found = feed_all(parser_here(), cut(data, cuts))
    assert isinstance(found, PeerError) or (found == [] and b"DRpf".startswith(data[:4]))


@given(
    messages=st.lists(MESSAGES, min_size=1, max_size=3),
    at=st.integers(0, 10_000),
    piece=st.binary(max_size=4),
    removed=st.integers(0, 4),
    cuts=CUTS,
)
@settings(max_examples=200)
def test_damaged_frames(messages: list[PeerMessage], at: int, piece: bytes, removed: int, cuts: list[int]) -> None:
    """Bytes replaced, removed or added give the messages before the damage at most, and no other error."""
    require_damage_noticed(parser_here(), messages, at, piece, removed, cuts)


_VALUES: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=3)
    | st.binary(max_size=17),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=20,
)  # fmt: skip
_SMALL = st.integers(0, 8)
_ROWS = st.fixed_dictionaries(
    dict.fromkeys(("term", "timestamp_ms", "crc", "chain", "kind"), _SMALL) | {"payload": st.binary(max_size=2)},
    optional={"size": st.sampled_from((0, 2, 2**32 - 1))},
)
_HEADS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ("term", "prev_index", "prev_term", "commit", "read_round"), _SMALL | st.integers(0, 2**64 - 1)
        ),
        **dict.fromkeys(("count", "admits_bytes"), _SMALL),
        "admits": st.binary(max_size=24),
    },
)
_BODIES = st.one_of(
    st.binary(max_size=60),
    st.binary(min_size=52, max_size=52),
    _VALUES.map(msgpack.packb),
    st.builds(lambda rows, head: append_body(*rows, **head), st.lists(_ROWS, max_size=3), _HEADS),
)


@given(kind=st.sampled_from(FrameKind), body=_BODIES)
@settings(max_examples=300)
def test_bodies(kind: FrameKind, body: bytes) -> None:
    """A body of any shape, under good checksums of the frame, is refused as damage or holds what the docstring says."""
    try:
        message = decode_body(kind, body)
    except DamagedFrame:
        return
    assert type(message).__name__.upper() == kind.name.replace("_", "")
    if isinstance(message, AppendEntries):
        _check_entries(message)


def _check_entries(message: AppendEntries) -> None:
    """Check the numbered properties of peer.py anew, in other words."""
    index, chain = message.prev_log_index, message.prev_log_chain
    for at, entry in enumerate(message.entries, start=1):
        assert entry.index == index + at
        assert entry.crc == entry_crc(entry.index, entry.term, entry.kind, entry.timestamp_ms, entry.payload)
        chain = chain_crc(chain, entry.crc)
        assert entry.chain == chain
    terms = [message.prev_log_term, *(entry.term for entry in message.entries), message.term]
    assert not message.entries or terms == sorted(terms)
