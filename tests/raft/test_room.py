"""A follower without room follows, commits and answers; it takes in nothing that it could not store."""

from __future__ import annotations

import pytest

from durable_raft.raft.hand_over import PAUSE
from durable_raft.raft.messages import AppendEntriesResponse, RequestVoteResponse
from durable_raft.raft.types import ENTRY_BYTES, DiskRoom, Index, stored_bytes
from tests.support.raft_solo import accepted, answer_of, append_entries, appends_to, ask, lead, request_vote, solo, vote


def test_entries_are_taken_as_far_as_there_is_room() -> None:
    """The answer names what is held and flushed, and that there is no room; what was refused may come again."""
    cluster = solo("1", term=1)
    message = append_entries("1 1 1", term=1, after=1)
    cluster["n1"].note_room(stored_bytes(len(message.entries[0].payload)) + 100, is_low=True)
    ask(cluster, "n2", message)
    assert cluster["n1"].log.last.index == 2
    answer = answer_of(cluster, "n2", append_entries("1 1 1", term=1, after=1), AppendEntriesResponse)
    assert (answer.success, answer.match_index, answer.room) == (True, 2, DiskRoom.NONE)
    cluster["n1"].note_room(1 << 20, is_low=True)
    ask(cluster, "n2", append_entries("1 1 1", term=1, after=2))
    answer = answer_of(cluster, "n2", append_entries("1 1 1", term=1, after=3), AppendEntriesResponse)
    assert (answer.match_index, answer.room) == (3, DiskRoom.LOW)


def test_without_room_it_follows_and_commits_and_confirms_reads() -> None:
    """A heartbeat resets its election timeout; what it holds of the log is committed; a round is repeated."""
    cluster = solo("1 1", term=1)
    cluster["n1"].note_room(0, is_low=True)
    message = append_entries("1 1 1", term=1, after=1, commit=3, read_round=7)
    answer = answer_of(cluster, "n2", message, AppendEntriesResponse)
    assert (answer.success, answer.match_index, answer.read_round, answer.room) == (True, 2, 7, DiskRoom.NONE)
    assert cluster["n1"].log.commit_index == 2
    assert cluster["n1"].leader_id == "n2"


def test_nothing_is_cut_for_an_entry_that_is_not_taken() -> None:
    """A conflicting end stays until what replaces it has room."""
    cluster = solo("1 1 1", term=1)
    cluster["n1"].note_room(0, is_low=True)
    answer = answer_of(cluster, "n2", append_entries("1 2", term=2, after=1), AppendEntriesResponse)
    assert (answer.success, answer.match_index) == (True, 1)
    assert cluster["n1"].log.last.term == 1


def test_without_room_it_votes() -> None:
    """What terms and votes need is not counted as room."""
    cluster = solo("1", term=1)
    cluster["n1"].note_room(0, is_low=True)
    ask(cluster, "n2", request_vote(2, 1, 1))
    assert cluster["n1"].voted_for == "n2"
    again = answer_of(cluster, "n2", request_vote(2, 1, 1), RequestVoteResponse)
    assert again == vote(2)


def test_what_is_accepted_and_not_flushed_has_a_claim() -> None:
    """Room that is looked at again does not forget it."""
    cluster = solo("1", term=1)
    core = cluster["n1"]
    core.note_room(1 << 20, is_low=False)
    before = core.state.room.free_bytes
    core.step(0, core.state.peers[0], append_entries("1 1", term=1, after=1))
    assert before - core.state.room.free_bytes >= ENTRY_BYTES
    core.note_room(1 << 20, is_low=False)
    assert before - core.state.room.free_bytes >= ENTRY_BYTES


def test_a_follower_without_room_is_sent_no_entries_until_it_has_some() -> None:
    """Heartbeats go on; the answer to one of them says that there is room again."""
    cluster = solo()
    term = lead(cluster)
    cluster.tell("n1", "n2", accepted(term, 1)._replace(room=DiskRoom.NONE))
    cluster.tell("n1", "n3", accepted(term, 1))
    cluster.packets.clear()
    cluster["n1"].propose(b"x", 0)
    cluster.tell("n1", "n3", accepted(term, 1))
    assert [message.entries for message in appends_to(cluster, "n2") if message.entries] == []
    assert [len(message.entries) for message in appends_to(cluster, "n3") if message.entries] == [1]
    cluster.tell("n1", "n2", accepted(term, 1)._replace(room=DiskRoom.LOW))
    assert [len(message.entries) for message in appends_to(cluster, "n2") if message.entries] == [1]


