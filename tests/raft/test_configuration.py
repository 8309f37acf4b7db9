"""Configurations: their bytes, the stages of a change, the ids that were used, and those of one log."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_raft.errors import MalformedConfiguration
from durable_raft.raft.configuration import (
    FILTER_BYTES,
    FORMER_MAX,
    NO_MEMBERS,
    Configurations,
    decode,
    describe,
    describe_stored,
    encode,
    next_stage,
    stored_at,
    was_used,
)
from durable_raft.raft.types import (
    ORIGIN,
    Configuration,
    EntryKind,
    Index,
    Member,
    Membership,
    NodeId,
    Term,
    make_entry,
)
from tests.support.raft_disk import Disk
from tests.support.raft_nodes import configuration_of

THREE = configuration_of(["n1", "n2", "n3"])
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    """Draw any lawful configuration."""
    names = sorted(draw(st.sets(NAMES, min_size=1, max_size=6)))
    roles = {NodeId(name): draw(st.sets(st.sampled_from(["votes", "outgoing", "leaves"]))) for name in names}
    first = NodeId(names[0])
    roles[first] = {"votes"} | (roles[first] & {"outgoing"})
    members = tuple(Member(NodeId(name), draw(NAMES), draw(NAMES)) for name in names)

    def having(role: str) -> tuple[NodeId, ...]:
        return tuple(name for name, found in roles.items() if role in found)

    voters, outgoing = having("votes"), having("outgoing")
    learners = tuple(name for name in roles if name not in voters and name not in outgoing)
    leaving = tuple(name for name in having("leaves") if name not in voters)
    former = tuple(NodeId(name) for name in draw(st.lists(NAMES, max_size=3, unique=True)) if name not in names)
    bits = draw(st.sampled_from([b"", bytes(FILTER_BYTES), b"\x55" * FILTER_BYTES]))
    return Configuration(Index(9), members, voters, outgoing, learners, leaving, former, bits)


@given(configurations())
def test_what_is_written_is_read(configuration: Configuration) -> None:
    """Every configuration, and nothing that is cut short or longer."""
    payload = encode(configuration)
    assert decode(Index(9), payload) == configuration
    for bad in (payload[:-1], payload + b"\0", b"\x02" + payload[1:], b""):
        with pytest.raises(MalformedConfiguration, match="entry 9"):
            decode(Index(9), bad)


@given(st.binary(max_size=60))
def test_no_bytes_do_harm(payload: bytes) -> None:
    """They are a lawful configuration, or refused."""
    try:
        found = decode(Index(1), payload)
    except MalformedConfiguration:
        return
    assert encode(found) == payload


@pytest.mark.parametrize(
    "unlawful",
    [
        replace(THREE, voters=()),
        replace(THREE, members=THREE.members[::-1]),
        replace(THREE, members=(THREE.members[0], *THREE.members)),
        replace(THREE, leaving=(NodeId("n1"),)),
        replace(THREE, former=(NodeId("n1"),)),
        replace(THREE, former=tuple(NodeId(f"x{number}") for number in range(FORMER_MAX + 1))),
        replace(THREE, former_filter=b"short"),
        NO_MEMBERS,
    ],
)
def test_an_unlawful_configuration_is_refused(unlawful: Configuration) -> None:
    """No leader makes one, and a log that holds one is not believed."""
    with pytest.raises(MalformedConfiguration):
        decode(Index(3), encode(unlawful))


def test_the_bytes_of_version_1() -> None:
    """They are stored and sent: they do not change."""
    one = Configuration(
        Index(5),
        (Member(NodeId("a"), "c", "p"), Member(NodeId("b"), "", "")),
        (NodeId("a"),),
        outgoing=(NodeId("a"), NodeId("b")),
        leaving=(NodeId("b"),),
        former=(NodeId("z"),),
    )
    assert encode(one).hex() == "010002030001610001630001700600016200000000000100017a0000"


def test_the_stages_of_a_change() -> None:
    """Joint, without the vote, without the node; each follows from the one before alone, and the last one stays."""
    gone, stays = NodeId("n3"), (NodeId("n1"), NodeId("n2"))
    joint = replace(THREE, voters=stays, outgoing=THREE.voters, leaving=(gone,))
    second = next_stage(joint)
    assert second == replace(THREE, voters=stays, learners=(gone,), leaving=(gone,))
    third = next_stage(second) if second else None
    assert third == replace(THREE, members=THREE.members[:2], voters=stays, former=(gone,))
    assert next_stage(third) is None
    assert [each.is_at_rest for each in (THREE, joint, second, third)] == [True, False, False, True]
    assert describe(joint) == "voters n1 n2; and, until it is left, n1 n2 n3; leaving n3"


def test_an_id_is_used_once_however_long_ago() -> None:
    """What the list forgets the filter remembers; ids that were never used are seldom taken for used ones."""
    configuration = THREE
    names = [NodeId(f"node-{number}") for number in range(1_000)]
    for name in names:
        assert not was_used(configuration, name) or configuration.former_filter
        members = (*THREE.members, Member(name, "", ""))
        configuration = replace(configuration, members=members, learners=(name,), leaving=(name,))
        after = next_stage(configuration)
        assert after is not None
        configuration = after
    assert all(was_used(configuration, name) for name in (*names, *THREE.voters))
    assert len(configuration.former) == FORMER_MAX
    wrongly = sum(was_used(configuration, NodeId(f"other-{number}")) for number in range(5_000))
    assert wrongly < 25, "one in 1,600 is expected"
    assert decode(Index(0), encode(configuration)) == configuration


def at(index: int, *names: str) -> Configuration:
    """Return a configuration of these voters whose entry is at ``index``."""
    return replace(configuration_of(names), index=Index(index))


def test_the_newest_configuration_of_a_log_counts() -> None:
    """It goes when its entry is cut, and the one before is back with its own index."""
    told: list[Configuration] = []
    log = Configurations(THREE, [at(4, "n1"), at(7, "n2")])
    log.changed = told.append
    assert (log.newest, log.at(Index(6)), log.at(Index(3))) == (at(7, "n2"), at(4, "n1"), THREE)
    assert log.since(Index(5)) == [at(4, "n1"), at(7, "n2")]
    entry = make_entry(
        previous=ORIGIN, term=Term(1), kind=EntryKind.CONFIGURATION, timestamp_ms=1, payload=encode(at(9, "n3"))
    )
    log.append(replace(entry, index=Index(9)))
    log.cut(Index(10))
    assert told == [at(9, "n3")]
    log.cut(Index(5))
    assert log.newest == told[-1] == at(4, "n1")
    assert len(told) == 2
    log.compact(Index(4))
    assert log.at(Index(4)) == at(4, "n1")
    log.install(at(4, "n1"))
    assert len(told) == 2, "nothing is new"
    log.install(at(8, "n3"))
    assert told[-1] == log.newest == at(8, "n3")


def test_a_log_without_configurations_goes_by_the_first_one() -> None:
    """Until its disk names one that counts at its base."""
    assert Configurations(THREE).newest == THREE
    assert Configurations(NO_MEMBERS, [THREE]).newest == THREE


def test_what_a_disk_keeps_is_told_in_words_and_counts_from_its_index_on() -> None:
    """Before the first stored one the fixed configuration of the first start counts, which is kept nowhere."""
    first, second = replace(THREE, index=Index(5)), replace(THREE, index=Index(8))
    assert [stored_at([first, second], Index(at)) for at in (4, 5, 7, 8)] == [None, first, first, second]
    assert describe_stored(None) == "the one of the first start"
    assert describe_stored(first) == "the one at 5 (voters n1 n2 n3)"


def test_who_is_the_only_voter_is_alone() -> None:
    """Not while the others have a vote in the half that is left; learners give nothing back."""
    alone = configuration_of(["n1"])
    n1, n2 = NodeId("n1"), NodeId("n2")
    assert alone.is_alone(n1)
    assert replace(alone, learners=(n2,)).is_alone(n1)
    assert not alone.is_alone(n2)
    assert not replace(alone, outgoing=THREE.voters).is_alone(n1)


def test_the_newest_stored_configuration_counts_and_before_it_the_first() -> None:
    """The first one is what an operator named."""
    membership = Membership(THREE.members)
    stored = Disk("1").load()
    assert stored.newest_configuration(membership) == THREE
    changed = replace(THREE, index=Index(5))
    assert replace(stored, configurations=(changed,)).newest_configuration(membership) == changed
