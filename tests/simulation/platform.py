"""The world that a simulated node is handed: clocks, loop, links, log writer, workers, chance, all of one seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from durable_raft.raft.core import Raft
from durable_raft.raft.types import Identity, Member
from durable_raft.server.log_writer import Flushed
from durable_raft.server.peers import LinkEvents
from durable_raft.storage.log.log_store import LogStore
from tests.simulation.dialled import DialledLinks
from tests.simulation.parts import SimCrashPoints, SimLinks, SimLogWriter, SimWorker

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.site import Clock

Callback = Callable[..., object]


class SimTimer:
    """What ``call_at`` returns."""

    __slots__ = ("_args", "_callback")

    def __init__(self, callback: Callback, args: tuple[Any, ...]) -> None:
        self._callback: Callback | None = callback
        self._args = args

    def cancel(self) -> None:
        """Never call."""
        self._callback = None

    def fire(self) -> None:
        """Call unless cancelled."""
        if self._callback is not None:
            self._callback(*self._args)


class SimLoop:
    """A node's event loop, by the node's own clock."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def call_soon(self, callback: Callback, /, *args: Any) -> None:
        """Run in this turn or, on a busy loop, a little later."""
        process = self._process
        lag = process.site.loop_lag
        if lag:
            world = process.world
            world.at(world.now + int(process.rng.random() * lag), process, callback, *args)
        else:
            process.soon.append((callback, args))

    def call_soon_threadsafe(self, callback: Callback, /, *args: Any) -> None:
        """Run in this turn."""
        self._process.soon.append((callback, args))

    def call_at(self, when: float, callback: Callback, /, *args: Any) -> SimTimer:
        """Run at a time of the node's own monotonic clock."""
        timer = SimTimer(callback, args)
        world = self._process.world
        world.at(max(world.now, self._process.site.clock.world_time(when)), self._process, timer.fire)
        return timer

    def call_later(self, delay: float, callback: Callback, /, *args: Any) -> SimTimer:
        """Run after a time by the node's own monotonic clock."""
        return self.call_at(self._process.site.clock.monotonic() + delay, callback, *args)


class SimRecorder:
    """Records nothing: the timeline of the run has it all."""

    def note(self, name: str, /, **fields: object) -> None:
        """Nothing is kept."""

    def recovered(self, raft: Raft) -> None:
        """Nothing is kept."""

    def progress(self, raft: Raft) -> None:
        """Nothing is kept."""


class SimPlatform:
    """A ``server.platform.Platform`` for one life of a simulated node."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.clock: Clock = process.site.clock
        self.loop = SimLoop(process)
        self.rng = random.Random(process.rng.getrandbits(32))
        self.life = self.rng.randbytes(8)
        self.versions = process.site.program
        self.slice_steps = process.world.swarm.slice_steps
        self.large_bytes = process.world.swarm.large_bytes
        self.crash_points = SimCrashPoints()
        self.recorder = SimRecorder()
        self.writer: SimLogWriter
        """There once the node has asked for it, and so are the next two."""
        self.workers: list[SimWorker] = []
        self.network: SimLinks

    def links(self, identity: Identity, members: Sequence[Member], rng: random.Random, events: LinkEvents) -> SimLinks:
        """Return links to the simulated network."""
        del rng
        kind = SimLinks if self._process.world.churn is None else DialledLinks
        self.network = kind(self._process, identity, members, events)
        return self.network

    def log_writer(
        self, store: LogStore, on_flushed: Callable[[Flushed], None], on_failed: Callable[[BaseException], None]
    ) -> SimLogWriter:
        """Return a log writer whose thread is the simulated disk."""
        self.writer = SimLogWriter(self._process, store, self.crash_points, on_flushed, on_failed)
        return self.writer

    def worker(self, name: str, on_failed: Callable[[BaseException], None]) -> SimWorker:
        """Return a worker whose work is done at the end of its time."""
        del name
        worker = SimWorker(self._process, on_failed)
        self.workers.append(worker)
        return worker
