"""Links come and go with the members, over real sockets: who is dialled, where, and who is heard."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from durable_raft.cli.local_cluster import free_ports
from durable_raft.raft.types import Member, NodeId
from durable_raft.server.dialling import PeerLink
from durable_raft.wire.messages import HelloReply
from tests.support.peer_house import HELLO, MESSAGE, House, in_a_house

N2, N3 = NodeId("n2"), NodeId("n3")


async def is_up(link: PeerLink) -> None:
    """Wait until the link is up."""
    async with asyncio.timeout(20):
        while not link.is_up:
            await asyncio.sleep(0.001)


def test_a_member_that_comes_is_dialled() -> None:
    """Its link is made while the others go on."""

    async def story(house: House) -> None:
        before = house.peers.links[N2]
        await is_up(before)
        three = replace(house.members[1], node_id=N3)
        house.peers.follow([*house.members, three])
        assert house.peers.links[N2] is before
        # Whoever listens there says that it is n2: it was dialled, and is not believed.
        async with asyncio.timeout(20):
            while "n2, not n3" not in house.peers.links[N3]._last_complaint:
                await asyncio.sleep(0.001)

    assert in_a_house(story).failures == []


def test_who_is_no_member_any_more_is_neither_dialled_nor_heard() -> None:
    """The link on which it was heard ends; when it dials again, it is told why it is refused."""

    async def story(house: House) -> None:
        link = house.peers.links[N2]
        await is_up(link)
        dialler = await house.dial()
        await dialler.join()
        dialler.say(MESSAGE)
        while not house.heard:
            await asyncio.sleep(0.001)
        house.peers.follow(house.members[:1])
        await dialler.answers()
        assert (house.peers.links, house.peers.ids) == ({}, frozenset())
        house.peers.tell(N2, MESSAGE)
        again = await house.dial()
        again.say(HELLO)
        *_, answer = await again.answers()
        assert isinstance(answer, HelloReply)
        assert (answer.accepted, answer.reason) == (False, "n2 is not a member of this cluster")
        async with asyncio.timeout(20):
            while link.is_up:
                await asyncio.sleep(0.001)

    assert in_a_house(story).failures == []


def test_a_member_that_comes_back_is_dialled_again() -> None:
    """A configuration was cut: the one before it counts again."""

    async def story(house: House) -> None:
        await is_up(house.peers.links[N2])
        house.peers.follow(house.members[:1])
        house.peers.follow(house.members)
        await is_up(house.peers.links[N2])

    assert in_a_house(story).failures == []


def test_a_member_is_dialled_at_its_new_address() -> None:
    """The link to where it was ends."""

    async def story(house: House) -> None:
        link = house.peers.links[N2]
        await is_up(link)
        (port,) = free_ports(1)
        async with house.n2.serve(port):
            moved = Member(N2, "127.0.0.1:2", f"127.0.0.1:{port}")
            house.peers.follow([house.members[0], moved])
            assert house.peers.links[N2] is link
            async with asyncio.timeout(20):
                while not link.is_up or link._transport.get_extra_info("peername")[1] != port:  # type: ignore[union-attr]
                    await asyncio.sleep(0.001)
            house.peers.follow([house.members[0]])

    assert in_a_house(story).failures == []


def test_after_the_end_nobody_is_followed() -> None:
    """A node that stops dials nobody anew."""

    async def story(house: House) -> None:
        house.peers.close()
        house.peers.follow([*house.members, replace(house.members[1], node_id=N3)])
        assert N3 not in house.peers.links

    assert in_a_house(story).failures == []


def test_who_was_removed_is_told_so() -> None:
    """And by nobody else's word: the answer is that of the node that was dialled."""

    async def story(house: House) -> None:
        house.peers.follow(house.members[:1])
        house.removed.add(N2)
        dialler = await house.dial()
        dialler.say(HELLO)
        *_, answer = await dialler.answers()
        assert isinstance(answer, HelloReply)
        assert (answer.accepted, answer.is_removed, answer.is_replaced) == (False, True, False)

    assert in_a_house(story).failures == []


def test_a_node_that_was_removed_learns_it_where_it_dials() -> None:
    """Until somebody accepts it again, or is not there."""

    async def story(house: House) -> None:
        link = house.peers.links[N2]
        async with asyncio.timeout(20):
            house.changed.clear()
            while not link.is_refused_as_removed:
                await asyncio.sleep(0.001)
            # Clients are sent there from now on, so the node has to hear of it.
            await house.changed.wait()
            house.n2.refuses_as_removed = False
            await is_up(link)
        assert not link.is_refused_as_removed

    def prepared(house: House) -> None:
        house.n2.refuses_as_removed = True

    assert in_a_house(story, prepare=prepared).failures == []
