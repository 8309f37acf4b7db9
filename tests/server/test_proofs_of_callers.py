"""Whoever dials a node that has a cluster secret: without one, with another, with what somebody else said."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from durable_raft.checksum import crc32c
from durable_raft.raft.types import NodeId
from durable_raft.server.callers import OPEN_PER_ADDRESS_MAX
from durable_raft.server.cluster_secret import ClusterSecrets
from durable_raft.wire.messages import Challenge, Confirm, Confirmed, Hello, HelloReply, Proof
from durable_raft.wire.peer import HEADER_BYTES, TAGGED, PeerMessage, encode_frame
from durable_raft.wire.proof import TAG_BYTES, derive, transcript_of
from tests.support.peer_house import CLUSTER_ID, HELLO, MESSAGE, House, in_a_house
from tests.support.secret_links import OTHER_SECRET, PROVING, SECRET, Caller, secrets_in

N2 = NodeId("n2")

Dial: TypeAlias = Callable[[], Coroutine[Any, Any, Caller]]
Story: TypeAlias = Callable[[House, Dial], Coroutine[Any, Any, None]]


@pytest.fixture
def secrets(tmp_path: Path) -> ClusterSecrets:
    """Return the secret of n1, and of the real n2."""
    return secrets_in(tmp_path)


def with_callers(story: Story, secrets: ClusterSecrets) -> House:
    """Run a story with a function that dials n1."""

    async def told(house: House) -> None:
        callers: list[Caller] = []

        async def dial() -> Caller:
            callers.append(Caller(*await asyncio.open_connection("127.0.0.1", house.port)))
            return callers[-1]

        try:
            await story(house, dial)
        finally:
            house.peers.close()
            for caller in callers:
                await caller.close()

    return in_a_house(told, secrets=secrets)


async def proven(dial: Dial) -> Caller:
    """Dial n1, and prove the secret; n1 proves it, too."""
    caller = await dial()
    keys = derive(SECRET, transcript_of(CLUSTER_ID, PROVING, await caller.challenged()))
    caller.say(Proof(keys.dialler_proof))
    assert await caller.hear() == Proof(keys.listener_proof)
    return caller


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return why links were refused."""
    refused = [record for record in caplog.records if record.message == "peer_refused"]
    return [record.fields["reason"] for record in refused]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "hello",
    [
        HELLO,
        HELLO._replace(version="0.1.0 1-2"),
        HELLO._replace(node_id=NodeId("n9")),
        HELLO._replace(target_id=NodeId("n3")),
    ],
    ids=["no secret", "a program of before", "no member", "wants another node"],
)
def test_whoever_has_no_secret_is_told_that_and_nothing_else(
    hello: Hello, secrets: ClusterSecrets, caplog: pytest.LogCaptureFixture
) -> None:
    """Not who is a member, not the uuid of the disk; the log says from where it came."""

    async def story(house: House, dial: Dial) -> None:
        caller = await dial()
        caller.say(hello, MESSAGE)
        reason = f"{hello.node_id} has no cluster secret, and {hello.target_id} asks for one: "
        reason += f"set cluster_secret_file of {hello.node_id} to a copy of the file of {hello.target_id}"
        assert await caller.rest() == [HelloReply(False, reason, hello.target_id, bytes(16))]
        assert refusals(caplog) == [f"127.0.0.1: Unproven: {reason}"]
        assert house.n2.asked == []

    house = with_callers(story, secrets)
    assert (house.heard, house.joined, house.peers.refusals) == ([], [], 1)


