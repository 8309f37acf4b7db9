"""Compaction, and snapshots that a follower installs (Raft §7)."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from durable_raft.errors import InvariantViolation
from durable_raft.raft.configuration import encode
from durable_raft.raft.core import Raft
from durable_raft.raft.messages import AppendEntries, AppendEntriesResponse, InstallSnapshot
from durable_raft.raft.types import (
    COMMANDS,
    CONFIGURATION,
    ORIGIN,
    Base,
    Configuration,
    Index,
    LogPoint,
    NodeId,
    RaftConfig,
    Role,
    Term,
    make_entry,
)
from tests.support.raft_cluster import Cluster
from tests.support.raft_disk import Disk, entries_of
from tests.support.raft_nodes import configuration_of
from tests.support.raft_solo import (
    accepted,
    answer_of,
    append_entries,
    ask,
    follow,
    lead,
    point_of,
    refused,
    request_vote,
    solo,
)

LEADERS_LOG = "1 1 2 2 3 3"


def offer_at(index: int, *, term: int, read_round: int = 0, terms: str = LEADERS_LOG) -> InstallSnapshot:
    """Return a leader's offer of a snapshot taken at ``index`` of its log."""
    point = point_of(entries_of(terms), index)
    return InstallSnapshot(Term(term), point.index, point.term, point.chain, read_round)


def base_at(index: int, terms: str = LEADERS_LOG) -> Base:
    """Return where a snapshot of the leader's log at ``index`` was taken."""
    entry = entries_of(terms)[index - 1]
    return Base(point_of(entries_of(terms), index), entry.timestamp_ms)


def following(terms: str, *, term: int = 3) -> Cluster:
    """Return a cluster in which n1, whose disk holds ``terms``, follows n2 in ``term``."""
    cluster = Cluster(real="n1", disks={"n1": Disk(terms, term=term)})
    follow(cluster, "n2", term)
    return cluster


# -- compaction -------------------------------------------------------------------------------------------------------


def test_log_is_compacted_up_to_a_checkpoint_only() -> None:
    """The log begins behind what a durable checkpoint covers, never further, and what is left reads as before."""
    cluster = following("1 1 2 2 3 3")
    log = cluster["n1"].log
    cluster.tell("n1", "n2", append_entries(LEADERS_LOG, term=3, after=6, commit=6))
    with pytest.raises(InvariantViolation, match="durable checkpoint"):
        cluster["n1"].compact(Index(1))
    cluster["n1"].checkpointed(base_at(4).point)
    with pytest.raises(InvariantViolation, match="durable checkpoint"):
        cluster["n1"].compact(Index(5))
    for upto in (1, 3, 2, 4):
        cluster["n1"].compact(Index(upto))
    assert (log.base, log.first_index) == (base_at(4).point, 5)
    assert [log.term_at(Index(index)) for index in (4, 5, 6)] == [2, 3, 3]
    assert [entry.index for entry in log.entries(Index(5), Index(7), 1 << 20)] == [5, 6]
    assert log.first_index_of_term_at(Index(6)) == 5


def test_compaction_never_passes_what_is_applied_and_flushed() -> None:
    """An entry that is not applied, or not on this disk, stays whatever a checkpoint says."""
    cluster = following("1 1 2")
    cluster["n1"].checkpointed(LogPoint(Index(3), Term(2), 0))
    with pytest.raises(InvariantViolation, match="applied 0"):
        cluster["n1"].compact(Index(1))
    cluster.slow("n1")
    cluster.tell("n1", "n2", append_entries("1 1 2 3", term=3, after=3, commit=4))
    cluster["n1"].checkpointed(LogPoint(Index(4), Term(3), 0))
    with pytest.raises(InvariantViolation, match="flushed 3"):
        cluster["n1"].compact(Index(4))


def test_state_and_log_must_fit_together() -> None:
    """A core whose machine begins beyond its log, before it, or at another entry than the log holds does not start."""
    disk = Disk("1 1 2", term=2)
    disk.compact(1)
    config = RaftConfig(NodeId("n1"), configuration_of(["n1"]))
    other = LogPoint(Index(2), Term(1), 12345)
    for point in (base_at(4).point, LogPoint(Index(0), Term(0), 0), other):
        with pytest.raises(InvariantViolation, match="state"):
            Raft(config, disk.load(), disk, random.Random(0), 0, applied=point)
    raft = Raft(config, disk.load(), disk, random.Random(0), 0, applied=base_at(2).point)
    assert raft.log.last_applied == raft.log.commit_index == 2


# -- the leader -------------------------------------------------------------------------------------------------------


