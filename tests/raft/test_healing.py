"""Lost payloads (raft/healing.py): who may give them, what is served meanwhile, and what a wounded node does not do."""

from __future__ import annotations

import pytest

from durable_raft.raft.messages import AppendEntriesResponse, FetchEntries, FetchEntriesResponse, Message
from durable_raft.raft.types import Index, LogPoint, Role, Standing
from tests.support.raft_cluster import Cluster
from tests.support.raft_disk import Disk, entries_of
from tests.support.raft_solo import (
    append_entries,
    ask,
    follow,
    lead,
    point_of,
    refused,
    request_vote,
    vote,
)
from tests.support.raft_wounds import FIFTH, LOG, absent, asked, given, wounded


def test_lost_entries_are_asked_for_and_mended() -> None:
    """Whoever has the same entry may give it; it is whole once it is flushed again."""
    cluster = wounded(2, 4)
    cluster.fire("n1")
    (indexes,) = asked(cluster).values()
    assert indexes == [2, 4]
    cluster.slow("n1")
    cluster.tell("n1", "n3", given(entries_of(LOG)[1]))
    assert set(cluster["n1"].lost) == {2, 4}, "mended before the write was flushed"
    cluster.flush("n1")
    assert set(cluster["n1"].lost) == {4}
    assert cluster.disk("n1").rotten == {4}
    assert cluster["n1"].log.healed == 1


def test_the_next_peer_is_asked_in_turn() -> None:
    """One that is down or has nothing holds nobody up."""
    cluster = wounded(2)
    peers = []
    for _ in range(4):
        cluster.timeout("n1")
        peers += list(asked(cluster))
    assert set(peers) == {"n2", "n3"}


@pytest.mark.parametrize("terms", ["1 3", "2 2"])
def test_another_entry_of_that_index_heals_nothing(terms: str) -> None:
    """Index, term, crc and chain all have to be the same."""
    cluster = wounded(2)
    cluster.tell("n1", "n2", given(entries_of(terms)[1]))
    assert set(cluster["n1"].lost) == {2}
    assert not cluster.in_flight("n1")


def test_an_append_entries_that_repeats_the_entry_heals_it() -> None:
    """The leader's own copy does, too."""
    cluster = wounded(4)
    cluster.tell("n1", "n2", append_entries(LOG, term=3, after=2))
    assert not cluster["n1"].lost


def test_a_wounded_node_does_not_stand_for_election_but_votes() -> None:
    """It could not send what it lost; where its log ends is known, and so is whom it may vote for."""
    cluster = wounded(2)
    for _ in range(50):
        cluster.timeout("n1")
        assert cluster.role("n1") is Role.FOLLOWER
    assert answers(cluster, "n2", request_vote(9, 4, 2)) == [False]
    assert answers(cluster, "n2", request_vote(10, 5, 2)) == [True]


def answers(cluster: Cluster, peer: str, message: Message) -> list[bool]:
    """Return whether n1 granted a vote."""
    return [each.vote_granted for each in ask(cluster, peer, message)]  # type: ignore[union-attr]


def test_nothing_behind_a_lost_entry_is_applied_before_it_is_healed() -> None:
    """Entries are applied in order, whatever is committed."""
    cluster = wounded(3)
    cluster.tell("n1", "n2", append_entries(LOG, term=2, after=5, commit=5))
    assert [entry.index for entry in cluster.node("n1").applied] == [1, 2]
    cluster.tell("n1", "n3", given(entries_of(LOG)[2]))
    assert [entry.index for entry in cluster.node("n1").applied] == [1, 2, 3, 4, 5]
    assert cluster.node("n1").applied[2].payload == entries_of(LOG)[2].payload


def test_what_is_lost_and_not_known_committed_is_not_acknowledged() -> None:
    """A leader must not count a copy that is rotten; once it is healed it may."""
    cluster = wounded(4)
    for expected in (3, 5):
        (answer,) = ask(cluster, "n2", append_entries(LOG, term=2, after=5, commit=2))
        assert isinstance(answer, AppendEntriesResponse)
        assert answer.match_index == expected
        cluster.tell("n1", "n3", given(entries_of(LOG)[3]))


def test_a_leader_that_finds_a_rotten_entry_steps_down() -> None:
    """Reading it for a follower that is behind shows it; others hold the log whole."""
    cluster = Cluster("n1 n2 n3", real="n1", disks={"n1": Disk(LOG)}, log_cache_bytes_max=0)
    term = lead(cluster)
    cluster.disk("n1").rotten = {2}
    cluster.tell("n1", "n2", refused(term, rejected=5, conflict=2))
    assert cluster.role("n1") is Role.FOLLOWER
    assert set(cluster["n1"].lost) == {2}
    assert cluster.counts["entry_lost"] == 1


