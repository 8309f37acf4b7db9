"""The links between nodes, over real sockets: who is heard, who is refused, and what becomes of messages at the end."""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from durable_raft.checksum import crc32c
from durable_raft.cli.local_cluster import free_ports
from durable_raft.raft.messages import AppendEntries, AppendEntriesResponse
from durable_raft.raft.types import ORIGIN, EntryKind, Identity, Index, Member, NodeId, Term, make_entry
from durable_raft.server import peers as peers_module
from durable_raft.server.budget import Share
from durable_raft.server.half_sent import HalfSent
from durable_raft.server.peers import LinkEvents, PeerLink, Peers
from durable_raft.wire.peer import (
    FrameEncoder,
    FrameParser,
    Hello,
    HelloReply,
    NodeMessage,
    PeerMessage,
    encode_frame,
)
from tests.support.waiting import WAIT_S

CLUSTER_ID = b"c" * 16
SHARE_BYTES = 64 << 20
TIMEOUT_S = 0.3
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
    link = PeerLink(
        identity, member, random.Random(1), up.set, FrameEncoder(identity.cluster_id), lambda _id, _uuid: False
    )
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


# -- the links of a whole node ---------------------------------------------------------------------------------------


class Dialler:
    """Whoever dials a node: sends what the test says, and hears the answers until the link ends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._parser = FrameParser(CLUSTER_ID, 1 << 16)

    def say(self, *messages: PeerMessage, cluster_id: bytes = CLUSTER_ID) -> None:
        """Send messages."""
        self._writer.write(b"".join(encode_frame(cluster_id, message) for message in messages))

    def say_bytes(self, data: bytes) -> None:
        """Send anything."""
        self._writer.write(data)

    async def answers(self) -> list[PeerMessage]:
        """Return all that is said until the other end closes the link."""
        found: list[PeerMessage] = []
        with suppress(ConnectionError):
            while data := await self._reader.read(1 << 16):
                found += self._parser.feed(data)
        self._writer.close()
        return found


class House:
    """The links of n1, and what they told it."""

    def __init__(self) -> None:
        self.heard: list[tuple[NodeId, NodeMessage]] = []
        self.failures: list[BaseException] = []
        self.replaced: set[bytes] = set()
        self.changed = asyncio.Event()
        ports = free_ports(2)
        self.members = [Member(NodeId(f"n{n}"), f"127.0.0.1:{n}", f"127.0.0.1:{p}") for n, p in enumerate(ports, 1)]
        events = LinkEvents(
            receive=lambda source, message: self.heard.append((source, message)),
            changed=self.changed.set,
            was_replaced=lambda _, node_uuid: node_uuid in self.replaced,
            failed=self.failures.append,
            half_sent=HalfSent(Share("peers", SHARE_BYTES), TIMEOUT_S, time.monotonic),
        )
        self.peers = Peers(IDENTITY, self.members, random.Random(1), events)
        self.port = ports[0]

    async def dial(self) -> Dialler:
        """Dial n1."""
        return Dialler(*await asyncio.open_connection("127.0.0.1", self.port))


IDENTITY = Identity(CLUSTER_ID, NodeId("n1"), b"1" * 16)
HELLO = Hello(NodeId("n2"), b"2" * 16, NodeId("n1"), "1")


def in_a_house(story: Callable[[House], Coroutine[Any, Any, None]]) -> House:
    """Run a story with the links of n1 started."""

    async def told() -> House:
        house = House()
        await house.peers.start("127.0.0.1", house.port)
        async with asyncio.timeout(WAIT_S):
            await story(house)
            house.peers.close()
            while house.peers.accepted:
                await asyncio.sleep(0.001)
            assert house.peers._server is not None
            await house.peers._server.wait_closed()
        return house

    return asyncio.run(told())


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (HELLO._replace(target_id=NodeId("n3")), "n2 wants n3, but this is n1"),
        (HELLO._replace(node_id=NodeId("n9")), "n9 is not a member"),
        (HELLO._replace(node_uuid=b"replaced disk!!!"), "was replaced by another"),
        (MESSAGE, "AppendEntriesResponse where a handshake has its place"),
        (HelloReply(True, "", NodeId("n2"), b"2" * 16), "HelloReply where a handshake"),
    ],
)
def test_whoever_is_no_peer_is_told_why_and_never_heard(first: PeerMessage, reason: str) -> None:
    """The link ends with the reason; what was sent behind the handshake is dropped."""

    async def story(house: House) -> None:
        house.replaced.add(b"replaced disk!!!")
        dialler = await house.dial()
        dialler.say(first, MESSAGE)
        (answer,) = await dialler.answers()
        assert isinstance(answer, HelloReply)
        assert not answer.accepted
        assert reason in answer.reason

    house = in_a_house(story)
    assert (house.heard, house.peers.refused) == ([], 1)


@pytest.mark.parametrize("last", [HELLO, HelloReply(True, "", NodeId("n2"), b"2" * 16), None])
def test_a_peer_is_heard_until_it_cannot_be_believed(last: PeerMessage | None) -> None:
    """A second handshake, or a frame of another cluster: what came before is heard, nothing behind it."""

    async def story(house: House) -> None:
        dialler = await house.dial()
        dialler.say(HELLO, MESSAGE)
        while not house.heard:
            await asyncio.sleep(0.001)
        if last is None:
            dialler.say(MESSAGE, cluster_id=b"x" * 16)
        else:
            dialler.say(last, MESSAGE)
        (answer,) = await dialler.answers()
        assert isinstance(answer, HelloReply)
        assert answer.accepted

    house = in_a_house(story)
    assert house.heard == [(NodeId("n2"), MESSAGE)]
    assert house.peers.refused == 1


def frame_head(body_bytes: int) -> bytes:
    """Return the header of a frame whose body is so long, and of which nothing comes."""
    head = b"DRpf" + bytes([4, 1, 5, 0]) + CLUSTER_ID + struct.pack(">II", body_bytes, 0)
    return head + struct.pack(">I", crc32c(head))


@pytest.mark.parametrize(
    ("is_introduced", "body_bytes", "is_taken"),
    [
        (False, 64 << 10, True),
        (False, (64 << 10) + 1, False),
        (True, 256 << 10, True),
        (True, (256 << 10) + 1, False),
    ],
)
def test_frames_are_bounded(is_introduced: bool, body_bytes: int, is_taken: bool) -> None:
    """Before the handshake by 64 KiB, after it by one piece: the link ends with the header that says more."""

    async def story(house: House) -> None:
        dialler = await house.dial()
        if is_introduced:
            dialler.say(HELLO, MESSAGE)
            while not house.heard:
                await asyncio.sleep(0.001)
        dialler.say_bytes(frame_head(body_bytes))
        if is_taken:
            dialler.say_bytes(b"x" * body_bytes)
        answers = await dialler.answers()
        assert is_introduced or [type(answer) for answer in answers] == [HelloReply]

    house = in_a_house(story)
    assert house.peers.refused == 1
    (complaint,) = house.peers._complaints
    # What is taken has a wrong checksum; what is not was refused before it came.
    assert ("at most" in complaint) is not is_taken, complaint


def test_a_large_message_arrives_behind_what_was_sent_after_it() -> None:
    """Between two real ends: entries in pieces, and a heartbeat that passes them."""
    entry = make_entry(
        previous=ORIGIN, term=Term(1), kind=EntryKind.COMMANDS, timestamp_ms=1, payload=b"large" * (8 << 20)
    )
    large = AppendEntries(Term(1), Index(0), Term(0), 0, (entry,), Index(0), 3)
    heartbeat = large._replace(entries=(), read_round=4)

    async def story(house: House) -> None:
        up = asyncio.Event()
        identity = Identity(CLUSTER_ID, NodeId("n2"), b"2" * 16)
        link = PeerLink(
            identity, house.members[0], random.Random(1), up.set, FrameEncoder(CLUSTER_ID), lambda _, __: False
        )
        task = asyncio.get_running_loop().create_task(link.run())
        await up.wait()
        link.send(large)
        link.send(heartbeat)
        while len(house.heard) < 2:
            await asyncio.sleep(0.001)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert link.dropped == 0

    assert in_a_house(story).heard == [(NodeId("n2"), heartbeat), (NodeId("n2"), large)]


def test_a_disk_that_is_replaced_while_its_link_is_up_is_heard_no_more() -> None:
    """The peer came back with another disk: what is still on its way from the first one promises nothing."""

    async def story(house: House) -> None:
        dialler = await house.dial()
        dialler.say(HELLO, MESSAGE)
        while not house.heard:
            await asyncio.sleep(0.001)
        house.replaced.add(HELLO.node_uuid)
        dialler.say(MESSAGE)
        await dialler.answers()

    assert len(in_a_house(story).heard) == 1


def test_whoever_dials_and_says_nothing_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link without a handshake ends by itself."""
    monkeypatch.setattr(peers_module, "HANDSHAKE_TIMEOUT_S", 0.05)

    async def story(house: House) -> None:
        dialler = await house.dial()
        assert await dialler.answers() == []

    in_a_house(story)


