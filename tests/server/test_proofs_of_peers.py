"""Whoever is at the address of a peer of a node that has a cluster secret, and does not prove it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from durable_raft.raft.types import NodeId
from durable_raft.server.cluster_secret import ClusterSecrets
from durable_raft.wire.messages import Challenge, Confirmed, Hello, HelloReply, Proof
from durable_raft.wire.proof import derive, transcript_of
from tests.support.peer_house import CLUSTER_ID, HELLO, House, in_a_house
from tests.support.secret_links import NONCE, PROVING, SECRET, Caller, Impostor, secrets_in

N2 = NodeId("n2")
ACCEPTED = HelloReply(True, "", N2, b"2" * 16)
REFUSED = HelloReply(False, "go away", N2, b"replaced disk!!!", is_replaced=True, is_removed=True)


@pytest.fixture
def secrets(tmp_path: Path) -> ClusterSecrets:
    """Return the secret of n1."""
    return secrets_in(tmp_path)


@pytest.mark.parametrize(
    ("impostor", "reason"),
    [
        (Impostor([ACCEPTED]), "n2 has no cluster secret, and this node asks for one"),
        (Impostor([Confirmed(HELLO.challenge)]), "n2 has no cluster secret, and this node asks for one"),
        (Impostor([Challenge(NONCE), ACCEPTED]), "n2 goes on without a proof of the cluster secret"),
        (Impostor([Challenge(NONCE)], lambda _: [ACCEPTED]), "n2 goes on without a proof of the cluster secret"),
        (Impostor([Challenge(NONCE)], lambda _: [Proof(b"p" * 32)]), "n2 does not prove the cluster secret"),
        (Impostor([Challenge(NONCE)], lambda proof: [proof]), "n2 does not prove the cluster secret"),
        (Impostor([Proof(b"p" * 32)]), "n2 does not prove the cluster secret"),
        (Impostor([Challenge(NONCE), Challenge(b"m" * 16)]), "n2 asks for a proof where none has its place"),
        (Impostor([REFUSED]), "n2 refuses this node: go away"),
        (Impostor([Challenge(NONCE)], lambda _: [REFUSED]), "n2 refuses this node: go away"),
    ],
)
def test_whoever_is_at_the_address_of_a_peer_must_prove_it_too(
    impostor: Impostor,
    reason: str,
    secrets: ClusterSecrets,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is sent to it or believed: not that this node was removed or replaced, and no claim is confirmed."""

    async def story(house: House) -> None:
        link = house.peers.links[N2]
        house.replaced.add(b"replaced disk!!!")
        caller = Caller(*await asyncio.open_connection("127.0.0.1", house.port))
        keys = derive(SECRET, transcript_of(CLUSTER_ID, PROVING, await caller.challenged()))
        caller.say(Proof(keys.dialler_proof))
        async with impostor.serve(house.port_of_n2):
            while not any(reason in str(getattr(record, "fields", "")) for record in caplog.records):
                await asyncio.sleep(0.001)
            assert not link.is_up
            assert (link.is_refused_as_removed, link.is_refused_as_replaced, link.is_replaced) == (False, False, False)
            assert not house.peers._proven
            house.peers.close()
            await caller.close()
            assert all(isinstance(message, (Hello, Proof)) for message in impostor.heard)

    house = in_a_house(story, listens=False, secrets=secrets)
    assert house.failures == []


def test_a_node_without_a_secret_answers_no_challenge(caplog: pytest.LogCaptureFixture) -> None:
    """It has offered no proof."""

    async def story(house: House) -> None:
        async with Impostor([Challenge(NONCE)]).serve(house.port_of_n2):
            while "n2 asks for a proof where none has its place" not in str([r.__dict__ for r in caplog.records]):
                await asyncio.sleep(0.001)
            house.peers.close()

    in_a_house(story, listens=False)


def test_a_node_says_what_it_does_about_proofs(secrets: ClusterSecrets) -> None:
    """Nothing, without a secret: its Hello is what it was before there were any."""
    said: dict[bool, Hello] = {}

    def told(has_secret: bool) -> None:
        async def story(house: House) -> None:
            impostor = Impostor([])
            async with impostor.serve(house.port_of_n2):
                while not impostor.heard:
                    await asyncio.sleep(0.001)
                house.peers.close()
            (hello,) = impostor.heard
            assert isinstance(hello, Hello)
            said[has_secret] = hello

        in_a_house(story, listens=False, secrets=secrets if has_secret else None)

    told(True)
    told(False)
    assert said[True].version.endswith(" must-prove 1-2")
    assert said[False].version == said[True].version.replace(" must-prove", "")