def test_a_node_gives_what_it_holds_of_what_is_asked_for() -> None:
    """An entry of another term, one it lost itself, or one beyond its end is not given."""
    cluster = wounded(3)
    log = entries_of(LOG)
    other = entries_of("1 1 1 3")
    wanted = (
        point_of(log, 1),
        point_of(log, 3),
        point_of(other, 4),
        point_of(log, 5),
        LogPoint(Index(9), log[4].term, 7),
    )
    (answer,) = ask(cluster, "n2", FetchEntries(wanted))
    assert isinstance(answer, FetchEntriesResponse)
    assert answer.entries == (log[0], log[4])
    assert answer.absent == (wanted[2], wanted[4])
    assert answer.term == cluster["n1"].current_term


def test_a_lost_entry_that_conflicts_with_the_leader_is_cut() -> None:
    """What was never committed needs no healing: the next leader's log has something else there (Raft §5.3)."""
    cluster = wounded(5)
    cluster.tell("n1", "n2", append_entries("1 1 1 2 3", term=3, after=4))
    assert not cluster["n1"].lost
    assert not cluster.disk("n1").rotten


def test_an_entry_that_peers_have_compacted_is_replaced_by_their_snapshot() -> None:
    """The sender names its checkpoint; the node wants it, though it has heard of a commit beyond it."""
    cluster = wounded(3)
    cluster.tell("n1", "n2", append_entries(LOG, term=2, after=5, commit=5))
    log = entries_of(LOG)
    cluster.tell("n1", "n3", given(snapshot=point_of(log, 4), base=point_of(log, 4)))
    assert cluster.offers[-1] == ("n3", 4)
    assert cluster["n1"].wants_snapshot(point_of(log, 4))
    assert not cluster["n1"].wants_snapshot(point_of(log, 2))


def test_what_the_own_checkpoint_covers_may_go() -> None:
    """When nobody has it and the state has it, the log is compacted over it; and not before all were asked."""
    cluster = wounded(2)
    follow(cluster, "n2", 2)
    cluster.tell("n1", "n3", given(entries_of(LOG)[1]))
    cluster.tell("n1", "n2", append_entries(LOG, term=2, after=5, commit=5))
    core = cluster["n1"]
    cluster.disk("n1").rotten = {2, 4}
    core.lose(cluster.now, [cluster.disk("n1").lost(2), cluster.disk("n1").lost(4)])
    core.log._cache.clear()
    core.checkpointed(point_of(entries_of(LOG), 3))
    assert core.needless_prefix() is None
    for _ in range(60):
        cluster.now += 50
        cluster.fire("n1")
    assert core.needless_prefix() == 2


def test_a_copy_that_comes_again_is_not_written_again() -> None:
    """The second may come while the first is on its way to the disk."""
    cluster = wounded(2)
    cluster.slow("n1")
    cluster.tell("n1", "n2", given(entries_of(LOG)[1]))
    cluster.defers_work = True
    cluster.tell("n1", "n3", given(entries_of(LOG)[1]))
    cluster.flush("n1")
    cluster.defers_work = False
    cluster.fire("n1")
    assert not cluster["n1"].lost
    assert not cluster.in_flight("n1")
    assert not cluster.disk("n1").rotten


# -- what was never committed, and no leader to cut it --------------------------------------------------------------


def test_two_wounded_ends_that_nobody_else_holds_do_not_stop_the_cluster() -> None:
    """n1 and n3 each lost the end of a log of their own, and refuse n2 their votes because of it."""
    disks = {name: Disk(terms) for name, terms in {"n1": "1 1 3", "n2": "1 1", "n3": "1 1 2 2"}.items()}
    disks["n1"].rotten, disks["n3"].rotten = {3}, {3, 4}
    cluster = Cluster("n1 n2 n3", disks=disks)
    cluster.run_until(lambda: cluster.leader() is not None, 20_000)
    assert cluster.counts["lost_entries_cut"] >= 1
    cluster.run_until(lambda: all(not cluster[name].lost for name in ("n1", "n2", "n3")), 1_000)


def test_what_no_majority_can_have_held_is_cut() -> None:
    """Both others answer, in a term after all that n1 can have acknowledged the entry in, that they do not hold it."""
    cluster = wounded(5)
    cluster.tell("n1", "n2", absent(3, FIFTH))
    assert set(cluster["n1"].lost) == {5}, "cut upon the word of a minority"
    cluster.tell("n1", "n2", absent(3, FIFTH))
    assert set(cluster["n1"].lost) == {5}, "one voter counted twice"
    cluster.tell("n1", "n3", absent(4, FIFTH))
    assert not cluster["n1"].lost
    assert cluster["n1"].log.last == cluster.disk("n1").last == point_of(entries_of(LOG), 4)
    lead(cluster)


def test_in_a_cluster_of_five_three_others_have_to_lack_it() -> None:
    """Two of the four others may have committed it together with this node."""
    disk = Disk(LOG)
    disk.rotten = {5}
    cluster = Cluster("n1 n2 n3 n4 n5", real="n1", disks={"n1": disk})
    for peer in ("n2", "n3"):
        cluster.tell("n1", peer, absent(3, FIFTH))
    assert set(cluster["n1"].lost) == {5}
    cluster.tell("n1", "n4", absent(3, FIFTH))
    assert not cluster["n1"].lost


