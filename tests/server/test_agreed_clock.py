"""Whose clock counts: any majority that lies close together, whatever the others show."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from durable_raft.raft.types import NodeId
from durable_raft.server.agreed_clock import READING_LIFE_MS, AgreedClock, Agreement
from tests.support.raft_nodes import configuration_of

BOUND_MS = 1000
NOW_MS = 50_000
TRUE_MS = 1_700_000_000_000
TIMES = st.integers(0, 2**62)


def clock_of(voters: int, *others_ms: int, took_ms: int = 0, at_ms: int = NOW_MS) -> AgreedClock:
    """Return what a node knows whose peers have answered so."""
    configuration = configuration_of(["own", *(f"p{number}" for number in range(voters - 1))])
    clock = AgreedClock(NodeId("own"), lambda: configuration, BOUND_MS)
    for number, other_ms in enumerate(others_ms):
        clock.read(NodeId(f"p{number}"), at_ms, at_ms - took_ms, other_ms)
    return clock


@given(
    voters=st.sampled_from((1, 2, 3, 4, 5, 7)),
    errors=st.lists(st.integers(0, 400), min_size=7, max_size=7),
    wrong=st.lists(TIMES, min_size=3, max_size=3),
    own_is_wrong=st.booleans(),
)
def test_no_minority_moves_the_agreed_clock(
    voters: int, errors: list[int], wrong: list[int], *, own_is_wrong: bool
) -> None:
    """While a majority of clocks is right, the agreed one is, and whoever is far from it knows that of itself."""
    spare = (voters - 1) // 2
    clocks = [TRUE_MS + error for error in errors[: voters - spare]] + wrong[:spare]
    own_ms = clocks.pop(-1 if own_is_wrong else 0)
    seen = clock_of(voters, *clocks).look(NOW_MS, own_ms)
    assert seen.time_ms is not None
    # A wrong clock may count when it is near the right ones.
    assert TRUE_MS - BOUND_MS <= seen.time_ms <= TRUE_MS + 400 + BOUND_MS
    assert seen.own_offset_ms == own_ms - seen.time_ms


def test_clocks_of_which_no_majority_is_close_agree_on_nothing() -> None:
    """Then there is only a middle, for a log that has no time yet."""
    assert clock_of(3, TRUE_MS + 2000, TRUE_MS + 4000).look(NOW_MS, TRUE_MS) == Agreement(None, None, TRUE_MS + 2000)
    assert clock_of(3, TRUE_MS + BOUND_MS + 1).look(NOW_MS, TRUE_MS) == Agreement(None, None, TRUE_MS)
    assert clock_of(3, TRUE_MS + BOUND_MS).look(NOW_MS, TRUE_MS).time_ms == TRUE_MS


def test_fewer_clocks_than_a_majority_say_nothing() -> None:
    """Not even where their middle is; a cluster of one has its majority."""
    assert clock_of(3).look(NOW_MS, TRUE_MS) == Agreement(None, None, None)
    assert clock_of(5, TRUE_MS).look(NOW_MS, TRUE_MS) == Agreement(None, None, None)
    assert clock_of(1).look(NOW_MS, TRUE_MS) == Agreement(TRUE_MS, 0, TRUE_MS)


def test_a_late_answer_says_nothing() -> None:
    """What took up to half of the bound is taken as the middle of its round trip; what took longer is not taken."""
    assert clock_of(2, TRUE_MS, took_ms=500).look(NOW_MS, TRUE_MS + 250) == Agreement(TRUE_MS + 250, 0, TRUE_MS + 250)
    assert clock_of(2, TRUE_MS, took_ms=501).look(NOW_MS, TRUE_MS) == Agreement(None, None, None)
    assert clock_of(2, TRUE_MS, took_ms=-1).look(NOW_MS, TRUE_MS) == Agreement(None, None, None)


def test_an_answer_is_counted_on_by_the_monotonic_clock_and_grows_old() -> None:
    """A clock that was read some seconds ago shows that much more now; one that was read long ago shows nothing."""
    clock = clock_of(2, TRUE_MS)
    later = NOW_MS + READING_LIFE_MS
    assert clock.look(later, TRUE_MS + READING_LIFE_MS).own_offset_ms == 0
    assert clock.look(later + 1, TRUE_MS) == Agreement(None, None, None)
