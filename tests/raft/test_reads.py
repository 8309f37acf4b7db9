"""ReadIndex: linearizable reads without a log entry (§8, Ongaro §6.4).

``Cluster`` checks of every read that it sees what anyone had committed when it was asked, and nothing proposed later.
"""

from __future__ import annotations

from durable_raft.raft.messages import AppendEntries
from durable_raft.raft.types import Role
from tests.support.raft_cluster import Cluster
from tests.support.raft_solo import accepted, append_entries, ask, lead, solo


def leader_with_committed_noop(voters: str = "n1 n2 n3") -> tuple[Cluster, int]:
    """Return a leader whose no-op is committed, with nothing on the way."""
    cluster = solo(voters=voters)
    term = lead(cluster)
    for peer in cluster["n1"].state.peers:
        ask(cluster, peer, accepted(term, 1))
    cluster.packets.clear()
    return cluster, term


def round_sent_to(cluster: Cluster, peer: str) -> int:
    """Return the read round of the newest AppendEntries on the way to ``peer``."""
    message = cluster.sent("n1", peer)[-1]
    assert isinstance(message, AppendEntries)
    return message.read_round


def test_read_index_8_waits_for_the_noop_of_the_term() -> None:
    """A new leader does not know what is committed: a confirmed read still waits until the no-op is."""
    cluster = solo("1 1 1", term=1)
    term = lead(cluster)
    cluster.read("n1")
    read_round = round_sent_to(cluster, "n2")

    ask(cluster, "n2", accepted(term, 0, read_round))
    assert cluster.node("n1").answered == []
    ask(cluster, "n2", accepted(term, 4, read_round))

    assert [read.read_index for read in cluster.node("n1").answered] == [4]


def test_read_index_6_4_is_answered_after_a_majority_confirms() -> None:
    """The read leaves nothing in the log; one round of empty AppendEntries, at once, confirms it."""
    cluster, term = leader_with_committed_noop("n1 n2 n3 n4 n5")
    cluster.read("n1")
    read_round = round_sent_to(cluster, "n2")

    ask(cluster, "n2", accepted(term, 1, read_round))
    assert cluster.node("n1").answered == [], "two of five"
    ask(cluster, "n2", accepted(term, 1, read_round))
    assert cluster.node("n1").answered == [], "the same follower counts once"
    ask(cluster, "n3", accepted(term, 1, read_round))

    assert [read.read_index for read in cluster.node("n1").answered] == [1]
    assert cluster["n1"].log.last.index == 1


def test_read_index_6_4_an_answer_to_what_was_sent_before_does_not_confirm() -> None:
    """Only a round sent after the read arrived proves that this node led when it did."""
    cluster, term = leader_with_committed_noop()
    cluster.timeout("n1")
    old_round = round_sent_to(cluster, "n2")

    cluster.read("n1")
    ask(cluster, "n2", accepted(term, 1, old_round))
    ask(cluster, "n3", accepted(term, 1, old_round))

    assert cluster.node("n1").answered == []


def test_read_index_6_4_a_second_read_is_not_confirmed_by_the_first_ones_round() -> None:
    """A read that arrives while a round is out waits for the next one, which then confirms all that wait."""
    cluster, term = leader_with_committed_noop()
    first = cluster.read("n1")
    first_round = round_sent_to(cluster, "n2")
    second, third = cluster.read("n1"), cluster.read("n1")
    assert cluster.sent("n1", "n2") == [], "one round at a time"

    (next_round,) = ask(cluster, "n2", accepted(term, 1, first_round))
    assert [read.read_id for read in cluster.node("n1").answered] == [first]
    assert isinstance(next_round, AppendEntries)
    ask(cluster, "n2", accepted(term, 1, next_round.read_round))

    assert [read.read_id for read in cluster.node("n1").answered] == [first, second, third]


def test_read_index_lost_round_is_repeated_by_the_heartbeat() -> None:
    """A round that is lost on the way costs a heartbeat interval, not the read."""
    cluster, term = leader_with_committed_noop()
    cluster.read("n1")
    cluster.packets.clear()

    cluster.timeout("n1")
    ask(cluster, "n2", accepted(term, 1, round_sent_to(cluster, "n2")))

    assert len(cluster.node("n1").answered) == 1


def test_read_index_a_refusal_confirms_leadership_too() -> None:
    """A follower whose log does not fit yet still says that it follows this leader."""
    cluster, term = leader_with_committed_noop()
    cluster.read("n1")
    read_round = round_sent_to(cluster, "n3")

    ask(cluster, "n3", accepted(term, 0, read_round)._replace(success=False))

    assert len(cluster.node("n1").answered) == 1


def test_read_index_is_lost_with_the_leadership() -> None:
    """Reads that wait when the leader steps down are given back; they had no effect."""
    cluster, term = leader_with_committed_noop()
    cluster.propose("n1", "x")
    waits_for_a_round = cluster.read("n1")
    waits_for_an_entry = cluster.read("n1", after=2)

    ask(cluster, "n2", append_entries("1", term=term + 1, after=0))

    assert cluster.node("n1").lost_reads == [waits_for_a_round, waits_for_an_entry]
    assert cluster.role("n1") is Role.FOLLOWER