def test_leader_offers_its_checkpoint_to_a_follower_before_its_base() -> None:
    """Each heartbeat names the snapshot until the follower says that it matches; then entries flow again."""
    disk = Disk("1 1 1 1", term=1)
    disk.compact(3)
    cluster = Cluster(real="n1", disks={"n1": disk})
    term = lead(cluster)
    log = cluster["n1"].log
    (probe,) = ask(cluster, "n2", refused(term, rejected=4, conflict=1))
    assert isinstance(probe, AppendEntries)
    assert probe.prev_log_index == 3, "first it tries where its log begins"
    assert ask(cluster, "n2", refused(term, rejected=3, conflict=1)) == []
    cluster.timeout("n1")
    (sent,) = cluster.sent("n1", "n2")
    assert sent == InstallSnapshot(Term(term), Index(3), Term(1), log.base.chain, 0)
    assert ask(cluster, "n2", accepted(term, 0)) == []
    assert cluster["n1"].progress[NodeId("n2")].heard_at == cluster.now
    (append,) = ask(cluster, "n2", accepted(term, 3))
    assert isinstance(append, AppendEntries)
    assert [entry.index for entry in append.entries] == [4, 5]


# -- the follower -----------------------------------------------------------------------------------------------------


def test_offer_is_a_heartbeat() -> None:
    """An offer keeps the follower from campaigning, repeats the read round, and hands the offer out once."""
    cluster = following("1 1")
    before = cluster["n1"].deadline()
    cluster.now += 100
    answer = answer_of(cluster, "n2", offer_at(5, term=3, read_round=9), AppendEntriesResponse)
    assert (answer.success, answer.match_index, answer.read_round) == (True, 0, 9)
    assert cluster["n1"].deadline() != before
    assert cluster.offers == [("n2", 5)]


def test_offer_of_what_is_committed_here_is_answered_by_that() -> None:
    """A follower that holds more than the snapshot says how far it matches, and fetches nothing."""
    cluster = following(LEADERS_LOG)
    cluster.tell("n1", "n2", append_entries(LEADERS_LOG, term=3, after=6, commit=5))
    assert ask(cluster, "n2", offer_at(4, term=3)) == [accepted(3, 5)]
    assert cluster.offers == []


def test_old_leaders_offer_is_refused() -> None:
    """An offer of an older term is answered with the newer term and not followed."""
    cluster = following("1 1", term=3)
    (answer,) = ask(cluster, "n3", offer_at(2, term=2, terms="1 1"))
    assert isinstance(answer, AppendEntriesResponse)
    assert (answer.term, answer.success) == (3, False)
    assert cluster.offers == []
    assert cluster["n1"].leader_id == "n2"


@pytest.mark.parametrize(("terms", "kept"), [("1 1 2", ()), ("1 1 2 2 2 2", ()), (LEADERS_LOG, (6,)), ("", ())])
def test_entries_behind_a_snapshot_stay_when_they_match(terms: str, kept: tuple[int, ...]) -> None:
    """A log that holds the snapshot's last entry keeps what follows it; any other is dropped (Raft §7, 6 and 7)."""
    cluster = following(terms)
    cluster["n1"].install_snapshot(base_at(5))
    cluster.fast("n1")
    assert cluster.sent("n1", "n2") == [accepted(3, 5)], "it says so unasked"
    log = cluster["n1"].log
    assert (log.last_applied, log.commit_index, log.flushed) == (5, 5, max((5, *kept)))
    assert log.last.index == max((5, *kept))
    assert cluster.disk("n1").last == log.last
    assert ask(cluster, "n2", offer_at(5, term=3)) == [accepted(3, 5)]
    assert ask(cluster, "n2", append_entries(LEADERS_LOG, term=3, after=5)) == [accepted(3, 6)]
    cluster.crash("n1")
    cluster.restart("n1")
    assert cluster["n1"].log.last == base_at(6).point


def test_the_first_configuration_is_not_stored_with_a_snapshot() -> None:
    """A cluster whose members never changed has none on its disk, so an older build reads the directory as ever."""
    cluster = following("1 1")
    cluster.slow("n1")
    cluster["n1"].install_snapshot(base_at(5))
    write = cluster["n1"].ready(cluster.now).write
    assert write is not None
    assert (write.new_base, write.base_configuration) == (base_at(5), None)


def changed_at(index: int, *voters: str) -> Configuration:
    """Return a configuration of a later entry."""
    return replace(configuration_of(voters), index=Index(index))


