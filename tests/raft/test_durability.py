"""Only what is flushed counts: for votes, for acknowledgements, for the leader's own share of a majority.

The disk is slow here: writes stay in flight until the test flushes them.
"""

from __future__ import annotations

import pytest

from durable_raft.errors import InvariantViolation
from durable_raft.raft.messages import AppendEntriesResponse
from durable_raft.raft.types import Role
from tests.support.raft_cluster import Cluster
from tests.support.raft_solo import (
    accepted,
    append_entries,
    appends_to,
    ask,
    campaign,
    lead,
    request_vote,
    solo,
    vote,
)

# -- votes -------------------------------------------------------------------------------------------------------------


def test_own_vote_counts_when_flushed_alone() -> None:
    """A cluster of one is not led before its vote for itself is flushed, and then at once."""
    cluster = solo(voters="n1")
    cluster.slow("n1")

    cluster.timeout("n1")
    assert cluster.role("n1") is Role.CANDIDATE
    cluster.flush("n1")

    assert cluster.role("n1") is Role.LEADER
    assert cluster["n1"].log.commit_index == 0, "the no-op is not flushed yet"
    cluster.flush("n1")
    assert cluster["n1"].log.commit_index == 1


def test_own_vote_counts_when_flushed_among_three() -> None:
    """No RequestVote leaves before the candidate's own term and vote are flushed; a forged grant elects nobody."""
    cluster = solo()
    cluster.slow("n1")
    term = campaign(cluster)
    cluster.packets.clear()

    assert ask(cluster, "n2", vote(term)) == []
    assert cluster.role("n1") is Role.CANDIDATE, "one vote of three"
    assert cluster.sent("n1", "n3") == []
    cluster.flush("n1")

    assert cluster.role("n1") is Role.LEADER


def test_candidate_that_crashes_before_its_vote_is_flushed_has_promised_nothing() -> None:
    """Killed before the flush it may vote for another in that term: nobody has heard of its candidacy."""
    cluster = solo()
    cluster.slow("n1")
    term = campaign(cluster)
    cluster.packets.clear()

    cluster.crash("n1")
    cluster.restart("n1")
    cluster.fast("n1")

    assert ask(cluster, "n2", request_vote(term)) == [vote(term)]


def test_vote_of_an_older_term_still_in_flight_is_not_taken_back() -> None:
    """Two terms in quick succession, two writes in flight: each answer waits for its own write."""
    cluster = solo()
    cluster.slow("n1")
    cluster.tell("n1", "n2", request_vote(1))
    cluster.tell("n1", "n3", request_vote(2))

    cluster.flush("n1")
    assert cluster.sent("n1", "n2") == [vote(1)]
    assert cluster.sent("n1", "n3") == []
    cluster.flush("n1")

    assert cluster.sent("n1", "n3") == [vote(2)]


# -- the leader's own entries ------------------------------------------------------------------------------------------


def test_leaders_own_entry_counts_when_flushed_alone() -> None:
    """A cluster of one commits nothing that is not flushed (etcd #14370)."""
    cluster = solo(voters="n1")
    cluster.timeout("n1")
    cluster.slow("n1")

    cluster.propose("n1", "x")
    assert cluster["n1"].log.commit_index == 1
    cluster.flush("n1")

    assert cluster["n1"].log.commit_index == 2


def test_leaders_own_entry_counts_when_flushed_among_three() -> None:
    """One follower's copy and the leader's unflushed one are no majority; the flush makes it one."""
    cluster = solo()
    term = lead(cluster)
    ask(cluster, "n2", accepted(term, 1))
    cluster.slow("n1")
    cluster.propose("n1", "x")

    ask(cluster, "n2", accepted(term, 2))
    assert cluster["n1"].log.commit_index == 1
    cluster.flush("n1")

    assert cluster["n1"].log.commit_index == 2


def test_followers_alone_may_commit() -> None:
    """A majority of followers commits an entry that the leader's own disk does not have yet (Ongaro §10.2.1)."""
    cluster = solo()
    term = lead(cluster)
    ask(cluster, "n2", accepted(term, 1))
    ask(cluster, "n3", accepted(term, 1))
    cluster.slow("n1")
    cluster.propose("n1", "x")
    assert [len(message.entries) for message in appends_to(cluster, "n2")] == [1], "sent while its own disk works"

    ask(cluster, "n2", accepted(term, 2))
    ask(cluster, "n3", accepted(term, 2))

    assert cluster["n1"].log.commit_index == 2
    assert cluster["n1"].log.flushed == 1


