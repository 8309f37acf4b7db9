"""What is known to be committed (raft/contradiction.py): remembered over restarts, and never cut for a leader's log."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Final

import pytest

from durable_raft.errors import PeerMisbehaved
from durable_raft.raft.messages import AppendEntries, AppendEntriesResponse, InstallSnapshot, RequestVoteResponse
from durable_raft.raft.types import Index, Role, Term
from tests.support.raft_cluster import Cluster
from tests.support.raft_disk import Disk, entries_of
from tests.support.raft_solo import append_entries, ask, point_of, request_vote, solo

MINE = "1 1 1 1"
"""The log of n1, of which a leader of term 1 called three entries committed."""
OLD = "1 2"
"""The log of a leader of term 2 that two old copies elected."""


def knowing(*, compacted: int = 0) -> Cluster:
    """Return n1 that knows three entries to be committed."""
    cluster = solo(MINE)
    cluster.tell("n1", "n2", append_entries(MINE, term=1, after=4, commit=3))
    assert cluster["n1"].remember()
    cluster.tell("n1", "n2", append_entries(MINE, term=1, after=4, commit=3))
    if compacted:
        cluster.checkpoint("n1", compacted)
    # Nobody elects another leader while this one is heard.
    cluster.now += 10_000
    return cluster


def last_of(cluster: Cluster) -> tuple[int, int]:
    """Return where the log of n1 ends, and what it knows to be committed."""
    log = cluster["n1"].log
    return log.last.index, log.commit_index


@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_leader_that_lacks_committed_entries_is_not_followed(after: int, *, is_restarted: bool) -> None:
    """Nothing is cut, nothing acknowledged, now and after a restart; it is said once for each leader and term."""
    cluster = knowing()
    if is_restarted:
        cluster.restart("n1")
    for _ in range(3):
        assert not ask(cluster, "n3", append_entries(OLD, term=2, after=after))
    assert last_of(cluster) == (4, 3)
    assert cluster.counts["contradicts_committed"] == 1
    found = cluster["n1"].contradiction
    assert found is not None
    assert (found.leader, found.leader_term, found.log_index, found.term) == ("n3", 2, 2, 2)


def test_the_commit_index_outlives_a_restart() -> None:
    """As far as it was remembered."""
    cluster = knowing()
    cluster.restart("n1")
    assert last_of(cluster) == (4, 3)


def test_what_is_not_flushed_is_not_remembered() -> None:
    """A majority of others may have committed an entry that this disk does not hold yet."""
    cluster = solo("1")
    cluster.slow("n1")
    cluster.tell("n1", "n2", append_entries("1 1 1", term=1, after=1, commit=3))
    assert cluster["n1"].log.commit_index == 3
    assert cluster["n1"].remember()
    assert cluster["n1"].state.standing.committed.index == 1


def test_remembering_twice_is_no_news() -> None:
    """So that an idle node does not write."""
    cluster = knowing()
    assert not cluster["n1"].remember()


def test_a_suffix_that_is_not_committed_is_cut_as_ever() -> None:
    """Behind what is committed the leader's log counts (Raft §5.3)."""
    cluster = knowing()
    assert ask(cluster, "n3", append_entries("1 1 1 2", term=2, after=3))
    assert cluster["n1"].log.term_at(Index(4)) == 2
    assert cluster["n1"].contradiction is None


def test_entries_before_the_base_are_of_another_history_when_their_term_is_newer() -> None:
    """They are gone here, and committed; terms do not fall along a log."""
    cluster = knowing(compacted=3)
    assert not ask(cluster, "n3", append_entries(OLD, term=2, after=1))
    assert cluster.counts["contradicts_committed"] == 1
    assert ask(cluster, "n2", append_entries(MINE, term=3, after=1))
    assert cluster["n1"].contradiction is None


def test_a_snapshot_that_contradicts_is_not_taken() -> None:
    """It would replace log and state."""
    cluster = knowing()
    point = point_of(entries_of("1 2 2"), 3)
    offer = InstallSnapshot(Term(2), point.index, point.term, point.chain, 0)
    assert not ask(cluster, "n3", offer)
    assert cluster.node("n1").offer is None
    later = point_of(entries_of("1 2 2 2 2 2"), 6)
    ask(cluster, "n3", InstallSnapshot(Term(2), later.index, later.term, later.chain, 0))
    assert cluster.node("n1").offer is None


def test_a_node_that_is_contradicted_neither_votes_nor_campaigns() -> None:
    """It must not help the other history, nor overwrite it."""
    cluster = knowing()
    ask(cluster, "n3", append_entries(OLD, term=2, after=1))
    for _ in range(10):
        cluster.timeout("n1")
        assert cluster.role("n1") is Role.FOLLOWER
    (refusal,) = ask(cluster, "n2", request_vote(3, 9, 2))
    assert not refusal.vote_granted  # type: ignore[union-attr]


