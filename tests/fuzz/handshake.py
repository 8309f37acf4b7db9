"""Both ends of a link, fed with handshakes and what follows them: a stub for the kernel, all else is real.

In half of the links the node has a cluster secret. Then it must hear nothing but what whoever has proven it has sent,
and believe nobody whom it dialled without a proof.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any, Final, cast

from durable_raft.errors import PeerMisbehaved
from durable_raft.raft.types import NodeId
from durable_raft.server.cluster_secret import ClusterSecrets
from durable_raft.server.dialling import _Dialled
from durable_raft.server.hearing import Accepted
from durable_raft.wire.messages import Challenge, Confirm, Hello, HelloReply, Proof
from durable_raft.wire.peer import HEADER_BYTES, TAGGED, FrameParser, NodeMessage, PeerMessage, encode_frame
from durable_raft.wire.proof import LinkKeys, Sealer, Stance, derive, frame_digest, transcript_of
from tests.fuzz import inputs
from tests.support.peer_house import HELLO, MESSAGE, House
from tests.wire.peer_messages import CLUSTER

SECRET: Final = b"a secret of the cluster, of 32 or more characters"
PROVING: Final = HELLO._replace(version="0.2.0 must-prove 1-2")
N2: Final = NodeId("n2")


class _Socket:
    def setsockopt(self, *_: object) -> None:
        """Nothing is set."""


class _Transport:
    """The end of a connection that keeps what is written last."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._is_closing = False
        self.written = b""

    def get_extra_info(self, name: str) -> Any:
        """Return what a link asks for."""
        return _Socket() if name == "socket" else (self._host, 1)

    def set_write_buffer_limits(self, high: int) -> None:
        """Nothing is buffered."""

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.written = data

    def is_closing(self) -> bool:
        """Return whether the link has ended."""
        return self._is_closing

    def abort(self) -> None:
        """End the link."""
        self._is_closing = True

    close = abort


def with_secret() -> ClusterSecrets:
    """Return a secret that stands in no file."""
    secrets = ClusterSecrets()
    secrets.accepted, secrets.stance = (SECRET,), Stance.MUST
    return secrets


def said_first(data: bytes) -> PeerMessage | None:
    """Return the message that a frame without a tag holds, if it is one."""
    with contextlib.suppress(Exception):
        (message,) = FrameParser(CLUSTER, 1 << 16).feed(data)
        return message
    return None


