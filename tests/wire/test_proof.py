"""The proof of the cluster secret, and the tags behind it: what is accepted, and each thing that must not be."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_raft.checksum import crc32c
from durable_raft.errors import DamagedFrame, ForgedFrame, PeerError
from durable_raft.raft.types import NodeId
from durable_raft.raft.versions import OURS, Versions, heard, say
from durable_raft.wire.messages import Hello, Proof
from durable_raft.wire.peer import HEADER_BYTES, TAGGED, FrameEncoder, FrameParser, PeerMessage, encode_frame
from durable_raft.wire.proof import (
    TAG_BYTES,
    LinkKeys,
    Opener,
    Sealer,
    Stance,
    Transcript,
    derive,
    frame_digest,
    is_same,
    recognise,
    stance_of,
    transcript_of,
)
from tests.wire.peer_messages import (
    BODY_BYTES_MAX,
    CLUSTER,
    EXAMPLES,
    OTHER_CLUSTER,
    PREVIOUS,
    append_entries,
    make_entries,
)
from tests.wire.resp_inputs import CUTS, cut

SECRET = b"a secret of the cluster, of 32 or more characters"
OTHER_SECRET = b"another secret, which nobody of this cluster has!"
HELLO = Hello(NodeId("n1"), b"u" * 16, NodeId("n2"), "0.2.0 must-prove 1-2", b"c" * 16)
NONCE = b"n" * 16
TRANSCRIPT = transcript_of(CLUSTER, HELLO, NONCE)
KEYS = derive(SECRET, TRANSCRIPT)
HEARTBEAT, ANSWER = EXAMPLES["heartbeat"], EXAMPLES["append_entries_response"]


# -- proofs ---------------------------------------------------------------------------------------------------------


def test_derived_values_never_change() -> None:
    """Another program of the same version derives the same: these are what it is checked against."""
    assert TRANSCRIPT.digest().hex() == "dbb14818bd0c7fcd8e89c8611e5e9c9196003462f6b11223146950508b566263"
    assert [value.hex() for value in KEYS] == [
        "5fc4486357fbfa5caefb93a6258a6cbf5548de1d884f4396f0f6d15ed3b73c89",
        "738a5a0ab1fb90f8cc1df75c0ded3844dd41b601d2f89c412181ba59766ff11e",
        "4de919c5f1273993cee1ef01492b28cda42fdca2aaf1d94aa2e3fe3d40849dd7",
        "02cda47c1a37dcbda3f5aaa02cf7632f6e1352c31ce1f10641372aced359b8e7",
    ]
    assert Sealer(KEYS.dialler_key).tag(frame_digest(b"frame")).hex() == "1864ea2f730dd968a93406dc462acc92"


def test_whoever_knows_the_secret_is_recognised_by_it() -> None:
    """Whichever of those that count it is; the listener goes on with the same one."""
    assert recognise([SECRET], TRANSCRIPT, KEYS.dialler_proof) == (SECRET, KEYS)
    assert recognise([OTHER_SECRET, SECRET], TRANSCRIPT, KEYS.dialler_proof) == (SECRET, KEYS)
    assert recognise([SECRET, OTHER_SECRET], TRANSCRIPT, KEYS.dialler_proof) == (SECRET, KEYS)


@pytest.mark.parametrize("secrets", [[], [OTHER_SECRET], [SECRET + b"!"], [SECRET[:-1]]])
def test_another_secret_proves_nothing(secrets: list[bytes]) -> None:
    """Nor one that is longer or shorter by a character."""
    assert recognise(secrets, TRANSCRIPT, KEYS.dialler_proof) is None


OTHERS: dict[str, Any] = {
    "cluster_id": OTHER_CLUSTER,
    "dialler_id": NodeId("n3"),
    "dialler_uuid": b"v" * 16,
    "listener_id": NodeId("n3"),
    "version": "0.2.0 may-prove 1-2",
    "dialler_nonce": b"d" * 16,
    "listener_nonce": b"m" * 16,
}


@pytest.mark.parametrize("field", Transcript._fields)
def test_everything_that_was_said_is_part_of_the_proof(field: str) -> None:
    """Whoever heard another value proves nothing, and has no key in common with the other end."""
    other = TRANSCRIPT._replace(**{field: OTHERS[field]})
    assert recognise([SECRET], other, KEYS.dialler_proof) is None
    assert not set(derive(SECRET, other)) & set(KEYS)


def test_the_transcript_holds_all_of_a_hello() -> None:
    """A field that is added to it must be part of the proof, too."""
    assert len(Transcript._fields) == len(Hello._fields) + 2
    for field, value in zip(Hello._fields, ["n3", b"v" * 16, "n3", "0.2.0 1-2", b"d" * 16], strict=True):
        assert transcript_of(CLUSTER, HELLO._replace(**{field: value}), NONCE) != TRANSCRIPT  # type: ignore[arg-type]


def test_fields_cannot_be_moved_into_each_other() -> None:
    """The same bytes, divided otherwise, are another transcript."""
    one, other = (
        TRANSCRIPT._replace(version="ab", dialler_nonce=b"c"),
        TRANSCRIPT._replace(version="a", dialler_nonce=b"bc"),
    )
    assert one.digest() != other.digest()


def test_a_proof_cannot_be_sent_back() -> None:
    """What an end has sent is not what it waits for, and the tags of the two directions have keys of their own."""
    assert len(set(KEYS)) == len(LinkKeys._fields)
    assert not is_same(KEYS.dialler_proof, KEYS.listener_proof)
    assert recognise([SECRET], TRANSCRIPT, KEYS.listener_proof) is None


@pytest.mark.parametrize("bit", range(256))
def test_a_changed_proof_is_none(bit: int) -> None:
    """One flipped bit, each."""
    changed = (int.from_bytes(KEYS.dialler_proof, "big") ^ 1 << bit).to_bytes(32, "big")
    assert recognise([SECRET], TRANSCRIPT, changed) is None


# -- what a node says of itself ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stance", Stance)
def test_what_a_node_does_about_proofs_is_behind_its_software(stance: Stance) -> None:
    """Programs of before read over it: what they look for is still the last."""
    said = say(stance.behind("0.2.0"), OURS)
    assert stance_of(said) is stance
    assert heard(said) == OURS
    assert said.startswith("0.2.0 ")


@pytest.mark.parametrize(
    "said",
    ["", "0.1.0", "0.1.0 1-2", "must-prove", "0.2.0 must-prove", "0.2.0 must-prove 1-2 x", "0.2.0 xmust-prove 1-2"],
)
def test_whoever_says_nothing_of_proofs_has_no_secret(said: str) -> None:
    """As programs of before."""
    assert stance_of(said) is Stance.NONE


def test_a_node_without_a_secret_says_what_it_always_said() -> None:
    """Not a byte of its Hello is another."""
    assert say(Stance.NONE.behind("0.1.0"), Versions(1, 2)) == "0.1.0 1-2"


# -- tagged frames ----------------------------------------------------------------------------------------------------


def sealed(sealer: Sealer, *messages: PeerMessage) -> list[bytes]:
    """Return the frames of ``messages`` with their tags."""
    encoder = FrameEncoder(CLUSTER, TAGGED)
    return [frame + sealer.tag(frame_digest(frame)) for message in messages for frame in encoder.frames(message)]


def secured(bulk_bytes_max: int = 0, key: bytes = KEYS.dialler_key) -> FrameParser:
    """Return a parser that has taken a proof."""
    parser = FrameParser(CLUSTER, BODY_BYTES_MAX, bulk_bytes_max)
    assert parser.feed(encode_frame(CLUSTER, Proof(KEYS.dialler_proof))) == [Proof(KEYS.dialler_proof)]
    assert parser.secure(Opener(key)) == []
    return parser


def require_forged(parser: FrameParser, *frames: bytes) -> None:
    """Require that a parser refuses the last of ``frames``, for its tag, and believes nothing behind it."""
    *good, bad = frames
    for frame in good:
        assert len(parser.feed(frame)) == 1
    for data in (bad, good[0] if good else bad):
        with pytest.raises(ForgedFrame):
            parser.feed(data)


@given(st.lists(st.sampled_from([message for name, message in EXAMPLES.items() if name != "proof"]), max_size=8), CUTS)
@settings(max_examples=50)
def test_tagged_frames_come_back_at_every_cut(messages: list[PeerMessage], cuts: list[int]) -> None:
    """However the bytes are cut, the proof before them included."""
    proof = Proof(KEYS.dialler_proof)
    data = encode_frame(CLUSTER, proof) + b"".join(sealed(Sealer(KEYS.dialler_key), *messages))
    parser, found = FrameParser(CLUSTER, BODY_BYTES_MAX), []
    for chunk in cut(data, cuts):
        found += parser.feed(chunk)
        if found == [proof] and parser._opener is None:
            found += parser.secure(Opener(KEYS.dialler_key))
    assert found == [proof, *messages]


def test_a_large_message_has_a_tag_on_each_piece() -> None:
    """They may come with others between them."""
    message = append_entries(7, PREVIOUS, make_entries(PREVIOUS, [(7, b"large" * 200_000)]))
    frames = sealed(Sealer(KEYS.dialler_key), message)
    assert len(frames) == 6
    assert secured(4 << 20).feed(b"".join(frames)) == [message]
    frames[2], frames[3] = frames[3], frames[2]
    with pytest.raises(ForgedFrame):
        secured(4 << 20).feed(b"".join(frames))


def test_every_flipped_bit_of_a_tagged_frame_is_refused() -> None:
    """Wherever it is; most are noticed by the checksums, before the tag is looked at."""
    (frame,) = sealed(Sealer(KEYS.dialler_key), ANSWER)
    for bit in range(8 * len(frame)):
        changed = bytearray(frame)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PeerError):
            # A length that has grown waits for more.
            secured().feed(bytes(changed) + bytes(1 << 12))


def with_good_checksums(frame: bytearray) -> bytes:
    """Return a tagged frame whose body and header match their checksums again."""
    body = bytes(frame[HEADER_BYTES:-TAG_BYTES])
    frame[24:32] = struct.pack(">II", len(body), crc32c(body))
    frame[32:36] = struct.pack(">I", crc32c(bytes(frame[:32])))
    return bytes(frame)


def test_every_bit_that_somebody_flips_on_purpose_is_refused_by_the_tag() -> None:
    """Whoever changes a frame can make its checksums right again; the tag is all there is against that."""
    (frame,) = sealed(Sealer(KEYS.dialler_key), ANSWER)
    # The kind, the body and the tag; whatever else is changed in the header is refused for what it is.
    for at in (6, *range(HEADER_BYTES, len(frame))):
        for bit in range(8):
            changed = bytearray(frame)
            changed[at] ^= 1 << bit
            require_forged(secured(), with_good_checksums(changed))


def test_the_header_is_under_the_tag() -> None:
    """The same body as another kind of frame."""
    sealer, encoder = Sealer(KEYS.dialler_key), FrameEncoder(CLUSTER, TAGGED)
    frame = bytearray(encoder.encode(EXAMPLES["confirm"]))  # type: ignore[arg-type]
    tag = sealer.tag(frame_digest(frame))
    frame[6] = 22
    require_forged(secured(), with_good_checksums(frame + tag))


@pytest.mark.parametrize(
    "moved",
    [
        lambda frames: [frames[0], frames[0]],
        lambda frames: [frames[0], frames[1], frames[0]],
        lambda frames: [frames[1]],
        lambda frames: [frames[0], frames[2]],
    ],
    ids=["replayed", "replayed later", "reordered, or the first dropped", "dropped"],
)
def test_frames_cannot_be_moved(moved: Callable[[list[bytes]], list[bytes]]) -> None:
    """Each is whole, was sent on this link, and is not the next."""
    require_forged(secured(), *moved(sealed(Sealer(KEYS.dialler_key), HEARTBEAT, ANSWER, HEARTBEAT)))


def test_equal_messages_have_tags_of_their_own() -> None:
    """The number of the frame is part of the tag."""
    first, second = sealed(Sealer(KEYS.dialler_key), HEARTBEAT, HEARTBEAT)
    assert first[:-TAG_BYTES] == second[:-TAG_BYTES]
    assert first[-TAG_BYTES:] != second[-TAG_BYTES:]


@pytest.mark.parametrize(
    "key",
    [
        KEYS.listener_key,
        derive(OTHER_SECRET, TRANSCRIPT).dialler_key,
        derive(SECRET, TRANSCRIPT._replace(listener_nonce=b"x" * 16)).dialler_key,
    ],
    ids=["reflected", "of another secret", "of another link"],
)
def test_frames_of_other_links_and_directions_are_refused(key: bytes) -> None:
    """As if they were made up."""
    require_forged(secured(), *sealed(Sealer(key), HEARTBEAT))


def test_a_frame_without_a_tag_is_refused_where_the_secret_was_proven() -> None:
    """Nobody can go back to how it was before."""
    require_forged(secured(), sealed(Sealer(KEYS.dialler_key), HEARTBEAT)[0], encode_frame(CLUSTER, HEARTBEAT))


def test_a_tagged_frame_is_refused_where_no_secret_was_proven() -> None:
    """What is behind the body would be taken for the next frame."""
    with pytest.raises(DamagedFrame, match="no cluster secret was proven"):
        FrameParser(CLUSTER, BODY_BYTES_MAX).feed(sealed(Sealer(KEYS.dialler_key), HEARTBEAT)[0])


def test_nothing_behind_a_proof_is_read_before_it_was_taken() -> None:
    """Neither with it nor after it."""
    proof = encode_frame(CLUSTER, Proof(KEYS.dialler_proof))
    for data in (encode_frame(CLUSTER, HEARTBEAT), b"rubbish", sealed(Sealer(KEYS.dialler_key), HEARTBEAT)[0]):
        parser = FrameParser(CLUSTER, BODY_BYTES_MAX)
        assert parser.feed(proof + data) == [Proof(KEYS.dialler_proof)]
        with pytest.raises(DamagedFrame, match="behind a proof"):
            parser.feed(data)


def test_the_hash_of_a_frame_is_made_once() -> None:
    """A leader sends the same to all its followers; that of another frame is another."""
    encoder = FrameEncoder(CLUSTER, TAGGED)
    frame, other = encoder.encode(HEARTBEAT), encoder.encode(ANSWER)
    assert isinstance(frame, bytes)
    assert isinstance(other, bytes)
    digest = encoder.digest(frame)
    assert encoder.digest(frame) is digest
    assert digest == frame_digest(frame)
    assert encoder.digest(other) == frame_digest(other)
    assert encoder.digest(frame) == digest
