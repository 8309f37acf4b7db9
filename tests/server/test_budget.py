"""Shares of memory (budget.py), who is closed when one is full (eviction.py), and what is half sent (half_sent.py)."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from durable_raft.server.budget import Share
from durable_raft.server.eviction import Evictor
from durable_raft.server.half_sent import PROGRESS_BYTES, STALLED_S, HalfSent


@dataclass(eq=False)
class Client:
    """A connection that remembers why it was closed."""

    name: str = "client"
    is_kept_waiting: bool = False
    reasons: list[str] = field(default_factory=list)

    def evict(self, reason: str) -> None:
        """Be closed."""
        self.reasons.append(reason)


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now


@given(st.lists(st.tuples(st.integers(0, 4), st.none() | st.integers(0, 1000))))
def test_a_share_holds_the_sum_of_what_its_holders_hold(steps: list[tuple[int, int | None]]) -> None:
    """Whatever is noted and forgotten in whatever order; the greediest is who holds most."""
    share: Share[int] = Share("any", 1500)
    expected: dict[int, int] = {}
    most = 0
    for holder, size in steps:
        if size is None:
            share.forget(holder)
            expected.pop(holder, None)
        else:
            share.hold(holder, size)
            expected[holder] = size
        total = sum(expected.values())
        most = max(most, total)
        assert (share.held, share.is_over) == (total, total > 1500)
        if total:
            greediest = share.greediest(lambda _, held: held)
            assert expected[greediest] == max(expected.values())
    assert share.peak == most
    assert dict(share.holders) == {holder: size for holder, size in expected.items() if size}


def test_a_full_share_closes_the_greediest_and_no_more_than_needed() -> None:
    """The others keep what they have."""
    share: Share[Client] = Share("requests", 800)
    evictor = Evictor(share, Clock())
    small, greedy, newest = Client(), Client(), Client()
    evictor.hold(small, 100)
    evictor.hold(greedy, 500)
    evictor.hold(newest, 200)
    assert not greedy.reasons
    evictor.hold(newest, 201)
    assert greedy.reasons == ["the node's memory for requests is full: 801 bytes of 800"]
    assert not small.reasons + newest.reasons
    assert (share.held, share.closed) == (301, 1)


def test_whoever_holds_everything_is_closed_itself() -> None:
    """Nobody may have more than the whole share."""
    share: Share[Client] = Share("replies", 100)
    evictor, only = Evictor(share, Clock()), Client()
    evictor.hold(only, 101)
    assert only.reasons
    assert share.held == 0


def test_what_was_let_go_of_unseen_is_counted_again_before_anybody_is_closed() -> None:
    """A transport says nothing when its client has read: a share that seems full may be empty."""
    share: Share[Client] = Share("replies", 100)
    held: dict[Client, int] = {}
    evictor = Evictor(share, Clock(), count=lambda client: held[client])
    first, second = Client(), Client()
    held[first] = 90
    evictor.hold(first, 90)
    held[first], held[second] = 0, 90
    evictor.hold(second, 90)
    assert not first.reasons + second.reasons
    assert share.held == 90


# -- what is half sent ------------------------------------------------------------------------------------------------


def half_sent(bytes_max: int = 10 << 20, timeout_s: float = 30.0) -> tuple[HalfSent, Clock]:
    """Return the part and its clock."""
    clock = Clock()
    return HalfSent(Share("requests", bytes_max), timeout_s, clock), clock


def test_a_request_that_does_not_go_on_is_ended() -> None:
    """After the timeout, and not before."""
    part, clock = half_sent()
    silent = Client()
    part.note(silent, 4_000_000, is_new=False)
    clock.now += 30.0
    part.expire()
    assert not silent.reasons
    clock.now += 0.1
    part.expire()
    assert silent.reasons == ["unfinished: less than 16384 bytes more came within 30 s"]
    assert (part.timed_out, part.share.held) == (1, 0)
    part.expire()
    assert part.timed_out == 1


def test_a_slow_client_that_goes_on_is_not_ended() -> None:
    """16 KiB in a timeout are enough; a byte now and then is not."""
    part, clock = half_sent()
    slow, trickling = Client("slow"), Client("trickling")
    for number in range(1, 20):
        part.note(slow, number * PROGRESS_BYTES, is_new=False)
        part.note(trickling, number, is_new=False)
        clock.now += 29.0
        part.expire()
    assert not slow.reasons
    assert trickling.reasons


def test_a_completed_request_starts_the_time_again() -> None:
    """A client that pipelines always has the beginning of the next request here."""
    part, clock = half_sent()
    busy = Client()
    for _ in range(5):
        part.note(busy, 10, is_new=True)
        clock.now += 29.0
        part.expire()
    part.note(busy, 0, is_new=True)
    clock.now += 100.0
    part.expire()
    assert not busy.reasons
    assert part.share.held == 0


def test_a_client_that_is_kept_waiting_is_not_ended() -> None:
    """It cannot go on while nothing is read from it; its time begins when it can."""
    part, clock = half_sent()
    waiting = Client(is_kept_waiting=True)
    part.note(waiting, 10, is_new=False)
    clock.now += 100.0
    part.expire()
    waiting.is_kept_waiting = False
    clock.now += 29.0
    part.expire()
    assert not waiting.reasons
    clock.now += 2.0
    part.expire()
    assert waiting.reasons


def test_whoever_stands_still_is_closed_before_a_larger_one_that_goes_on() -> None:
    """A client that sends a large value is not closed for those that have stopped in the middle of theirs."""
    part, clock = half_sent(bytes_max=1_000_000)
    stopped = [Client() for _ in range(4)]
    for client in stopped:
        part.note(client, 200_000, is_new=False)
    clock.now += STALLED_S
    going_on = Client()
    for size in range(100_000, 900_001, 100_000):
        part.note(going_on, size, is_new=False)
    assert not going_on.reasons
    assert all(client.reasons for client in stopped)


def test_whoever_is_gone_is_forgotten() -> None:
    """Nothing of it is held or timed."""
    part, clock = half_sent()
    gone = Client()
    part.note(gone, 1_000, is_new=False)
    part.forget(gone)
    clock.now += 100.0
    part.expire()
    assert not gone.reasons
    assert part.share.held == 0