@pytest.mark.parametrize(
    ("secret", "cluster_id"),
    [(OTHER_SECRET, CLUSTER_ID), (SECRET, b"x" * 16)],
    ids=["another secret", "another cluster"],
)
def test_whoever_proves_something_else_is_refused(
    secret: bytes, cluster_id: bytes, secrets: ClusterSecrets, caplog: pytest.LogCaptureFixture
) -> None:
    """Another secret, or the same in another cluster."""

    async def story(house: House, dial: Dial) -> None:
        caller = await dial()
        nonce = await caller.challenged()
        caller.say(Proof(derive(secret, transcript_of(cluster_id, PROVING, nonce)).dialler_proof), MESSAGE)
        reason = "n2 proves another cluster secret"
        assert await caller.rest() == [HelloReply(False, reason, NodeId("n1"), bytes(16))]
        assert refusals(caplog) == [f"127.0.0.1: Unproven: {reason}"]
        assert house.n2.asked == []

    house = with_callers(story, secrets)
    assert (house.heard, house.joined) == ([], [])


def test_whoever_proves_it_is_heard(secrets: ClusterSecrets) -> None:
    """And told who this is, on a frame with a tag."""

    async def story(house: House, dial: Dial) -> None:
        caller = await dial()
        await caller.join()
        caller.say(MESSAGE, MESSAGE)
        while len(house.heard) < 2:
            await asyncio.sleep(0.001)

    house = with_callers(story, secrets)
    assert house.heard == [(N2, MESSAGE)] * 2
    assert house.joined == [N2]


def test_what_was_said_on_another_link_proves_nothing(
    secrets: ClusterSecrets, caplog: pytest.LogCaptureFixture
) -> None:
    """Every byte of a good link again: this node's nonce is another."""

    async def story(house: House, dial: Dial) -> None:
        first = await dial()
        await first.join()
        first.say(MESSAGE)
        while not house.heard:
            await asyncio.sleep(0.001)
        again = await dial()
        again.say_bytes(first.sent)
        *_, refusal = await again.rest()
        assert isinstance(refusal, HelloReply)
        assert not refusal.accepted
        assert refusals(caplog) == ["127.0.0.1: Unproven: n2 proves another cluster secret"]

    assert with_callers(story, secrets).heard == [(N2, MESSAGE)]


