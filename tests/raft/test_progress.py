"""Progress on its own: the window's books, and the way from PROBE to REPLICATE and back."""

from __future__ import annotations

from durable_raft.raft.progress import Pace, Progress
from durable_raft.raft.types import Index


def replicating() -> Progress:
    """Return a follower that matches 4 and has two AppendEntries on the way."""
    progress = Progress(Index(9), 0)
    progress.became_matched(Index(4))
    progress.next_index = Index(5)
    progress.became_sent(Index(6), 70)
    progress.became_sent(Index(8), 11)
    return progress


def test_a_new_follower_is_probed() -> None:
    """Nothing is on the way, nothing is known."""
    progress = Progress(Index(9), 123)
    assert (progress.match_index, progress.next_index, progress.heard_at) == (0, 9, 123)
    assert (progress.pace, progress.probe_sent) == (Pace.PROBE, False)
    assert (progress.inflight_count(), progress.inflight_bytes) == (0, 0)
    assert (progress.acked_round, progress.admission_round, progress.admit_at, progress.is_voter) == (0, 0, None, True)


def test_a_probe_is_sent_once_and_moves_nothing() -> None:
    """It is not known whether it fits."""
    progress = Progress(Index(9), 0)
    progress.became_sent(Index(9), 5)
    assert (progress.probe_sent, progress.next_index, progress.inflight_count()) == (True, 9, 0)


def test_the_window_counts_messages_and_bytes() -> None:
    """An answer frees every message that it covers whole, and no other."""
    progress = replicating()
    assert (progress.next_index, progress.inflight_count(), progress.inflight_bytes) == (9, 2, 81)
    assert progress.became_matched(Index(5))
    assert (progress.inflight_count(), progress.inflight_bytes) == (2, 81)
    assert progress.became_matched(Index(6))
    assert (progress.inflight_count(), progress.inflight_bytes) == (1, 11)
    assert progress.became_matched(Index(8))
    assert (progress.inflight_count(), progress.inflight_bytes, progress.next_index) == (0, 0, 9)


def test_what_matches_already_is_no_news() -> None:
    """The commit index need not be looked at."""
    progress = replicating()
    assert not progress.became_matched(Index(4))
    assert not progress.became_matched(Index(3))
    assert progress.match_index == 4


def test_an_answer_ahead_of_what_was_sent_moves_what_is_sent_next() -> None:
    """The follower holds more of this log than the leader believed."""
    progress = replicating()
    assert progress.became_matched(Index(20))
    assert (progress.next_index, progress.inflight_count(), progress.inflight_bytes) == (21, 0, 0)


def test_probing_again_begins_with_an_empty_window() -> None:
    """What was on the way may be lost."""
    progress = replicating()
    progress.probe_from(Index(7))
    assert (progress.pace, progress.probe_sent, progress.next_index) == (Pace.PROBE, False, 7)
    assert (progress.inflight_count(), progress.inflight_bytes) == (0, 0)
