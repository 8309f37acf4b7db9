"""Disks (raft/admission.py): a new one promises nothing until it cannot break what another promised under its id."""

from __future__ import annotations

from durable_raft.raft.messages import AppendEntriesResponse, Introduce, IntroduceResponse
from durable_raft.raft.types import KnownDisk, NodeId, Role, Standing
from tests.support.raft_cluster import Cluster
from tests.support.raft_disk import Disk
from tests.support.raft_solo import accepted, append_entries, appends_to, ask, campaign, lead, request_vote, vote

MINE = bytes(16)
"""The uuid that the cluster of the tests gives to n1."""
OLD, NEW = b"the old disk----", b"the new disk----"


def newcomer(terms: str = "") -> Cluster:
    """Return n1 on a new disk among played peers."""
    disk = Disk(terms)
    disk.standing = Standing(is_voter=False)
    return Cluster("n1 n2 n3", real="n1", disks={"n1": disk})


def acquainted(**known: bytes) -> Cluster:
    """Return n1 on a voter's disk that knows these disks of its peers."""
    disk = Disk("1 1")
    peers = tuple(KnownDisk(NodeId(name), node_uuid, ()) for name, node_uuid in sorted(known.items()))
    disk.standing = Standing(is_voter=True, peers=peers)
    return Cluster("n1 n2 n3", real="n1", disks={"n1": disk})


def introduced(cluster: Cluster, *, knew_another: bool) -> None:
    """Have both peers answer n1's introduction."""
    for peer in ("n2", "n3"):
        cluster.tell("n1", peer, IntroduceResponse(MINE, knew_another, peer.encode().ljust(16)))


def answer(match: int, *, read_round: int = 0, is_voter: bool = False, asks: bool = False) -> AppendEntriesResponse:
    """Return a follower's success in term 2."""
    return accepted(2, match, read_round)._replace(is_voter=is_voter, asks_admission=asks)


# -- the disk ------------------------------------------------------------------------------------------------------


def test_a_new_disk_introduces_itself_and_promises_nothing() -> None:
    """No vote, no pre-vote, no campaign; what it stores it acknowledges as no voter."""
    cluster = newcomer()
    cluster.fire("n1")
    assert [type(message) for message in cluster.sent("n1", "n2")] == [Introduce]
    for pre_vote in (True, False):
        (refusal,) = ask(cluster, "n2", request_vote(3, 9, 2, pre_vote=pre_vote))
        assert not refusal.vote_granted  # type: ignore[union-attr]
    for _ in range(20):
        cluster.timeout("n1")
        assert cluster.role("n1") is Role.FOLLOWER
    (said,) = ask(cluster, "n3", append_entries("1 2", term=3, after=0))
    assert isinstance(said, AppendEntriesResponse)
    assert said.success
    assert said.match_index == 2
    assert not said.is_voter
    assert not said.asks_admission


def test_the_first_disk_is_admitted_when_all_have_answered() -> None:
    """Nobody knew another: nothing was ever promised under this id. One answer is not enough."""
    cluster = newcomer()
    cluster.fire("n1")
    assert cluster["n1"].waits_for() == ("n2", "n3")
    cluster.tell("n1", "n2", IntroduceResponse(MINE, False, OLD))
    assert not cluster["n1"].is_voter
    assert cluster["n1"].waits_for() == ("n3",)
    cluster.tell("n1", "n3", IntroduceResponse(MINE, False, NEW))
    assert cluster["n1"].is_voter
    assert not cluster["n1"].waits_for()
    assert cluster.disk("n1").standing.is_voter
    assert cluster.disk("n1").standing.peer(NodeId("n2")) == KnownDisk(NodeId("n2"), OLD, ())
    campaign(cluster)


def test_a_new_disk_introduces_itself_again_only_to_who_has_not_answered() -> None:
    """After a heartbeat's time, and not before."""
    cluster = newcomer()
    cluster.fire("n1")
    cluster.tell("n1", "n2", IntroduceResponse(MINE, False, OLD))
    cluster.packets.clear()
    cluster.now += 49
    cluster.fire("n1")
    assert cluster.packets == []
    cluster.now += 1
    cluster.fire("n1")
    assert [(packet.target, packet.message) for packet in cluster.packets] == [("n3", Introduce(MINE))]


