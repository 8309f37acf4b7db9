"""The two ends of a proof, without a socket: what each takes once, and what costs how much."""

from __future__ import annotations

from pathlib import Path

import pytest

from durable_raft.errors import Unproven
from durable_raft.raft.types import Identity, NodeId
from durable_raft.server.proving import JOINED_BYTES_MAX, DiallingEnd, HearingEnd, Proofs, Seal
from durable_raft.wire.messages import Challenge
from durable_raft.wire.peer import TAGGED, FrameEncoder, encode_frame
from durable_raft.wire.proof import TAG_BYTES, Opener, frame_digest
from tests.support.peer_house import CLUSTER_ID, MESSAGE
from tests.support.secret_links import NONCE, PROVING, secrets_in

KEY = b"k" * 32


class Writer:
    """A transport that keeps what it was given."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Keep one piece."""
        self.written.append(data)


@pytest.fixture
def ends(tmp_path: Path) -> tuple[DiallingEnd, HearingEnd]:
    """Return n2, which dials, and n1, which hears."""
    secrets = secrets_in(tmp_path)
    n1, n2 = (Proofs(Identity(CLUSTER_ID, NodeId(name), b"1" * 16), secrets) for name in ("n1", "n2"))
    return DiallingEnd(n2, PROVING), HearingEnd(n1)


def test_each_end_takes_one_proof(ends: tuple[DiallingEnd, HearingEnd]) -> None:
    """A second one would begin the numbers of frames anew, and let all of them be sent again."""
    dialling, hearing = ends
    challenge = hearing.challenge(PROVING)
    assert challenge is not None
    proof = dialling.answer(challenge)
    answer, _, _ = hearing.take(proof)
    dialling.take(answer)
    assert dialling.secret == hearing.secret is not None
    with pytest.raises(Unproven, match="a proof that was not asked for"):
        hearing.take(proof)
    with pytest.raises(Unproven, match="n1 does not prove"):
        dialling.take(answer)
    with pytest.raises(Unproven, match="n1 asks for a proof where none has its place"):
        dialling.answer(Challenge(NONCE))


def test_a_long_frame_is_not_copied_for_its_tag() -> None:
    """It goes before it as it is; a short one goes with it as one piece, and so in one packet."""
    encoder = FrameEncoder(CLUSTER_ID, TAGGED)
    seal, opener, writer = Seal(encoder, KEY), Opener(KEY), Writer()
    short, long = encode_frame(CLUSTER_ID, MESSAGE, TAGGED), b"f" * (JOINED_BYTES_MAX + 1)
    seal.write(writer, short)  # type: ignore[arg-type]
    seal.write(writer, long)  # type: ignore[arg-type]
    first, second, tag = writer.written
    assert second is long
    assert first[:-TAG_BYTES] == short
    opener.check(frame_digest(short), first[-TAG_BYTES:])
    opener.check(frame_digest(long), tag)


def test_a_frame_is_hashed_once_for_all_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is encoded once."""
    encoder, writer = FrameEncoder(CLUSTER_ID, TAGGED), Writer()
    seals = [Seal(encoder, bytes([number]) * 32) for number in range(4)]
    hashed: list[bytes] = []

    def count(*parts: bytes) -> bytes:
        hashed.extend(parts)
        return frame_digest(*parts)

    monkeypatch.setattr("durable_raft.wire.peer.frame_digest", count)
    for seal in seals:
        frame = seal.encoder.encode(MESSAGE)
        assert isinstance(frame, bytes)
        seal.write(writer, frame)  # type: ignore[arg-type]
    assert len(hashed) == 1
    assert len(set(writer.written)) == 4
