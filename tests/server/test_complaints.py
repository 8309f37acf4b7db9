"""What is said of other people's bytes: each reason once, and never so much that it hides the rest."""

from __future__ import annotations

from durable_raft.raft.messages import FetchEntries, RequestVote
from durable_raft.raft.types import Index, LogPoint, Term
from durable_raft.server.complaints import LINES_PER_MINUTE, REASON_CHARACTERS_MAX, REASONS_MAX, Complaints, head_of


class Watch:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_a_reason_is_said_once_and_counted_each_time() -> None:
    """A peer that repeats itself fills no log."""
    complaints = Complaints(Watch())
    assert complaints.note("rubbish") == {"reason": "rubbish"}
    assert complaints.note("rubbish") is None
    assert complaints.count == 2


def test_a_minute_has_so_many_lines_and_the_next_one_says_what_was_left_out() -> None:
    """Whoever makes a new reason with each frame cannot silence the log for good."""
    watch = Watch()
    complaints = Complaints(watch)
    said = [complaints.note(f"reason {number}") for number in range(LINES_PER_MINUTE + 40)]
    assert sum(line is not None for line in said) == LINES_PER_MINUTE
    watch.now = 60.0
    assert complaints.note("the next") == {"reason": "the next", "unsaid": 40}
    assert complaints.note("one more") == {"reason": "one more"}


def test_what_is_remembered_is_bounded() -> None:
    """The reasons that were said last, each cut short."""
    watch = Watch()
    complaints = Complaints(watch)
    for number in range(REASONS_MAX + 1):
        watch.now += 60
        assert complaints.note(f"{number} " + "x" * 10_000) is not None
    assert len(complaints._said) == REASONS_MAX
    assert max(map(len, complaints._said)) == REASON_CHARACTERS_MAX
    watch.now += 60
    assert complaints.note("0 " + "x" * 10_000) is not None, "forgotten, so it is news"


def test_the_head_of_a_message_is_one_short_line() -> None:
    """Whatever it holds."""
    assert head_of(RequestVote(Term(3), Index(2), Term(1), True)) == "RequestVote(3, 2, 1, True, False)"
    large = FetchEntries((LogPoint(Index(1), Term(1), 1),) * 1000)
    assert head_of(large) == "FetchEntries((LogPoint(index=1, term=)"
