"""Who is to lead is who has the highest election priority, as far as it can (raft/priority.py)."""

from __future__ import annotations

import itertools
from functools import partial

import pytest

from durable_raft.raft.hand_over import KEEPING_UP
from durable_raft.raft.priority import Priorities
from durable_raft.raft.reluctance import LET_PASS_MAX
from durable_raft.raft.types import DEFAULT_PRIORITY, DiskRoom, NodeId, Role
from tests.support.raft_cluster import Cluster
from tests.support.raft_solo import accepted, ask, follow, lead, request_vote, solo

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
HEARTBEAT_MS = 50
ATTEMPTS = 3


def preferring(*, own: int = DEFAULT_PRIORITY, **others: int) -> Cluster:
    """Return n1 with its own priority, and links to the others with theirs."""
    cluster = solo("1", term=1)
    cluster.prefer(n1=own)
    cluster["n1"].peers_changed(cluster.now, {NodeId(name): priority for name, priority in others.items()})
    return cluster


def led(*, own: int = DEFAULT_PRIORITY, **others: int) -> tuple[Cluster, int]:
    """Return n1, which leads with entry 2 committed by all and then hears of the others' priorities, and its term."""
    cluster = preferring(own=own)
    term = lead(cluster)
    cluster["n1"].peers_changed(cluster.now, {NodeId(name): priority for name, priority in others.items()})
    keep_up(cluster, term, 0, *cluster["n1"].state.peers)
    return cluster, term


def keep_up(cluster: Cluster, term: int, ms: int, *peers: str, room: DiskRoom = DiskRoom.AMPLE) -> None:
    """Let time pass, and all answer n1's heartbeats; ``peers`` hold its whole log, the others the first entry."""
    until = cluster.now + ms
    while True:
        for peer in cluster["n1"].state.peers:
            match = cluster["n1"].log.last.index if peer in peers else 1
            cluster.tell("n1", peer, accepted(term, match)._replace(room=room))
        if cluster.now >= until:
            return
        cluster.packets.clear()
        cluster.now = min(until, max(cluster.now, cluster["n1"].state.heartbeat_due))
        cluster.fire("n1")


def nearly_long_enough(cluster: Cluster) -> int:
    """Return for how long somebody may keep up without being asked to lead (ms)."""
    return KEEPING_UP * cluster["n1"].state.timeouts.longest(cluster.now) - 2 * HEARTBEAT_MS


def target_of(cluster: Cluster) -> str | None:
    """Return to whom n1 hands over."""
    under_way = cluster["n1"].state.transfer
    return None if under_way is None else under_way.target


def is_led_by(cluster: Cluster, names: set[str]) -> bool:
    """Return whether one of ``names`` leads."""
    return cluster.leader() in names


# -- who stands first --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "others", "share"),
    [
        (1, {}, (100, 200)),
        (1, {N2: 1, N3: 1}, (100, 200)),
        (2, {N2: 1, N3: 2}, (100, 150)),
        (1, {N2: 2}, (150, 200)),
        (1, {N2: 2, N3: 0}, (150, 200)),
        (0, {N2: 0}, (100, 200)),
    ],
)
def test_who_has_a_lower_priority_stands_later(own: int, others: dict[NodeId, int], share: tuple[int, int]) -> None:
    """In the second half of the same range: nobody waits longer than without priorities."""
    priorities = Priorities(own)
    priorities.note(others)
    assert priorities.share_of(100, 200, [N2, N3]) == share


def test_who_cannot_be_reached_or_is_no_rival_does_not_count() -> None:
    """A node that is gone does not hold up the others, nor does the leader that has fallen silent."""
    priorities = Priorities(0)
    priorities.note({N2: 5})
    assert priorities.share_of(100, 200, [N3]) == (100, 200)
    assert not priorities.is_last_resort([N3])
    assert priorities.is_last_resort([N2, N3])
    priorities.note({})
    assert not priorities.is_last_resort([N2, N3])
    assert priorities.of(N2) == DEFAULT_PRIORITY


@pytest.mark.parametrize(("n2", "n3", "half"), [(1, 1, None), (1, 5, 1), (1, 0, 0), (5, 1, None)])
def test_election_timeouts_are_drawn_from_the_share(n2: int, n3: int, half: int | None) -> None:
    """n2 leads, so it is n3 that may stand first, or not."""
    cluster = preferring(n2=n2, n3=n3)
    follow(cluster, "n2", 1)
    state = cluster["n1"].state
    middle = (state.config.election_timeout_min_ms + state.config.election_timeout_max_ms) // 2
    halves = set()
    for _ in range(100):
        state.reset_election_deadline(cluster.now)
        waits = state.election_deadline - cluster.now
        assert state.config.election_timeout_min_ms <= waits <= state.config.election_timeout_max_ms
        halves |= {0} if waits < middle else {1} if waits > middle else set()
    assert halves == ({0, 1} if half is None else {half})


def test_a_last_resort_lets_others_stand_but_not_for_ever() -> None:
    """A cluster with no other node left must be led."""
    cluster = preferring(own=0, n2=1, n3=0)
    for _ in range(LET_PASS_MAX):
        cluster.timeout("n1")
        assert cluster["n1"].role is Role.FOLLOWER
    cluster.timeout("n1")
    assert cluster["n1"].role is Role.PRE_CANDIDATE


@pytest.mark.parametrize("others", [{}, {"n2": 0, "n3": 0}])
def test_a_last_resort_stands_at_once_where_there_is_nobody_else(others: dict[str, int]) -> None:
    """Nobody whom it could wait for."""
    cluster = preferring(own=0, **others)
    cluster.timeout("n1")
    assert cluster["n1"].role is Role.PRE_CANDIDATE


