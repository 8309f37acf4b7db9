"""The hearing end of a link, fed with handshakes and what follows them: a stub for the kernel, all else is real."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any, cast

from durable_raft.errors import PeerMisbehaved
from durable_raft.raft.types import NodeId
from durable_raft.server.hearing import Accepted
from durable_raft.wire.messages import Confirm, Hello
from durable_raft.wire.peer import NodeMessage, encode_frame
from tests.fuzz import inputs
from tests.support.peer_house import HELLO, House
from tests.wire.peer_messages import CLUSTER


class _Socket:
    def setsockopt(self, *_: object) -> None:
        """Nothing is set."""


class _Transport:
    """The end of a connection that keeps nothing."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._is_closing = False
        self.link: Accepted | None = None

    def get_extra_info(self, name: str) -> Any:
        """Return what a link asks for."""
        return _Socket() if name == "socket" else (self._host, 1)

    def write(self, data: bytes) -> None:
        """Nobody reads."""

    def is_closing(self) -> bool:
        """Return whether the link has ended."""
        return self._is_closing

    def abort(self) -> None:
        """End the link."""
        self._is_closing = True

    close = abort


class Handshakes:
    """Links of one node that live as long as some bytes; must be made and used on a running event loop."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._house = House(CLUSTER)
        self._house.peers.receive = self._receive
        self._count = 0

    def _receive(self, source: NodeId, message: NodeMessage) -> None:
        del source, message
        if self._rng.random() < 0.1:
            raise PeerMisbehaved("as the core would say")

    def run(self) -> None:
        """Play one link."""
        rng, peers = self._rng, self._house.peers
        link = Accepted(peers)
        transport = _Transport(f"10.0.0.{rng.randrange(200)}")
        link.connection_made(cast("asyncio.Transport", transport))
        challenge = rng.randbytes(16)
        hello = HELLO._replace(challenge=challenge)
        sent = encode_frame(CLUSTER, hello) if rng.random() < 0.7 else inputs.frame(rng)
        link.data_received(sent)
        if rng.random() < 0.8 and not transport.is_closing():
            peers.callers.confirm(NodeId("n2"), challenge)
        for _ in range(rng.randrange(4)):
            if transport.is_closing():
                break
            link.data_received(self._said(hello))
        link.connection_lost(None)
        self._count += 1

    def _said(self, hello: Hello) -> bytes:
        rng = self._rng
        choice = rng.random()
        if choice < 0.2:
            return encode_frame(CLUSTER, Confirm(rng.randbytes(16)))
        if choice < 0.3:
            return encode_frame(CLUSTER, hello)
        return rng.choice(inputs.FRAMES) if choice < 0.6 else inputs.frame(rng)

    def leftovers(self) -> int:
        """Return how much is remembered of links that have ended."""
        peers = self._house.peers
        return len(peers.accepted) + len(peers.callers._open) + len(peers.callers._callers) + len(peers._proven)


async def play(rng: random.Random, count: int) -> int:
    """Play ``count`` links; return what was left of them."""
    handshakes = Handshakes(rng)
    for number in range(count):
        handshakes.run()
        if number % 1000 == 0:
            # Timers that were cancelled are let go of.
            await asyncio.sleep(0)
    with contextlib.suppress(OSError):
        handshakes._house.peers.close()
    return handshakes.leftovers()
