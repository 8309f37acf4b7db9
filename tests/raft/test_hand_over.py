"""A leader whose disk hangs or failed has somebody else lead (raft/hand_over.py); a full one is in test_room.py."""

from __future__ import annotations

import pytest

from durable_raft.raft.hand_over import PAUSE
from durable_raft.raft.messages import TimeoutNow
from durable_raft.raft.types import DiskRoom, NodeId, Role
from tests.support.raft_cluster import Cluster
from tests.support.raft_nodes import Limits
from tests.support.raft_solo import accepted, append_entries, appends_to, lead, solo

ONE_AT_A_TIME: Limits = {"append_inflight_max": 1}
HEARTBEAT_MS = 50


def hung(n2: int, n3: int) -> tuple[Cluster, int]:
    """Return n1, leading with entry 2 on no disk of its own for as long as is allowed; the others have flushed that."""
    cluster = solo()
    term = lead(cluster)
    for peer in cluster["n1"].state.peers:
        cluster.tell("n1", peer, accepted(term, 1))
    cluster.slow("n1")
    cluster.propose("n1", "x")
    hangs_at = cluster.now + cluster["n1"].state.timeouts.hung_after(cluster.now)
    while cluster.now < hangs_at:
        cluster.now += min(HEARTBEAT_MS, hangs_at - cluster.now)
        cluster.tell("n1", "n2", accepted(term, n2))
        cluster.tell("n1", "n3", accepted(term, n3))
    return cluster, term


def target_of(cluster: Cluster) -> str | None:
    """Return to whom n1 is handing leadership over."""
    under_way = cluster["n1"].state.transfer
    return None if under_way is None else under_way.target


def asked(cluster: Cluster, peer: str) -> bool:
    """Return whether n1 has asked ``peer`` to campaign since this was last looked at."""
    return any(isinstance(message, TimeoutNow) for message in cluster.sent("n1", peer))


@pytest.mark.parametrize(("n2", "n3", "target"), [(2, 2, "n3"), (2, 1, "n2"), (1, 2, "n3"), (1, 1, None)])
def test_a_leader_whose_disk_hangs_hands_over_to_whose_disk_works(n2: int, n3: int, target: str | None) -> None:
    """Who has stored no more than this node may have the same trouble: then it only falls silent."""
    cluster, _ = hung(n2, n3)
    cluster.fire("n1")
    assert target_of(cluster) is None, "the bound itself is still allowed"

    cluster.now += 1
    cluster.timeout("n1")

    assert target_of(cluster) == target
    assert [peer for peer in ("n2", "n3") if asked(cluster, peer)] == ([target] if target else [])
    assert cluster["n1"].role is Role.LEADER
    assert cluster.counts["heartbeat_withheld"] > 0


def test_who_does_not_answer_is_not_asked() -> None:
    """It may have stored the entry and died since."""
    cluster, term = hung(2, 2)
    silent_from = cluster.now + cluster["n1"].state.timeouts.longest(cluster.now)
    while cluster.now <= silent_from:
        cluster.now += HEARTBEAT_MS
        cluster.tell("n1", "n2", accepted(term, 2))

    cluster.timeout("n1")

    assert target_of(cluster) == "n2"


@pytest.mark.parametrize(
    ("n2", "n3", "target"),
    [
        (DiskRoom.AMPLE, DiskRoom.LOW, "n2"),
        (DiskRoom.AMPLE, DiskRoom.AMPLE, "n3"),
        (DiskRoom.LOW, DiskRoom.NONE, "n3"),
    ],
)
def test_who_has_room_is_asked_first(n2: DiskRoom, n3: DiskRoom, target: str) -> None:
    """A full disk is better than one that hangs: it reads, deletes and votes."""
    cluster, term = hung(2, 2)
    cluster.tell("n1", "n2", accepted(term, 2)._replace(room=n2))
    cluster.tell("n1", "n3", accepted(term, 2)._replace(room=n3))

    cluster.now += 1
    cluster.timeout("n1")

    assert target_of(cluster) == target


