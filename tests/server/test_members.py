"""Who is reached follows the configuration: from its append to its cut, and until what replaces it is committed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from durable_raft.raft.configuration import encode
from durable_raft.raft.types import (
    Configuration,
    Entry,
    EntryKind,
    LogPoint,
    Member,
    Membership,
    NodeId,
    Term,
    make_entry,
)
from durable_raft.server.commands.status import ClientCounts
from durable_raft.server.members import NOWHERE
from durable_raft.server.report import Reporter
from durable_raft.server.watchdog import Watchdog
from tests.support.desk import MEMBERS, N1, N2, N3, Desk, desk_at

N4 = NodeId("n4")
FOUR = Member(N4, "127.0.0.1:7004", "127.0.0.1:17004")
FIRST = Configuration.initial(Membership(MEMBERS))
WITH_FOUR = replace(FIRST, members=(*MEMBERS, FOUR), learners=(N4,))
WITHOUT_THREE = replace(FIRST, members=MEMBERS[:2], voters=(N1, N2), former=(N3,))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Node n1, a follower that knows no leader."""
    with desk_at(tmp_path / "n1") as made:
        yield made


def entry_of(desk: Desk, configuration: Configuration, previous: LogPoint | None = None) -> Entry:
    """Return the entry with ``configuration`` of a leader of the next term."""
    return make_entry(
        previous=previous or desk.raft.log.last,
        term=Term(desk.raft.current_term + 1),
        kind=EntryKind.CONFIGURATION,
        timestamp_ms=1_000,
        payload=encode(configuration),
    )


def reached(desk: Desk) -> list[str]:
    """Return to whom n1 has links."""
    return sorted(desk.node.peers.links)


def moved_to(desk: Desk) -> bytes:
    """Return what a client is told that writes."""
    client = desk.client()
    client.send("set a 1")
    desk.turn()
    (reply,) = client.replies
    assert reply is not None
    return reply


def test_a_member_is_reached_from_the_append_on_and_no_more_once_that_is_cut(desk: Desk) -> None:
    """Nothing has to be committed: the others may need the new member's vote for that."""
    before = desk.raft.log.last
    desk.follow(N2, entry_of(desk, WITH_FOUR), commit=0)
    assert desk.raft.configuration.index == before.index + 1
    assert reached(desk) == [N2, N3, N4]
    desk.follow(N3, entry_of(desk, FIRST, before), after=before.index, commit=0)
    assert reached(desk) == [N2, N3]


def test_who_is_no_member_any_more_is_reached_until_that_is_committed(desk: Desk) -> None:
    """It may count again; when it does, its link is still there."""
    entry = entry_of(desk, WITHOUT_THREE)
    desk.follow(N2, entry, commit=0)
    assert desk.raft.configuration.ids() == (N1, N2)
    assert reached(desk) == [N2, N3]
    desk.follow(N2, term=desk.raft.current_term, commit=entry.index)
    assert reached(desk) == [N2]


def test_clients_are_sent_to_a_new_leader_at_its_new_address(desk: Desk) -> None:
    """Addresses come from the configuration, not from what the node was started with."""
    elsewhere = Member(N2, "db2.example.org:7009", "db2.example.org:17009")
    desk.follow(N2, entry_of(desk, replace(FIRST, members=(MEMBERS[0], elsewhere, MEMBERS[2]))))
    assert moved_to(desk) == b"-MOVED 15495 db2.example.org:7009\r\n"


def test_a_leader_whose_address_is_not_known_makes_a_command_wait(desk: Desk) -> None:
    """A node hears a leader that is not in its own configuration, which may be the older one (Raft \u00a76)."""
    desk.follow(N2, entry_of(desk, replace(FIRST, members=(MEMBERS[0], MEMBERS[2]), voters=(N1, N3))))
    client = desk.client()
    client.send("set a 1")
    desk.turn()
    assert client.replies == [None]
    desk.follow(N2, entry_of(desk, FIRST), term=desk.raft.current_term + 1)
    desk.turn()
    assert client.replies == [b"-MOVED 15495 127.0.0.1:7002\r\n"]


def test_an_address_that_is_none_ends_nobody(desk: Desk) -> None:
    """No correct node proposes one, and no message ends a node (docs/guarantees.md)."""
    nowhere = Member(N4, "no address at all", "\x00:-1")
    desk.follow(N2, entry_of(desk, replace(WITH_FOUR, members=(*MEMBERS, nowhere))))
    assert desk.node.members.configuration.members[3] == Member(N4, NOWHERE, NOWHERE)
    reporter = Reporter(desk.node._config, desk._store, desk.node, Watchdog())
    assert reporter.status(ClientCounts(0, 0, 0)).members[3].client_address == NOWHERE


def test_a_node_that_was_removed_still_tells_about_itself(desk: Desk) -> None:
    """Its own address is that which it was started with."""
    desk.follow(N2, entry_of(desk, replace(FIRST, members=MEMBERS[1:], voters=(N2, N3), former=(N1,))))
    reporter = Reporter(desk.node._config, desk._store, desk.node, Watchdog())
    status = reporter.status(ClientCounts(0, 0, 0))
    assert (status.myself, status.part_of(N1)) == (MEMBERS[0], "none")
    assert status.peers.keys() == {N2, N3}


def test_addresses_that_an_operator_gives_hold_until_there_is_another_configuration(tmp_path: Path) -> None:
    """All nodes moved at once: nobody could commit it otherwise."""
    with desk_at(tmp_path / "n1") as desk:
        desk.follow(N2, entry_of(desk, WITH_FOUR))
    there = tuple(Member(each.node_id, f"10.0.0.9{each.client_address[-5:]}", each.peer_address) for each in MEMBERS)
    with desk_at(tmp_path / "n1", membership=Membership(there), accept_new_addresses=True) as desk:
        assert desk.node.members.configuration.members == (*there, FOUR)
        desk.follow(N2, entry_of(desk, WITH_FOUR))
        assert desk.node.members.configuration.members == (*MEMBERS, FOUR)


def test_a_directory_whose_members_changed_goes_by_its_log(tmp_path: Path) -> None:
    """``--cluster`` is that of the first start, or of any moment since."""
    with desk_at(tmp_path / "n1") as desk:
        desk.follow(N2, entry_of(desk, WITHOUT_THREE))
    with desk_at(tmp_path / "n1", membership=Membership((*MEMBERS[:2], FOUR))) as desk:
        assert desk.raft.configuration.ids() == (N1, N2)
        # What is committed is not known yet; with it, those of the first start may count again, and no others.
        assert reached(desk) == [N2, N3]
        desk.follow(N2, term=desk.raft.current_term + 1, commit=desk.raft.log.last.index)
        assert reached(desk) == [N2]
