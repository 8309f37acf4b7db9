"""How a leader feeds its followers: repair in few round trips, bounded windows, logs that must not differ (§5.3)."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

import pytest

from durable_raft.raft.messages import AppendEntries
from durable_raft.raft.progress import Pace, Progress
from durable_raft.raft.types import Index, NodeId, Role
from tests.support.raft_cluster import Cluster
from tests.support.raft_disk import Disk
from tests.support.raft_nodes import Limits
from tests.support.raft_solo import accepted, answer_of, append_entries, appends_to, ask, lead, refused, solo

FIGURE_7_LEADER = "1 1 1 4 4 5 5 6 6 6"

# -- repair ------------------------------------------------------------------------------------------------------------


def elect_without(cluster: Cluster, deaf: str) -> None:
    """Let n1 win by n3's votes; ``deaf`` hears nothing before n1's first AppendEntries."""
    cluster.timeout("n1")
    for _ in range(2):
        cluster.drop("n1", deaf)
        cluster.deliver("n1", "n3")
        cluster.deliver("n3", "n1")
    assert cluster.role("n1") is Role.LEADER


def round_trips_until_equal(cluster: Cluster, follower: str) -> int:
    """Return how many times messages went to ``follower`` and back until the leader knew their logs to be equal."""
    for trips in range(1, 30):
        assert cluster.deliver("n1", follower), "the leader must not wait for its next heartbeat"
        cluster.deliver(follower, "n1")
        progress = cluster["n1"].progress[NodeId(follower)]
        if progress.match_index == cluster["n1"].log.last.index:
            return trips
    raise AssertionError(f"{follower} is not repaired after 29 round trips")


@pytest.mark.parametrize(
    ("follower", "trips"),
    [
        pytest.param("1 1 1 4 4 5 5 6 6", 2, id="a"),
        pytest.param("1 1 1 4", 2, id="b"),
        pytest.param("1 1 1 4 4 5 5 6 6 6 6", 1, id="c"),
        pytest.param("1 1 1 4 4 5 5 6 6 6 7 7", 1, id="d"),
        pytest.param("1 1 1 4 4 4 4", 3, id="e"),
        pytest.param("1 1 1 2 2 2 3 3 3 3 3", 2, id="f"),
    ],
)
def test_figure_7_followers_are_repaired_in_few_round_trips(follower: str, trips: int) -> None:
    """Each of Figure 7's logs becomes the leader's within three round trips, the no-op of term 8 included."""
    disks = {"n1": Disk(FIGURE_7_LEADER, term=7), "n2": Disk(follower, term=7), "n3": Disk(term=7)}
    cluster = Cluster(disks=disks)
    elect_without(cluster, "n2")

    assert round_trips_until_equal(cluster, "n2") == trips

    assert cluster.disk("n2").terms() == [int(term) for term in FIGURE_7_LEADER.split()] + [8]


def test_many_diverged_terms_cost_one_round_trip_each_at_most() -> None:
    """Terms that alternate between two dead leaders are skipped a term at a time, never an entry at a time."""
    ours = " ".join(str(term) for term in range(1, 40, 2) for _ in range(20))
    theirs = " ".join(["1"] * 20 + [str(term) for term in range(2, 40, 2) for _ in range(20)])
    disks = {"n1": Disk(ours, term=40), "n2": Disk(theirs, term=40), "n3": Disk(term=40)}
    cluster = Cluster(disks=disks)
    elect_without(cluster, "n2")

    assert round_trips_until_equal(cluster, "n2") <= 21

    assert cluster.disk("n2").terms() == cluster.disk("n1").terms()


def test_far_behind_follower_is_fed_in_bounded_messages() -> None:
    """An empty follower gets 1000 entries in AppendEntries of bounded size, several on the way at once."""
    disks = {"n1": Disk([1] * 1000), "n3": Disk([1] * 1000)}
    cluster = Cluster(disks=disks, append_bytes_max=700, log_cache_bytes_max=100)
    elect_without(cluster, "n2")

    assert round_trips_until_equal(cluster, "n2") <= 6

    assert cluster.disk("n2").terms() == [1] * 1000 + [2]


def test_stale_refusal_does_not_push_a_follower_back() -> None:
    """A refusal of something long since matched, or of another probe, is recognised and ignored."""
    cluster = solo("1 1 1 1", term=1)
    term = lead(cluster)
    ask(cluster, "n2", accepted(term, 5))
    progress = cluster["n1"].progress[NodeId("n2")]

    ask(cluster, "n2", refused(term, rejected=4, conflict=1))
    assert (progress.pace, progress.match_index, progress.next_index) == (Pace.REPLICATE, 5, 6)
    ask(cluster, "n3", refused(term, rejected=2, conflict=1))

    assert cluster["n1"].progress[NodeId("n3")].next_index == 5


def test_refusal_of_what_was_pipelined_leads_back_to_one_probe() -> None:
    """Something got lost: until it is known where the logs meet, nothing more is pipelined."""
    cluster = solo("1 1 1 1", term=1)
    term = lead(cluster)
    ask(cluster, "n2", accepted(term, 5))
    cluster.propose("n1", "x")
    cluster.propose("n1", "y")

    (probe,) = ask(cluster, "n2", refused(term, rejected=6, conflict=6))
    cluster.propose("n1", "z")

    assert isinstance(probe, AppendEntries)
    assert [entry.index for entry in probe.entries] == [6, 7]
    assert appends_to(cluster, "n2") == []
    assert cluster["n1"].progress[NodeId("n2")].pace is Pace.PROBE


def test_refusal_of_what_matches_is_stale() -> None:
    """The entry that is known to match cannot be refused since: the pipeline goes on, nothing is sent again."""
    cluster = solo("1 1 1 1", term=1)
    term = lead(cluster)
    ask(cluster, "n2", accepted(term, 5))
    cluster.propose("n1", "x")
    progress = cluster["n1"].progress[NodeId("n2")]

    assert ask(cluster, "n2", refused(term, rejected=5, conflict=5)) == []

    assert (progress.pace, progress.next_index, progress.inflight_count()) == (Pace.REPLICATE, 7, 1)


def test_refusal_never_moves_next_index_below_what_matches() -> None:
    """Whatever a refusal hints, next_index stays above match_index, and above zero."""
    progress = Progress(next_index=Index(9), now=0)
    progress.became_matched(Index(4))

    progress.probe_from(Index(1))

    assert (progress.match_index, progress.next_index) == (4, 5)


def test_lost_append_is_repaired_by_the_second_heartbeat() -> None:
    """A pipelined AppendEntries that is lost shows when what follows it is refused, and is sent again.

    The first heartbeat asks nothing of the entries: they may still be under way.
    """
    cluster = Cluster()
    cluster.elect("n1")
    cluster.run(60)
    for word in ("a", "b", "c"):
        cluster.propose("n1", word)
    assert cluster.drop("n1", "n2") == 3

    cluster.run(110)

    assert cluster["n2"].log.last == cluster["n1"].log.last


def test_overtaken_append_is_refused_and_not_kept() -> None:
    """An AppendEntries that arrives before the one it follows leaves no gap in the log."""
    cluster = solo(term=1)
    log = "1 1 1 1"

    assert ask(cluster, "n2", append_entries(log, term=1, after=2)) == [refused(1, rejected=2, conflict=1)]
    ask(cluster, "n2", append_entries(log, term=1, after=0, upto=2))

    assert cluster.disk("n1").terms() == [1, 1]


# -- windows -----------------------------------------------------------------------------------------------------------


def leader_with_open_window(**limits: Unpack[Limits]) -> tuple[Cluster, int]:
    """Return a leader whose n2 has answered the no-op, so that it is fed without waiting."""
    cluster = solo(**limits)
    term = lead(cluster)
    ask(cluster, "n2", accepted(term, 1))
    cluster.sent("n1", "n2")
    return cluster, term


def test_window_probe_sends_entries_once() -> None:
    """While it is not known where the logs meet, one AppendEntries with entries is sent, and heartbeats without."""
    cluster = solo()
    lead(cluster)

    cluster.propose("n1", "x")
    assert appends_to(cluster, "n2") == []
    cluster.timeout("n1")

    assert [message.entries for message in appends_to(cluster, "n2")] == [()]


def test_window_is_bounded_in_messages() -> None:
    """No more than append_inflight_max AppendEntries with entries are unanswered; an answer opens the window again."""
    cluster, term = leader_with_open_window(append_inflight_max=3)
    for number in range(6):
        cluster.propose("n1", f"{number}")

    assert [len(message.entries) for message in appends_to(cluster, "n2")] == [1, 1, 1]
    ask(cluster, "n2", accepted(term, 2))

    assert cluster["n1"].progress[NodeId("n2")].inflight_count() == 3


def test_window_gathers_what_waits_into_one_message() -> None:
    """What could not be sent while the window was full goes together when it opens."""
    cluster, term = leader_with_open_window(append_inflight_max=1)
    for number in range(6):
        cluster.propose("n1", f"{number}")
    cluster.sent("n1", "n2")

    (message,) = ask(cluster, "n2", accepted(term, 2))

    assert isinstance(message, AppendEntries)
    assert [entry.payload for entry in message.entries] == [b"1", b"2", b"3", b"4", b"5"]


def test_window_is_bounded_in_bytes() -> None:
    """Once append_inflight_bytes_max payload bytes are unanswered, nothing more is sent."""
    cluster, _ = leader_with_open_window(append_inflight_bytes_max=10)
    for _ in range(6):
        cluster.propose("n1", "12345")

    assert len(appends_to(cluster, "n2")) == 2


def test_message_is_bounded_in_bytes_but_never_empty() -> None:
    """One AppendEntries carries at most append_bytes_max; a larger entry travels alone."""
    cluster, term = leader_with_open_window(append_bytes_max=10, append_inflight_max=1)
    for payload in ("x", "1234", "56789", "abc", "a very long payload", "z"):
        cluster.propose("n1", payload)
    batches = [appends_to(cluster, "n2")[0].entries]
    while len(batches) < 5 and (sent := ask(cluster, "n2", accepted(term, batches[-1][-1].index))):
        batches += [message.entries for message in sent if isinstance(message, AppendEntries)]

    assert [[entry.payload for entry in batch] for batch in batches] == [
        [b"x"],
        [b"1234", b"56789"],
        [b"abc"],
        [b"a very long payload"],
        [b"z"],
    ]


def test_window_that_opens_is_work() -> None:
    """The last entry waits, written, for the window; when that opens, the core says that it has something to send."""
    cluster = solo(voters="n1 n2 n3 n4 n5", append_inflight_max=1)
    term = lead(cluster)
    for peer in cluster["n1"].state.peers:
        ask(cluster, peer, accepted(term, 1))
    cluster.propose("n1", "a")
    cluster.propose("n1", "b")
    cluster.defers_work = True

    cluster.tell("n1", "n2", accepted(term, 2))

    assert cluster["n1"].has_ready(cluster.now)
    (sent,) = cluster["n1"].ready(cluster.now).messages
    assert isinstance(sent.message, AppendEntries)
    assert [entry.payload for entry in sent.message.entries] == [b"b"]


def test_heartbeats_pass_a_full_window() -> None:
    """A follower that answers nothing is still kept from campaigning."""
    cluster, _ = leader_with_open_window(append_inflight_max=1)
    for _ in range(3):
        cluster.propose("n1", "x")
    cluster.sent("n1", "n2")

    cluster.timeout("n1")

    assert [message.entries for message in appends_to(cluster, "n2")] == [()]


# -- logs that differ though their terms agree -------------------------------------------------------------------------


def wounded(message: AppendEntries) -> AppendEntries:
    """Return ``message`` from a leader whose log differs before it, though all terms agree."""
    return message._replace(prev_log_chain=message.prev_log_chain ^ 1)


@pytest.mark.parametrize("upto", [2, 4])
def test_chain_mismatch_is_neither_acknowledged_nor_cut(upto: int) -> None:
    """Terms agree and chains do not: one of two logs is wounded. Nothing is promised, taken, committed or cut."""
    cluster = solo("1 1 1", term=1)

    assert ask(cluster, "n2", wounded(append_entries("1 1 1 1", term=1, after=2, upto=upto, commit=2))) == []

    assert cluster.counts["chain_mismatch"] == 1
    assert cluster.disk("n1").terms() == [1, 1, 1]
    assert cluster["n1"].log.commit_index == 0


@pytest.mark.parametrize("upto", [2, 3, 4])
def test_chain_mismatch_in_the_overlap_is_neither_acknowledged_nor_cut(upto: int) -> None:
    """The same when the difference lies among entries that are here already."""
    cluster = solo("1 1 1", term=1)
    message = append_entries("1 1 1 1", term=1, after=0, upto=upto, commit=upto)
    changed = tuple(replace(entry, chain=entry.chain ^ 1) if entry.index >= 2 else entry for entry in message.entries)

    assert ask(cluster, "n2", message._replace(entries=changed)) == []

    assert cluster.counts["chain_mismatch"] == 1
    assert cluster.disk("n1").all_entries() == Disk("1 1 1").all_entries()
    assert cluster["n1"].log.commit_index == 0


# -- a log that does not begin at 1 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 2, 3, 4])
def test_append_entries_from_before_the_base_is_taken_from_there(after: int) -> None:
    """What was compacted away is committed, so it matches; the rest is checked and appended as usual."""
    disk = Disk("1 1 1 1", term=1)
    disk.compact(3)
    cluster = Cluster(real="n1", disks={"n1": disk})

    assert answer_of(cluster, "n2", append_entries("1 1 1 1 1", term=1, after=after), object) == accepted(1, 5)

    assert cluster["n1"].log.last.index == 5


@pytest.mark.parametrize("after", [0, 1, 2])
def test_append_entries_from_before_the_base_has_its_entry_at_the_base(after: int) -> None:
    """Whose term and chain are those that are compared with the base, whatever terms lie around it."""
    disk = Disk("1 2 3 4", term=4)
    disk.compact(3)
    cluster = Cluster(real="n1", disks={"n1": disk})

    assert ask(cluster, "n2", append_entries("1 2 3 4 5", term=5, after=after)) == [accepted(5, 5)]


def test_append_entries_up_to_the_base_is_compared_with_it() -> None:
    """Its last entry is the one at the base: another chain there means that one of two logs is wounded."""
    disk = Disk("1 1 1 1", term=1)
    disk.compact(3)
    cluster = Cluster(real="n1", disks={"n1": disk})
    message = append_entries("1 1 1", term=1, after=0)
    assert ask(cluster, "n2", message) == [accepted(1, 3)]
    *others, last = message.entries

    assert ask(cluster, "n2", message._replace(entries=(*others, replace(last, chain=last.chain ^ 1)))) == []

    assert cluster.counts["chain_mismatch"] == 1


def test_append_entries_wholly_before_the_base_is_answered_at_once() -> None:
    """What it verified is flushed; nobody waits for a write that has nothing to do with it."""
    disk = Disk("1 1 1 1", term=1)
    disk.compact(3)
    cluster = Cluster(real="n1", disks={"n1": disk})
    cluster.slow("n1")
    cluster.tell("n1", "n2", append_entries("1 1 1 1 1", term=1, after=4))

    assert ask(cluster, "n2", append_entries("1 1 1 1", term=1, after=0, upto=2)) == [accepted(1, 2)]


def test_append_entries_wholly_before_the_base_is_accepted() -> None:
    """A doubled AppendEntries of long ago is answered by what it verified, and nothing moves."""
    disk = Disk("1 1 1 1", term=1)
    disk.compact(3)
    cluster = Cluster(real="n1", disks={"n1": disk})

    assert ask(cluster, "n2", append_entries("1 1 1 1", term=1, after=0, upto=2)) == [accepted(1, 2)]


def test_follower_before_the_leaders_base_needs_a_snapshot() -> None:
    """A leader that has compacted what a follower lacks says so, and sends it nothing that could not match."""
    disk = Disk("1 1 1 1", term=1)
    disk.compact(3)
    cluster = Cluster(real="n1", disks={"n1": disk})
    term = lead(cluster)

    (probe,) = ask(cluster, "n2", refused(term, rejected=4, conflict=1))
    assert isinstance(probe, AppendEntries)
    assert probe.prev_log_index == 3
    assert ask(cluster, "n2", refused(term, rejected=3, conflict=1)) == []
    cluster.timeout("n1")

    assert cluster.counts["needs_snapshot"] == 1
