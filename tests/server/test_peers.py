"""The links between nodes, over real sockets: who is heard, who is refused, and what becomes of messages at the end."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from contextlib import suppress

import pytest
import uvloop

from durable_raft.checksum import crc32c
from durable_raft.raft.messages import AppendEntries
from durable_raft.raft.types import ORIGIN, EntryKind, Identity, Index, Member, NodeId, Term, make_entry
from durable_raft.server import hearing
from durable_raft.server.callers import Callers
from durable_raft.server.cluster_secret import ClusterSecrets
from durable_raft.server.dialling import PeerLink
from durable_raft.server.proving import Proofs
from durable_raft.wire.messages import HelloReply
from durable_raft.wire.peer import FRAME_VERSION, FrameEncoder, FrameParser, PeerMessage, encode_frame
from tests.support.peer_house import CLUSTER_ID, HELLO, MESSAGE, House, in_a_house
from tests.support.waiting import WAIT_S


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
    encoder, proofs = FrameEncoder(identity.cluster_id), Proofs(identity, ClusterSecrets())
    link = PeerLink(member, random.Random(1), up.set, encoder, lambda _, __: False, Callers(), proofs)
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


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (HELLO._replace(target_id=NodeId("n3")), "n2 wants n3, but this is n1"),
        (HELLO._replace(node_id=NodeId("n9")), "n9 is not a member"),
        (HELLO._replace(node_uuid=b"replaced disk!!!"), "was replaced by another"),
    ],
)
def test_whoever_is_no_peer_is_told_why_and_never_heard(first: PeerMessage, reason: str) -> None:
    """The link ends with the reason, as the cluster's id was right; what was sent behind the handshake is dropped."""

    async def story(house: House) -> None:
        house.replaced.add(b"replaced disk!!!")
        dialler = await house.dial()
        dialler.say(first, MESSAGE)
        (answer,) = await dialler.answers()
        assert isinstance(answer, HelloReply)
        assert not answer.accepted
        assert reason in answer.reason

    house = in_a_house(story)
    assert (house.heard, house.peers.refusals) == ([], 1)


@pytest.mark.parametrize("last", [HELLO, HelloReply(True, "", NodeId("n2"), b"2" * 16), None])
def test_a_peer_is_heard_until_it_cannot_be_believed(last: PeerMessage | None) -> None:
    """A second handshake, or a frame of another cluster: what came before is heard, nothing behind it."""

    async def story(house: House) -> None:
        dialler = await house.dial()
        await dialler.join()
        dialler.say(MESSAGE)
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
    assert house.joined == [NodeId("n2")]
    assert house.peers.refusals == 1


def frame_head(body_bytes: int) -> bytes:
    """Return the header of a frame whose body is so long, and of which nothing comes."""
    head = b"DRpf" + bytes([FRAME_VERSION, 1, 5, 0]) + CLUSTER_ID + struct.pack(">II", body_bytes, 0)
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
            await dialler.join()
            dialler.say(MESSAGE)
            while not house.heard:
                await asyncio.sleep(0.001)
        dialler.say_bytes(frame_head(body_bytes))
        if is_taken:
            dialler.say_bytes(b"x" * body_bytes)
        answers = await dialler.answers()
        assert is_introduced or answers == []

    house = in_a_house(story)
    assert house.peers.refusals == 1
    (complaint,) = house.peers.refused._said
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
            house.members[0],
            random.Random(1),
            up.set,
            FrameEncoder(CLUSTER_ID),
            lambda _, __: False,
            Callers(),
            Proofs(identity, ClusterSecrets()),
        )
        house.n2.confirms_all = True
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
        await dialler.join()
        dialler.say(MESSAGE)
        while not house.heard:
            await asyncio.sleep(0.001)
        house.replaced.add(HELLO.node_uuid)
        dialler.say(MESSAGE)
        await dialler.answers()

    assert len(in_a_house(story).heard) == 1


def test_whoever_dials_and_says_nothing_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link without a handshake ends by itself."""
    monkeypatch.setattr(hearing, "HANDSHAKE_TIMEOUT_S", 0.05)

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
        try:
            await reader.read(1)
            if answer is not None:
                writer.write(encode_frame(cluster_id, answer))
                with suppress(ConnectionError):
                    await reader.read()
        finally:
            # Also when the story ends first.
            writer.close()

    async def story(house: House) -> None:
        port = int(house.members[1].peer_address.rpartition(":")[2])
        async with await asyncio.start_server(answering, "127.0.0.1", port):
            while dialled < 3:
                assert not house.peers.links[NodeId("n2")].is_up
                await asyncio.sleep(0.001)

    house = in_a_house(story, listens=False)
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


@pytest.mark.parametrize("turns", range(6))
def test_a_link_that_was_being_accepted_when_all_were_dropped_is_dropped_too(turns: int) -> None:
    """However far the loop has come with it; else its transport outlives the loop, which then cannot be closed."""

    async def story(house: House) -> None:
        with socket.socket() as late:
            late.setblocking(False)
            late.connect_ex(("127.0.0.1", house.port))
            for _ in range(turns):
                await asyncio.sleep(0)
            house.peers.close()
            with suppress(ConnectionError):
                assert await asyncio.get_running_loop().sock_recv(late, 1) == b""

    in_a_house(story, listens=False, loop=uvloop.new_event_loop)
