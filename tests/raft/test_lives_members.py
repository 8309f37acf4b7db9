"""Lives of a directory whose log is behind: the voters that it knows may be gone, and it must vote all the same."""

from __future__ import annotations

import pytest

from durable_raft.raft.configuration import encode
from durable_raft.raft.messages import AppendEntries, Resume
from durable_raft.raft.types import Configuration, EntryKind, Index, Member, NodeId, Term, make_entry
from tests.raft.test_lives import HERE, THERE, answer, living
from tests.support.raft_disk import entries_of
from tests.support.raft_solo import ask, point_of, request_vote


def goes_by(voters: str, index: int, outgoing: str = "") -> Configuration:
    """Return the configuration at ``index`` of these voters."""
    names = sorted({*voters.split(), *outgoing.split()})
    members = tuple(Member(NodeId(name), f"{name}:1", f"{name}:2") for name in names)
    left = tuple(NodeId(name) for name in outgoing.split())
    return Configuration(Index(index), members, tuple(NodeId(name) for name in voters.split()), left)


def test_voters_that_went_while_a_node_was_away_are_not_waited_for() -> None:
    """Its log knows of four, and two are gone for good: the majority of those that are there now is enough."""
    cluster = living(voters="n1 n2 n3 n4")
    answer(cluster, "n2")
    assert not cluster["n1"].is_voter
    cluster["n1"].hear_members(cluster.now, NodeId("n2"), goes_by("n1 n2 n9", 57))
    cluster.fire("n1")
    assert cluster["n1"].is_voter
    (granted,) = ask(cluster, "n2", request_vote(4, 57, 3))
    assert granted.vote_granted


def test_who_came_meanwhile_is_told_of_a_life_too() -> None:
    """It may be the one that makes the majority."""
    cluster = living(voters="n1 n2 n3 n4")
    cluster.packets.clear()
    cluster["n1"].hear_members(cluster.now, NodeId("n2"), goes_by("n1 n2 n9", 57))
    cluster.fire("n1")
    assert [type(message) for message in cluster.sent("n1", "n9")] == [Resume]
    answer(cluster, "n9")
    assert cluster["n1"].is_voter


@pytest.mark.parametrize(
    "told",
    [goes_by("n1 n2", 0), goes_by("n2 n9", 57), goes_by("n1 n2 n9", 57, outgoing="n1 n2 n3 n4"), goes_by("n1 n9", 57)],
    ids=["not newer", "without its vote", "joint with four", "without who answered"],
)
def test_a_majority_that_is_told_of_must_be_one_of_its_own(told: Configuration) -> None:
    """It is newer, this node votes in it, and both halves of a joint one have answered."""
    cluster = living(voters="n1 n2 n3 n4")
    answer(cluster, "n2")
    cluster["n1"].hear_members(cluster.now, NodeId("n2"), told)
    cluster.fire("n1")
    assert not cluster["n1"].is_voter


def test_who_is_not_in_its_place_believes_no_majority_that_it_was_told_of() -> None:
    """It hears everybody that its own log names."""
    cluster = living(place=THERE, voters="n1 n2 n3 n4")
    answer(cluster, "n2", in_place=False)
    cluster["n1"].hear_members(cluster.now, NodeId("n2"), goes_by("n1 n2", 57))
    cluster.fire("n1")
    assert not cluster["n1"].is_voter


@pytest.mark.parametrize(("place", "stay"), [(HERE, "n2"), (THERE, "n2 n3")])
def test_who_goes_is_not_waited_for_any_more(place: bytes, stay: str) -> None:
    """All whose answer is needed have answered before the members change: nobody says anything after that."""
    cluster = living(place=place, voters="n1 n2 n3 n4")
    for peer in stay.split():
        answer(cluster, peer, in_place=False)
    assert not cluster["n1"].is_voter
    payload = encode(goes_by(f"n1 {stay}", 3))
    previous = point_of(entries_of("1 1"), 2)
    entry = make_entry(previous=previous, term=Term(3), kind=EntryKind.CONFIGURATION, timestamp_ms=9, payload=payload)
    cluster.tell(
        "n1", "n2", AppendEntries(Term(3), previous.index, previous.term, previous.chain, (entry,), Index(0), 0)
    )
    cluster.now += 50
    cluster.fire("n1")
    assert cluster["n1"].is_voter