def with_configuration(index: int, committed: int) -> tuple[Cluster, Configuration]:
    """Return a cluster in which n1 holds six entries, of which one is a configuration and so many are committed."""
    cluster = following("")
    configuration = changed_at(index, "n1", "n2")
    previous, entries = ORIGIN, []
    for place in range(1, 7):
        kind, payload = (CONFIGURATION, encode(configuration)) if place == index else (COMMANDS, b"")
        entry = make_entry(previous=previous, term=Term(3), kind=kind, timestamp_ms=place, payload=payload)
        entries.append(entry)
        previous = LogPoint(entry.index, entry.term, entry.chain)
    append = AppendEntries(Term(3), ORIGIN.index, ORIGIN.term, ORIGIN.chain, tuple(entries), Index(committed), 0)
    cluster.tell("n1", "n2", append)
    return cluster, configuration


@pytest.mark.parametrize("place", [4, 9])
def test_a_snapshot_with_a_stale_configuration_is_refused(place: int) -> None:
    """Whether it is taken in this log or beyond: its majorities may share nobody with those of what is committed.

    That of a snapshot beyond the log may be a later one, and then it is known to nobody here.
    """
    cluster, configuration = with_configuration(2, committed=3)
    raft = cluster["n1"]
    in_log = place <= 6
    point = LogPoint(Index(place), Term(3), raft.log.chain_at(Index(place)) if in_log else 77)
    stale = (None, changed_at(1, "n1", "n2"), changed_at(2, "n1", "n3"), changed_at(3, "n1"), changed_at(10, "n1"))
    for other in stale:
        assert not raft.may_count_at(point, other), other
        with pytest.raises(InvariantViolation, match="another configuration"):
            raft.install_snapshot(Base(point, 9), other)
    assert raft.may_count_at(point, changed_at(4, "n1")) is not in_log
    assert raft.may_count_at(point, configuration)
    raft.install_snapshot(Base(point, 9), configuration)
    assert raft.configuration == configuration
    assert raft.stored_configuration_at(Index(place)) == configuration


def test_a_snapshot_takes_an_uncommitted_configuration_back() -> None:
    """The log that held it is dropped; it says that the fixed one counts, and so it is, here and on the disk."""
    cluster, configuration = with_configuration(5, committed=4)
    raft = cluster["n1"]
    assert raft.configuration == configuration
    raft.install_snapshot(Base(LogPoint(Index(9), Term(3), 77), 9), None)
    assert raft.configuration == configuration_of(["n1", "n2", "n3"])
    assert "n1 goes by the configuration at 0" in "\n".join(cluster.trace)
    cluster.fast("n1")
    assert cluster.disk("n1").configurations == ()
    cluster.crash("n1")
    cluster.restart("n1")
    assert cluster["n1"].configuration.index == 0


def test_the_configuration_of_a_snapshot_is_on_the_disk_with_it() -> None:
    """In the write that lets the log begin there."""
    cluster = following("1 1")
    cluster.slow("n1")
    configuration = changed_at(4, "n1", "n2")
    cluster["n1"].install_snapshot(base_at(5), configuration)
    write = cluster["n1"].ready(cluster.now).write
    assert write is not None
    assert (write.new_base, write.base_configuration) == (base_at(5), configuration)


def test_write_in_flight_proves_nothing_that_a_snapshot_replaced() -> None:
    """The late acknowledgement of entries that a snapshot dropped does not count for those put in their place."""
    cluster = following("1 1")
    cluster.slow("n1")
    cluster.tell("n1", "n2", append_entries("1 1 2 2 2 2 2", term=3, after=2))
    cluster["n1"].install_snapshot(base_at(5))
    cluster.tell("n1", "n2", append_entries(LEADERS_LOG, term=3, after=5))
    cluster.packets.clear()
    cluster.flush("n1")
    assert cluster["n1"].log.flushed == 5
    cluster.flush("n1")
    assert cluster["n1"].log.flushed == 6


def test_snapshot_never_takes_back_what_is_committed() -> None:
    """One that is not ahead of the commit index is refused."""
    cluster = following(LEADERS_LOG)
    cluster.tell("n1", "n2", append_entries(LEADERS_LOG, term=3, after=6, commit=5))
    assert not cluster["n1"].wants_snapshot(base_at(5).point)
    with pytest.raises(InvariantViolation, match="committed is 5"):
        cluster["n1"].install_snapshot(base_at(5))


