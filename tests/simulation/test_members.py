"""Members that come and go in simulated clusters: that they do, and that the rules for them find what is wrong."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest

from durable_raft.errors import InvariantViolation
from durable_raft.raft.changes import AddLearner, Demote, Promote, Remove, Step
from durable_raft.raft.types import Configuration, Index, Member, NodeId, Term
from tests.simulation.campaign import RULES, Failure, run_seed, timeline
from tests.simulation.member_rules import (
    MemberInvariants,
    MemberRules,
    has_majorities,
    may_be_apart,
    outcome,
    spare,
)
from tests.simulation.mutants import MUTANTS
from tests.simulation.swarm import CHURN_SHARE, draw_churn
from tests.simulation.test_simulation import BOTH_COMMITS, EVENTFUL, QUICK_MUTANTS, REGRESSIONS
from tests.simulation.world import World

SHORT = (1422, 1426)
"""Short seeds in which members come and go in all ways."""

REGRESSIONS_OF_MEMBERS = {
    70654135: "a learner's entry is cut, and the members are those of the first start again, which nobody told",
    689081459: "a voter that was away while others went waits for them, and its vote is needed",
    893000074: "a peer's new disk told what this life had acknowledged to it, and it was taken for an earlier life's",
    328742312: "who had answered to a life was counted anew only when somebody answered, not when members went",
}
"""Seeds that broke a rule once, and what was wrong."""

WAYS = (
    "step AddLearner",
    "step Promote",
    "step Remove",
    "joint configurations",
    "configuration_complete",
    "refused: StaleConfiguration",
    "removed nodes ended",
    "transfers in calm",
)


QUICK_MUTANTS_OF_MEMBERS = {
    "joint_committed_by_the_old": 1418,
    "learners_counted": 1418,
    "batch_committed_by_the_configuration_before": 1772,
    "restart_forgets_what_is_not_committed": 1772,
    "checkpoint_names_the_newest": 1772,
    "two_changes_at_once": 1772,
    "former_members_not_listed": 1772,
}
"""Planted bug -> a seed that catches it soon."""


def ids(names: str) -> list[NodeId]:
    """Return the ids of one letter each."""
    return [NodeId(name) for name in names]


def configuration(voters: str, outgoing: str = "", index: int = 0) -> Configuration:
    """Return one of the voters that are named, one letter each."""
    members = tuple(Member(NodeId(name), "c:1", "p:1") for name in sorted({*voters, *outgoing}))
    return Configuration(Index(index), members, tuple(ids(voters)), tuple(ids(outgoing)))


# -- what is played ---------------------------------------------------------------------------------------------------


def test_members_come_and_go_in_every_way() -> None:
    """Two short seeds meet what there is to be met, and break no rule."""
    counts: Counter[str] = Counter()
    for seed in SHORT:
        world, rule = run_seed(seed)
        assert rule is None, timeline(Failure(seed, rule))
        counts += world.counts
    assert [way for way in WAYS if not counts[way]] == [], counts


@pytest.mark.parametrize("seed", REGRESSIONS_OF_MEMBERS)
def test_seed_that_broke_a_rule_once_breaks_none(seed: int) -> None:
    """What was wrong then is right now."""
    _, rule = run_seed(seed)
    assert rule is None, timeline(Failure(seed, rule))


def test_some_seeds_change_members_and_those_of_other_tests_do_not() -> None:
    """The seeds that tests play stay what they were before members came and went."""
    drawn = [seed for seed in range(2_000) if draw_churn(seed, 100)]
    assert abs(len(drawn) / 2_000 - CHURN_SHARE) < 0.05
    played = {*EVENTFUL[:5], *REGRESSIONS, *QUICK_MUTANTS.values(), BOTH_COMMITS, 7, 8, 12, 232, 20270512, 20290651}
    assert [seed for seed in played if draw_churn(seed, 100)] == []


@pytest.mark.parametrize("name", QUICK_MUTANTS_OF_MEMBERS)
def test_planted_bug_of_members_is_caught(name: str) -> None:
    """A rule breaks, and it is no mistake of the simulation."""
    _, rule = run_seed(QUICK_MUTANTS_OF_MEMBERS[name], name)
    assert rule is not None, MUTANTS[name][0]
    assert rule.startswith(RULES)


# -- the arithmetic ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ("abc", "abc", False),
        ("abc", "abcd", False),
        ("abc", "abcde", True),
        ("abc", "ade", True),
        ("abc", "abd", True),
        ("a", "ab", False),
        ("a", "b", True),
        ("abcde", "abcdf", True),
        ("abcde", "abcdef", False),
    ],
)
def test_majorities_that_may_share_nobody(one: str, other: str, *, apart: bool) -> None:
    """Two sets of voters of which one has one node more always meet; others need a joint configuration."""
    first, second = frozenset(map(NodeId, one)), frozenset(map(NodeId, other))
    assert may_be_apart(first, second) == may_be_apart(second, first) == apart


def test_a_joint_configuration_asks_both_halves() -> None:
    """A majority of the new voters alone is none, nor of the old ones alone."""
    joint = configuration("abc", "cde")
    assert has_majorities(joint, ids("acd"))
    assert not has_majorities(joint, ids("abc"))
    assert not has_majorities(joint, ids("cde"))
    assert [spare(frozenset(map(NodeId, half))) for half in ("a", "ab", "abc", "abcd", "abcde")] == [0, 0, 1, 1, 2]


def test_outcome_of_steps() -> None:
    """What an operator asks for, by the steps alone."""
    before = configuration("abc")
    steps: list[Step] = [AddLearner(Member(NodeId("d"), "c:1", "p:1")), Demote(NodeId("b")), Remove(NodeId("c"))]
    assert outcome(before, steps) == ({"a"}, {"a", "b", "c", "d"}, {"c"})
    assert outcome(before, [Promote(NodeId("d"))])[0] == {"a", "b", "c", "d"}


# -- the rules --------------------------------------------------------------------------------------------------------


def _node(name: str, goes_by: Configuration, term: int) -> Any:
    log = SimpleNamespace(last=SimpleNamespace(term=term, index=5))
    state = SimpleNamespace(may_campaign=True)
    raft = SimpleNamespace(log=log, state=state, configuration=goes_by)
    process = SimpleNamespace(is_alive=True, node=SimpleNamespace(raft=raft))
    return SimpleNamespace(name=NodeId(name), process=process)


def _rules(*sites: Any, damaged: str = "") -> MemberRules:
    """Return the rules over nodes that exist in this test only."""
    driver = SimpleNamespace(damaged_ids=lambda: [*damaged])
    world = SimpleNamespace(present=lambda: [*sites], up=lambda: [*sites], faults_driver=driver)
    return MemberRules(cast("World", world), MemberInvariants({}, configuration("abcde")))


def test_two_that_can_be_elected_apart_are_found() -> None:
    """One goes by its old voters and one by its new ones, and no log is newer than the other's."""
    one, other = configuration("ab"), configuration("de", index=4)
    nodes = [_node(name, one if name in "ab" else other, term=2) for name in "abde"]
    with pytest.raises(InvariantViolation, match="two majorities share nobody"):
        _rules(*nodes)._check_majorities_meet()


