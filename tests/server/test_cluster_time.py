"""The cluster time never jumps nor goes back, keeps a pace near real time's, and closes in on the agreed clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from durable_raft.server.cluster_time import PACE_CHANGE_MAX, STEER_LIFE_MS, TIME_MS_MAX, ClusterTime

START_MS = 1_700_000_000_000
STEPS = st.lists(st.tuples(st.integers(0, 3000), st.none() | st.integers(0, 2**62)), max_size=60)


def started() -> ClusterTime:
    """Return a time that is known since 0 ms."""
    time = ClusterTime()
    time.set(START_MS, 0)
    return time


@given(steps=STEPS)
def test_pace_is_bounded_whatever_the_clocks_say(steps: list[tuple[int, int | None]]) -> None:
    """Over any stretch, between nine and eleven tenths of real time."""
    time, now, last = started(), 0, START_MS
    for passed, agreed_ms in steps:
        now += passed
        moved = time.time_ms(now) - last
        last = time.time_ms(now)
        assert passed * (1 - PACE_CHANGE_MAX) - 1 <= moved <= passed * (1 + PACE_CHANGE_MAX) + 1
        time.steer(now, agreed_ms)
        assert time.time_ms(now) == last


def test_a_difference_is_closed_and_not_overshot() -> None:
    """A second behind is made up within half a minute, and a second ahead is waited for."""
    for ahead in (-1000, 1000):
        time = started()
        for now in range(0, 30_000, 250):
            time.steer(now, START_MS - ahead + now)
            off = time.time_ms(now) - (START_MS - ahead + now)
            assert min(0, ahead) - 1 <= off <= max(0, ahead) + 1
        assert abs(off) < 10


def test_without_news_the_time_runs_as_the_monotonic_clock() -> None:
    """A pace that nobody confirms is kept for a second."""
    time = started()
    time.steer(0, START_MS + 10**9)
    gained = STEER_LIFE_MS * PACE_CHANGE_MAX
    assert time.time_ms(STEER_LIFE_MS) == START_MS + STEER_LIFE_MS + gained
    assert time.time_ms(3_600_000) == START_MS + 3_600_000 + gained
    time.steer(3_600_000, None)
    assert time.time_ms(3_700_000) == START_MS + 3_700_000 + gained


def test_time_ends_with_the_year_9999() -> None:
    """No number overflows beyond it; a time that is later already stands still."""
    time = started()
    time.set(TIME_MS_MAX - 5, 0)
    assert time.time_ms(100) == TIME_MS_MAX
    time.set(2**62, 0)
    assert time.time_ms(100) == 2**62