def test_read_index_confirmed_but_not_yet_applied_is_lost_too() -> None:
    """A confirmed read whose entry is not committed yet is given back as well: the entry may never be."""
    cluster, term = leader_with_committed_noop("n1 n2 n3 n4 n5")
    cluster.propose("n1", "x")
    read_id = cluster.read("n1", after=2)
    read_round = cluster["n1"].state.read_round
    for peer in ("n2", "n3"):
        ask(cluster, peer, accepted(term, 1, read_round))
    assert cluster["n1"].state.confirmed_reads

    ask(cluster, "n4", append_entries("1", term=term + 1, after=0))

    assert cluster.node("n1").lost_reads == [read_id]


def test_read_index_is_refused_by_a_follower() -> None:
    """A node that does not lead gives the read back at once."""
    cluster = solo()

    read_id = cluster.read("n1")

    assert cluster.node("n1").lost_reads == [read_id]


def test_read_after_waits_for_the_named_entry() -> None:
    """A read behind a write of the same connection sees that write."""
    cluster, term = leader_with_committed_noop()
    entry = cluster.propose("n1", "x")
    assert entry is not None

    cluster.read("n1", after=entry.index)
    read_round = round_sent_to(cluster, "n3")
    ask(cluster, "n3", accepted(term, 1, read_round))
    assert cluster.node("n1").answered == [], "confirmed, but the write is not committed"
    ask(cluster, "n2", accepted(term, entry.index, 0))

    assert [read.read_index for read in cluster.node("n1").answered] == [entry.index]


def test_read_is_released_before_a_later_write() -> None:
    """A write proposed after a read carries its round, though another round is out still: what commits the write has
    confirmed the read first.
    """
    cluster, term = leader_with_committed_noop()
    first, second = cluster.read("n1"), cluster.read("n1")
    entry = cluster.propose("n1", "x")
    assert entry is not None
    append = cluster.sent("n1", "n2")[-1]
    assert isinstance(append, AppendEntries)
    assert append.entries == (entry,)

    ask(cluster, "n2", accepted(term, entry.index, append.read_round))

    answered = [(read.read_id, read.read_index) for read in cluster.node("n1").answered]
    assert answered == [(first, entry.index - 1), (second, entry.index - 1)]
    assert cluster["n1"].log.last_applied == entry.index, "in the same Ready, the reads before the entry"


def test_reads_of_one_ready_ascend() -> None:
    """Reads are handed out in the order in which they are to be answered between the entries."""
    cluster, term = leader_with_committed_noop()
    cluster.propose("n1", "a")
    cluster.propose("n1", "b")
    late = cluster.read("n1", after=3)
    early = cluster.read("n1")

    ask(cluster, "n2", accepted(term, 3, cluster["n1"].state.read_round))

    assert [(read.read_id, read.read_index) for read in cluster.node("n1").answered] == [(early, 1), (late, 3)]


def test_read_of_a_cluster_of_one_needs_no_round() -> None:
    """Alone, a node is its own majority."""
    cluster = solo(voters="n1")
    cluster.timeout("n1")

    cluster.read("n1")

    assert [read.read_index for read in cluster.node("n1").answered] == [1]


def test_deposed_leader_that_does_not_know_it_answers_no_read() -> None:
    """Cut off while another is elected and commits, the old leader gives its reads back instead of answering."""
    cluster = Cluster()
    cluster.elect("n1")
    cluster.run(60)
    cluster.partition(["n1"], ["n2", "n3"])
    cluster.read("n1")
    for _ in range(4):
        cluster.timeout("n2")
        cluster.now += 150
        cluster.settle()
    assert cluster.role("n2") is Role.LEADER
    cluster.propose("n2", "newer")
    cluster.settle()
    assert cluster.role("n1") is Role.LEADER, "it has not noticed yet"

    cluster.read("n1")
    cluster.heal()
    cluster.run(1_000)

    assert cluster.node("n1").answered == []
    assert cluster.node("n1").lost_reads == [1, 2]


def test_read_rounds_survive_losing_and_regaining_leadership() -> None:
    """Round numbers go on: an answer to an earlier leadership's round confirms nothing (etcd #20418)."""
    cluster, term = leader_with_committed_noop()
    cluster.read("n1")
    old_round = round_sent_to(cluster, "n2")
    ask(cluster, "n3", accepted(term + 1, 0))
    assert cluster.role("n1") is Role.FOLLOWER

    new_term = lead(cluster)
    ask(cluster, "n2", accepted(new_term, 2))
    cluster.read("n1")
    ask(cluster, "n2", accepted(term, 2, old_round))
    ask(cluster, "n2", accepted(new_term, 2, old_round))

    assert cluster.node("n1").answered == []
    assert round_sent_to(cluster, "n3") > old_round
