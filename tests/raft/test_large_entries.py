"""Large entries take their time; leadership, reads and a disk's good name do not wait for them."""

from __future__ import annotations

import pytest

from durable_raft.raft.messages import (
    APPEND_ENTRIES_MAX,
    AppendEntries,
    FetchEntries,
    FetchEntriesResponse,
    InstallSnapshot,
    RequestVote,
    stands_on,
)
from durable_raft.raft.replication import PROMPT_BYTES
from durable_raft.raft.timeouts import flush_patience_ms
from durable_raft.raft.types import Index, NodeId, Role, Term
from tests.support.raft_cluster import Cluster
from tests.support.raft_disk import entries_of
from tests.support.raft_solo import (
    accepted,
    answer_of,
    append_entries,
    appends_to,
    ask,
    lead,
    point_of,
    refused,
    solo,
)

LARGE = "x" * (PROMPT_BYTES + 1)


def feeding() -> tuple[Cluster, int]:
    """Return a leader with a large entry (2) on its way to n2, which has answered the no-op (1)."""
    cluster = solo()
    term = lead(cluster)
    ask(cluster, "n2", accepted(term, 1))
    cluster.sent("n1", "n2")
    cluster.propose("n1", LARGE)
    (message,) = appends_to(cluster, "n2")
    assert len(message.entries[0].payload) == len(LARGE)
    return cluster, term


def places(messages: list[AppendEntries]) -> list[tuple[int, int]]:
    """Return (prev_log_index, number of entries) of each."""
    return [(message.prev_log_index, len(message.entries)) for message in messages]


# -- heartbeats ------------------------------------------------------------------------------------------------------


def test_heartbeat_names_what_matches_while_entries_are_in_flight() -> None:
    """So it may pass them: the follower accepts it before they have come."""
    cluster, _ = feeding()

    cluster.timeout("n1")

    assert places(appends_to(cluster, "n2")) == [(1, 0)]


def test_follower_accepts_a_heartbeat_before_and_behind_the_entries_in_flight() -> None:
    """It answers with what it has flushed, and its log stays."""
    for heartbeat_first in (True, False):
        cluster = solo(term=1)
        log = "1 1 1"
        ask(cluster, "n2", append_entries(log, term=1, after=0, upto=1))
        messages = [append_entries(log, term=1, after=1, upto=1, commit=3), append_entries(log, term=1, after=1)]
        for message in messages if heartbeat_first else reversed(messages):
            (answer,) = ask(cluster, "n2", message)
            assert answer == accepted(1, 3 if message.entries else 1), heartbeat_first
        assert cluster.disk("n1").terms() == [1, 1, 1]
        assert cluster["n1"].log.commit_index == 1


def test_entries_are_not_sent_again_while_their_first_copy_is_under_way() -> None:
    """However long they take, when the heartbeats that pass them are answered."""
    cluster, term = feeding()
    for _ in range(20):
        cluster.timeout("n1")
        ask(cluster, "n3", accepted(term, 1))
        sent = [message for message in ask(cluster, "n2", accepted(term, 1)) if isinstance(message, AppendEntries)]
        assert [message for message in sent if message.entries] == []
    assert cluster["n1"].role is Role.LEADER

    ask(cluster, "n2", accepted(term, 2))

    assert cluster["n1"].log.commit_index == 2


def test_what_was_lost_is_found_behind_it() -> None:
    """When a heartbeat interval brought no answer an AppendEntries asks for the last entry; its refusal tells."""
    cluster, term = feeding()
    cluster.timeout("n1")
    assert places(appends_to(cluster, "n2")) == [(1, 0)]
    cluster.timeout("n1")
    assert places(appends_to(cluster, "n2")) == [(1, 0), (2, 0)]

    (probe,) = ask(cluster, "n2", refused(term, 2, 2))
    assert isinstance(probe, AppendEntries)
    assert places([probe]) == [(1, 0)], "where the logs meet is asked first: the entry is large"
    (again,) = ask(cluster, "n2", accepted(term, 1))

    assert isinstance(again, AppendEntries)
    assert places([again]) == [(1, 1)]


def test_small_entries_go_along_with_a_probe() -> None:
    """What may be refused had better be small, and then saves a round trip."""
    cluster = solo()
    term = lead(cluster)
    ask(cluster, "n2", accepted(term, 1))
    cluster.propose("n1", "small")

    (probe,) = ask(cluster, "n2", refused(term, 2, 2))

    assert isinstance(probe, AppendEntries)
    assert places([probe]) == [(1, 1)]