@pytest.mark.parametrize(
    ("own_is_low", "n2", "n3", "is_ample"),
    [
        (False, DiskRoom.AMPLE, DiskRoom.NONE, True),
        (True, DiskRoom.AMPLE, DiskRoom.AMPLE, True),
        (True, DiskRoom.AMPLE, DiskRoom.LOW, False),
        (False, DiskRoom.LOW, DiskRoom.NONE, False),
    ],
)
def test_a_leader_knows_whether_a_majority_has_room(
    own_is_low: bool, n2: DiskRoom, n3: DiskRoom, is_ample: bool
) -> None:
    """Of the reserve: without it nothing is to be written that needs memory."""
    cluster = solo()
    term = lead(cluster)
    cluster["n1"].note_room(1 << 20, is_low=own_is_low)
    cluster.tell("n1", "n2", accepted(term, 1)._replace(room=n2))
    cluster.tell("n1", "n3", accepted(term, 1)._replace(room=n3))
    assert cluster["n1"].is_room_ample is is_ample
    assert cluster["n1"].log.last.index == Index(1)


@pytest.mark.parametrize(
    ("own_is_low", "n2", "n3", "target"),
    [
        (False, DiskRoom.AMPLE, DiskRoom.AMPLE, None),
        (True, DiskRoom.AMPLE, DiskRoom.AMPLE, "n3"),
        (True, DiskRoom.AMPLE, DiskRoom.LOW, None),
        (True, DiskRoom.LOW, DiskRoom.NONE, None),
    ],
)
def test_a_leader_without_room_hands_over_to_who_has_some(
    own_is_low: bool, n2: DiskRoom, n3: DiskRoom, target: str | None
) -> None:
    """If a majority has room without it; else whoever leads refuses, and nothing is gained."""
    cluster = solo()
    term = lead(cluster)
    core = cluster["n1"]
    core.note_room(1 << 20, is_low=own_is_low)
    cluster.tell("n1", "n2", accepted(term, 1)._replace(room=n2))
    cluster.tell("n1", "n3", accepted(term, 1)._replace(room=n3))
    cluster.timeout("n1")
    assert (core.state.transfer.target if core.state.transfer else None) == target


def test_a_leader_without_room_waits_for_what_the_others_say() -> None:
    """Just elected it knows nothing of their disks. All may be full, and would hand over to each other for ever."""
    cluster = solo()
    core = cluster["n1"]
    core.note_room(1 << 20, is_low=True)
    term = lead(cluster)
    cluster.timeout("n1")
    assert not core.is_transferring
    cluster.tell("n1", "n2", accepted(term, 1))
    cluster.timeout("n1")
    assert not core.is_transferring
    cluster.tell("n1", "n3", accepted(term, 1))
    cluster.timeout("n1")
    assert core.is_transferring


def test_of_five_one_with_room_takes_over() -> None:
    """The one that has most of the log may have no room, either."""
    cluster = solo(voters="n1 n2 n3 n4 n5")
    term = lead(cluster)
    core = cluster["n1"]
    core.note_room(1 << 20, is_low=True)
    for peer, room in (("n2", DiskRoom.AMPLE), ("n3", DiskRoom.AMPLE), ("n4", DiskRoom.AMPLE), ("n5", DiskRoom.LOW)):
        cluster.tell("n1", peer, accepted(term, 1)._replace(room=room))
    cluster.timeout("n1")
    assert core.state.transfer is not None
    assert core.state.transfer.target == "n4"


def test_who_does_not_take_over_is_not_asked_at_once_again() -> None:
    """Each time writes are held for an election timeout."""
    cluster = solo()
    term = lead(cluster)
    core = cluster["n1"]
    core.note_room(1 << 20, is_low=True)
    longest = core.state.timeouts.longest(cluster.now)
    begun = []
    until = cluster.now + (PAUSE + 2) * longest
    was_transferring = False
    while cluster.now < until:
        for peer in ("n2", "n3"):
            cluster.tell("n1", peer, accepted(term, 1))
        cluster.timeout("n1")
        if core.is_transferring and not was_transferring:
            begun.append(cluster.now)
        was_transferring = core.is_transferring
    assert len(begun) == 2
    assert begun[1] - begun[0] >= PAUSE * longest
