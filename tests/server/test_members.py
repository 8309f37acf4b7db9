"""Who is reached follows the configuration: from its append to its cut, and until what replaces it is committed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from durable_raft.errors import DirectoryRefused, NodeRemoved, NodeUnreachable, PeerMisbehaved
from durable_raft.raft.configuration import encode
from durable_raft.raft.types import (
    Configuration,
    Entry,
    EntryKind,
    Index,
    LogPoint,
    Member,
    Membership,
    NodeId,
    Term,
    make_entry,
)
from durable_raft.server.commands.status import ClientCounts
from durable_raft.server.members import FAREWELL_LOOKS, NOWHERE
from durable_raft.server.report import Reporter
from durable_raft.server.settings.config import NO_SEEDS, Seeds
from durable_raft.server.watchdog import Watchdog
from durable_raft.wire.messages import TellMembers
from tests.support.desk import LOOK_S, MEMBERS, N1, N2, N3, Desk, desk_at, joiner_at
from tests.support.desk_client import Client

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


def told_of(configuration: Configuration, index: int) -> TellMembers:
    """Return what a node says whose newest configuration that is."""
    return TellMembers(Index(index), encode(configuration))


def tell(desk: Desk, source: NodeId, configuration: Configuration, index: int) -> None:
    """Have n1 told."""
    desk.arrive(source, told_of(configuration, index))
    desk.turn()


def test_who_others_say_are_members_is_reached_until_the_own_log_is_as_far(desk: Desk) -> None:
    """A node that was away must hear a leader that it never heard of."""
    tell(desk, N2, WITH_FOUR, desk.raft.log.last.index + 2)
    assert reached(desk) == [N2, N3, N4]
    first = entry_of(desk, FIRST)
    desk.follow(N4, first)
    assert moved_to(desk) == b"-MOVED 15495 127.0.0.1:7004\r\n"
    assert reached(desk) == [N2, N3, N4]
    desk.follow(N4, entry_of(desk, WITHOUT_THREE), term=desk.raft.current_term + 1)
    assert reached(desk) == [N2]


def test_what_others_say_of_members_is_taken_back_by_what_they_say_next(desk: Desk) -> None:
    """Their configuration was cut; and what is old is no news."""
    tell(desk, N2, WITH_FOUR, 9)
    tell(desk, N2, FIRST, 8)
    assert reached(desk) == [N2, N3]
    tell(desk, N2, WITH_FOUR, 9)
    desk.follow(N2, entry_of(desk, FIRST))
    tell(desk, N3, WITH_FOUR, 0)
    assert reached(desk) == [N2, N3, N4]


def test_a_configuration_that_is_cut_is_taken_back_from_those_who_were_told(desk: Desk) -> None:
    """Nobody else tells of the members of before the first change, and who was told goes on dialling who never came."""
    before = desk.raft.log.last
    desk.follow(N2, entry_of(desk, WITH_FOUR), commit=0)
    desk.told.clear()
    term = Term(desk.raft.current_term + 1)
    other = make_entry(previous=before, term=term, kind=EntryKind.NOOP, timestamp_ms=1_000, payload=b"")
    desk.follow(N3, other, after=before.index, commit=0)
    assert desk.raft.configuration.index == 0
    assert [(peer, told_of(FIRST, 0)) for peer in (N2, N3)] == desk.told


def test_what_was_said_over_an_earlier_link_counts_no_more(desk: Desk) -> None:
    """The entry of it may have gone with the power, and who starts without it says nothing of members."""
    tell(desk, N2, WITH_FOUR, 9)
    desk.cut_off(N2)
    assert reached(desk) == [N2, N3, N4]  # N4 may be the leader, and N2 gone for good.
    desk.reconnect(N3)
    assert reached(desk) == [N2, N3, N4]
    desk.reconnect(N2)
    assert reached(desk) == [N2, N3]


@pytest.mark.parametrize("later", [told_of(FIRST, 0), None], ids=["another", "another link"])
def test_a_vote_goes_by_no_members_that_were_taken_back(desk: Desk, later: TellMembers | None) -> None:
    """What the links forget the core forgets, too."""
    tell(desk, N2, WITH_FOUR, 9)
    assert desk.raft._state.doubts.told.keys() == {N2}
    if later is None:
        desk.reconnect(N2)
    else:
        desk.arrive(N2, later)
    assert not desk.raft._state.doubts.told


def test_who_says_no_configuration_loses_the_link(desk: Desk) -> None:
    """No correct node does."""
    for payload in (b"", b"\xff", encode(WITH_FOUR)[:-1]):
        with pytest.raises(PeerMisbehaved):
            desk.arrive(N2, TellMembers(Index(9), payload))


def test_members_are_told_once_they_were_changed_and_never_before(desk: Desk) -> None:
    """At each change, and to whoever comes; a cluster whose members never changed says nothing that is new."""
    desk.cut_off(N3)
    desk.reconnect(N3)
    assert desk.told == []
    entry = entry_of(desk, WITH_FOUR)
    desk.follow(N2, entry, commit=0)
    said = told_of(WITH_FOUR, entry.index)
    assert [(peer, said) for peer in (N2, N3, N4)] == desk.told
    desk.told.clear()
    desk.reconnect(N3)
    assert (N3, said) in desk.told


def test_a_node_stops_when_a_majority_of_the_others_says_that_it_was_removed(tmp_path: Path) -> None:
    """One that lies does not stop it; it is an alarm all the same."""
    with desk_at(tmp_path / "n1") as desk:
        desk.refuse_as_removed(N2)
        desk.wait(LOOK_S)
        assert [alarm.name for alarm in desk.node.alarms()] == ["removed"]
        desk.refuse_as_removed(N3)
        with pytest.raises(NodeRemoved, match="was removed from its cluster"):
            desk.wait(LOOK_S)


def test_a_node_that_knows_that_it_leaves_believes_anybody(tmp_path: Path) -> None:
    """Its own log says so; what is missing is that it is done."""
    leaving = replace(FIRST, voters=(N2, N3), learners=(N1,), leaving=(N1,))
    with desk_at(tmp_path / "n1") as desk:
        desk.follow(N2, entry_of(desk, leaving))
        desk.wait(LOOK_S)
        desk.refuse_as_removed(N3)
        with pytest.raises(NodeRemoved):
            desk.wait(LOOK_S)


def test_a_node_that_goes_sends_its_clients_to_the_leader(tmp_path: Path) -> None:
    """A command that came when the leader had hung up is not done; nobody is left to guess about it."""
    leaving = replace(FIRST, voters=(N2, N3), learners=(N1,), leaving=(N1,))
    with desk_at(tmp_path / "n1") as desk:
        desk.follow(N2, entry_of(desk, leaving))
        desk.cut_off(N2)
        client = desk.client()
        client.send("set foo 1")
        assert client.replies == [None]
        desk.wait(LOOK_S)
        desk.refuse_as_removed(N3)
        with pytest.raises(NodeRemoved):
            desk.wait(LOOK_S)
        assert client.replies == [b"-MOVED 12182 127.0.0.1:7002\r\n"]


def test_a_node_that_goes_without_a_leader_says_so(tmp_path: Path) -> None:
    """What was held was not done."""
    with desk_at(tmp_path / "n1") as desk:
        client = desk.client()
        client.send("set foo 1")
        desk.wait(LOOK_S)
        desk.refuse_as_removed(N2)
        desk.refuse_as_removed(N3)
        with pytest.raises(NodeRemoved):
            desk.wait(LOOK_S)
        assert client.replies == [b"-CLUSTERDOWN no leader; the command had no effect\r\n"]


def test_a_node_that_goes_stays_while_clients_come(tmp_path: Path) -> None:
    """They are sent to the leader before their connections end."""
    with leaving_desk(tmp_path) as (desk, client):
        client.send("set foo 1")
        desk.wait(LOOK_S)
        client.send("set foo 1")
        desk.wait(LOOK_S)
        assert client.replies == [b"-MOVED 12182 127.0.0.1:7002\r\n"] * 2
        with pytest.raises(NodeRemoved):
            desk.wait(LOOK_S)


def test_clients_that_come_again_and_again_do_not_keep_a_node_that_goes(tmp_path: Path) -> None:
    """It has waited long enough at some time."""
    with leaving_desk(tmp_path) as (desk, client):

        def come() -> None:
            for _ in range(2 * FAREWELL_LOOKS):
                client.send("set foo 1")
                desk.wait(LOOK_S)

        with pytest.raises(NodeRemoved):
            come()
        assert FAREWELL_LOOKS / 2 < len(client.replies) <= FAREWELL_LOOKS


@contextmanager
def leaving_desk(tmp_path: Path) -> Iterator[tuple[Desk, Client]]:
    """Give a node that knows that it leaves, and a client of it; the leader has hung up."""
    leaving = replace(FIRST, voters=(N2, N3), learners=(N1,), leaving=(N1,))
    with desk_at(tmp_path / "n1") as desk:
        desk.follow(N2, entry_of(desk, leaving))
        desk.refuse_as_removed(N2)
        yield desk, desk.client()


def test_a_leader_that_refuses_this_node_is_there_for_clients(tmp_path: Path) -> None:
    """It answers, so nothing has to be held until this node knows that it goes."""
    with desk_at(tmp_path / "n1") as desk:
        desk.follow(N2)
        desk.cut_off(N2)
        client = desk.client()
        client.send("set foo 1")
        assert client.replies == [None]
        desk.refuse_as_removed(N2)
        assert client.replies == [b"-MOVED 12182 127.0.0.1:7002\r\n"]
        desk.cut_off(N2)
        reporter = Reporter(desk.node._config, desk._store, desk.node, Watchdog())
        assert reporter.status(ClientCounts(0, 0, 0)).live_leader() == MEMBERS[1]


def test_only_who_was_removed_for_good_is_told_so(desk: Desk) -> None:
    """What is not committed may be cut, and nobody stops for it."""
    entry = entry_of(desk, WITHOUT_THREE)
    desk.follow(N2, entry, commit=0)
    assert not desk.node.members.was_removed(N3)
    desk.follow(N2, term=desk.raft.current_term, commit=entry.index)
    assert desk.node.members.was_removed(N3)
    assert not desk.node.members.was_removed(N4)


def test_a_joiner_reaches_those_whom_it_asked(tmp_path: Path) -> None:
    """It has no members, so it neither votes nor campaigns, and waits to be added."""
    seeds = Seeds(Index(4), MEMBERS[1:], b"c" * 16)
    with joiner_at(tmp_path / "n1", seeds) as desk:
        assert (desk.raft.configuration.members, reached(desk)) == ((), [N2, N3])
        desk.wait(5.0)
        assert desk.raft.current_term == 0
        desk.follow(N2, entry_of(desk, replace(FIRST, members=MEMBERS[1:], voters=(N2, N3))), term=3)
        assert reached(desk) == [N2, N3]


def test_a_joiner_believes_no_other_cluster(tmp_path: Path) -> None:
    """The address may be another cluster's by now: the node goes by its log, and reaches whom that names."""
    told = Seeds(Index(4), MEMBERS[1:], b"c" * 16)
    with joiner_at(tmp_path / "n1", told) as desk:
        desk.follow(N2, entry_of(desk, replace(FIRST, members=MEMBERS[1:], voters=(N2, N3))), term=3)
    with joiner_at(tmp_path / "n1", Seeds(Index(99), (FOUR,), b"d" * 16)) as desk:
        assert reached(desk) == [N2, N3]