def test_where_no_entry_is_under_way_whoever_lacks_nothing_is_asked() -> None:
    """A node writes what is not of the log, too, and finds that its disk hangs when nobody writes."""
    cluster = solo()
    term = lead(cluster)
    for peer in ("n2", "n3"):
        cluster.tell("n1", peer, accepted(term, 1))
    cluster.slow("n1")
    cluster["n1"].rewrite_standing()
    cluster.fire("n1")
    cluster.now += cluster["n1"].state.timeouts.hung_after(cluster.now) + 1
    cluster.tell("n1", "n2", accepted(term, 1))

    cluster.timeout("n1")

    assert target_of(cluster) == "n3"


def test_whoever_takes_over_is_sent_what_it_lacks_first() -> None:
    """A leader whose disk hangs is silent but for that. It takes no more writes, so it comes to an end."""
    cluster = solo(**ONE_AT_A_TIME)
    term = lead(cluster)
    for peer in ("n2", "n3"):
        cluster.tell("n1", peer, accepted(term, 1))
    cluster.slow("n1")
    cluster.propose("n1", "x")
    cluster.propose("n1", "y")
    cluster.now += cluster["n1"].state.timeouts.hung_after(cluster.now) + 1
    cluster.packets.clear()
    cluster.tell("n1", "n2", accepted(term, 2))
    assert appends_to(cluster, "n2") == []

    cluster.timeout("n1")

    assert target_of(cluster) == "n2"
    assert cluster.propose("n1", "z") is None
    messages = cluster.sent("n1", "n2")
    assert not any(isinstance(message, TimeoutNow) for message in messages)
    assert [entry.index for message in messages for entry in getattr(message, "entries", ())] == [3]
    cluster.tell("n1", "n2", accepted(term, 3))
    assert asked(cluster, "n2")


def test_who_did_not_take_over_is_not_asked_at_once_again() -> None:
    """Then the leader is silent as ever, and the others elect."""
    cluster, term = hung(2, 2)
    cluster.now += 1
    longest = cluster["n1"].state.timeouts.longest(cluster.now)
    begun = []
    until = cluster.now + (PAUSE + 2) * longest
    was_transferring = False
    while cluster.now < until:
        for peer in ("n2", "n3"):
            cluster.tell("n1", peer, accepted(term, 2))
        cluster.packets.clear()
        cluster.timeout("n1")
        is_transferring = cluster["n1"].is_transferring
        assert is_transferring or appends_to(cluster, "n2") == []
        if is_transferring and not was_transferring:
            begun.append(cluster.now)
        was_transferring = is_transferring
    assert len(begun) == 2
    assert begun[1] - begun[0] >= PAUSE * longest


def test_a_cluster_loses_no_election_timeout_by_a_hung_disk() -> None:
    """Somebody else leads before any follower would have stood, and the hung node does not come back as a leader."""
    cluster = Cluster()
    cluster.elect("n1")
    cluster.run(60)
    cluster.slow("n1")
    cluster.propose("n1", "x")
    cluster.run_until(lambda: cluster.leader() in ("n2", "n3"), ms=2_000)
    assert cluster.counts["transfer_begun"] == 1
    assert "became_pre_candidate" not in cluster.counts or cluster.counts["became_pre_candidate"] == 1, "n1's own"
    cluster.run(3_000)
    assert cluster.leader() in ("n2", "n3")
    assert cluster.counts["became_leader"] == 2


def test_a_leader_whose_disk_failed_says_so_with_its_last_word() -> None:
    """It asks whoever has most of the log to campaign, and promises nothing."""
    cluster, term = hung(1, 2)
    (word,) = cluster["n1"].last_word(cluster.now)
    assert (word.target, word.message) == (NodeId("n3"), TimeoutNow(cluster["n1"].current_term))
    assert term == cluster["n1"].current_term


def test_a_leader_that_nobody_answers_has_no_last_word() -> None:
    """It is no leader any more, if another can be elected."""
    cluster, _ = hung(2, 2)
    cluster.now += cluster["n1"].state.timeouts.longest(cluster.now) + 1
    assert cluster["n1"].last_word(cluster.now) == []


def test_a_follower_has_no_last_word() -> None:
    """Nobody waits for it."""
    cluster = solo("1", term=1)
    cluster.tell("n1", "n2", append_entries("1", term=1, after=1))
    assert cluster["n1"].last_word(cluster.now) == []