@pytest.mark.parametrize(
    ("answer", "cluster_id", "reason"),
    [
        (HelloReply(False, "not today", NodeId("n2"), b"2" * 16), CLUSTER_ID, "refuses this node: not today"),
        (HelloReply(True, "", NodeId("n3"), b"3" * 16), CLUSTER_ID, "is n3, not n2"),
        (HelloReply(True, "", NodeId("n2"), b"2" * 16), b"x" * 16, "cluster"),
        (None, CLUSTER_ID, "closed before the handshake"),
    ],
)
def test_a_link_is_up_only_to_the_peer_it_was_dialled_for(
    answer: HelloReply | None, cluster_id: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever answers there: the link stays down, the reason is told once, and it is dialled again."""
    dialled = 0

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dialled
        dialled += 1
        await reader.read(1)
        if answer is not None:
            writer.write(encode_frame(cluster_id, answer))
            with suppress(ConnectionError):
                await reader.read()
        writer.close()

    async def story(house: House) -> None:
        port = int(house.members[1].peer_address.rpartition(":")[2])
        async with await asyncio.start_server(answering, "127.0.0.1", port):
            while dialled < 3:
                assert not house.peers.links[NodeId("n2")].is_up
                await asyncio.sleep(0.001)

    house = in_a_house(story)
    assert not house.changed.is_set()
    told = [record for record in caplog.records if record.message == "peer_unreachable"]
    assert len([record for record in told if reason in str(record.fields)]) == 1  # type: ignore[attr-defined]


def test_a_link_task_that_ends_is_a_bug_that_the_node_hears_of() -> None:
    """Else a peer would silently be sent nothing for ever."""

    async def story(house: House) -> None:
        house.peers.links[NodeId("n2")]._member = None  # type: ignore[assignment]
        while not house.failures:
            await asyncio.sleep(0.001)

    assert isinstance(in_a_house(story).failures[0], AttributeError)
