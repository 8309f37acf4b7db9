"""Members come and go under load, in small: nothing is lost, and no client sees an error. And what measures it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.test_members import CALM
from tests.moves import figures
from tests.moves.campaign import Campaign, Side, System, main, missing_for_peer, result
from tests.moves.load import Load, NotAnswered, Note, Write
from tests.moves.ours import OurNodes
from tests.moves.steps import HANDOVER, Sizes, plan
from tests.results import moves
from tests.simulation.linearizability import Outcome, check
from tests.support.waiting import WAIT_S, wait_until

SMALL = Sizes(keys=200, rate=15.0, clients=2, calm=10, between=6, replaced=1, moved=1, handovers=2, stops=1, rounds=1)
SEED = 20_261_128


def played(system: System) -> tuple[Side, dict[str, Any]]:
    """Play the campaign on one system; return what is seen of it, and its figures."""
    campaign = Campaign([system], SMALL, SEED, print)
    try:
        campaign.play()
    finally:
        system.close()
    [side] = campaign.sides
    return side, result(campaign, SMALL, 0.0)


@pytest.mark.cluster
def test_members_come_and_go_and_no_client_is_told(tmp_path: Path) -> None:
    """Every step is played under load: no error, nothing lost, linearizable; the last three nodes are the expected."""
    nodes = OurNodes(tmp_path, CALM, forked=True, timeout_s=WAIT_S)
    side, found = played(nodes)
    assert not side.problems, nodes.cluster.explain("\n".join(side.problems))
    assert side.verdict.outcome is Outcome.LINEARIZABLE
    assert [step.name for step in side.steps] == [name for name, _ in plan(SMALL)]
    assert {step.name: len(step.actions) for step in side.steps}[HANDOVER] == SMALL.handovers
    assert len(nodes.members()) == 3
    assert not set(nodes.members()) & {"n1"}
    assert len(side.load.acknowledged) > 50
    print(moves.all_tables(found))


@pytest.mark.cluster
def test_the_same_is_done_to_etcd(tmp_path: Path) -> None:
    """Every step is played there, too, and its clients go on; what they meet is its own."""
    if missing := missing_for_peer():
        pytest.skip(missing)
    from tests.moves.peer import PeerNodes

    side, found = played(PeerNodes(tmp_path))
    assert side.verdict.outcome is Outcome.LINEARIZABLE
    assert [step.name for step in side.steps] == [name for name, _ in plan(SMALL)]
    assert len(side.nodes.members()) == 3
    assert found["systems"]["etcd"]["looked_up"] == len(side.load.acknowledged) > 50


class Store:
    """A client of a store that is in memory, and goes wrong when it is told to."""

    def __init__(self) -> None:
        self.values: dict[bytes, list[bytes]] = {}
        self.age = 1
        """Which value a read returns: 1 is the newest, 2 the one before."""
        self.fails = False

    def set(self, key: bytes, value: bytes) -> None:
        """Keep all values."""
        if self.fails:
            raise NotAnswered("lost")
        self.values.setdefault(key, []).append(value)

    def get(self, key: bytes) -> bytes | None:
        """Return one of them."""
        found = self.values.get(key, [])
        return found[-min(self.age, len(found))] if found else None

    def close(self) -> None:
        """There is nothing to let go of."""


def loaded(store: Store) -> Load:
    """Return what clients of a store were told until they had written some more, and some more with it gone wrong."""

    def connect(note: Note) -> Store:
        note("connected")
        return store

    load = Load(connect, rate=2000.0, clients=2, seed="1")
    with load.running(), load.at_work():
        load.wait_for(20)
        store.age = 2
        load.wait_for(60)
    return load


def test_a_stale_read_is_found() -> None:
    """Clients that are told an older value than was acknowledged have a history without an order."""
    assert check(loaded(Store()).history).outcome is Outcome.NOT_LINEARIZABLE


def test_an_error_is_counted_and_leaves_its_fate_open() -> None:
    """The client connects anew and goes on to another register; the write that failed is in the history, unanswered."""
    store = Store()

    def connect(note: Note) -> Store:
        note("connected")
        store.fails = len(load.errors) == 1
        return store

    load = Load(connect, rate=2000.0, clients=1, seed="1")
    with load.running(), load.at_work():
        wait_until(lambda: len(load.acknowledged) > 10, "writes")
    assert load.count() == {"lost": 1}
    assert [error.kind for error in load.errors] == ["connected", "lost", "connected"]
    assert {each.key for each in load.history} <= {b"register:0:1", b"register:0:0"}
    assert b"once:0:0" not in store.values


def write(due: float, answered: float, *, is_left_out: bool = False) -> Write:
    """Return a write."""
    return Write(due, answered, is_left_out)


def test_a_pause_is_the_longest_time_without_an_acknowledgement() -> None:
    """It counts up to the edges of the time that is looked at, and a write that was left out ends none."""
    assert figures.worst_pause_s([1.0, 2.0, 5.0, 6.0], 0.0, 7.0) == 3.0
    assert figures.worst_pause_s([1.0, 2.0, 5.0, 6.0], 3.0, 4.0) == 1.0
    assert figures.worst_pause_s([], 3.0, 4.5) == 1.5


def test_what_was_due_in_a_pause_counts_as_having_waited() -> None:
    """Two writes of four were left out while a third took half a second: each is late by what was left of it."""
    load = Load(lambda _: Store(), rate=1.0, clients=1, seed="1")
    load.writes += [write(1.0, 1.5), write(1.2, 1.5, is_left_out=True), write(1.4, 1.5, is_left_out=True)]
    load.writes += [write(1.6, 1.61), write(9.0, 9.9)]
    step = figures.Step("a step", [figures.Played("it", 1.0, 1.1, 2.0)])
    found = figures.of_step(step, load)
    assert (found["writes"], found["slowest_ms"], found["p50_ms"]) == (4, 500.0, 100.0)
    assert found["worst_pause_ms"] == 500.0
    assert found["seconds"] == 0.1


@pytest.mark.parametrize(("share", "found"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_a_percentile_is_a_measured_value(share: float, found: int) -> None:
    """It is the least value that so many of a hundred do not exceed."""
    assert figures.percentile(range(100, 0, -1), share) == found
    assert figures.percentile([], share) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--clients", "0"], "--clients is 0, expected 1 or more"),
        (["--moved", "6"], "--replaced and --moved are of 5 nodes"),
    ],
)
def test_sizes_that_cannot_be_are_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is started."""
    with pytest.raises(SystemExit):
        main(["--ours-only", *arguments])
    assert said in capsys.readouterr().err