def test_leader_that_dies_with_the_unflushed_committed_entry_gets_it_back() -> None:
    """Committed by the followers' disks, lost with the leader's memory, the entry is there again after a restart."""
    cluster = Cluster()
    cluster.elect("n1")
    cluster.run(60)
    cluster.slow("n1")
    entry = cluster.propose("n1", "x")
    assert entry is not None
    cluster.settle()
    assert cluster["n1"].log.commit_index == entry.index

    cluster.crash("n1")
    assert cluster.disk("n1").last.index < entry.index
    cluster.restart("n1")
    cluster.fast("n1")

    cluster.run_until(lambda: entry in cluster.node("n1").applied, ms=3_000)


# -- what a follower acknowledges --------------------------------------------------------------------------------------


def test_follower_acknowledges_only_what_is_flushed() -> None:
    """While the write is in flight, a heartbeat is answered with what was flushed before it (trap: etcd, openraft)."""
    cluster = solo("1", term=1)
    cluster.slow("n1")
    assert ask(cluster, "n2", append_entries("1 1 1", term=1, after=1)) == []

    assert ask(cluster, "n2", append_entries("1 1 1", term=1, after=3)) == [accepted(1, 1)]
    assert ask(cluster, "n2", append_entries("1 1 1", term=1, after=0, upto=1)) == [accepted(1, 1)]
    cluster.flush("n1")

    assert accepted(1, 3) in cluster.sent("n1", "n2")


def test_doubled_append_entries_is_acknowledged_after_the_flush() -> None:
    """The same AppendEntries again while its entries are in flight: both answers wait for the disk."""
    cluster = solo("1", term=1)
    cluster.slow("n1")
    message = append_entries("1 1 1", term=1, after=1)

    assert ask(cluster, "n2", message) == []
    assert ask(cluster, "n2", message) == []
    cluster.flush("n1")

    assert cluster.sent("n1", "n2") == [accepted(1, 3), accepted(1, 3)]


def test_several_writes_in_flight_are_acknowledged_each_in_its_turn() -> None:
    """Each AppendEntries is a write of its own, and each flush lets its own answer go."""
    cluster = solo(term=1)
    cluster.slow("n1")
    for after in range(3):
        cluster.tell("n1", "n2", append_entries("1 1 1", term=1, after=after, upto=after + 1))

    for match in (1, 2, 3):
        cluster.flush("n1")
        assert cluster.sent("n1", "n2") == [accepted(1, match)]


def test_late_flush_of_an_overwritten_entry_proves_nothing() -> None:
    """ABA: index 2 of term 1 is in flight and overwritten by term 2; the late flush proves nothing of the new one."""
    cluster = solo("1", term=1)
    cluster.slow("n1")
    cluster.tell("n1", "n2", append_entries("1 1 1", term=1, after=1))
    cluster.tell("n1", "n3", append_entries("1 2 2", term=2, after=1))

    cluster.flush("n1")
    assert cluster["n1"].log.flushed == 1
    assert cluster.sent("n1", "n3") == []
    assert ask(cluster, "n3", append_entries("1 2 2", term=2, after=3)) == []
    cluster.flush("n1")

    answers = cluster.sent("n1", "n3")
    assert accepted(2, 3) in answers
    assert cluster["n1"].log.flushed == 3
    assert cluster.disk("n1").terms() == [1, 2, 2]


def test_cut_before_it_was_handed_out_is_never_written() -> None:
    """Entries appended and cut between two turns of the disk reach it in their last form only."""
    cluster = solo("1 1", term=1)
    core = cluster["n1"]
    for message in (append_entries("1 1 1 1", term=1, after=2), append_entries("1 2", term=2, after=1)):
        core.step(cluster.now, core.state.peers[0], message)

    write = core.ready(cluster.now).write

    assert write is not None
    assert (write.truncate_from, [entry.term for entry in write.entries]) == (2, [2])


def test_cut_takes_back_what_was_flushed() -> None:
    """After a cut the old flush counts no more: the leader is told only what matches *its* log on this disk."""
    cluster = solo("1 1 1 1", term=1)
    cluster.slow("n1")

    cluster.tell("n1", "n3", append_entries("1 1 2 2", term=2, after=2))

    assert cluster["n1"].log.flushed == 2
    cluster.crash("n1")
    assert cluster.disk("n1").terms() == [1, 1, 1, 1], "killed before the write: the old log"


