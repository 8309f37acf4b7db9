"""Who is heard on an accepted link: a peer that confirms it at its own address, and nobody else."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import pytest
import uvloop

from durable_raft.raft.messages import Introduce, IntroduceResponse
from durable_raft.raft.types import NodeId
from durable_raft.server import dialling, hearing
from durable_raft.server.callers import OPEN_PER_ADDRESS_MAX
from durable_raft.wire.messages import Confirm, Confirmed, HelloReply
from durable_raft.wire.peer import FRAME_VERSION, NodeMessage, encode_frame
from tests.support.peer_house import CLUSTER_ID, HELLO, MESSAGE, House, in_a_house


@pytest.mark.parametrize(
    "first",
    [
        encode_frame(b"x" * 16, HELLO),
        encode_frame(CLUSTER_ID, MESSAGE),
        encode_frame(CLUSTER_ID, HelloReply(True, "", NodeId("n2"), b"2" * 16)),
        encode_frame(CLUSTER_ID, HELLO)[:4] + bytes([FRAME_VERSION + 1]) + encode_frame(CLUSTER_ID, HELLO)[5:],
        b"GET / HTTP/1.1\r\n\r\n",
        encode_frame(CLUSTER_ID, HELLO._replace(version="x" * (1 << 16))),
    ],
    ids=["another cluster", "no hello", "a reply", "another version", "rubbish", "more than 64 KiB"],
)
def test_a_stranger_is_told_nothing(first: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Not even the header of a refusal, which names the cluster; the log says why."""

    async def story(house: House) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
        writer.write(first)
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()

    house = in_a_house(story)
    assert (house.heard, house.peers.refusals) == ([], 1)
    assert [record.message for record in caplog.records].count("peer_refused") == 1


def test_whoever_does_not_listen_at_the_address_of_a_peer_is_not_that_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger knows the cluster's id, the node's id and its uuid; n2 has not dialled that link."""
    monkeypatch.setattr(hearing, "HANDSHAKE_TIMEOUT_S", 0.2)

    async def story(house: House) -> None:
        dialler = await house.dial()
        dialler.say(HELLO._replace(challenge=b"a stranger's own"), MESSAGE)
        assert await dialler.answers() == []

    house = in_a_house(story)
    assert house.heard == []
    assert house.n2.asked == [b"a stranger's own"]


def test_a_peer_that_is_not_dialled_at_the_moment_is_dialled_for_its_claim() -> None:
    """It has just started: whoever waits to dial it again does so at once, and asks."""

    async def story(house: House) -> None:
        while house.n2.asked or house.peers.links[NodeId("n2")]._last_complaint == "":
            await asyncio.sleep(0.001)
        dialler = await house.dial()
        dialler.say(HELLO)
        async with house.n2.serve(house.port_of_n2):
            while not house.peers._proven:
                await asyncio.sleep(0.001)
            house.peers.close()
            await dialler.answers()

    assert in_a_house(story, listens=False).n2.asked == [HELLO.challenge]


def test_a_link_that_took_too_long_to_be_made_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine stood still while it was made. uvloop has closed it then, and raises when it is written to."""
    monkeypatch.setattr(dialling, "HANDSHAKE_TIMEOUT_S", 0.02)
    make = dialling._Dialled.connection_made

    def stand_still(dialled: dialling._Dialled, transport: asyncio.BaseTransport) -> None:
        make(dialled, transport)
        made.append(dialled)
        time.sleep(0.04)

    monkeypatch.setattr(dialling._Dialled, "connection_made", stand_still)
    made: list[dialling._Dialled] = []

    async def story(house: House) -> None:
        link = house.peers.links[NodeId("n2")]
        while not link._last_complaint.startswith("TimeoutError"):
            await asyncio.sleep(0.001)
        monkeypatch.setattr(dialling._Dialled, "connection_made", make)
        monkeypatch.setattr(dialling, "HANDSHAKE_TIMEOUT_S", 10.0)
        assert not link.has_dialled(made[-1].challenge)
        link.ask(b"whose is this?")
        await (await house.dial()).join()

    house = in_a_house(story, loop=uvloop.new_event_loop)
    assert made
    assert not house.failures


