"""What time a new leader begins with, what a follower counts on with, and what a reset of the time takes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_raft.raft.messages import AppendEntries
from durable_raft.raft.reluctance import LET_PASS_MAX
from durable_raft.raft.types import ORIGIN, Entry, EntryKind, Index, LogPoint, NodeId, Role, Term, make_entry
from durable_raft.server.timekeeper import WAIT_MS
from durable_raft.wire.messages import TellTime
from tests.support.desk import N2, N3, Desk, desk_at
from tests.support.raft_solo import vote

FAR_MS = 600_000
LATE_MS = 5_000
"""How long some answers are under way."""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Node n1, which knows no leader."""
    with desk_at(tmp_path / "n1") as desk:
        yield desk


def stamp(desk: Desk) -> int:
    """Write something, which is committed; return the time of its entry."""
    client = desk.client()
    client.send("set k v")
    desk.acknowledge()
    assert client.replies == [b"+OK\r\n"]
    return desk.proposed[-1].timestamp_ms


def entry_after(desk: Desk, timestamp_ms: int, kind: EntryKind = EntryKind.COMMANDS) -> Entry:
    """Return an entry of the next term that follows n1's log."""
    payload = b"\x01\x90" if kind is EntryKind.COMMANDS else b""
    term = Term(desk.raft.current_term + 1)
    return make_entry(previous=desk.raft.log.last, term=term, kind=kind, timestamp_ms=timestamp_ms, payload=payload)


def hear_clocks(desk: Desk) -> None:
    """Have n1 ask what time it is, hear the answers and look at them."""
    desk.node.timekeeper.ask()
    desk.turn()
    desk.node.timekeeper.tick()


def elect(desk: Desk) -> None:
    """Have n1, which stands, elected by n2; nothing is acknowledged yet."""
    desk.hear(N2, vote(desk.raft.current_term + 1, pre_vote=True))
    desk.hear(N2, vote(desk.raft.current_term))
    assert desk.raft.role is Role.LEADER


def test_a_leader_proposes_nothing_before_it_knows_the_time(tmp_path: Path) -> None:
    """Commands wait for the first word of a majority; they are proposed when it comes."""
    with desk_at(tmp_path / "n1", timeless=frozenset({N2, N3})) as desk:
        _propose_when_the_time_is_known(desk)


