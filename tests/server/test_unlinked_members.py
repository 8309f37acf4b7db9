"""What is for a node to whom there is no link ends nobody."""

from __future__ import annotations

from durable_raft.raft.messages import Envelope
from durable_raft.raft.types import NodeId
from tests.support.peer_house import MESSAGE, House, in_a_house

STRANGER = NodeId("n9")


def test_what_is_for_a_member_without_a_link_is_dropped() -> None:
    """No message ends a node (docs/guarantees.md), and a peer that leads may send a configuration with any names."""

    async def story(house: House) -> None:
        house.peers.send([Envelope(STRANGER, MESSAGE)])
        house.peers.tell(STRANGER, MESSAGE)

    assert in_a_house(story).failures == []
