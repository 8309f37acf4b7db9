"""The one seam between a node and the world: clocks, loop, links, threads, chance.

A node is handed a ``Platform`` and takes from it all that is not a function of its inputs. The process hands in
``SystemPlatform``; the simulator hands in another, and patches no module. The disk comes with ``NodeData``, whoever
opened it.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Sequence
from typing import Protocol

from durable_raft.raft.core import Raft
from durable_raft.raft.types import Identity, Member
from durable_raft.raft.versions import OURS, Versions
from durable_raft.server.clock import Clock, Loop
from durable_raft.server.cluster_secret import ClusterSecrets
from durable_raft.server.crash_points import CrashPoints
from durable_raft.server.large_entries import LARGE_BYTES
from durable_raft.server.log_writer import Flushed, LogWriter
from durable_raft.server.peers import LinkEvents, Links, Peers
from durable_raft.server.slices import STEPS_MAX
from durable_raft.server.state.worker import ThreadWorker, Worker
from durable_raft.storage.log.log_store import LogStore


class Recorder(Protocol):
    """Keeps what the core does for whoever asks after the node's death; never in the node's way."""

    def note(self, name: str, /, **fields: object) -> None:
        """Note an event."""

    def recovered(self, raft: Raft) -> None:
        """Note what the disk gave this life to start with."""

    def progress(self, raft: Raft) -> None:
        """Note how far the log is, if that is news."""


class Platform(Protocol):
    """What a node takes from the machine it runs on; belongs to one life of one node."""

    @property
    def clock(self) -> Clock:
        """Monotonic time, and the time of day."""

    @property
    def loop(self) -> Loop:
        """The event loop: all of the node but its threads runs on it."""

    @property
    def rng(self) -> random.Random:
        """Every random choice of this life."""

    @property
    def life(self) -> bytes:
        """8 bytes that no other life of any node has (raft/lives.py); empty: lives are not counted."""

    @property
    def versions(self) -> Versions:
        """Which versions of a cluster the program can (raft/versions.py)."""

    @property
    def slice_steps(self) -> int:
        """How many steps a slice of the machine's work has at most (slices.py)."""

    @property
    def large_bytes(self) -> int:
        """Payload bytes above which an entry is read from the disk on a worker (large_entries.py)."""

    @property
    def crash_points(self) -> CrashPoints:
        """Named places at which tests kill the node."""

    @property
    def recorder(self) -> Recorder:
        """The flight recorder."""

    def links(self, identity: Identity, members: Sequence[Member], rng: random.Random, events: LinkEvents) -> Links:
        """Return the links to the other nodes, not started."""

    def log_writer(
        self, store: LogStore, on_flushed: Callable[[Flushed], None], on_failed: Callable[[BaseException], None]
    ) -> LogWriter:
        """Return the log writer, not started; the two are called on its thread."""

    def worker(self, name: str, on_failed: Callable[[BaseException], None]) -> Worker:
        """Return a worker, not started; ``on_failed`` is called on the loop."""


class SystemPlatform:
    """This machine: its clocks, the running event loop, TCP, threads."""

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        seed: int,
        crash_points: CrashPoints,
        recorder: Recorder,
        cluster_secrets: ClusterSecrets,
    ) -> None:
        """Bind what there is one of for a node; ``seed`` is of all its random choices."""
        self.loop = loop
        self.clock = clock
        self.rng = random.Random(seed)  # noqa: S311 - timeouts and cursors, not secrets
        self.life = secrets.token_bytes(8)
        self.versions = OURS
        self.slice_steps = STEPS_MAX
        self.large_bytes = LARGE_BYTES
        self.crash_points = crash_points
        self.recorder = recorder
        self._cluster_secrets = cluster_secrets

    def links(self, identity: Identity, members: Sequence[Member], rng: random.Random, events: LinkEvents) -> Links:
        """Return links by TCP."""
        return Peers(identity, members, rng, events, self._cluster_secrets)

    def log_writer(
        self, store: LogStore, on_flushed: Callable[[Flushed], None], on_failed: Callable[[BaseException], None]
    ) -> LogWriter:
        """Return a log writer with a thread of its own."""
        return LogWriter(store, self.clock, self.crash_points, on_flushed, on_failed)

    def worker(self, name: str, on_failed: Callable[[BaseException], None]) -> Worker:
        """Return a worker with a thread of its own."""
        return ThreadWorker(name, self.loop.call_soon_threadsafe, on_failed)