def test_a_last_resort_stands_when_a_candidate_lacks_what_it_has() -> None:
    """Perhaps nobody else can be elected."""
    cluster = preferring(own=0, n2=1, n3=1)
    ask(cluster, "n2", request_vote(2, 1, 1, pre_vote=True))
    cluster.timeout("n1")
    assert cluster.role("n1") is Role.FOLLOWER, "that candidate holds all"
    ask(cluster, "n2", request_vote(2, pre_vote=True))
    cluster.timeout("n1")
    assert cluster.role("n1") is Role.PRE_CANDIDATE


# -- a leader makes way ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "n2", "n3", "target"),
    [(1, 1, 1, None), (1, 0, 0, None), (2, 1, 2, None), (1, 2, 1, "n2"), (1, 2, 3, "n3"), (0, 1, 0, "n2")],
)
def test_a_leader_makes_way_for_a_higher_priority(own: int, n2: int, n3: int, target: str | None) -> None:
    """For the highest there is, once that has kept up for a while."""
    cluster, term = led(own=own, n2=n2, n3=n3)
    keep_up(cluster, term, nearly_long_enough(cluster), "n2", "n3")
    assert target_of(cluster) is None

    keep_up(cluster, term, 3 * HEARTBEAT_MS, "n2", "n3")

    assert target_of(cluster) == target
    assert cluster.counts.get("makes_way", 0) == (target is not None)


def test_who_has_not_been_told_of_has_the_default_priority() -> None:
    """A leader that an operator put behind the others makes way for those it knows."""
    cluster, term = led(own=0)
    keep_up(cluster, term, 2 * nearly_long_enough(cluster), "n2", "n3")
    assert target_of(cluster) is None, "without a link nobody is asked"


@pytest.mark.parametrize("is_long", [False, True])
def test_who_falls_behind_for_long_has_to_keep_up_anew(*, is_long: bool) -> None:
    """For up to an election timeout it may lack what was committed: a busy node does so all the time."""
    cluster, term = led(n2=1, n3=2)
    longest = cluster["n1"].state.timeouts.longest(cluster.now)
    keep_up(cluster, term, nearly_long_enough(cluster) - longest, "n2", "n3")
    cluster.propose("n1", "x")
    keep_up(cluster, term, 2 * longest if is_long else longest - 2 * HEARTBEAT_MS, "n2")
    assert target_of(cluster) is None
    keep_up(cluster, term, 5 * HEARTBEAT_MS, "n2", "n3")
    assert target_of(cluster) == (None if is_long else "n3")
    if is_long:
        keep_up(cluster, term, KEEPING_UP * longest, "n2", "n3")
    assert cluster.counts["makes_way"] == 1


def test_who_lacks_what_is_committed_is_not_asked_just_now() -> None:
    """Writes would be held until it holds that."""
    cluster, term = led(n2=1, n3=2)
    keep_up(cluster, term, nearly_long_enough(cluster), "n2", "n3")
    cluster.propose("n1", "x")
    keep_up(cluster, term, 4 * HEARTBEAT_MS, "n2")
    assert target_of(cluster) is None
    keep_up(cluster, term, HEARTBEAT_MS, "n2", "n3")
    assert target_of(cluster) == "n3"


def test_who_lacks_room_does_not_lead() -> None:
    """A leader with a full disk would hand over to another at once."""
    cluster, term = led(n2=2, n3=1)
    keep_up(cluster, term, 2 * nearly_long_enough(cluster), "n2", "n3", room=DiskRoom.LOW)
    assert target_of(cluster) is None


def test_the_pause_doubles_while_nobody_takes_over() -> None:
    """Each attempt holds writes, and nothing is wrong with the leader."""
    cluster, term = led(n2=1, n3=2)
    longest = cluster["n1"].state.timeouts.longest(cluster.now)
    begun: list[int] = []
    while len(begun) < ATTEMPTS:
        was_transferring = cluster["n1"].is_transferring
        keep_up(cluster, term, HEARTBEAT_MS, "n2", "n3")
        if cluster["n1"].is_transferring and not was_transferring:
            begun.append(cluster.now)
    pauses = [(later - earlier) // longest // KEEPING_UP for earlier, later in itertools.pairwise(begun)]
    assert pauses == [1, 2]


def test_whoever_leaves_leadership_prefers_a_higher_priority() -> None:
    """Of those that hold what is committed; of who does not, nobody is asked before them."""
    cluster, term = led(own=5, n2=2, n3=1)
    cluster.propose("n1", "x")
    cluster.tell("n1", "n3", accepted(term, 3))
    cluster.propose("n1", "y")
    assert cluster["n1"].log.commit_index == 3
    assert cluster["n1"].transfer(cluster.now, None) == "n3", "n2 lacks what is committed"
    cluster, _ = led(own=5, n2=2, n3=1)
    assert cluster["n1"].transfer(cluster.now, None) == "n2"


def test_priorities_come_true_and_the_cluster_is_led_without_them() -> None:
    """The one with the highest leads, then the next, and at last the last resort."""
    cluster = Cluster("n1 n2 n3 n4 n5")
    cluster.prefer(n1=0, n2=1, n3=1, n4=2, n5=3)
    cluster.run_until(lambda: cluster.leader() == "n5", ms=30_000)
    for gone, heirs in (("n5", {"n4"}), ("n4", {"n2", "n3"})):
        cluster.crash(gone)
        cluster.link()
        cluster.run_until(partial(is_led_by, cluster, heirs), ms=30_000)
    assert cluster.counts.get("makes_way", 0) <= 2
    cluster.restart("n5")
    cluster.link()
    cluster.run_until(lambda: cluster.leader() == "n5", ms=30_000)