def test_a_joiner_that_heard_from_nobody_does_not_start_without_an_answer(tmp_path: Path) -> None:
    """It would hear nobody: whoever dials it is a stranger. Its directory stays as it is."""
    told = Seeds(Index(4), MEMBERS[1:], b"c" * 16)
    with joiner_at(tmp_path / "n1", told):
        pass
    with pytest.raises(NodeUnreachable, match="has not heard from its cluster"), joiner_at(tmp_path / "n1", NO_SEEDS):
        pass
    other = Seeds(Index(4), MEMBERS[1:], b"d" * 16)
    with pytest.raises(DirectoryRefused, match="belongs to the cluster 63636363"), joiner_at(tmp_path / "n1", other):
        pass
    with joiner_at(tmp_path / "n1", told) as desk:
        assert reached(desk) == [N2, N3]


def test_a_new_directory_is_of_the_cluster_that_was_told(tmp_path: Path) -> None:
    """Without an answer none is made: it would be of a cluster that nobody is in."""
    with pytest.raises(NodeUnreachable), joiner_at(tmp_path / "n1", NO_SEEDS):
        pass
    assert not (tmp_path / "n1").exists()
    with joiner_at(tmp_path / "n1", Seeds(Index(4), MEMBERS[1:], b"e" * 16)) as desk:
        assert desk._store.identity.cluster_id == b"e" * 16


def test_a_joiner_that_was_removed_before_it_heard_anything_stops(tmp_path: Path) -> None:
    """A majority of those whom it was told of say so; one that lies does not stop it."""
    with joiner_at(tmp_path / "n1", Seeds(Index(4), MEMBERS[1:], b"c" * 16)) as desk:
        desk.refuse_as_removed(N2)
        desk.wait(LOOK_S)
        desk.refuse_as_removed(N3)
        with pytest.raises(NodeRemoved):
            desk.wait(LOOK_S)


def test_a_joiner_whose_log_does_not_name_it_yet_is_stopped_by_no_single_liar(tmp_path: Path) -> None:
    """Its log is behind: who comes is not who went."""
    with joiner_at(tmp_path / "n1", Seeds(Index(4), MEMBERS[1:], b"c" * 16)) as desk:
        desk.follow(N2, entry_of(desk, replace(FIRST, members=MEMBERS[1:], voters=(N2, N3))), term=3)
        desk.refuse_as_removed(N3)
        desk.wait(LOOK_S)
        desk.refuse_as_removed(N2)
        with pytest.raises(NodeRemoved):
            desk.wait(LOOK_S)