def test_a_proof_does_not_say_which_node_it_is(secrets: ClusterSecrets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another member in the name of n2: n2 has not dialled that link."""
    monkeypatch.setattr("durable_raft.server.hearing.HANDSHAKE_TIMEOUT_S", 0.2)
    hello = PROVING._replace(challenge=b"another member's")

    async def story(house: House, dial: Dial) -> None:
        caller = await dial()
        keys = derive(SECRET, transcript_of(CLUSTER_ID, hello, await caller.challenged(hello)))
        caller.say(Proof(keys.dialler_proof))
        assert await caller.rest() == [Proof(keys.listener_proof)]
        assert house.n2.asked == [b"another member's"]

    assert with_callers(story, secrets).heard == []


@pytest.mark.parametrize(
    "second",
    [
        PROVING,
        Confirm(b"c" * 16),
        Confirmed(b"c" * 16),
        HelloReply(True, "", N2, b"2" * 16),
        MESSAGE,
        Challenge(b"n" * 16),
    ],
    ids=lambda message: type(message).__name__,
)
def test_nothing_but_the_proof_is_taken_where_one_is_to_come(second: PeerMessage, secrets: ClusterSecrets) -> None:
    """The link ends without a word: whoever says something else is told nothing, and confirmed nothing."""

    async def story(house: House, dial: Dial) -> None:
        while not house.peers.links[N2].is_up:
            await asyncio.sleep(0.001)
        dialled = house.peers.links[N2]._dialled
        assert dialled is not None
        caller = await dial()
        await caller.challenged()
        caller.say(second if not isinstance(second, Confirm) else Confirm(dialled.challenge))
        assert await caller.rest() == []

    assert with_callers(story, secrets).peers.refusals == 1


def test_a_claim_of_a_secret_that_is_gone_is_not_heard(secrets: ClusterSecrets) -> None:
    """It was proven, and then the file changed before the peer confirmed it."""

    async def story(house: House, dial: Dial) -> None:
        house.n2.hangs = True
        caller = await proven(dial)
        secrets.accepted = (OTHER_SECRET,)
        assert house.peers.callers.confirm(N2, PROVING.challenge)
        assert await caller.rest() == []
        assert not house.peers._proven

    assert with_callers(story, secrets).joined == []


@pytest.mark.parametrize("has_secret", [True, False])
def test_a_proof_that_was_not_asked_for_ends_the_link(has_secret: bool, secrets: ClusterSecrets) -> None:
    """Before the Hello, and a second one."""

    async def story(_: House, dial: Dial) -> None:
        caller = await dial()
        caller.say(Proof(b"p" * 32))
        assert await caller.rest() == []
        again = await dial()
        if has_secret:
            await again.join()
        else:
            again.say(HELLO)
        again.say(Proof(b"p" * 32))
        assert not any(isinstance(message, HelloReply) and not message.accepted for message in await again.rest())

    house = with_callers(story, secrets if has_secret else ClusterSecrets())
    assert (house.heard, house.peers.refusals) == ([], 2)


def flipped(frame: bytes, at: int) -> bytes:
    """Return a tagged frame with a bit flipped there and good checksums."""
    changed = bytearray(frame)
    changed[at] ^= 1
    body = bytes(changed[HEADER_BYTES:-TAG_BYTES])
    changed[24:32] = struct.pack(">II", len(body), crc32c(body))
    changed[32:36] = struct.pack(">I", crc32c(bytes(changed[:32])))
    return bytes(changed)


@pytest.mark.parametrize(
    ("said", "frames"),
    [
        ("replayed", lambda first, *_: [first, first]),
        ("dropped", lambda *frames: [frames[1]]),
        ("reordered", lambda first, second, _: [second + first]),
        ("a bit of the body", lambda first, *_: [flipped(first, HEADER_BYTES)]),
        ("a bit of the tag", lambda first, *_: [flipped(first, len(first) - 1)]),
        ("no tag", lambda *_: [encode_frame(CLUSTER_ID, MESSAGE)]),
        ("an empty tag", lambda *_: [encode_frame(CLUSTER_ID, MESSAGE, TAGGED) + bytes(TAG_BYTES)]),
    ],
)
def test_frames_of_a_link_cannot_be_touched(
    said: str, frames: Callable[..., list[bytes]], secrets: ClusterSecrets, caplog: pytest.LogCaptureFixture
) -> None:
    """What came before is heard, nothing behind it; the link ends, and the log says why."""
    del said

    async def story(house: House, dial: Dial) -> None:
        caller = await dial()
        await caller.join()
        caller.say(MESSAGE)
        while not house.heard:
            await asyncio.sleep(0.001)
        *good, bad = frames(*(caller.framed(MESSAGE) for _ in range(3)))
        caller.say_bytes(b"".join(good))
        while len(house.heard) < 1 + len(good[:1]):
            await asyncio.sleep(0.001)
        caller.say_bytes(bad + encode_frame(CLUSTER_ID, MESSAGE))
        assert await caller.rest() == []
        (reason,) = refusals(caplog)
        assert reason.startswith("127.0.0.1: ForgedFrame: ")

    assert len(with_callers(story, secrets).heard) <= 2


def test_strangers_do_not_take_the_place_of_whoever_has_proven(secrets: ClusterSecrets) -> None:
    """n2 answers late; meanwhile more links are dialled than one host may have without a proof."""

    async def story(house: House, dial: Dial) -> None:
        house.n2.hangs = True
        await proven(dial)
        for _ in range(OPEN_PER_ADDRESS_MAX + 3):
            await dial()
        while len(house.peers.accepted) > OPEN_PER_ADDRESS_MAX + 1:
            await asyncio.sleep(0.001)
        house.n2.hangs = False
        while N2 not in house.peers._proven:
            await asyncio.sleep(0.001)

    with_callers(story, secrets)
