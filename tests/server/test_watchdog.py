"""What holds the event loop is counted by its own processor time, and named."""

from __future__ import annotations

import asyncio
import logging
import socket
import time

import pytest
import uvloop

from durable_raft.server.watchdog import SAMPLE_S, SAY_AT_ONCE_S, SAY_S, SLOW_S, Watchdog, watched
from tests.support.waiting import WAIT_S


class Clocks:
    """Wall and processor time, by hand."""

    def __init__(self) -> None:
        self.wall = self.processor = 50.0

    def work(self, seconds: float) -> None:
        """Compute for so long."""
        self.wall += seconds
        self.processor += seconds

    def stand_still(self, seconds: float) -> None:
        """Be kept from the processor for so long."""
        self.wall += seconds


@pytest.fixture
def clocks() -> Clocks:
    """Both clocks of a watchdog."""
    return Clocks()


@pytest.fixture
def watchdog(clocks: Clocks) -> Watchdog:
    """One that notes what is slow."""
    made = Watchdog(lambda: clocks.wall, lambda: clocks.processor)
    made.begin()
    return made


def said(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """Return the fields of the lines about slow turns."""
    return [record.__dict__["fields"] for record in caplog.records if record.msg == "slow_turn"]


def test_processor_time_counts_and_no_other(
    clocks: Clocks, watchdog: Watchdog, caplog: pytest.LogCaptureFixture
) -> None:
    """A node that was kept from the processor for a second has done nothing wrong."""
    watchdog.run(clocks.stand_still, 1.0)
    watchdog.run(clocks.work, SLOW_S / 2)
    assert watchdog.slow_turns == 0
    watchdog.run(clocks.work, SLOW_S * 2)
    assert watchdog.slow_turns == 1
    assert watchdog.slowest_s == pytest.approx(SLOW_S * 2)
    assert said(caplog) == [{"what": "Clocks.work", "processor_ms": 20.0, "turns": 1}]


def test_what_was_used_before_does_not_count(clocks: Clocks, watchdog: Watchdog) -> None:
    """But for what was used within the last sample's age."""
    for _ in range(100):
        watchdog.run(clocks.work, SLOW_S / 3)
    watchdog.run(clocks.stand_still, 1.0)
    assert watchdog.slow_turns == 0
    watchdog.run(clocks.work, SLOW_S + SAMPLE_S)
    assert SLOW_S < watchdog.slowest_s <= SLOW_S + 2 * SAMPLE_S


def test_lines_are_few_and_name_the_worst(clocks: Clocks, watchdog: Watchdog, caplog: pytest.LogCaptureFixture) -> None:
    """One a second, with how many there were; a very long one at once."""

    def receive(data: bytes) -> None:
        clocks.work(len(data) / 1000)

    watchdog.run(receive, bytes(12))
    for size in (20, 30, 15):
        watchdog.run(receive, bytes(size))
    assert len(said(caplog)) == 1
    clocks.stand_still(SAY_S)
    watchdog.run(receive, bytes(11))
    assert said(caplog)[1] == {"what": f"{receive.__qualname__}:30", "processor_ms": 30.0, "turns": 4}
    watchdog.run(receive, bytes(int(SAY_AT_ONCE_S * 1000) + 1))
    assert len(said(caplog)) == 3
    assert watchdog.slow_turns == 6


def test_a_start_may_take_its_time(clocks: Clocks) -> None:
    """Nothing waits for the node before it listens."""
    watchdog = Watchdog(lambda: clocks.wall, lambda: clocks.processor)
    watchdog.run(clocks.work, 1.0)
    assert watchdog.slow_turns == 0


def test_a_slow_callback_that_fails_is_noted_too(clocks: Clocks, watchdog: Watchdog) -> None:
    """And its exception is the loop's."""

    def fail() -> None:
        clocks.work(1.0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        watchdog.run(fail)
    assert watchdog.slow_turns == 1


def burn(seconds: float = 2 * SLOW_S) -> None:
    """Use the processor for so long."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class Burning(asyncio.Protocol):
    """Takes long over what it receives."""

    def data_received(self, data: bytes) -> None:
        """Take them."""
        del data
        burn()


@pytest.mark.parametrize("base", [uvloop.Loop, asyncio.SelectorEventLoop])
def test_every_door_of_a_loop_is_watched(base: type[asyncio.AbstractEventLoop]) -> None:
    """Callbacks soon, later, at a time and of other threads, and bytes received by servers and by clients."""
    watchdog = Watchdog(processor=time.thread_time)
    watchdog.begin()
    logging.getLogger("durable_raft.server.watchdog").setLevel(logging.ERROR)

    async def counts(expected: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while watchdog.slow_turns < expected:
                await asyncio.sleep(0.001)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(burn)
        await counts(1)
        loop.call_soon_threadsafe(burn)
        await counts(2)
        loop.call_later(0.001, burn)
        await counts(3)
        loop.call_at(loop.time() + 0.001, burn)
        await counts(4)
        server = await loop.create_server(Burning, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            client.sendall(b"x")
            await counts(5)
        server.close()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            await loop.create_connection(Burning, *listening.getsockname())
            accepted, _ = listening.accept()
            with accepted:
                accepted.sendall(b"x")
                await counts(6)

    with asyncio.Runner(loop_factory=lambda: watched(base)(watchdog)) as runner:
        runner.run(main())