@pytest.mark.parametrize("number", [0, 2])
def test_acknowledgement_out_of_order_stops_the_node(number: int) -> None:
    """A flush reported for anything but the oldest write in flight is a bug in the runtime, and final."""
    cluster = solo(term=1)
    cluster.slow("n1")
    cluster.tell("n1", "n2", append_entries("1", term=1, after=0))

    with pytest.raises(InvariantViolation, match=f"write {number} acknowledged, but the oldest in flight is 1"):
        cluster["n1"].persisted(cluster.now, number)


# -- a disk that hangs -------------------------------------------------------------------------------------------------


def test_stalled_disk_withholds_heartbeats_and_costs_the_leadership() -> None:
    """A leader whose oldest write is older than an election timeout falls silent, and the others elect."""
    cluster = Cluster()
    cluster.elect("n1")
    cluster.slow("n1")
    cluster.propose("n1", "x")
    cluster.settle()
    assert cluster["n1"].log.commit_index == 2

    cluster.run_until(lambda: cluster.leader() in ("n2", "n3"), ms=2_000)

    assert cluster.counts["heartbeat_withheld"] > 0


def test_slow_disk_that_still_moves_keeps_the_leadership() -> None:
    """Writes that take less than an election timeout each do not silence the leader."""
    cluster = Cluster()
    cluster.elect("n1")
    cluster.slow("n1")
    for _ in range(20):
        cluster.propose("n1", "x")
        cluster.run(100)
        cluster.flush("n1")

    assert cluster.leader() == "n1"
    assert "heartbeat_withheld" not in cluster.counts


def test_write_as_old_as_an_election_timeout_is_not_yet_a_stalled_disk() -> None:
    """The bound itself is still allowed; a millisecond later the leader falls silent."""
    cluster = solo(election_timeout_max_ms=300)
    term = lead(cluster)
    ask(cluster, "n2", accepted(term, 1))
    cluster.slow("n1")
    cluster.propose("n1", "x")
    cluster.packets.clear()

    cluster.now += 300
    cluster.propose("n1", "y")
    assert [entry.payload for message in appends_to(cluster, "n2") for entry in message.entries] == [b"y"]
    cluster.now += 1
    cluster.propose("n1", "z")

    assert appends_to(cluster, "n2") == []


def test_stalled_leader_sends_nothing_at_all() -> None:
    """Neither entries nor read rounds leave while the disk hangs; they follow when it moves again."""
    cluster = solo()
    term = lead(cluster)
    ask(cluster, "n2", accepted(term, 1))
    cluster.slow("n1")
    cluster.propose("n1", "x")
    cluster.packets.clear()
    cluster.now += 301

    cluster.propose("n1", "y")
    cluster.read("n1")
    assert cluster.packets == []
    cluster.flush("n1")
    cluster.flush("n1")

    assert [entry.payload for message in appends_to(cluster, "n2") for entry in message.entries] == [b"y"]


def test_node_with_a_stalled_disk_does_not_campaign() -> None:
    """It could not make its vote durable, so it does not disturb the others (hashicorp/raft #614)."""
    cluster = solo(term=1)
    cluster.slow("n1")
    cluster.tell("n1", "n2", append_entries("1", term=1, after=0))
    cluster.now += 301

    cluster.timeout("n1")
    assert cluster.role("n1") is Role.FOLLOWER
    assert cluster.packets == []
    cluster.flush("n1")
    cluster.timeout("n1")

    assert cluster.role("n1") is Role.PRE_CANDIDATE


def test_node_whose_term_is_not_flushed_does_not_campaign() -> None:
    """A node that has not yet flushed the term it is in does not ask for the next one."""
    cluster = solo()
    cluster.slow("n1")
    cluster.tell("n1", "n2", request_vote(1))

    cluster.timeout("n1")

    assert cluster.role("n1") is Role.FOLLOWER
    assert cluster.packets == []


def test_false_failure_is_believed_by_the_disk_alone() -> None:
    """Writes that reached the disk though nobody was told are simply there after a restart."""
    cluster = solo(term=1)
    cluster.slow("n1")
    cluster.tell("n1", "n2", append_entries("1 1", term=1, after=0))

    cluster.crash("n1", reached_disk=1)
    cluster.restart("n1")
    cluster.fast("n1")
    (answer,) = ask(cluster, "n2", append_entries("1 1", term=1, after=2))

    assert isinstance(answer, AppendEntriesResponse)
    assert answer == accepted(1, 2)