def test_heartbeat_names_the_beginning_when_what_matches_is_compacted() -> None:
    """The term of an entry that is compacted away is not known; every log matches at its beginning."""
    cluster, term = feeding()
    for index in (1, 2, 3, 4):
        ask(cluster, "n3", accepted(term, index))
        cluster.propose("n1", "y")
    cluster.checkpoint("n1", 3)
    cluster.sent("n1", "n2")

    cluster.timeout("n1")

    assert places(appends_to(cluster, "n2")) == [(0, 0)]
    follower = Cluster("n1 n2 n3", real="n1")
    assert ask(follower, "n2", append_entries("1", term=1, after=0, upto=0))[-1] == accepted(1, 0)


# -- reads -----------------------------------------------------------------------------------------------------------


def test_a_read_does_not_wait_behind_large_entries() -> None:
    """Its round is asked by a message that passes them, though they carry it too."""
    cluster, term = feeding()
    ask(cluster, "n3", accepted(term, 1))
    cluster.sent("n1", "n2")
    cluster.read("n1")

    (message,) = appends_to(cluster, "n2")
    assert places([message]) == [(1, 0)]
    ask(cluster, "n2", accepted(term, 1, message.read_round))

    assert len(cluster.node("n1").answered) == 1
    assert cluster["n1"].log.commit_index == 1


def test_a_round_that_only_large_entries_carry_is_asked_by_a_heartbeat_too() -> None:
    """It counts as sent when something small carried it."""
    cluster = solo()
    term = lead(cluster)
    for peer in ("n2", "n3"):
        ask(cluster, peer, accepted(term, 1))
    cluster.sent("n1", "n2")
    cluster.defers_work = True
    cluster.propose("n1", LARGE)
    cluster.read("n1")
    cluster.defers_work = False
    cluster.tell("n1", "n3", accepted(term, 1))

    sent = appends_to(cluster, "n2")

    assert places(sent) == [(1, 1), (1, 0)]
    assert {message.read_round for message in sent} == {cluster["n1"].state.read_round}


# -- what may pass what ----------------------------------------------------------------------------------------------