def test_a_new_disk_introduces_itself_again_to_a_peer_whose_disk_is_new_as_well() -> None:
    """The one that knew it is gone. Else it would ask for ever to be admitted, by a leader that never heard of it."""
    cluster = newcomer()
    cluster.fire("n1")
    introduced(cluster, knew_another=True)
    cluster.timeout("n1")
    assert not cluster["n1"].waits_for()
    for peer in ("n2", "n3"):
        cluster.sent("n1", peer)
    cluster.tell("n1", "n2", Introduce(NEW))
    assert cluster["n1"].waits_for() == ("n2",)
    cluster.timeout("n1")
    assert Introduce in map(type, cluster.sent("n1", "n2"))
    assert Introduce not in map(type, cluster.sent("n1", "n3"))


def test_an_answer_to_another_disk_is_not_an_answer() -> None:
    """It was meant for the disk before this one, or comes from one that was replaced itself."""
    cluster = newcomer()
    cluster.tell("n1", "n2", IntroduceResponse(OLD, False, OLD))
    assert cluster["n1"].waits_for() == ("n2", "n3")
    cluster.tell("n1", "n3", Introduce(OLD))
    cluster.tell("n1", "n3", Introduce(NEW))
    cluster.tell("n1", "n3", IntroduceResponse(MINE, False, OLD))
    assert cluster["n1"].waits_for() == ("n2", "n3")
    assert cluster.counts["disk_replaced"] == 1
    assert cluster.counts["replaced_disk_speaks"] == 1


def test_a_voter_does_not_introduce_itself() -> None:
    """Its disk is known; that it has something to ask for is another matter."""
    disk = Disk("1 1")
    disk.rotten = {1}
    cluster = Cluster("n1 n2 n3", real="n1", disks={"n1": disk})
    cluster.fire("n1")
    assert cluster.packets
    assert not [packet for packet in cluster.packets if isinstance(packet.message, Introduce)]


def test_a_disk_that_all_know_and_nobody_admitted_yet_has_nothing_to_ask() -> None:
    """Its leader admits it; its timer rings for an election only."""
    cluster = newcomer()
    cluster.fire("n1")
    assert cluster["n1"].deadline() == cluster.now + 50
    introduced(cluster, knew_another=True)
    assert cluster["n1"].deadline() == cluster["n1"].state.election_deadline


def test_an_admitted_disk_waits_an_election_timeout_before_it_campaigns() -> None:
    """It has heard nothing so far and may have a living leader; and it says that it was admitted."""
    cluster = newcomer()
    cluster.now += 1_000
    introduced(cluster, knew_another=False)
    assert cluster["n1"].is_voter
    assert cluster.counts["admitted"] == 1
    assert cluster.now + 150 <= (cluster["n1"].deadline() or 0) <= cluster.now + 300


def test_a_disk_in_another_s_place_asks_the_leader() -> None:
    """One peer that knew another is enough; only the leader's word for this very disk admits it."""
    cluster = newcomer()
    cluster.fire("n1")
    cluster.tell("n1", "n2", IntroduceResponse(MINE, False, OLD))
    cluster.tell("n1", "n3", IntroduceResponse(MINE, True, OLD))
    assert not cluster["n1"].is_voter
    heartbeat = append_entries("2 2", term=2, after=0)
    (said,) = ask(cluster, "n2", heartbeat)
    assert said.asks_admission  # type: ignore[union-attr]
    cluster.tell("n1", "n2", heartbeat._replace(admits=OLD))
    assert not cluster["n1"].is_voter
    cluster.slow("n1")
    said_before = ask(cluster, "n2", heartbeat._replace(admits=MINE))
    assert cluster["n1"].is_voter
    assert not said_before, "it speaks as a voter before its disk says so"
    cluster.flush("n1")
    (told,) = cluster.sent("n1", "n2")
    assert told == said._replace(is_voter=True, asks_admission=False)


