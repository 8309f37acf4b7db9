"""Somebody at the peer port: a stranger who knows addresses and the cluster's id, or a peer that says what it likes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from durable_raft.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    FetchEntries,
    InstallSnapshot,
    Introduce,
    IntroduceResponse,
    RequestVote,
    RequestVoteResponse,
)
from durable_raft.raft.types import Index, LogPoint, NodeId, Term
from durable_raft.wire.messages import Confirm, Confirmed, Hello, HelloReply
from durable_raft.wire.peer import FrameParser, PeerMessage, encode_frame
from tests.cluster.harness import Cluster
from tests.cluster.proxy import HOST
from tests.support.waiting import WAIT_S

CHALLENGE = b"somebody's own--"
UUID = b"somebody's disk-"
FAR = Term(2**63 - 1)

T = TypeVar("T")


def never_right() -> list[PeerMessage]:
    """Return what no correct node says to anybody, whatever term it is."""
    return [
        RequestVote(FAR, Index(1), Term(1), False),
        RequestVote(FAR, Index(1), Term(1), True),
        RequestVoteResponse(FAR, True, False),
        AppendEntries(FAR, Index(0), Term(0), 0, (), Index(0), 0),
        AppendEntriesResponse(FAR, False, Index(0), Index(0), Term(0), Index(0), 0),
        InstallSnapshot(FAR, Index(1), Term(1), 0, 0),
        FetchEntries((LogPoint(Index(1), Term(1), 0),) * 65),
        Introduce(b"any random uuid!"),
        IntroduceResponse(b"any random uuid!", True, b"any random uuid!"),
    ]


class Somebody:
    """Plays the node ``name`` of a cluster whose process is down."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self.name = NodeId(name)
        self._served: list[asyncio.StreamWriter] = []
        info, *_ = cluster.infos().values()
        self.cluster_id = bytes.fromhex(info["raft_cluster_id"])

    def play(self, part: Callable[[], Awaitable[T]], *, listens: bool) -> T:
        """Play a part; at the address of the node if it ``listens``, so that others believe that it is that node."""

        async def played() -> T:
            async with asyncio.timeout(WAIT_S):
                if not listens:
                    return await part()
                port = self._cluster.nodes[self.name].peer_port
                async with await asyncio.start_server(self._serve, HOST, port):
                    result = await part()
                while self._served:
                    self._served.pop().transport.abort()
                    await asyncio.sleep(0)
                return result

        return asyncio.run(played())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = FrameParser(self.cluster_id, 1 << 30)
        self._served.append(writer)
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                for message in parser.feed(data):
                    if isinstance(message, Hello):
                        self._write(writer, HelloReply(True, "", self.name, UUID))
                    elif isinstance(message, Confirm):
                        self._write(writer, Confirmed(message.challenge))
        writer.close()

    def _write(self, writer: asyncio.StreamWriter, *messages: PeerMessage) -> None:
        writer.write(b"".join(encode_frame(self.cluster_id, message) for message in messages))

    async def say(self, target: str, *messages: PeerMessage, waits: bool = True) -> bytes:
        """Dial ``target``, say hello and then ``messages``; return what it answered once it has closed the link.

        Args:
            target: whom to dial.
            messages: what to say.
            waits: say them only when the link is accepted, as a correct node does.
        """
        reader, writer = await asyncio.open_connection(HOST, self._cluster.nodes[target].peer_port)
        heard = b""
        with suppress(ConnectionError):
            self._write(writer, Hello(self.name, UUID, NodeId(target), "1", CHALLENGE))
            if waits:
                heard = await reader.read(1 << 16)
            self._write(writer, *messages)
            while data := await reader.read(1 << 16):
                heard += data
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        return heard