BULK = append_entries("1 1 1 1", term=1, after=1, upto=3)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (append_entries("1 1 1 1", term=1, after=0, upto=0), False),
        (append_entries("1 1 1 1", term=1, after=1, upto=1), False),
        (append_entries("1 1 1 1", term=1, after=1, upto=3), False),
        (append_entries("1 1 1 1", term=1, after=2, upto=2), True),
        (append_entries("1 1 1 1", term=1, after=3, upto=4), True),
        (append_entries("1 1 1 1", term=1, after=4, upto=4), True),
        (append_entries("1 1 1 1", term=2, after=4, upto=4), False),
        (accepted(1, 3), False),
        (RequestVote(Term(2), Index(4), Term(1), False), False),
        (InstallSnapshot(Term(1), Index(9), Term(1), 0, 0), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_who_stands_on_entries_under_way(message: object, expected: bool) -> None:
    """Only what names one of them, or what follows them, as its previous entry."""
    assert stands_on(message, BULK) is expected
    assert not stands_on(BULK, message) or isinstance(message, AppendEntries)


# -- bounds ----------------------------------------------------------------------------------------------------------


def test_entries_of_one_message_are_counted_too() -> None:
    """Each costs time, however small it is."""
    cluster = solo("1 " * 3000, term=1)
    term = lead(cluster)

    (probe,) = ask(cluster, "n2", refused(term, 3000, 1))
    sent = ask(cluster, "n2", accepted(term, APPEND_ENTRIES_MAX))

    counts = [len(message.entries) for message in (probe, *sent) if isinstance(message, AppendEntries)]
    assert counts == [APPEND_ENTRIES_MAX, APPEND_ENTRIES_MAX, 3001 - 2 * APPEND_ENTRIES_MAX]


# -- the disk --------------------------------------------------------------------------------------------------------


def test_patience_grows_with_what_is_written() -> None:
    """16 MiB/s are granted beyond what a small write may take."""
    assert flush_patience_ms(300, 0) == 300
    assert flush_patience_ms(300, 16 << 20) == 1324
    assert flush_patience_ms(300, 64 << 20) == 300 + 4096
    sizes = range(0, 1 << 20, 4096)
    assert sorted(flush_patience_ms(300, size) for size in sizes) == [flush_patience_ms(300, size) for size in sizes]


@pytest.mark.parametrize(("size", "extra_ms"), [(1, 0), (1 << 20, 64)])
def test_a_large_write_is_not_taken_for_a_hung_disk(size: int, extra_ms: int) -> None:
    """A disk counts as hung later while it has more to write, and still does."""
    cluster = solo()
    lead(cluster)
    cluster.slow("n1")
    cluster.propose("n1", "x" * size)
    state = cluster["n1"].state
    limit = cluster.now + state.config.election_timeout_max_ms + extra_ms
    assert not state.is_disk_stalled(limit)
    assert state.is_disk_stalled(limit + 1)


def test_a_large_write_teaches_nothing_of_the_disk() -> None:
    """What it took for its size is no slowness; what it took beyond that is. One behind it waited for the same."""
    cluster = solo()
    lead(cluster)
    cluster.slow("n1")
    state = cluster["n1"].state
    cluster.propose("n1", "x" * (16 << 20))
    cluster.propose("n1", "x")
    cluster.now += 1024 + 75
    cluster.flush("n1")
    assert not state.is_disk_stalled(cluster.now)
    cluster.flush("n1")
    assert state.timeouts.hung_after(cluster.now) == state.config.election_timeout_max_ms
    cluster.propose("n1", "x" * (16 << 20))
    cluster.now += 1024 + 200
    cluster.flush("n1")
    assert state.timeouts.hung_after(cluster.now) == 4 * 200


def test_what_is_flushed_asks_for_no_patience() -> None:
    """Only bytes in flight count; those of a write that is cut count until its disk is done with it."""
    cluster = solo()
    lead(cluster)
    cluster.slow("n1")
    cluster.propose("n1", "x" * 100)
    cluster.propose("n1", "x" * 11)
    assert cluster["n1"].log.inflight.payload_bytes == 111
    cluster.flush("n1")
    assert cluster["n1"].log.inflight.payload_bytes == 11
    cluster.flush("n1")
    assert cluster["n1"].log.inflight.payload_bytes == 0
    assert NodeId("n2") in cluster["n1"].progress


# -- entries that another thread reads -------------------------------------------------------------------------------


def test_an_entry_that_is_being_read_is_sent_when_it_is_there() -> None:
    """Until then heartbeats go on, nothing is asked of the disk in vain, and entries before it are sent."""
    cluster = solo("1 1 1 1")
    cluster.disk("n1").unread = {3}
    term = lead(cluster)
    ask(cluster, "n2", refused(term, 4, 2))
    cluster.tell("n1", "n2", accepted(term, 1))
    assert places(appends_to(cluster, "n2"))[-1] == (1, 1)
    assert ask(cluster, "n2", accepted(term, 2)) == []
    assert not cluster["n1"].has_ready(cluster.now)
    cluster.timeout("n1")
    assert places(appends_to(cluster, "n2")) == [(2, 0)]

    cluster.entries_read("n1")

    assert places(appends_to(cluster, "n2")) == [(2, 3)]


def test_a_committed_entry_that_is_being_read_is_applied_when_it_is_there() -> None:
    """And nothing behind it before."""
    cluster = solo("1 1 1")
    cluster.disk("n1").unread = {2}
    ask(cluster, "n2", append_entries("1 1 1", term=1, after=3, commit=3))
    core = cluster["n1"]
    assert (core.log.last_applied, core.log.commit_index) == (1, 3)
    assert not core.has_ready(cluster.now)

    cluster.entries_read("n1")

    assert core.log.last_applied == 3


def test_an_entry_that_is_being_read_is_not_given_and_not_called_absent() -> None:
    """Whoever lost it asks again."""
    cluster = solo("1 1 1", term=1)
    cluster.disk("n1").unread = {2}
    wanted = FetchEntries((point_of(entries_of("1 1 1"), 2), point_of(entries_of("1 1 1"), 3)))

    before = answer_of(cluster, "n2", wanted, FetchEntriesResponse)
    cluster.entries_read("n1")
    after = answer_of(cluster, "n2", wanted, FetchEntriesResponse)

    assert ([entry.index for entry in before.entries], before.absent) == ([3], ())
    assert [entry.index for entry in after.entries] == [2, 3]