def test_snapshot_of_a_term_the_disk_does_not_know_waits() -> None:
    """The log must not end in a term above the flushed current_term, or the node could not start again."""
    cluster = Cluster(real="n1", disks={"n1": Disk("1", term=1)})
    cluster.slow("n1")
    cluster.tell("n1", "n2", offer_at(5, term=3))
    assert not cluster["n1"].wants_snapshot(base_at(5).point)
    cluster.fast("n1")
    assert cluster["n1"].wants_snapshot(base_at(5).point)


def test_node_without_a_state_votes_and_stores_but_does_not_lead() -> None:
    """It never campaigns and applies nothing until a snapshot within or beyond its log gives it a state."""
    disk = Disk(LEADERS_LOG, term=3)
    disk.compact(2)
    config = RaftConfig(NodeId("n1"), configuration_of(["n1", "n2", "n3"]))
    raft = Raft(config, disk.load(), disk, random.Random(0), 0, has_state=False)
    for now in (1000, 2000, 3000):
        raft.timeout(now)
        assert raft.role is Role.FOLLOWER
    raft.step(3001, NodeId("n2"), request_vote(4, 6, 3))
    assert raft.voted_for == "n2"
    write = raft.ready(3001).write
    assert write is not None
    raft.persisted(3002, write.number)
    raft.step(3003, NodeId("n2"), append_entries(LEADERS_LOG, term=4, after=6, commit=6))
    assert raft.ready(3003).committed == []
    assert not raft.has_more()
    assert not raft.wants_snapshot(base_at(1).point)
    raft.install_snapshot(base_at(3))
    assert [entry.index for entry in raft.ready(3004).committed] == [4, 5, 6]
    assert raft.is_whole


def test_snapshot_that_contradicts_committed_entries_is_refused() -> None:
    """A snapshot whose last entry is not the one committed here means that one of the two is wounded."""
    disk = Disk(LEADERS_LOG, term=3)
    config = RaftConfig(NodeId("n1"), configuration_of(["n1", "n2", "n3"]))
    raft = Raft(config, disk.load(), disk, random.Random(0), 0, has_state=False)
    raft.step(1, NodeId("n2"), append_entries(LEADERS_LOG, term=3, after=6, commit=6))
    wrong = Base(LogPoint(Index(4), Term(2), 1), 5)
    with pytest.raises(InvariantViolation, match="conflicts with entries committed up to 6"):
        raft.install_snapshot(wrong)


def test_caught_up_means_all_that_the_leader_calls_committed() -> None:
    """A follower is not caught up before its leader spoke, nor while it lacks what that leader calls committed."""
    cluster = Cluster(real="n1", disks={"n1": Disk("1 1 2", term=3)})
    assert not cluster["n1"].is_caught_up
    cluster.tell("n1", "n2", append_entries(LEADERS_LOG, term=3, after=5, upto=5, commit=5))
    assert not cluster["n1"].is_caught_up, "the log does not reach there, and the commit index could not move"
    cluster.tell("n1", "n2", append_entries(LEADERS_LOG, term=3, after=3, commit=5))
    assert cluster["n1"].is_caught_up
    cluster.tell("n1", "n3", append_entries(LEADERS_LOG, term=4, after=6, commit=6))
    assert cluster["n1"].is_caught_up
    cluster.now += 1000
    cluster.tell("n1", "n2", request_vote(5, 6, 4))
    assert not cluster["n1"].is_caught_up, "a new term: its leader has not spoken"
    cluster.tell("n1", "n2", offer_at(6, term=5))
    assert cluster["n1"].is_caught_up


def test_a_leader_is_caught_up_once_its_noop_is_applied() -> None:
    """By then it knows what was committed before its term (§8); nothing after the no-op is needed."""
    cluster = solo("1 1", term=1)
    term = lead(cluster)
    assert not cluster["n1"].is_caught_up
    cluster.tell("n1", "n2", accepted(term, 3))
    assert cluster["n1"].log.last_applied == 3
    assert cluster["n1"].is_caught_up


def test_an_older_offer_does_not_lower_what_the_leader_calls_committed() -> None:
    """It may have been overtaken, and its snapshot is always older than the leader's commit index."""
    cluster = following("1 1 2 2 3", term=3)
    cluster.tell("n1", "n2", append_entries(LEADERS_LOG, term=3, after=5, upto=5, commit=6))
    cluster.tell("n1", "n2", offer_at(5, term=3))
    assert not cluster["n1"].is_caught_up
    cluster.tell("n1", "n2", append_entries(LEADERS_LOG, term=3, after=5, commit=6))
    assert cluster["n1"].is_caught_up


def test_old_leaders_offer_is_refused_without_an_index() -> None:
    """It named no entry that could be refused."""
    cluster = following("1 1", term=3)
    assert ask(cluster, "n3", offer_at(2, term=2, terms="1 1")) == [refused(3, rejected=0, conflict=0)]


