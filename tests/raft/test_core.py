"""The door of the algorithm: when its timer is due, when there is something to hand out, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from durable_raft.errors import InvariantViolation
from durable_raft.raft.messages import FetchEntries, InstallSnapshot, Introduce
from durable_raft.raft.state import RaftState
from durable_raft.raft.types import NodeId, Role, Standing, Term
from tests.support.raft_cluster import Cluster
from tests.support.raft_disk import Disk, entries_of
from tests.support.raft_solo import (
    accepted,
    append_entries,
    ask,
    follow,
    lead,
    point_of,
    request_vote,
    solo,
)

OTHER_DISK = b"another disk----"

# -- when the timer is due ---------------------------------------------------------------------------------------------


def wounded(*, voters: str = "n1 n2 n3") -> Cluster:
    """Return n1, whose second entry is rotten, and which has noticed it."""
    disk = Disk("1 1")
    disk.rotten = {2}
    cluster = Cluster(voters, real="n1", disks={"n1": disk})
    cluster.fire("n1")
    cluster.packets.clear()
    return cluster


def test_what_is_to_be_asked_of_peers_is_due_before_an_election() -> None:
    """The earlier of the two is when the timer must ring; at once after a start."""
    cluster = wounded()
    assert cluster["n1"].deadline() == cluster.now
    cluster.fire("n1")
    assert cluster["n1"].deadline() == cluster.now + 50


def test_an_election_is_due_before_what_is_to_be_asked_of_peers() -> None:
    """The earlier of the two again."""
    cluster = wounded()
    election = cluster["n1"].state.election_deadline
    cluster.now = election - 10
    cluster.fire("n1")
    assert cluster["n1"].state.retry_due == election + 40
    assert cluster["n1"].deadline() == election


def test_a_link_that_comes_up_or_goes_down_has_peers_asked_at_once() -> None:
    """Nobody waits for a heartbeat's time who may be answered now."""
    cluster = wounded()
    cluster.fire("n1")
    cluster.packets.clear()
    cluster.now += 10
    cluster.fire("n1")
    assert cluster.packets == []
    cluster["n1"].peers_changed(cluster.now)
    assert cluster["n1"].deadline() == cluster.now
    cluster.fire("n1")
    assert [type(packet.message) for packet in cluster.packets] == [FetchEntries]


def test_a_node_with_nothing_to_ask_asks_nobody() -> None:
    """Its timer rings for an election only."""
    cluster = solo("1 1", term=1)
    cluster["n1"].peers_changed(cluster.now)
    assert cluster["n1"].deadline() == cluster["n1"].state.election_deadline
    cluster.fire("n1")
    assert cluster.packets == []
    assert cluster["n1"].state.retry_due == cluster.now


def test_an_election_is_due_at_its_deadline_and_not_before() -> None:
    """To the millisecond; heartbeats are due when there is a leader to send them, from the start on."""
    cluster = solo()
    assert cluster["n1"].state.heartbeat_due == cluster.now
    cluster.now = (cluster["n1"].deadline() or 0) - 1
    cluster.fire("n1")
    assert cluster.role("n1") is Role.FOLLOWER
    cluster.now += 1
    cluster.fire("n1")
    assert cluster.role("n1") is Role.PRE_CANDIDATE


# -- what is ready -----------------------------------------------------------------------------------------------------


def a_follower() -> Cluster:
    """Return n1, following n2, all worked off."""
    cluster = solo("1 1", term=1)
    cluster.tell("n1", "n2", append_entries("1 1", term=1, after=2, commit=1))
    return cluster


def a_leader() -> Cluster:
    """Return n1, leading five nodes, its no-op known to be on one of them."""
    cluster = solo(voters="n1 n2 n3 n4 n5")
    term = lead(cluster)
    ask(cluster, "n2", accepted(term, 1))
    return cluster


def _told_of_a_commit(cluster: Cluster) -> None:
    cluster.tell("n1", "n2", append_entries("1 1", term=1, after=2, commit=2))


def _told_of_an_entry(cluster: Cluster) -> None:
    cluster.tell("n1", "n2", append_entries("1 1 1", term=1, after=2))


def _asked_for_a_pre_vote(cluster: Cluster) -> None:
    cluster.tell("n1", "n3", request_vote(2, pre_vote=True))


def _asked_for_a_vote(cluster: Cluster) -> None:
    cluster.now += 1_000
    cluster.tell("n1", "n3", request_vote(2, 9, 1))


def _asked_to_read(cluster: Cluster) -> None:
    cluster.read("n1")


def _proposed_to(cluster: Cluster) -> None:
    cluster.propose("n1", "x")


def _introduced_to(cluster: Cluster) -> None:
    cluster.tell("n1", "n2", Introduce(OTHER_DISK))


