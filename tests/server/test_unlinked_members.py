"""A configuration may name members to whom this node has no link, and none to whom it has one: neither ends it."""

from __future__ import annotations

from pathlib import Path

from durable_raft.raft.configuration import encode
from durable_raft.raft.messages import Envelope
from durable_raft.raft.types import EntryKind, NodeId, Term, make_entry
from durable_raft.server.commands.status import ClientCounts
from durable_raft.server.report import Reporter
from durable_raft.server.watchdog import Watchdog
from tests.support.desk import N2, N3, desk_at
from tests.support.peer_house import MESSAGE, House, in_a_house
from tests.support.raft_nodes import configuration_of

STRANGER = NodeId("n9")


def test_what_is_for_a_member_without_a_link_is_dropped() -> None:
    """No message ends a node (docs/guarantees.md), and a peer that leads may send a configuration with any names."""

    async def story(house: House) -> None:
        house.peers.send([Envelope(STRANGER, MESSAGE)])
        house.peers.tell(STRANGER, MESSAGE)

    assert in_a_house(story).failures == []


def test_a_leader_tells_of_a_link_to_nobody_of_its_configuration(tmp_path: Path) -> None:
    """INFO is answered; how far the log of that node matches is not known."""
    with desk_at(tmp_path / "n1") as desk:
        entry = make_entry(
            previous=desk.raft.log.last,
            term=Term(desk.raft.current_term + 1),
            kind=EntryKind.CONFIGURATION,
            timestamp_ms=1_000,
            payload=encode(configuration_of(("n1", "n2", STRANGER))),
        )
        desk.follow(N2, entry)
        desk.lead()
        assert desk.raft.progress.keys() == {N2, STRANGER}
        reporter = Reporter(desk.node._config, desk._store, desk.node, Watchdog())
        peers = reporter.status(ClientCounts(0, 0, 0)).peers
        assert (peers[N2].match_index, peers[N3].match_index) == (desk.raft.log.last.index, None)
