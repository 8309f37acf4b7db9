"""Work in slices: what is long lets the loop turn, and nobody waits for somebody else's work to end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest

from durable_raft.server.slices import PAUSE_S, SLICE_S, Jobs, Slice, Steps, Turns


class Time:
    """A clock that goes on by a step at each look, or stands still."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.now = 100.0
        self.step_s = step_s

    def __call__(self) -> float:
        """Return the time, a step later than before."""
        self.now += self.step_s
        return self.now


def steps_of(done: list[str], name: str, count: int) -> Steps:
    """Note each of ``count`` steps, and a close."""
    try:
        for number in range(count):
            done.append(f"{name}{number}")
            yield
    except GeneratorExit:
        done.append(f"{name} dropped")


def test_a_slice_ends_by_its_time() -> None:
    """And the next one begins fresh."""
    time = Time()
    piece = Slice(time)
    piece.begin()
    assert piece.take_step()
    time.now += SLICE_S
    assert not piece.take_step()
    piece.begin()
    assert piece.take_step()


def test_a_slice_ends_by_its_steps_where_the_clock_stands_still() -> None:
    """As in a simulation."""
    piece = Slice(Time(), steps_max=3)
    piece.begin()
    assert [piece.take_step() for _ in range(3)] == [True, True, False]


def test_a_job_goes_on_where_its_slice_ended() -> None:
    """Each is done wholly before the next one begins."""
    done: list[str] = []
    jobs = Jobs(Time(), steps_max=2)
    for name, count in (("a", 3), ("b", 0), ("c", 2)):
        jobs.add(lambda name=name, count=count: steps_of(done, name, count), lambda: None)  # type: ignore[misc]
    slices = []
    while jobs.are_under_way:
        jobs.run()
        slices.append(list(done))
        done.clear()
    assert slices == [["a0", "a1"], ["a2", "c0"], ["c1"]]
    jobs.run()
    assert not done


def test_a_long_job_is_interrupted_by_time() -> None:
    """A thousand steps do not pass in one slice."""
    done: list[str] = []
    jobs = Jobs(Time(SLICE_S / 10))
    jobs.add(lambda: steps_of(done, "a", 1000), lambda: None)
    jobs.run()
    assert 5 < len(done) < 15
    assert jobs.are_under_way


def test_dropped_jobs_are_told() -> None:
    """The one under way by its generator's close, the others by what they left."""
    done: list[str] = []
    jobs = Jobs(Time(), steps_max=1)
    jobs.add(lambda: steps_of(done, "a", 3), lambda: done.append("never"))
    jobs.add(lambda: steps_of(done, "b", 3), lambda: done.append("b dropped"))
    jobs.run()
    jobs.drop()
    assert done == ["a0", "a dropped", "b dropped"]
    assert not jobs.are_under_way


def test_a_job_may_drop_all_itself_included() -> None:
    """What it adds then is done afterwards, and it takes no further step."""
    done: list[str] = []
    jobs = Jobs(Time())

    def dropping() -> Steps:
        jobs.drop()
        jobs.add(lambda: steps_of(done, "new", 1), lambda: None)
        yield
        done.append("went on")
        yield

    jobs.add(dropping, lambda: None)
    jobs.add(lambda: steps_of(done, "old", 1), lambda: done.append("old dropped"))
    jobs.run()
    assert done == ["old dropped", "new0"]
    assert not jobs.are_under_way


def test_an_exception_of_a_job_is_its_callers() -> None:
    """It is fatal for the node."""

    def failing() -> Steps:
        raise ZeroDivisionError
        yield

    jobs = Jobs(Time())
    jobs.add(failing, lambda: None)
    with pytest.raises(ZeroDivisionError):
        jobs.run()


class TurningLoop:
    """Calls what is due, turn by turn."""

    def __init__(self) -> None:
        self.soon: deque[Callable[[], None]] = deque()

    def turn(self) -> None:
        """Call what is due, and nothing that this asks for."""
        for _ in range(len(self.soon)):
            self.soon.popleft()()


def test_connections_take_turns() -> None:
    """One with a hundred pieces delays one with a single piece by no more than a slice."""
    time, loop = Time(), TurningLoop()
    turns = Turns(loop.soon.append, time)
    done: list[str] = []

    def taker(name: str, pieces: int) -> Callable[[], bool]:
        left = pieces

        def take_turn() -> bool:
            nonlocal left
            while left and turns.may_go_on():
                left -= 1
                done.append(name)
                time.now += SLICE_S / 4
            return left > 0

        return take_turn

    turns.wait(taker("much", 100))
    turns.wait(taker("little", 1))
    rounds = 0
    while "little" not in done:
        loop.turn()
        rounds += 1
    assert done.index("little") <= 8
    assert rounds <= 3
    while loop.soon:
        loop.turn()
    assert done.count("much") == 100


def test_a_turn_of_the_loop_has_one_slice_for_all_connections() -> None:
    """Who comes when it has just been used up waits for the next."""
    time, loop = Time(), TurningLoop()
    turns = Turns(loop.soon.append, time)
    steps = 0
    while turns.may_go_on():
        time.now += 2 * PAUSE_S
        turns.rest()
        steps += 1
    assert 2 <= steps <= 3
    time.now += 10 * PAUSE_S
    assert not turns.may_go_on(), "only the loop's next turn begins the next slice"
    loop.turn()
    assert turns.may_go_on()
    assert not loop.soon, "a loop with nothing to do rests"


def test_who_comes_after_a_pause_begins_the_next_slice() -> None:
    """The loop need not be asked: it has turned."""
    time, loop = Time(), TurningLoop()
    turns = Turns(loop.soon.append, time)
    for _ in range(10):
        assert turns.may_go_on()
        turns.rest()
        time.now += SLICE_S + PAUSE_S
    assert not loop.soon


def test_long_steps_of_one_connection_are_no_pauses() -> None:
    """Each takes longer than a pause; the slice ends all the same."""
    time, loop = Time(), TurningLoop()
    turns = Turns(loop.soon.append, time)
    steps = 0
    while turns.may_go_on():
        steps += 1
        time.now += 2 * PAUSE_S
    assert steps <= 3
