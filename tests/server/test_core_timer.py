"""An election timeout that is noticed after a stall is believed only when the process has run for a moment."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

import pytest
import uvloop

from durable_raft.server.clock import SystemClock
from durable_raft.server.core_timer import DOUBTS_MAX, RUNNING_S, CoreTimer
from tests.support.waiting import WAIT_S

STALL_S = 0.05


async def _stalled(*, is_leader: bool) -> list[str]:
    """Return what happens, in order, after a stall in which a timer became due; a message arrives just after it."""
    happened: list[str] = []
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    acted = asyncio.Event()

    def act() -> None:
        happened.append("act")
        acted.set()

    def hear() -> None:
        ours.recv(1)
        happened.append("heard")

    with ours, theirs:
        loop.add_reader(ours, hear)
        timer = CoreTimer(loop, SystemClock(), lambda: is_leader, act)
        timer.arm(time.monotonic() + STALL_S / 2)
        time.sleep(STALL_S)
        resumed_at = time.monotonic()
        # Not in the first turn of the loop after the stall, in which the timer is due.
        loop.call_soon(lambda: loop.call_soon(theirs.send, b"x"))
        async with asyncio.timeout(WAIT_S):
            await acted.wait()
        assert is_leader or time.monotonic() - resumed_at >= RUNNING_S
        while "heard" not in happened:
            await asyncio.sleep(0)
        loop.remove_reader(ours)
    return happened


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
def test_follower_hears_its_leader_before_it_acts(run: object) -> None:
    """A heartbeat that comes when the machine runs again is heard before the election timeout is acted on."""
    assert callable(run)
    assert run(_stalled(is_leader=False)) == ["heard", "act"]


def test_leader_acts_at_once() -> None:
    """A leader's heartbeat is late already."""
    assert uvloop.run(_stalled(is_leader=True)) == ["act", "heard"]


def test_rearming_does_not_shorten_the_moment() -> None:
    """A deadline that has passed stays passed: arming the timer again with it changes nothing."""

    async def run() -> float:
        acted = asyncio.Event()
        timer = CoreTimer(asyncio.get_running_loop(), SystemClock(), lambda: False, acted.set)
        began = time.monotonic()
        timer.arm(began)
        async with asyncio.timeout(WAIT_S):
            while not acted.is_set():
                timer.arm(began)
                await asyncio.sleep(0.001)
        return time.monotonic() - began

    # uvloop rounds to milliseconds, so it may ring half of one early.
    assert uvloop.run(run()) > RUNNING_S - 0.001


class _Desk:
    """A loop and a clock in the hands of a test."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: tuple[float, Callable[..., object]] | None = None

    def monotonic(self) -> float:
        """Return the time that the test has let pass."""
        return self.now

    def call_at(self, when: float, callback: Callable[..., object]) -> _Desk:
        """Keep the one timer that there is."""
        self.due = (when, callback)
        return self

    def cancel(self) -> None:
        """Forget it."""
        self.due = None

    def ring(self, late: float) -> None:
        """Let the time of the timer come, and ring it so much later."""
        assert self.due is not None
        (when, callback), self.due = self.due, None
        self.now = max(self.now, when) + late
        callback()


def _rings(late: list[float]) -> int:
    """Return at which ring a follower acts whose rings come so late, one after the other."""
    desk = _Desk()
    acted: list[float] = []
    timer = CoreTimer(desk, desk, lambda: False, lambda: acted.append(desk.now))  # type: ignore[arg-type]
    timer.arm(0.1)
    for number, each in enumerate(late, 1):
        desk.ring(each)
        if acted:
            return number
    return 0


def test_a_starved_process_does_not_believe_its_timer() -> None:
    """A second ring that comes late proves that the process did not run: the heartbeat may wait in its socket."""
    assert _rings([0.2, 0.001]) == 2, "noticed late, and then it ran"
    assert _rings([0.2, 0.2, 0.1, 0.001]) == 4, "each late ring asks for one more"
    assert _rings([0.001, RUNNING_S / 2]) == 2, "a busy turn of the loop is not starvation"


def test_a_process_that_is_always_late_acts_at_last() -> None:
    """Where no ring comes in time the node must still be able to stand for election."""
    assert _rings([0.2] * 20) == DOUBTS_MAX + 2


def test_doubts_are_of_one_timeout() -> None:
    """The next timeout begins with none."""
    desk = _Desk()
    acted: list[float] = []
    timer = CoreTimer(desk, desk, lambda: False, lambda: acted.append(desk.now))  # type: ignore[arg-type]
    for _ in range(3):
        timer.arm(desk.now + 0.1)
        for late in (0.2, 0.2, 0.2, 0.2, 0.0):
            desk.ring(late)
    assert len(acted) == 3