def test_an_admitted_disk_has_voted_for_the_leader_that_admitted_it() -> None:
    """What its predecessor voted in that term is forgotten: it may not vote again."""
    cluster = newcomer()
    introduced(cluster, knew_another=True)
    cluster.tell("n1", "n2", append_entries("2 2", term=2, after=0)._replace(admits=MINE))
    assert cluster["n1"].voted_for == "n2"
    (refusal,) = ask(cluster, "n3", request_vote(2, 9, 1))
    assert not refusal.vote_granted  # type: ignore[union-attr]


def test_a_disk_is_not_admitted_before_all_know_it() -> None:
    """Somebody may still count on the disk before it."""
    cluster = newcomer()
    cluster.tell("n1", "n2", IntroduceResponse(MINE, True, OLD))
    cluster.tell("n1", "n2", append_entries("2 2", term=2, after=0)._replace(admits=MINE))
    assert not cluster["n1"].is_voter


# -- its peers -----------------------------------------------------------------------------------------------------


def test_a_peer_answers_when_the_new_disk_is_flushed() -> None:
    """It says whether it knew another; asked again it says the same."""
    cluster = acquainted(n2=OLD, n3=OLD)
    cluster.slow("n1")
    assert not ask(cluster, "n2", Introduce(NEW))
    cluster.flush("n1")
    assert cluster.sent("n1", "n2") == [IntroduceResponse(NEW, True, MINE)]
    assert cluster.disk("n1").standing.peer(NodeId("n2")) == KnownDisk(NodeId("n2"), NEW, (OLD,))
    cluster.restart("n1")
    assert ask(cluster, "n2", Introduce(NEW)) == [IntroduceResponse(NEW, True, MINE)]
    assert ask(cluster, "n3", Introduce(OLD)) == [IntroduceResponse(OLD, False, MINE)]


def test_a_replaced_disk_is_not_heard_any_more() -> None:
    """Its late introduction is not answered, and changes nothing."""
    cluster = acquainted(n2=OLD)
    cluster.tell("n1", "n2", Introduce(NEW))
    assert not ask(cluster, "n2", Introduce(OLD))
    assert cluster["n1"].was_replaced(NodeId("n2"), OLD)
    assert not cluster["n1"].was_replaced(NodeId("n2"), NEW)


def test_a_voter_that_knows_no_disk_of_a_peer_says_that_it_knew_another() -> None:
    """It is older than this rule: it cannot tell."""
    cluster = acquainted()
    assert ask(cluster, "n2", Introduce(NEW)) == [IntroduceResponse(NEW, True, MINE)]
    assert cluster.disk("n1").standing.peer(NodeId("n2")) == KnownDisk(NodeId("n2"), NEW, (bytes(16),))


def test_a_candidate_drops_the_vote_of_a_replaced_disk() -> None:
    """In a cluster of five: two votes, one of them void, and one more make no majority."""
    disk = Disk("1 1")
    disk.standing = Standing(peers=(KnownDisk(NodeId("n2"), OLD, ()),))
    cluster = Cluster("n1 n2 n3 n4 n5", real="n1", disks={"n1": disk})
    term = campaign(cluster)
    cluster.tell("n1", "n2", vote(term))
    cluster.tell("n1", "n2", Introduce(NEW))
    cluster.tell("n1", "n3", vote(term))
    assert cluster.role("n1") is Role.CANDIDATE
    cluster.tell("n1", "n4", vote(term))
    assert cluster.role("n1") is Role.LEADER


# -- the leader ----------------------------------------------------------------------------------------------------


def leading() -> Cluster:
    """Return n1 leading term 2 with the entries 1 1 and its no-op, n2's disk in another's place."""
    cluster = acquainted(n2=OLD, n3=OLD)
    assert lead(cluster) == 2
    cluster.tell("n1", "n2", Introduce(NEW))
    cluster.packets.clear()
    return cluster


def admits(cluster: Cluster) -> set[bytes]:
    """Take what n1's AppendEntries to n2 admit."""
    return {message.admits for message in appends_to(cluster, "n2")}


def test_a_leader_forgets_what_a_replaced_disk_acknowledged() -> None:
    """It matches nothing until the new disk says so."""
    cluster = acquainted(n2=OLD, n3=OLD)
    lead(cluster)
    cluster.tell("n1", "n2", answer(2, is_voter=True))
    assert cluster["n1"].progress[NodeId("n2")].match_index == 2
    cluster.tell("n1", "n2", Introduce(NEW))
    assert cluster["n1"].progress[NodeId("n2")].match_index == 0