def test_a_peer_is_asked_anew_when_the_link_to_it_leads_nowhere() -> None:
    """Its address has gone to another process, and whoever had it before hangs with the old link open."""

    async def story(house: House) -> None:
        while not house.peers.links[NodeId("n2")].is_up:
            await asyncio.sleep(0.001)
        house.n2.hangs = True
        house.changed.clear()
        dialler = await house.dial()
        dialler.say(HELLO)
        while not house.n2.asked:
            await asyncio.sleep(0.001)
        house.n2.hangs = False
        await dialler.accepted()
        await house.changed.wait()
        assert house.n2.asked[:2] == [HELLO.challenge] * 2, "on the old link, and on a new one"

    in_a_house(story)


def test_a_peer_is_heard_on_its_newest_link_only() -> None:
    """It has dialled anew, so the link before has ended, whether this node has noticed or not."""

    async def story(house: House) -> None:
        first = await house.dial()
        await first.join()
        first.say(MESSAGE)
        while not house.heard:
            await asyncio.sleep(0.001)
        house.n2.dialled.add(b"the second link!")
        second = await house.dial()
        await second.join(HELLO._replace(challenge=b"the second link!"))
        (answer,) = await first.answers()
        assert isinstance(answer, HelloReply)
        assert len(house.peers._proven) == 1

    in_a_house(story)


def test_a_node_confirms_the_link_that_it_dialled_and_no_other() -> None:
    """Whoever asks about another is told nothing."""

    async def story(house: House) -> None:
        while not house.peers.links[NodeId("n2")].is_up:
            await asyncio.sleep(0.001)
        dialled = house.peers.links[NodeId("n2")]._dialled
        assert dialled is not None
        dialler = await house.dial()
        dialler.say(
            HELLO, Confirm(b"another link----"), Confirm(dialled.challenge), Confirm(b"another link----"), HELLO
        )
        answers = await dialler.answers()
        assert Confirmed(dialled.challenge) in answers
        assert sum(isinstance(answer, Confirmed) for answer in answers) == 1

    in_a_house(story)


def test_links_that_prove_nothing_are_bounded() -> None:
    """The oldest of a host makes room; a peer that proves itself meanwhile is heard."""

    async def story(house: House) -> None:
        silent = [await house.dial() for _ in range(OPEN_PER_ADDRESS_MAX + 3)]
        assert await silent[0].answers() == []
        while len(house.peers.accepted) > OPEN_PER_ADDRESS_MAX:
            await asyncio.sleep(0.001)
        peer = await house.dial()
        await peer.join()
        peer.say(MESSAGE)
        while not house.heard:
            await asyncio.sleep(0.001)

    in_a_house(story)


@pytest.mark.parametrize("message", [Introduce(b"another disk----"), IntroduceResponse(b"x" * 16, True, b"3" * 16)])
def test_a_disk_speaks_for_itself_only(message: NodeMessage, caplog: pytest.LogCaptureFixture) -> None:
    """A proven peer that introduces another disk than the one its link was dialled from is dropped, and it is said."""

    async def story(house: House) -> None:
        dialler = await house.dial()
        await dialler.join()
        dialler.say(message, MESSAGE)
        await dialler.answers()

    house = in_a_house(story)
    assert house.heard == []
    (record,) = [record for record in caplog.records if record.message == "peer_misbehaved"]
    assert record.fields["peer"] == "n2"  # type: ignore[attr-defined]
    assert type(message).__name__ in record.fields["frame"]  # type: ignore[attr-defined]
    assert house.peers.misbehaviours == 1


def test_what_no_correct_node_says_ends_the_link_and_nothing_else() -> None:
    """The node that heard it goes on, and hears that peer again when it has dialled anew."""

    async def story(house: House) -> None:
        house.refuses = True
        dialler = await house.dial()
        await dialler.join()
        dialler.say(MESSAGE, MESSAGE)
        await dialler.answers()
        house.refuses = False
        dialler = await house.dial()
        await dialler.join()
        dialler.say(MESSAGE)
        while len(house.heard) < 2:
            await asyncio.sleep(0.001)

    house = in_a_house(story)
    assert house.heard == [(NodeId("n2"), MESSAGE)] * 2
    assert house.peers.misbehaviours == 1
    assert house.failures == []