def test_an_answer_of_a_term_in_which_the_entry_may_have_been_acknowledged_proves_nothing() -> None:
    """The leader of that term may still send it there, and count what this node said before it lost it."""
    cluster = wounded(5)
    for peer in ("n2", "n3"):
        cluster.tell("n1", peer, absent(2, FIFTH))
    assert set(cluster["n1"].lost) == {5}
    cluster.tell("n1", "n2", absent(3, FIFTH))
    assert set(cluster["n1"].lost) == {5}


def test_an_entry_lost_again_is_judged_anew() -> None:
    """It was acknowledged again in between; what was said of it before is not evidence any more."""
    cluster = wounded(5)
    cluster.tell("n1", "n2", absent(3, FIFTH))
    cluster.tell("n1", "n3", given(entries_of(LOG)[4]))
    follow(cluster, "n2", 6)
    cluster.disk("n1").rotten = {5}
    cluster["n1"].log._cache.clear()
    cluster["n1"].lose(cluster.now, [cluster.disk("n1").lost(5)])
    for term in (3, 6):
        cluster.tell("n1", "n2", absent(term, FIFTH))
        cluster.tell("n1", "n3", absent(term, FIFTH))
        assert set(cluster["n1"].lost) == {5}
    cluster.tell("n1", "n3", absent(7, FIFTH))
    assert set(cluster["n1"].lost) == {5}, "what n2 said before still counted"
    cluster.tell("n1", "n2", absent(7, FIFTH))
    assert not cluster["n1"].lost


def test_what_is_known_committed_is_never_cut() -> None:
    """Whatever others say: then it is they who lost something, and the cluster waits."""
    cluster = wounded(4, 5)
    cluster.tell("n1", "n2", append_entries(LOG, term=2, after=5, commit=5))
    for peer in ("n2", "n3"):
        cluster.tell("n1", peer, absent(3, FIFTH))
    assert set(cluster["n1"].lost) == {4, 5}


def test_another_entry_that_is_absent_says_nothing() -> None:
    """Term and chain have to be those of the lost entry."""
    cluster = wounded(5)
    for peer in ("n2", "n3"):
        cluster.tell("n1", peer, absent(3, point_of(entries_of("1 1 1 1 2"), 5), point_of(entries_of("1 1 1 2 3"), 5)))
    assert set(cluster["n1"].lost) == {5}


def test_a_disk_that_is_not_admitted_does_not_testify() -> None:
    """It may have held the entry and forgotten it."""
    disk = Disk("1 1")
    disk.standing = Standing(is_voter=False)
    cluster = Cluster("n1 n2 n3", real="n1", disks={"n1": disk})
    answer = next(m for m in ask(cluster, "n2", FetchEntries((FIFTH,))) if isinstance(m, FetchEntriesResponse))
    assert answer.absent == ()


def test_a_compacted_entry_is_not_called_absent() -> None:
    """Of what lies before its log's begin a node cannot know whose entries they were."""
    disk = Disk(LOG)
    disk.base, disk._entries = point_of(entries_of(LOG), 3), list(entries_of(LOG)[3:])
    cluster = Cluster("n1 n2 n3", real="n1", disks={"n1": disk})
    (answer,) = ask(cluster, "n2", FetchEntries((point_of(entries_of("1 2 2"), 3), point_of(entries_of("1 1 1 3"), 4))))
    assert isinstance(answer, FetchEntriesResponse)
    assert [point.index for point in answer.absent] == [4]


def test_a_wounded_node_campaigns_for_a_newer_term_and_does_not_lead_in_it() -> None:
    """Without a leader no term would ever move on from the one in which the answers prove nothing."""
    cluster = wounded(5)
    campaign_for_a_newer_term(cluster)
    cluster.tell("n1", "n3", vote(3))
    assert (cluster.role("n1"), cluster["n1"].current_term) == (Role.FOLLOWER, 3)
    assert cluster["n1"].leader_id is None
    for peer in ("n2", "n3"):
        cluster.tell("n1", peer, absent(3, FIFTH))
    assert not cluster["n1"].lost


def test_a_campaign_that_claimed_the_lost_end_does_not_win_with_the_shorter_log() -> None:
    """The votes were given to a log that ended further on."""
    cluster = wounded(5)
    campaign_for_a_newer_term(cluster)
    for peer in ("n2", "n3"):
        cluster.tell("n1", peer, absent(3, FIFTH))
    assert not cluster["n1"].lost
    cluster.tell("n1", "n3", vote(3))
    assert cluster.role("n1") is Role.FOLLOWER


def campaign_for_a_newer_term(cluster: Cluster) -> None:
    """Let n1, which was told of the term of its loss that its fifth entry is absent, become the candidate of term 3."""
    for _ in range(60):
        cluster.now += 50
        cluster.fire("n1")
    assert cluster.role("n1") is Role.FOLLOWER, "campaigned though nobody's answer was too old"
    cluster.tell("n1", "n2", absent(2, FIFTH))
    for _ in range(100):
        if cluster.role("n1") is Role.FOLLOWER:
            cluster.timeout("n1")
    cluster.tell("n1", "n3", vote(3, pre_vote=True))
    assert cluster.role("n1") is Role.CANDIDATE
