"""The link this node dials to a peer, over real sockets: what becomes of messages at the moment the link ends."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from durable_raft.raft.messages import AppendEntriesResponse
from durable_raft.raft.types import Identity, Index, Member, NodeId, Term
from durable_raft.server.peers import PeerLink
from durable_raft.wire.peer import FrameEncoder, FrameParser, HelloReply, encode_frame

CLUSTER_ID = b"c" * 16
WAIT_S = 10.0
MESSAGE = AppendEntriesResponse(Term(1), True, Index(1), Index(0), Term(0), Index(0), 0)


class Peer(asyncio.Protocol):
    """Accepts the link."""

    def __init__(self) -> None:
        self._parser = FrameParser(CLUSTER_ID, 1 << 16)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        del exc
        self.ended.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer the handshake."""
        for _ in self._parser.feed(data):
            self.transport.write(encode_frame(CLUSTER_ID, HelloReply(True, "", NodeId("n2"), b"2" * 16)))


async def _send_at_the_end_of_a_link() -> int:
    """Bring a link up, end it, and send before its task hears of it; return how many messages were dropped."""
    loop = asyncio.get_running_loop()
    peer = Peer()
    server = await loop.create_server(lambda: peer, "127.0.0.1", 0)
    member = Member(NodeId("n2"), "127.0.0.1:1", f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    up = asyncio.Event()
    identity = Identity(CLUSTER_ID, NodeId("n1"), b"1" * 16)
    link = PeerLink(identity, member, random.Random(1), up.set, FrameEncoder(identity.cluster_id))
    task = loop.create_task(link.run())
    async with asyncio.timeout(WAIT_S):
        await up.wait()
        transport = link._transport
        assert transport is not None
        ended = loop.create_future()
        # In this order: the transport ends, a message is sent, the task is told.
        transport.abort()
        loop.call_soon(link.send, MESSAGE)
        loop.call_soon(ended.set_result, None)
        await ended
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    server.close()
    # On the accepted end, too, the link must be gone before the loop is closed.
    async with asyncio.timeout(WAIT_S):
        await peer.ended
        await server.wait_closed()
    return link.dropped


def test_message_is_dropped_while_a_link_ends() -> None:
    """Sending on a link whose transport is gone, before its task knows, drops the message (uvloop would raise)."""
    assert asyncio.run(_send_at_the_end_of_a_link()) == 1