class Handshakes:
    """Links of one node that live as long as some bytes; must be made and used on a running event loop."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._house = House(CLUSTER)
        self._secret_house = House(CLUSTER, with_secret())
        self._house.peers.receive = self._receive
        self._secret_house.peers.receive = self._receive_with_secret
        self._may_come = 0
        """Messages that whoever has proven the secret has sent and that were not heard yet."""

    def _receive(self, source: NodeId, message: NodeMessage) -> None:
        del source, message
        if self._rng.random() < 0.1:
            raise PeerMisbehaved("as the core would say")

    def _receive_with_secret(self, source: NodeId, message: NodeMessage) -> None:
        self._may_come -= 1
        assert self._may_come >= 0, f"heard without a proof: {message!r:.100}"
        self._receive(source, message)

    def run(self) -> None:
        """Play one link."""
        choice = self._rng.random()
        if choice < 0.5:
            self._hear()
        elif choice < 0.8:
            self._hear_with_secret()
        else:
            self._dial_with_secret()

    def _accepted(self, house: House) -> tuple[Accepted, _Transport]:
        link = Accepted(house.peers)
        transport = _Transport(f"10.0.0.{self._rng.randrange(200)}")
        link.connection_made(cast("asyncio.Transport", transport))
        return link, transport

    def _hear(self) -> None:
        rng, peers = self._rng, self._house.peers
        link, transport = self._accepted(self._house)
        challenge = rng.randbytes(16)
        hello = HELLO._replace(challenge=challenge)
        sent = encode_frame(CLUSTER, hello) if rng.random() < 0.7 else inputs.frame(rng)
        link.data_received(sent)
        if rng.random() < 0.8 and not transport.is_closing():
            peers.callers.confirm(N2, challenge)
        for _ in range(rng.randrange(4)):
            if transport.is_closing():
                break
            link.data_received(self._said(hello))
        link.connection_lost(None)

    def _said(self, hello: Hello) -> bytes:
        rng = self._rng
        choice = rng.random()
        if choice < 0.2:
            return encode_frame(CLUSTER, Confirm(rng.randbytes(16)))
        if choice < 0.3:
            return encode_frame(CLUSTER, hello)
        return rng.choice(inputs.FRAMES) if choice < 0.6 else inputs.frame(rng)

    # -- with a secret ------------------------------------------------------------------------------------------------

    def _hear_with_secret(self) -> None:
        rng, peers = self._rng, self._secret_house.peers
        self._may_come = 0
        link, transport = self._accepted(self._secret_house)
        hello = PROVING._replace(challenge=rng.randbytes(16))
        link.data_received(encode_frame(CLUSTER, hello) if rng.random() < 0.8 else self._said(hello))
        challenge = said_first(transport.written)
        sealer: Sealer | None = None
        if isinstance(challenge, Challenge) and rng.random() < 0.7 and not transport.is_closing():
            keys = derive(SECRET, transcript_of(CLUSTER, hello, challenge.nonce))
            proof = encode_frame(CLUSTER, Proof(keys.dialler_proof))
            if rng.random() < 0.8:
                sealer = Sealer(keys.dialler_key)
            else:
                proof = inputs.damaged(rng, proof)
            link.data_received(proof)
        # Whoever is named may confirm whatever was said so far: without a proof that must not help.
        peers.callers.confirm(N2, hello.challenge)
        for _ in range(rng.randrange(5)):
            if transport.is_closing():
                break
            link.data_received(self._tagged(sealer) if sealer is not None else self._said(hello))
        link.connection_lost(None)

    def _tagged(self, sealer: Sealer) -> bytes:
        """Return a frame of whoever has proven the secret, or something like one."""
        rng = self._rng
        sound = inputs.frame(rng) if rng.random() < 0.5 else encode_frame(CLUSTER, MESSAGE)
        frame = inputs.frame_of(sound[6], sound[HEADER_BYTES:], TAGGED) if len(sound) >= HEADER_BYTES else sound
        tagged = frame + sealer.tag(frame_digest(frame))
        if rng.random() < 0.3:
            changed = inputs.damaged(rng, tagged)
            if changed != tagged:
                return changed
        self._may_come += 1
        return tagged

    def _dial_with_secret(self) -> None:
        """Play whoever listens at the address of a peer."""
        rng, peers = self._rng, self._secret_house.peers
        link, transport = _Dialled(peers.proofs, N2, peers.callers), _Transport("10.0.0.1")
        link.connection_made(cast("asyncio.Transport", transport))
        hello = said_first(transport.written)
        assert isinstance(hello, Hello)
        keys: LinkKeys | None = None
        has_proven = False
        for _ in range(rng.randrange(1, 6)):
            if transport.is_closing():
                break
            if keys is None and rng.random() < 0.6:
                keys = derive(SECRET, transcript_of(CLUSTER, hello, b"n" * 16))
                link.data_received(encode_frame(CLUSTER, Challenge(b"n" * 16)))
            elif keys is not None and not has_proven and rng.random() < 0.6:
                has_proven = True
                link.data_received(encode_frame(CLUSTER, Proof(keys.listener_proof)))
            else:
                accepted = encode_frame(CLUSTER, HelloReply(True, "", N2, b"2" * 16))
                link.data_received(accepted if rng.random() < 0.5 else self._said(hello))
        assert not link.end.is_settled or has_proven, "believed without a proof"
        assert not link.answer.done() or link.answer.exception() is not None, "accepted without a tag"
        link.connection_lost(None)

    def leftovers(self) -> int:
        """Return how much is remembered of links that have ended."""
        return sum(
            len(peers.accepted) + len(peers.callers._open) + len(peers.callers._callers) + len(peers._proven)
            for peers in (self._house.peers, self._secret_house.peers)
        )

    def close(self) -> None:
        """End both nodes."""
        for house in (self._house, self._secret_house):
            with contextlib.suppress(OSError):
                house.peers.close()


async def play(rng: random.Random, count: int) -> int:
    """Play ``count`` links; return what was left of them."""
    handshakes = Handshakes(rng)
    for number in range(count):
        handshakes.run()
        if number % 1000 == 0:
            # Timers that were cancelled are let go of.
            await asyncio.sleep(0)
    handshakes.close()
    return handshakes.leftovers()