def test_a_leader_asks_a_new_disk_from_its_log_s_end_on() -> None:
    """It knows nothing of that disk, as at the start of a term (Figure 2): a refusal will say where the logs meet."""
    cluster = leading()
    last = cluster["n1"].log.last
    cluster.timeout("n1")
    (probe,) = appends_to(cluster, "n2")
    assert (probe.prev_log_index, probe.prev_log_term, probe.entries) == (last.index, last.term, ())


def test_a_disk_that_is_not_admitted_counts_for_nothing() -> None:
    """Not for a commit, a read, or the leader's quorum."""
    cluster = leading()
    cluster.read("n1")
    cluster.tell("n1", "n2", answer(3, read_round=1))
    assert cluster["n1"].log.commit_index == 0
    assert cluster["n1"].state.pending_reads
    for _ in range(20):
        cluster.tell("n1", "n2", answer(3, read_round=1))
        cluster.timeout("n1")
    assert cluster.role("n1") is not Role.LEADER, "led on with nobody's answer but the new disk's"


def test_a_replaced_disk_was_not_heard_from() -> None:
    """That a new disk introduces itself does not keep a leader whom no voter answers (CheckQuorum)."""
    cluster = acquainted(n2=OLD, n3=OLD)
    lead(cluster)
    for _ in range(4):
        cluster.timeout("n1")
    cluster.tell("n1", "n2", Introduce(NEW))
    for _ in range(4):
        cluster.timeout("n1")
    assert cluster.role("n1") is Role.FOLLOWER


def test_an_admitted_disk_counts_again() -> None:
    """Once it says that it is a voter: its copy and the leader's are two of three."""
    cluster = leading()
    cluster.tell("n1", "n2", answer(3))
    assert cluster["n1"].log.commit_index == 0
    cluster.tell("n1", "n2", answer(3, is_voter=True))
    cluster.propose("n1", "x")
    cluster.tell("n1", "n2", answer(4, is_voter=True))
    assert cluster["n1"].log.commit_index == 4


def test_each_admission_needs_a_round_of_its_own() -> None:
    """What was confirmed for the last one was confirmed before this one was asked for."""
    cluster = leading()
    cluster.tell("n1", "n3", answer(3, is_voter=True))
    for _ in range(2):
        cluster.packets.clear()
        cluster.tell("n1", "n2", answer(3, asks=True))
        asked = max(message.read_round for message in appends_to(cluster, "n3"))
        cluster.timeout("n1")
        assert admits(cluster) == {b""}
        cluster.tell("n1", "n3", answer(3, read_round=asked, is_voter=True))
        cluster.timeout("n1")
        assert admits(cluster) == {NEW}
        cluster.tell("n1", "n2", answer(3, is_voter=True))


def test_a_disk_that_asks_and_was_never_introduced_is_not_admitted() -> None:
    """The leader does not know whom it would admit."""
    cluster = acquainted(n3=OLD)
    lead(cluster)
    cluster.tell("n1", "n3", answer(3, is_voter=True))
    cluster.tell("n1", "n2", answer(3, asks=True))
    cluster.tell("n1", "n3", answer(3, read_round=cluster["n1"].state.read_round, is_voter=True))
    cluster.packets.clear()
    cluster.timeout("n1")
    assert admits(cluster) == {b""}


def test_a_disk_is_admitted_once_a_majority_without_it_confirmed_the_leader() -> None:
    """By a round that was begun after it asked."""
    cluster = leading()
    cluster.tell("n1", "n3", answer(3, is_voter=True))
    assert cluster["n1"].log.commit_index == 3
    cluster.tell("n1", "n2", answer(3, asks=True))
    (asked,) = {message.read_round for message in appends_to(cluster, "n3") if message.read_round}
    cluster.tell("n1", "n2", answer(3, read_round=asked, asks=True))
    assert admits(cluster) <= {b""}, "its own answer confirmed the leadership"
    cluster.tell("n1", "n3", answer(3, read_round=asked, is_voter=True))
    cluster.timeout("n1")
    assert admits(cluster) == {NEW}


