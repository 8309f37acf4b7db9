"""What a majority says of a state: only a replica that a majority contradicts is wrong."""

from __future__ import annotations

import pytest

from durable_raft.kv.records import StateSummary
from durable_raft.raft.types import Index, LogPoint, NodeId, Term
from durable_raft.server.state.state_hashes import (
    AGREED_ENTRIES,
    AGREED_MS,
    KEPT,
    StateHashes,
    is_agreed_index,
    is_agreed_time,
)
from durable_raft.wire.peer import StateHash
from tests.support.raft_nodes import configuration_of

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
PLACE = Index(AGREED_ENTRIES)
THREE = configuration_of([N1, N2, N3])


def said(state_hash: int, index: int = AGREED_ENTRIES, chain: int = 1) -> StateHash:
    """Return what a node says of its state."""
    return StateHash(Index(index), chain, 10, state_hash)


def heard(**states: int) -> StateHashes:
    """Return what n1 knows when these have spoken."""
    hashes = StateHashes(N1, lambda: THREE)
    for node, state_hash in states.items():
        hashes.heard(NodeId(node), said(state_hash))
    return hashes


@pytest.mark.parametrize(
    ("states", "wrong"),
    [
        ({}, None),
        ({"n1": 5}, None),
        ({"n1": 5, "n2": 6}, None),
        ({"n1": 5, "n2": 5}, None),
        ({"n1": 5, "n2": 5, "n3": 5}, None),
        ({"n1": 5, "n2": 6, "n3": 7}, None),
        ({"n1": 5, "n2": 6, "n3": 6}, (N1,)),
        ({"n1": 6, "n2": 5, "n3": 6}, (N2,)),
    ],
)
def test_only_a_majority_has_a_say(states: dict[str, int], wrong: tuple[NodeId, ...] | None) -> None:
    """Two that differ may both be wrong; nobody is blamed before a majority agrees."""
    verdict = heard(**states).verdict(PLACE)
    assert (None if verdict is None else verdict.wrong) == wrong


def test_states_of_different_logs_are_different() -> None:
    """The chain says by which entries a state was made."""
    hashes = heard(n2=5, n3=5)
    hashes.heard(N1, said(5, chain=2))
    verdict = hashes.verdict(PLACE)
    assert verdict is not None
    assert verdict.wrong == (N1,)


def test_a_place_is_compared_once_and_only_where_all_speak_of_it() -> None:
    """What is said of another index is nobody's question."""
    hashes = heard(n1=5, n2=5)
    for _ in range(3):
        assert hashes.verdict(PLACE) is None
    assert hashes.compared == 1
    hashes.heard(N2, said(6, index=AGREED_ENTRIES + 1))
    hashes.heard(N3, said(6, index=AGREED_ENTRIES + 1))
    assert hashes.verdict(Index(AGREED_ENTRIES + 1)) is None
    assert hashes.compared == 1


def test_a_node_is_heard_by_itself() -> None:
    """What it tells the others of a checkpoint is its own word, and forgotten with its state."""
    hashes = StateHashes(N1, lambda: THREE)
    own = hashes.settled(LogPoint(PLACE, Term(1), 7), StateSummary(1, 0, 5))
    assert own == StateHash(PLACE, 7, 1, 5)
    for node in (N2, N3):
        hashes.heard(node, own._replace(state_hash=6))
    verdict = hashes.verdict(PLACE)
    assert verdict is not None
    assert verdict.wrong == (N1,)
    hashes.forget()
    assert hashes.verdict(PLACE) is None


def test_every_replica_finds_the_agreed_places() -> None:
    """By the index, and by the cluster time before an entry and with it, which all know, wherever they began."""
    places = [index for index in range(1, 2 * AGREED_ENTRIES + 2) if is_agreed_index(Index(index))]
    assert places == [AGREED_ENTRIES, 2 * AGREED_ENTRIES]
    for before_ms, time_ms, expected in (
        (0, 1_000 * AGREED_MS, False),
        (5, 5, False),
        (AGREED_MS, 2 * AGREED_MS - 1, False),
        (2 * AGREED_MS - 1, 2 * AGREED_MS, True),
        (2 * AGREED_MS, 9 * AGREED_MS + 5, True),
        (9 * AGREED_MS + 5, 2 * AGREED_MS, True),
    ):
        assert is_agreed_time(time_ms, before_ms) == expected, (before_ms, time_ms)


def test_the_places_that_are_remembered_are_bounded() -> None:
    """The oldest go: a replica that lags so far is compared when it has caught up."""
    hashes = StateHashes(N1, lambda: THREE)
    for number in range(1, KEPT + 2):
        for node in (N1, N2):
            hashes.heard(node, said(5, index=number * AGREED_ENTRIES))
        hashes.verdict(Index(number * AGREED_ENTRIES))
    hashes.heard(N3, said(6))
    assert hashes.verdict(PLACE) is None
    hashes.heard(N3, said(6, index=5 * AGREED_ENTRIES))
    verdict = hashes.verdict(Index(5 * AGREED_ENTRIES))
    assert verdict is not None
    assert verdict.wrong == (N3,)
    assert hashes.compared == KEPT + 1
    assert len(hashes._judged) == KEPT


def test_whoever_speaks_of_what_nobody_has_reached_makes_nobody_forget() -> None:
    """A hundred places far ahead are one node's own: the others are compared as before."""
    hashes = heard(n1=5, n2=5)
    for number in range(100):
        hashes.heard(N3, said(9, index=(1000 + number) * AGREED_ENTRIES))
    assert hashes.verdict(PLACE) is None
    assert hashes.compared == 1
    hashes.heard(N3, said(6))
    verdict = hashes.verdict(PLACE)
    assert verdict is not None
    assert verdict.wrong == (N3,)


def test_a_place_that_this_node_has_not_applied_is_not_judged() -> None:
    """Two that agree there prove nothing of it yet; what they said is kept for the time when it has."""
    hashes = heard(n2=5, n3=5)
    assert (hashes.verdict(PLACE), hashes.compared) == (None, 0)
    hashes.heard(N1, said(5))
    assert (hashes.verdict(PLACE), hashes.compared) == (None, 1)