def _propose_when_the_time_is_known(desk: Desk) -> None:
    desk.lead()
    client = desk.client()
    client.send("set k v")
    for _ in range(2 * WAIT_MS // 100):
        desk.wait(0.1)
        desk.acknowledge()
    assert desk.proposed == []
    desk.clocks.timeless = {N3}
    desk.wait(0.3)
    assert len(desk.proposed) == 1


def test_a_leader_begins_with_the_agreed_clock_when_nobody_knows_the_time(desk: Desk) -> None:
    """Its own clock is far off."""
    desk.clocks.ahead_ms = {N2: FAR_MS, N3: FAR_MS}
    hear_clocks(desk)
    desk.lead()
    assert abs(stamp(desk) - desk.time_of_day_ms - FAR_MS) < 50


def test_the_log_is_never_gone_behind(desk: Desk) -> None:
    """The log is far ahead of all clocks: the time goes on from there, slower."""
    ahead_ms = desk.time_of_day_ms + FAR_MS
    desk.follow(N2, entry_after(desk, ahead_ms))
    desk.lead()
    first, began = stamp(desk), desk.now
    assert ahead_ms <= first < ahead_ms + 500
    desk.acknowledge()
    desk.wait(0.2)
    assert 0 < stamp(desk) - first <= (desk.now - began) * 1000


def test_clocks_that_disagree_are_waited_for_and_then_not_believed(tmp_path: Path) -> None:
    """The third might have decided; after two seconds the time goes on from the log."""
    with desk_at(tmp_path / "n1", timeless=frozenset({N3})) as desk:
        logged_ms = desk.time_of_day_ms - FAR_MS
        desk.follow(N2, entry_after(desk, logged_ms))
        desk.clocks.ahead_ms = {N2: FAR_MS}
        hear_clocks(desk)
        desk.lead()
        began = desk.now
        desk.client().send("set k v")
        while not desk.proposed[1:]:
            desk.wait(0.1)
            desk.acknowledge()
        assert WAIT_MS / 1000 <= desk.now - began < WAIT_MS / 1000 + 1
        assert logged_ms <= desk.proposed[-1].timestamp_ms < logged_ms + 100


def test_whoever_knows_the_time_is_believed_before_the_clocks(desk: Desk) -> None:
    """After the restart of one node alone nothing has stood still, and nothing jumps."""
    known_ms = desk.time_of_day_ms - FAR_MS
    desk.clocks.knows = {N3: (known_ms, Index(0))}
    hear_clocks(desk)
    desk.lead()
    assert known_ms <= stamp(desk) < known_ms + 1500


def test_a_follower_counts_on_from_what_its_leader_told(desk: Desk) -> None:
    """Elected half a second later it stamps half a second more, whatever its clock shows meanwhile."""
    told_ms = desk.time_of_day_ms + 77_000
    desk.follow(N2, entry_after(desk, told_ms))
    desk.clocks.knows = {N2: (told_ms, Index(1))}
    hear_clocks(desk)
    heard_at = desk.now
    desk.clocks.knows, desk.clocks.timeless = {}, {N2, N3}
    desk.time_of_day_ms += FAR_MS
    desk.lead()
    assert told_ms <= stamp(desk) <= told_ms + (desk.now - heard_at) * 1100 + 1100


def test_a_count_that_is_behind_the_log_goes_on_from_there(desk: Desk) -> None:
    """What the leader told last may be older than its last entry; the time does not stand still until it is reached."""
    now_ms = desk.time_of_day_ms
    desk.follow(N2, entry_after(desk, now_ms + 9000))
    desk.clocks.knows = {N2: (now_ms, Index(1))}
    hear_clocks(desk)
    desk.lead()
    first = stamp(desk)
    desk.acknowledge()
    desk.wait(0.1)
    assert now_ms + 9000 <= first < stamp(desk)


def hear_late(desk: Desk, peer: NodeId, time_ms: int) -> None:
    """n1 hears what ``peer`` said ``LATE_MS`` ago about the cluster time: it was paused meanwhile."""
    applied = desk.raft.log.last_applied
    desk.arrive(peer, TellTime(desk.now_ms - LATE_MS, desk.time_of_day_ms - LATE_MS, time_ms - LATE_MS, applied))
    desk.turn()


def test_a_leader_that_heard_its_predecessor_late_believes_who_was_heard_in_time(desk: Desk) -> None:
    """It knows only what the leader told long ago; another node has counted on since."""
    told_ms = desk.time_of_day_ms + 77_000
    desk.follow(N2, entry_after(desk, desk.time_of_day_ms))
    hear_late(desk, N2, told_ms)
    assert desk.node.timekeeper.present_ms() >= told_ms - LATE_MS
    desk.clocks.knows = {N3: (told_ms, Index(1))}
    hear_clocks(desk)
    desk.lead()
    assert told_ms <= stamp(desk) < told_ms + 2500


def test_a_leader_that_heard_everybody_late_waits_for_a_word_in_time(tmp_path: Path) -> None:
    """Nobody says a word in time for two seconds: it goes on from the latest of what it heard."""
    with desk_at(tmp_path / "n1", timeless=frozenset({N2, N3})) as desk:
        told_ms = desk.time_of_day_ms + 77_000
        desk.follow(N2, entry_after(desk, desk.time_of_day_ms))
        hear_late(desk, N3, told_ms)
        hear_late(desk, N2, told_ms - 1000)
        heard_at = desk.now
        desk.lead()
        began = desk.now
        desk.client().send("set k v")
        while not desk.proposed[1:]:
            desk.wait(0.1)
            desk.acknowledge()
        assert WAIT_MS / 1000 <= desk.now - began < WAIT_MS / 1000 + 1
        stamped_ms = desk.proposed[-1].timestamp_ms - told_ms + LATE_MS
        assert WAIT_MS <= stamped_ms <= (desk.now - heard_at) * 1100


def test_a_late_answer_hides_no_earlier_one_of_the_same_node(tmp_path: Path) -> None:
    """A leader that has just started takes what was counted since the earlier one, which is nearer."""
    with desk_at(tmp_path / "n1", timeless=frozenset({N2, N3})) as desk:
        told_ms = desk.time_of_day_ms + 77_000
        desk.clocks.timeless, desk.clocks.knows = {N2}, {N3: (told_ms, Index(0))}
        hear_clocks(desk)
        desk.turn()
        desk.clocks.timeless = {N2, N3}
        hear_late(desk, N3, told_ms)
        hear_late(desk, N3, LATE_MS)  # it did not know the time then
        desk.lead()
        assert told_ms <= stamp(desk) < told_ms + 2500


def test_only_the_leaders_word_is_taken(desk: Desk) -> None:
    """Another follower's count may be of a leader that is gone."""
    desk.follow(N2, entry_after(desk, desk.time_of_day_ms))
    desk.clocks.knows = {N3: (desk.time_of_day_ms + FAR_MS, Index(1))}
    hear_clocks(desk)
    assert desk.node.timekeeper.present_ms() == 0


def test_a_reset_sets_the_machine_back_and_what_a_follower_counted_is_forgotten(desk: Desk) -> None:
    """The node counted from before the reset; its leader's next word tells it what time it is now."""
    now_ms = desk.time_of_day_ms
    desk.follow(N2, entry_after(desk, now_ms + FAR_MS))
    desk.clocks.knows = {N2: (now_ms + FAR_MS, Index(1))}
    hear_clocks(desk)
    assert desk.machine.time_ms == now_ms + FAR_MS
    assert desk.node.timekeeper.present_ms() >= now_ms + FAR_MS
    desk.clocks.timeless = {N2, N3}
    desk.follow(N2, entry_after(desk, now_ms, EntryKind.TIME_RESET))
    assert desk.machine.time_ms == now_ms
    assert desk.node.timekeeper.present_ms() == 0


def test_a_leader_waits_for_a_reset_in_its_log(desk: Desk) -> None:
    """It was told the time before a reset that it holds and has not applied: that count must not come back."""
    now_ms = desk.time_of_day_ms
    desk.follow(N2, entry_after(desk, now_ms + FAR_MS))
    desk.clocks.knows = {N2: (now_ms + FAR_MS, Index(1)), N3: (now_ms + FAR_MS, Index(1))}
    hear_clocks(desk)
    log, term, last = desk.raft.log, desk.raft.current_term, desk.raft.log.last
    reset = make_entry(previous=last, term=term, kind=EntryKind.TIME_RESET, timestamp_ms=now_ms, payload=b"")
    desk.hear(N2, AppendEntries(term, last.index, last.term, last.chain, (reset,), last.index, 0))
    desk.wait_until(lambda: desk.raft.role is Role.PRE_CANDIDATE)
    elect(desk)
    client = desk.client()
    client.send("set k v")
    assert len(desk.proposed) == 1, "the entry from before"
    desk.acknowledge()
    assert log.last_applied > reset.index
    desk.acknowledge()
    assert now_ms <= desk.proposed[-1].timestamp_ms < now_ms + 5000


def test_a_leader_that_has_restarted_waits_for_a_reset_in_its_log(tmp_path: Path) -> None:
    """Others know the time from before a reset that this node holds: it asks them again when it has applied it."""
    with desk_at(tmp_path / "n1") as desk:
        now_ms = desk.time_of_day_ms
        desk.follow(N2, entry_after(desk, now_ms + FAR_MS))
        term, last = desk.raft.current_term, desk.raft.log.last
        reset = make_entry(previous=last, term=term, kind=EntryKind.TIME_RESET, timestamp_ms=now_ms, payload=b"")
        desk.hear(N2, AppendEntries(term, last.index, last.term, last.chain, (reset,), last.index, 0))
    with desk_at(tmp_path / "n1") as desk:
        desk.clocks.knows = {N2: (now_ms + FAR_MS, Index(1)), N3: (now_ms + FAR_MS, Index(1))}
        hear_clocks(desk)
        desk.wait_until(lambda: desk.raft.role is Role.PRE_CANDIDATE)
        elect(desk)
        desk.client().send("set k v")
        assert len(desk.proposed) == 1, "the entry from before"
        desk.acknowledge()
        desk.wait(0.3)
        assert now_ms <= desk.proposed[-1].timestamp_ms < now_ms + 5000


def test_a_reset_that_another_leader_cut_is_not_waited_for(desk: Desk) -> None:
    """It was the third of the old leader's entries; the log is shorter now, and nobody proposes before n1 does."""
    now_ms, term = desk.time_of_day_ms, Term(desk.raft.current_term + 1)
    old: list[Entry] = []
    for kind in (EntryKind.NOOP, EntryKind.NOOP, EntryKind.TIME_RESET):
        last = LogPoint(old[-1].index, old[-1].term, old[-1].chain) if old else ORIGIN
        old.append(make_entry(previous=last, term=term, kind=kind, timestamp_ms=now_ms, payload=b""))
    desk.hear(N2, AppendEntries(term, Index(0), Term(0), 0, tuple(old), Index(0), 0))
    other = make_entry(previous=ORIGIN, term=Term(term + 1), kind=EntryKind.NOOP, timestamp_ms=now_ms, payload=b"")
    desk.follow(N3, other, after=0)
    desk.clocks.knows = {N3: (now_ms, Index(1))}
    hear_clocks(desk)
    desk.lead()
    assert desk.raft.log.last_applied < old[-1].index
    assert stamp(desk) >= now_ms


def test_keys_expire_after_a_reset_as_before(desk: Desk) -> None:
    """An entry is proposed for a deadline, though later times were proposed before the reset."""
    desk.lead()
    stamp(desk)
    assert desk.node.reset_time(desk.time_of_day_ms - FAR_MS) == desk.time_of_day_ms - FAR_MS
    client = desk.client()
    client.send("set k v px 100")
    desk.acknowledge()
    desk.wait(0.15)
    desk.acknowledge()
    client.send("get k")
    desk.acknowledge()
    desk.acknowledge()
    assert client.replies == [b"+OK\r\n", b"$-1\r\n"]


def test_the_word_of_who_has_not_applied_a_reset_does_not_count(desk: Desk) -> None:
    """A node that was away still counts from before the reset that this node has applied."""
    now_ms = desk.time_of_day_ms
    desk.follow(N2, entry_after(desk, now_ms + FAR_MS))
    desk.follow(N2, entry_after(desk, now_ms, EntryKind.TIME_RESET))
    desk.clocks.knows = {N3: (now_ms + FAR_MS, Index(1))}
    hear_clocks(desk)
    desk.lead()
    assert abs(stamp(desk) - desk.time_of_day_ms) < 50


def test_a_reset_by_the_leader_counts_at_once(desk: Desk) -> None:
    """Later entries follow it; a key that was hidden by the time of before is seen again."""
    desk.clocks.ahead_ms = {N2: FAR_MS, N3: FAR_MS}
    hear_clocks(desk)
    desk.lead()
    stamp(desk)
    now_ms = desk.time_of_day_ms
    assert desk.node.reset_time(now_ms) == now_ms
    desk.turn()
    assert now_ms <= stamp(desk) < now_ms + 100
    assert desk.node.timekeeper.resets == 1
    assert desk.machine.time_ms < now_ms + 100


def test_a_reset_is_to_the_present_time(desk: Desk) -> None:
    """Whoever asks first after a pause is not told the time of the last look, which was before it."""
    desk.lead()
    stamp(desk)
    desk.be_paused(LATE_MS / 1000)
    time_ms = desk.node.reset_time(None)
    assert isinstance(time_ms, int)
    assert abs(time_ms - desk.time_of_day_ms) < 100


def test_a_reset_needs_a_leader_and_clocks(desk: Desk) -> None:
    """Else it is refused, with the way out."""
    assert "does not lead" in str(desk.node.reset_time(1))
    desk.clocks.timeless = {N2, N3}
    desk.wait(11)
    assert "no majority of clocks agrees" in str(desk.node.reset_time(None))


def test_time_to_live_is_shown_by_the_cluster_time(desk: Desk) -> None:
    """This node's own clock, which is far off, is not looked at."""
    desk.lead()
    client = desk.client()
    client.send("set k v px 100000")
    desk.acknowledge()
    desk.time_of_day_ms += FAR_MS
    client.send("pttl k")
    desk.acknowledge()
    desk.turn()
    left = client.replies[-1]
    assert left is not None
    assert 99_000 < int(left[1:]) <= 100_000


def test_a_node_with_an_odd_clock_lets_others_stand_first(desk: Desk) -> None:
    """It stands after some election timeouts of silence, because then there may be nobody else."""
    desk.clocks.ahead_ms = {N2: FAR_MS, N3: FAR_MS}
    hear_clocks(desk)
    assert desk.raft.is_reluctant
    desk.follow(N2, entry_after(desk, desk.time_of_day_ms))
    heard_at, config = desk.now, desk.raft.state.config
    desk.wait_until(lambda: desk.raft.role is Role.PRE_CANDIDATE)
    least = config.election_timeout_min_ms * (LET_PASS_MAX + 1) / 1000
    assert least <= desk.now - heard_at <= config.election_timeout_max_ms * (LET_PASS_MAX + 1) / 1000 + 0.1