def test_a_disk_is_admitted_only_when_it_holds_what_was_committed() -> None:
    """Its log matches up to the commit index of the moment in which the leader was confirmed."""
    cluster = leading()
    cluster.tell("n1", "n3", answer(3, is_voter=True))
    cluster.tell("n1", "n2", answer(2, asks=True))
    cluster.tell("n1", "n3", answer(3, read_round=cluster["n1"].state.read_round, is_voter=True))
    cluster.timeout("n1")
    assert admits(cluster) == {b""}
    cluster.tell("n1", "n2", answer(3, asks=True))
    cluster.timeout("n1")
    assert admits(cluster) == {NEW}


def test_what_an_admitted_disk_holds_counts_as_soon_as_it_is_a_voter() -> None:
    """An entry that waits for a majority is committed by the first answer in which the disk is a voter."""
    cluster = leading()
    cluster.tell("n1", "n2", answer(3))
    assert cluster["n1"].log.commit_index == 0
    cluster.tell("n1", "n2", answer(3, is_voter=True))
    assert cluster["n1"].log.commit_index == 3


def test_a_leader_that_does_not_know_what_is_committed_admits_nobody() -> None:
    """Before its no-op is committed its commit index may be too low (Raft §8)."""
    cluster = leading()
    cluster.tell("n1", "n2", answer(3, asks=True))
    cluster.tell("n1", "n3", answer(1, read_round=cluster["n1"].state.read_round, is_voter=True))
    cluster.timeout("n1")
    assert admits(cluster) == {b""}


def test_a_lone_node_admits_itself() -> None:
    """There is nobody whom anything could have been promised."""
    disk = Disk()
    disk.standing = Standing(is_voter=False)
    cluster = Cluster("n1", disks={"n1": disk})
    cluster.timeout("n1")
    assert cluster["n1"].is_voter
    cluster.timeout("n1")
    assert cluster.role("n1") is Role.LEADER


def test_three_new_disks_begin_a_cluster() -> None:
    """Each introduces itself to each, and they elect."""
    disks = {name: Disk() for name in ("n1", "n2", "n3")}
    for disk in disks.values():
        disk.standing = Standing(is_voter=False)
    cluster = Cluster("n1 n2 n3", disks=disks)
    for name in disks:
        cluster.fire(name)
    cluster.settle()
    assert all(cluster[name].is_voter for name in disks)


def test_a_new_disk_is_asked_about_a_read_that_waits() -> None:
    """At once, as everybody was."""
    cluster = leading()
    cluster.read("n1")
    cluster.packets.clear()
    cluster.tell("n1", "n2", Introduce(b"a third disk----"))
    assert [message.read_round for message in appends_to(cluster, "n2")] == [1]


def test_a_disk_that_is_not_admitted_commits_not_even_the_first_entry() -> None:
    """In a cluster that begins: one voter's copy and the new disk's are no majority."""
    disk = Disk()
    disk.standing = Standing(peers=(KnownDisk(NodeId("n2"), OLD, ()),))
    cluster = Cluster("n1 n2 n3", real="n1", disks={"n1": disk})
    term = lead(cluster)
    cluster.tell("n1", "n2", Introduce(NEW))
    cluster.tell("n1", "n2", accepted(term, 1)._replace(is_voter=False))
    cluster.tell("n1", "n3", accepted(term, 0))
    assert cluster["n1"].log.commit_index == 0


def test_a_leader_among_replaced_disks_steps_down_however_young_its_clock() -> None:
    """None of them was ever heard from, not even when the clock began to run."""
    disk = Disk("1")
    disk.standing = Standing(peers=tuple(KnownDisk(NodeId(name), OLD, ()) for name in ("n2", "n3")))
    cluster = Cluster("n1 n2 n3", real="n1", disks={"n1": disk}, election_timeout_max_ms=30_000)
    cluster["n1"].state.election_deadline = cluster.now
    lead(cluster)
    for peer in ("n2", "n3"):
        cluster.tell("n1", peer, Introduce(NEW))
    cluster.now += 50
    cluster.fire("n1")
    assert cluster.role("n1") is Role.FOLLOWER
