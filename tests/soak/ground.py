"""What the soak's troubles strike: a cluster, the disks under it, and how much of everything is too much for it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from durable_raft.cli.resp_client import RespClient, Value
from durable_raft.errors import RequestError
from durable_raft.server.settings.memory_plan import share_bytes
from tests.cluster.disks import Disks
from tests.cluster.harness import Cluster

ANSWER_S: Final = 120.0
"""How long a command of a trouble may take: behind 40 MB on a busy machine it takes a while."""
LASTING: Final = ("lasting", "stays")
"""A key with a month to live, and its value: no wrong clock may end it."""
LASTING_S: Final = 30 * 24 * 3600


@dataclass(slots=True)
class Sizes:
    """How much troubles do at a time."""

    pipeline: int
    """Commands that are sent at once."""
    value_bytes: int
    """Of a large value."""
    hold_s: float
    """How long what lasts is held: a full disk, a wrong clock, a memory that is kept full."""


@dataclass(slots=True)
class Ground:
    """A cluster under trouble; shared by the threads of all troubles."""

    cluster: Cluster
    disks: Disks
    memory_max: int
    sizes: Sizes
    down: set[str] = field(default_factory=set)
    """Nodes that a trouble has killed; no other may be down."""
    over: threading.Event = field(default_factory=threading.Event)
    """Set when troubles are to end early."""
    _killing: threading.Lock = field(default_factory=threading.Lock)

    def prepare(self) -> None:
        """Write what troubles look for."""
        with self.asking(self.cluster.leader()) as ask:
            ask("SET", *LASTING, "EX", str(LASTING_S))

    def any_node(self, rng: random.Random) -> str:
        """Return a node that runs: the leader half of the time."""
        leader = self.cluster.leader()
        return leader if rng.random() < 0.5 else rng.choice(self.cluster.running())

    def share(self, name: str) -> int:
        """Return how many bytes a share of each node's memory has."""
        return share_bytes(name, self.memory_max)

    def counter(self, node_id: str, name: str) -> int:
        """Return a number of INFO raft; 0 when the node does not answer."""
        info = self.cluster.info(node_id)
        return 0 if info is None else int(info[name])

    @contextmanager
    def asking(self, node_id: str) -> Iterator[Callable[..., Value]]:
        """Give a function that asks one node on one connection; it and this raise RequestError."""
        with RespClient(self.cluster.nodes[node_id].address, ANSWER_S) as client:
            yield client.call

    def takes_writes(self) -> bool:
        """Return whether the leader, if there is one, acknowledges a write."""
        try:
            with self.asking(self.cluster.leader()) as ask:
                return ask("SET", "taken", "x") == b"OK"
        except RequestError:
            return False

    def wait_at_most(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until ``condition`` holds, or until time is up: whoever asks counts what came of it."""
        pause_s = 0.1
        for _ in range(round(seconds / pause_s)):
            if condition() or self.over.wait(pause_s):
                return

    def hold(self) -> None:
        """Let what was done last for a while."""
        self.over.wait(self.sizes.hold_s)

    @contextmanager
    def killed(self, node_id: str) -> Iterator[None]:
        """Kill a node, and start it again behind the block; one at a time."""
        with self._killing:
            self.down.add(node_id)
            self.cluster.kill9(node_id)
            try:
                yield
            finally:
                self.cluster.start(node_id)
                self.down.discard(node_id)
