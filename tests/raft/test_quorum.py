"""Majority arithmetic."""

from __future__ import annotations

import itertools

import pytest

from durable_raft.raft.quorum import (
    can_be_held,
    halves,
    has_quorum,
    is_majority,
    is_refused,
    majority,
    majority_value,
    quorum_value,
)
from durable_raft.raft.types import Configuration, Index, Member, NodeId

NAMES = [NodeId(name) for name in "abcde"]


def of(voters: str, outgoing: str = "", learners: str = "") -> Configuration:
    """Return a configuration of nodes that are named by one letter each."""
    ids = sorted(set(voters + outgoing + learners))
    members = tuple(Member(NodeId(name), f"{name}:1", f"{name}:2") for name in ids)
    voting, going, listening = (tuple(map(NodeId, sorted(names))) for names in (voters, outgoing, learners))
    return Configuration(Index(7), members, voting, going, listening)


def subsets(names: list[NodeId]) -> list[set[NodeId]]:
    """Return every set of these nodes."""
    return [set(chosen) for count in range(len(names) + 1) for chosen in itertools.combinations(names, count)]


@pytest.mark.parametrize(("voters", "expected"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_majority_is_more_than_half(voters: int, expected: int) -> None:
    """The least number such that two majorities always share a node."""
    assert majority(voters) == expected
    assert 2 * majority(voters) > voters >= 2 * (majority(voters) - 1)


@pytest.mark.parametrize("voters", [1, 2, 3, 4, 5])
def test_majority_value_is_the_highest_that_a_majority_reached(voters: int) -> None:
    """Against the definition, for all values up to three."""
    for values in itertools.product(range(4), repeat=voters):
        reached = [value for value in range(4) if sum(other >= value for other in values) >= majority(voters)]
        assert majority_value(values) == max(reached)


JOINT = [of("abc", "abc"), of("bcd", "abc"), of("ab", "abc"), of("abcd", "abc"), of("de", "abc"), of("b", "ab")]
PLAIN = [of("a"), of("ab"), of("abc"), of("abcd"), of("abcde"), of("ab", learners="cde")]


@pytest.mark.parametrize("configuration", [*PLAIN, *JOINT], ids=lambda each: "".join(each.voters + each.outgoing))
def test_two_quorums_of_a_configuration_share_a_voter(configuration: Configuration) -> None:
    """In each half: that is all that Raft asks of majorities (§6). Who refuses a quorum leaves none."""
    quorums = [ids for ids in subsets(NAMES) if has_quorum(configuration, ids)]
    for one, other in itertools.product(quorums, repeat=2):
        for half in halves(configuration):
            assert set(half) & one & other
    for ids in subsets(NAMES):
        if is_refused(configuration, ids):
            assert not has_quorum(configuration, set(NAMES) - ids)
        assert has_quorum(configuration, ids) == all(
            2 * len(set(half) & ids) > len(half) for half in halves(configuration)
        )


@pytest.mark.parametrize("configuration", JOINT, ids=lambda each: "".join(each.voters + each.outgoing))
def test_a_joint_configuration_asks_both_halves(configuration: Configuration) -> None:
    """What is a quorum of it is one of the configuration before and of the one that comes."""
    before, after = of("".join(configuration.outgoing)), of("".join(configuration.voters))
    for ids in subsets(NAMES):
        assert has_quorum(configuration, ids) == (has_quorum(before, ids) and has_quorum(after, ids))
        assert is_refused(configuration, ids) == (is_refused(before, ids) or is_refused(after, ids))


@pytest.mark.parametrize("configuration", [*PLAIN, *JOINT], ids=lambda each: "".join(each.voters + each.outgoing))
def test_the_value_of_a_quorum_is_the_highest_that_one_has_reached(configuration: Configuration) -> None:
    """Against the definition. What learners have reached changes nothing."""
    for reached in itertools.product(range(3), repeat=len(NAMES)):
        values = dict(zip(NAMES, reached, strict=True))
        possible = [v for v in range(3) if has_quorum(configuration, [name for name in NAMES if values[name] >= v])]
        assert quorum_value(configuration, values) == max(possible)


def test_learners_and_strangers_count_nowhere() -> None:
    """However many they are."""
    assert not has_quorum(of("abc", learners="de"), {"a", "d", "e"})
    assert has_quorum(of("abc", learners="de"), {"a", "b"})
    assert not is_refused(of("abc", learners="de"), {"a", "d", "e", "x"})
    assert not has_quorum(of(""), {"a", "b"})


def test_what_a_majority_lacks_no_majority_holds() -> None:
    """Of whom nothing is known, may hold it."""
    for absent in subsets(NAMES):
        assert can_be_held(NAMES, absent) == (5 - len(absent) >= 3)
        assert can_be_held(NAMES, absent) == (not is_majority(NAMES, absent))
    assert can_be_held("ab", "x")
    assert not can_be_held("ab", "a")
