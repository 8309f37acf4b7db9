"""The links of a node n1 by real sockets, and whoever a test lets dial it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any

from durable_raft.cli.local_cluster import free_ports
from durable_raft.errors import PeerMisbehaved
from durable_raft.raft.messages import AppendEntriesResponse
from durable_raft.raft.types import Identity, Index, Member, NodeId, Term
from durable_raft.server.budget import Share
from durable_raft.server.cluster_secret import ClusterSecrets
from durable_raft.server.half_sent import HalfSent
from durable_raft.server.peers import LinkEvents, Peers
from durable_raft.server.proving import HearingEnd, Proofs
from durable_raft.wire.messages import Confirm, Confirmed, Hello, HelloReply, Proof
from durable_raft.wire.peer import FrameParser, NodeMessage, PeerMessage, encode_frame

CLUSTER_ID = b"c" * 16
IDENTITY = Identity(CLUSTER_ID, NodeId("n1"), b"1" * 16)
HELLO = Hello(NodeId("n2"), b"2" * 16, NodeId("n1"), "1", b"c" * 16)
SHARE_BYTES = 64 << 20
TIMEOUT_S = 0.3
MESSAGE = AppendEntriesResponse(Term(1), True, Index(1), Index(0), Term(0), Index(0), 0)


class Dialler:
    """Whoever dials a node: sends what the test says, and hears the answers until the link ends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._parser = FrameParser(CLUSTER_ID, 1 << 16)
        self._found: list[PeerMessage] = []

    def say(self, *messages: PeerMessage, cluster_id: bytes = CLUSTER_ID) -> None:
        """Send messages."""
        self._writer.write(b"".join(encode_frame(cluster_id, message) for message in messages))

    def say_bytes(self, data: bytes) -> None:
        """Send anything."""
        self._writer.write(data)

    async def join(self, hello: Hello = HELLO) -> None:
        """Say who dials, and wait to be accepted."""
        self.say(hello)
        await self.accepted()

    async def accepted(self) -> None:
        """Wait for the first answer."""
        while not self._found:
            self._found += self._parser.feed(await self._reader.read(1 << 16))

    async def answers(self) -> list[PeerMessage]:
        """Return all that was said, once the other end has closed the link."""
        found = self._found
        with suppress(ConnectionError):
            while data := await self._reader.read(1 << 16):
                found += self._parser.feed(data)
        return found

    async def close(self) -> None:
        """End the link."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


class Listener:
    """The real n2, at the address that n1 knows of it: confirms the links that it dialled."""

    def __init__(self, secrets: ClusterSecrets) -> None:
        self._proofs = Proofs(Identity(CLUSTER_ID, NodeId("n2"), b"2" * 16), secrets)
        self.dialled = {HELLO.challenge}
        """Challenges of links that it dialled."""
        self.asked: list[bytes] = []
        self.confirms_all = False
        self.refuses_as_removed = False
        self.hangs = False
        """Whether it answers nothing that it is asked."""
        self._open = 0

    @asynccontextmanager
    async def serve(self, port: int) -> AsyncIterator[None]:
        """Listen."""
        async with await asyncio.start_server(self._serve, "127.0.0.1", port):
            yield
        while self._open:
            await asyncio.sleep(0.001)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        parser, end = FrameParser(CLUSTER_ID, 1 << 16), HearingEnd(self._proofs)
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                for message in parser.feed(data):
                    if isinstance(message, Proof):
                        proof, opener, seal = end.take(message)
                        end.say(writer.transport, proof)
                        end.seal = seal
                        assert parser.secure(opener) == []
                        end.say(writer.transport, self._answer())
                    else:
                        self._hear(message, end, writer.transport)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self._open -= 1

    def _hear(self, message: PeerMessage, end: HearingEnd, transport: asyncio.WriteTransport) -> None:
        if isinstance(message, Confirm):
            self.asked.append(message.challenge)
            if (message.challenge in self.dialled or self.confirms_all) and not self.hangs:
                end.say(transport, Confirmed(message.challenge))
        elif isinstance(message, Hello):
            end.say(transport, end.challenge(message) or self._answer())

    def _answer(self) -> HelloReply:
        is_removed = self.refuses_as_removed
        return HelloReply(not is_removed, "", NodeId("n2"), b"2" * 16, is_removed=is_removed)


class House:
    """The links of n1, and what they told it."""

    def __init__(self, cluster_id: bytes = CLUSTER_ID, secrets: ClusterSecrets | None = None) -> None:
        secrets = secrets or ClusterSecrets()
        self.heard: list[tuple[NodeId, NodeMessage]] = []
        self.joined: list[NodeId] = []
        self.failures: list[BaseException] = []
        self.replaced: set[bytes] = set()
        self.removed: set[NodeId] = set()
        self.cluster_version = 1
        self.refuses = False
        """Whether the core believes nothing that it hears."""
        self.changed = asyncio.Event()
        ports = free_ports(2)
        self.members = [Member(NodeId(f"n{n}"), f"127.0.0.1:{n}", f"127.0.0.1:{p}") for n, p in enumerate(ports, 1)]
        events = LinkEvents(
            receive=self._receive,
            changed=self.changed.set,
            joined=self.joined.append,
            was_replaced=lambda _, node_uuid: node_uuid in self.replaced,
            was_removed=lambda node_id: node_id in self.removed,
            cluster_version=lambda: self.cluster_version,
            failed=self.failures.append,
            half_sent=HalfSent(Share("peers", SHARE_BYTES), TIMEOUT_S, time.monotonic),
        )
        self.peers = Peers(replace(IDENTITY, cluster_id=cluster_id), self.members, random.Random(1), events, secrets)
        self.port, self.port_of_n2 = ports
        self.n2 = Listener(secrets)
        self.diallers: list[Dialler] = []

    def _receive(self, source: NodeId, message: NodeMessage) -> None:
        self.heard.append((source, message))
        if self.refuses:
            raise PeerMisbehaved("as the core would say")

    async def dial(self) -> Dialler:
        """Dial n1."""
        self.diallers.append(Dialler(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self.diallers[-1]


def in_a_house(
    story: Callable[[House], Coroutine[Any, Any, None]],
    *,
    listens: bool = True,
    prepare: Callable[[House], None] = lambda _: None,
    loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
    secrets: ClusterSecrets | None = None,
) -> House:
    """Run a story with the links of n1 started, and n2 at its address if it ``listens``; on asyncio's own loop.

    Both have ``secrets``.
    """

    async def told() -> House:
        house = House(secrets=secrets)
        prepare(house)
        async with asyncio.timeout(30), house.n2.serve(house.port_of_n2) if listens else nullcontext():
            await house.peers.start("127.0.0.1", house.port)
            try:
                await story(house)
            finally:
                # Also when the story ends badly: the other ends wait for the links to be closed.
                house.peers.close()
                for dialler in house.diallers:
                    await dialler.close()
            while house.peers.accepted:
                await asyncio.sleep(0.001)
            assert house.peers._server is not None
            await house.peers._server.wait_closed()
        return house

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(told())