def test_a_contradiction_ends_with_a_leader_that_holds_what_is_committed() -> None:
    """Only when its log is known to agree up to there."""
    cluster = knowing()
    ask(cluster, "n3", append_entries(OLD, term=2, after=1))
    ask(cluster, "n2", append_entries(MINE, term=3, after=2, upto=2))
    assert cluster["n1"].contradiction is not None
    ask(cluster, "n2", append_entries(MINE, term=3, after=3, upto=3))
    assert cluster["n1"].contradiction is None
    assert cluster.counts["contradiction_over"] == 1


def test_what_is_committed_is_remembered_at_once_when_it_is_contradicted() -> None:
    """A restart that follows must not forget it."""
    cluster = solo(MINE)
    cluster.tell("n1", "n2", append_entries(MINE, term=1, after=4, commit=3))
    assert cluster.disk("n1").standing.committed.index == 0
    cluster.now += 10_000
    message: AppendEntries = append_entries(OLD, term=2, after=1)
    ask(cluster, "n3", message)
    assert cluster.disk("n1").standing.committed.index == 3


def test_a_disk_that_no_longer_holds_what_it_remembers_forgets_it() -> None:
    """A log that was repaired may be shorter."""
    cluster = knowing()
    kept = cluster.disk("n1").standing
    disk = Disk("1 1", term=1)
    disk.standing = kept
    other = Cluster("n1 n2 n3", real="n1", disks={"n1": disk})
    assert other["n1"].log.commit_index == 0


FRESH_SEED: Final = pytest.param(random.SystemRandom().randrange(10**9), id="fresh")
"""Its id is the same in every process that collects the tests; the test prints the seed."""


@pytest.mark.parametrize("seed", [*range(40), FRESH_SEED])
def test_whatever_another_history_says_what_is_committed_stays(seed: int) -> None:
    """Two disks that went back lead on, in any order of messages and restarts: n1 neither ends nor cuts nor helps."""
    rng = random.Random(seed)
    print(f"seed {seed}")
    cluster = knowing(compacted=rng.choice((0, 0, 1, 2)))
    kept = [cluster["n1"].log.term_at(Index(index)) for index in range(cluster["n1"].log.base.index, 4)]
    begins, log, term, commit, leader = cluster["n1"].log.base.index, [1, 2], 2, 0, "n2"
    for _ in range(60):
        if rng.random() < 0.2:
            term += 1
            leader = rng.choice(("n2", "n3"))
            log.append(term)
        elif rng.random() < 0.5:
            log.append(term)
        commit = rng.randint(commit, len(log))
        # While one of them is heard, the other is taken for a liar: its link is dropped.
        with suppress(PeerMisbehaved):
            _say(cluster, rng, leader, log, term, commit)
        if rng.random() < 0.1:
            cluster["n1"].remember()
            cluster.restart("n1")
        if rng.random() < 0.2:
            cluster.now += rng.choice((10, 400, 5_000))
            cluster.fire("n1")
    assert [cluster["n1"].log.term_at(Index(index)) for index in range(begins, 4)] == kept
    assert cluster["n1"].log.commit_index >= 3
    assert cluster.counts["contradicts_committed"] >= 1
    assert "truncated_suffix" not in cluster.counts


def _say(cluster: Cluster, rng: random.Random, leader: str, log: list[int], term: int, commit: int) -> None:
    """Have n1 hear something of what ``leader`` may say, whose log has these terms."""
    entries, last, knows = entries_of(log), len(log), cluster["n1"].contradiction is not None
    choice = rng.random()
    if choice < 0.2:
        # What lies behind all that n1 knows to be committed contradicts nothing that it could see.
        point = point_of(entries, rng.randint(2, last if knows else min(last, 3)))
        cluster.tell("n1", leader, InstallSnapshot(Term(term), point.index, point.term, point.chain, 0))
        assert cluster.node("n1").offer is None
    elif choice < 0.4:
        for answer in ask(cluster, leader, request_vote(term + 1, last, log[-1], pre_vote=rng.random() < 0.5)):
            assert isinstance(answer, RequestVoteResponse)
            assert not (knows and answer.vote_granted)
    else:
        after = rng.randint(0, last)
        message = append_entries(" ".join(map(str, log)), term=term, after=after, commit=commit)
        for answer in ask(cluster, leader, message):
            assert isinstance(answer, AppendEntriesResponse)
            assert answer.match_index <= 1, "it acknowledges another history"