@pytest.mark.parametrize(
    ("make", "event"),
    [
        (a_follower, _told_of_a_commit),
        (a_follower, _told_of_an_entry),
        (a_follower, _asked_for_a_pre_vote),
        (a_follower, _asked_for_a_vote),
        (a_follower, _asked_to_read),
        (a_leader, _asked_to_read),
        (a_leader, _proposed_to),
        (a_follower, _introduced_to),
        (a_leader, _introduced_to),
    ],
)
def test_an_event_makes_work_that_is_handed_out_once(
    make: Callable[[], Cluster], event: Callable[[Cluster], None]
) -> None:
    """Before it there is none; after it there is, and after that was done none again."""
    cluster = make()
    core = cluster["n1"]
    assert is_empty(cluster)
    cluster.defers_work = True
    event(cluster)
    assert core.has_ready(cluster.now)
    cluster.defers_work = False
    cluster.fast("n1")
    assert is_empty(cluster)


def is_empty(cluster: Cluster) -> bool:
    """Return whether a core has nothing to hand out."""
    ready = cluster["n1"].ready(cluster.now)
    parts = (ready.messages, ready.messages_after_write, ready.committed, ready.reads, ready.lost_reads)
    return ready.write is None and ready.offer is None and not any(parts)


def test_an_idle_node_has_nothing_ready() -> None:
    """Neither a follower nor a leader that has all answers."""
    cluster = solo("1 1", term=1)
    follow(cluster, "n2", 1)
    assert not cluster["n1"].has_ready(cluster.now)
    cluster = solo()
    term = lead(cluster)
    for peer in ("n2", "n3"):
        ask(cluster, peer, accepted(term, 1))
    assert not cluster["n1"].has_ready(cluster.now)


def test_a_snapshot_is_offered_once() -> None:
    """Whoever fetches it hears of it from the core a single time for each offer of the leader."""
    cluster = solo("1", term=1)
    follow(cluster, "n2", 2)
    core = cluster["n1"]
    cluster.defers_work = True
    point = point_of(entries_of("1 1 2 2"), 4)
    cluster.tell("n1", "n2", InstallSnapshot(Term(2), point.index, point.term, point.chain, 0))
    assert core.has_ready(cluster.now)
    assert core.ready(cluster.now).offer is not None
    assert core.ready(cluster.now).offer is None


# -- what it refuses ---------------------------------------------------------------------------------------------------


def test_changes_of_role_that_cannot_be_stop_the_node() -> None:
    """A term that falls, a second vote, a leader that campaigns, a follower that leads: bugs, not events."""
    state = lead_of(solo(term=3))
    with pytest.raises(InvariantViolation, match="term would fall from 4 to 3"):
        state.become_follower(0, Term(3), None)
    with pytest.raises(InvariantViolation, match="second vote in term 4: n1, now n2"):
        state.grant_vote(0, NodeId("n2"))
    for campaigns in (state.become_pre_candidate, state.become_candidate):
        with pytest.raises(InvariantViolation, match="a leader of term 4 would campaign"):
            campaigns(0)
    with pytest.raises(InvariantViolation, match="a leader of term 4 would become leader"):
        state.become_leader(0)
    assert (state.role, state.current_term, state.voted_for) == (Role.LEADER, 4, "n1")


def lead_of(cluster: Cluster) -> RaftState:
    """Return the state of n1 once it leads."""
    lead(cluster)
    return cluster["n1"].state


def test_standing_is_written_again_when_that_is_asked_for() -> None:
    """Once: both copies of what is stored beside the log are made anew (a wound in one of them)."""
    cluster = solo("1", term=1)
    cluster.slow("n1")
    cluster["n1"].rewrite_standing()
    cluster.fire("n1")
    (write,) = cluster.in_flight("n1")
    assert (write.standing, write.hard_state, write.entries) == (Standing(), None, ())
    cluster.flush("n1")
    cluster.fire("n1")
    assert cluster.in_flight("n1") == []


def test_entries_are_applied_a_mebibyte_at_a_time() -> None:
    """A node that replays a long log answers in between."""
    cluster = solo(voters="n1")
    cluster.timeout("n1")
    cluster.defers_work = True
    for _ in range(3):
        cluster.propose("n1", "x" * (1 << 19))
    core = cluster["n1"]
    write = core.ready(cluster.now).write
    assert write is not None
    core.persisted(cluster.now, write.number)
    assert len(core.ready(cluster.now).committed) == 2
    assert core.has_more()
    assert len(core.ready(cluster.now).committed) == 1
    assert not core.has_more()


def test_a_machine_that_takes_nothing_at_present_is_given_nothing() -> None:
    """Entries and reads wait; what goes to the disk and to peers does not."""
    cluster = solo(voters="n1")
    cluster.timeout("n1")
    cluster.defers_work = True
    cluster.propose("n1", "x")
    core = cluster["n1"]
    write = core.ready(cluster.now, may_apply=False).write
    assert write is not None
    core.persisted(cluster.now, write.number)
    cluster.read("n1")
    ready = core.ready(cluster.now, may_apply=False)
    assert (ready.committed, ready.reads) == ([], [])
    ready = core.ready(cluster.now)
    assert ([entry.payload for entry in ready.committed], len(ready.reads)) == ([b"x"], 1)