def test_whom_a_newer_log_or_damage_keeps_from_office_is_not_counted() -> None:
    """The voters of the old configuration hold the newer log: who lags behind cannot be elected."""
    one, other = configuration("abc"), configuration("cde", index=4)
    lagging = [_node("a", one, term=2), *(_node(name, other, term=3) for name in "bcde")]
    _rules(*lagging)._check_majorities_meet()
    apart = [_node("a", configuration("a"), term=2), _node("b", configuration("b", index=4), term=2)]
    _rules(*apart, damaged="a")._check_majorities_meet()


def test_steps_that_may_not_follow_each_other_are_found() -> None:
    """Voters change through a joint configuration only, and an id is used once."""
    rules = _rules()
    rules._check_step(configuration("abc"), configuration("ab", "abc", 1))
    with pytest.raises(InvariantViolation, match="is followed by"):
        rules._check_step(configuration("abc"), configuration("abcf", "", 1))
    with pytest.raises(InvariantViolation, match="are not listed as former"):
        rules._check_step(configuration("ab", "abc", 1), configuration("ab", "", 2))
    rules._used.add(NodeId("f"))
    with pytest.raises(InvariantViolation, match="an id is used once"):
        rules._check_step(configuration("abc"), configuration("abcf", "abcf", 3))


def test_what_is_tolerated_follows_from_every_configuration_that_may_count() -> None:
    """Five voters spare two; once three of them may count alone, they spare one."""
    rules = _rules()
    assert rules.tolerates(ids("a"), NodeId("b"))
    assert not rules.tolerates(ids("ac"), NodeId("b"))
    found = configuration("abc", "abcde", 3)
    rules._invariants.seen[Index(3), Term(1)] = rules._invariants.seen[Index(0), Term(0)]._replace(configuration=found)
    assert not rules.tolerates(ids("a"), NodeId("b"))
    assert rules.tolerates(ids("a"), NodeId("d"))