def test_installed_snapshot_is_the_own_checkpoint() -> None:
    """It is offered to others from then on, and what was done is said."""
    cluster = following("1 1 2")
    assert cluster["n1"].snapshot.index == 0
    cluster["n1"].install_snapshot(base_at(5))
    assert cluster["n1"].snapshot == base_at(5).point
    cluster["n1"].checkpointed(base_at(4).point)
    assert cluster["n1"].snapshot == base_at(4).point
    assert "    n1 goes on from the snapshot at 5/t3; the log it had is replaced" in cluster.trace
    kept = following(LEADERS_LOG)
    kept["n1"].install_snapshot(base_at(5))
    assert "    n1 goes on from the snapshot at 5/t3; the log it had is kept" in kept.trace


def test_snapshot_that_nobody_leads_is_told_to_nobody() -> None:
    """What it covers is committed, so it may be installed whoever leads."""
    cluster = Cluster(real="n1", disks={"n1": Disk("1", term=3)})
    assert cluster["n1"].leader_id is None
    cluster["n1"].install_snapshot(base_at(5))
    cluster.fast("n1")
    assert cluster.packets == []
    assert cluster["n1"].log.last.index == 5


def test_lost_state_costs_the_leadership() -> None:
    """It is said; nothing is applied and nobody is asked for a vote before a snapshot came."""
    cluster = solo("1 1", term=1)
    term = lead(cluster)
    cluster["n1"].lose_state(cluster.now)
    assert not cluster["n1"].is_whole
    assert not cluster["n1"].is_caught_up
    assert cluster.role("n1") is Role.FOLLOWER
    assert cluster.counts["lost_state"] == 1
    assert cluster["n1"].current_term == term
    cluster.tell("n1", "n2", append_entries("1 1", term=term + 1, after=2, commit=2))
    assert cluster.node("n1").applied == []
    assert not cluster["n1"].is_caught_up


def test_a_follower_that_loses_its_state_follows_on() -> None:
    """Its leader is still its leader."""
    cluster = following(LEADERS_LOG)
    deadline = cluster["n1"].deadline()
    cluster["n1"].lose_state(cluster.now)
    assert cluster["n1"].leader_id == "n2"
    assert cluster["n1"].deadline() == deadline


def test_which_snapshots_are_of_use() -> None:
    """Beyond what is committed; with a wound, beyond what is applied; without a state, from the log's begin on."""
    cluster = following(LEADERS_LOG)
    core = cluster["n1"]
    cluster.tell("n1", "n2", append_entries(LEADERS_LOG, term=3, after=6, commit=4))
    assert core.snapshot_floor() == 4
    assert [core.wants_snapshot(base_at(index).point) for index in (3, 4, 5, 6)] == [False, False, True, True]
    core.checkpointed(base_at(2).point)
    core.compact(Index(2))
    core.lose_state(cluster.now)
    assert core.snapshot_floor() == 1
    assert [core.wants_snapshot(base_at(index).point) for index in (1, 2, 3)] == [False, True, True]


def test_leader_whose_checkpoint_does_not_cover_what_it_compacted_stops() -> None:
    """There would be nothing to offer: entries up to the log's begin are nowhere."""
    disk = Disk("1 1 1 1", term=1)
    disk.compact(3)
    cluster = Cluster(real="n1", disks={"n1": disk})
    term = lead(cluster)
    cluster["n1"].checkpointed(LogPoint(Index(2), Term(1), 0))
    ask(cluster, "n2", refused(term, rejected=4, conflict=1))
    ask(cluster, "n2", refused(term, rejected=3, conflict=1))
    with pytest.raises(InvariantViolation, match="the log begins behind"):
        cluster.timeout("n1")


def test_a_snapshot_is_offered_once_for_each_round() -> None:
    """The round of a read rides on the offer, as on an AppendEntries; the follower may take long to fetch."""
    disk = Disk("1 1 1 1", term=1)
    disk.compact(3)
    cluster = Cluster(real="n1", disks={"n1": disk})
    term = lead(cluster)
    ask(cluster, "n2", refused(term, rejected=4, conflict=1))
    ask(cluster, "n2", refused(term, rejected=3, conflict=1))
    cluster.read("n1")
    (offer,) = cluster.sent("n1", "n2")
    assert isinstance(offer, InstallSnapshot)
    assert offer.read_round == 1
    cluster.propose("n1", "x")
    assert cluster.sent("n1", "n2") == []
