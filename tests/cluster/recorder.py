"""Clients of a real cluster that record what they asked, when, and what they were told: a history to be judged.

Nothing is asked twice on its own, by no library: one connection, one command, one reply. So the fate of each command is
known as exactly as the protocol allows. Refusals that ARCHITECTURE.md ("What clients may rely on") promises to be
without effect are counted and left out; ``-UNKNOWN``, a connection that broke and a reply that did not come in time
leave the outcome unknown; any other answer is the command's own, errors included.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeAlias

from durable_raft.addresses import Address, parse_redis_address
from durable_raft.cli.resp_client import RespClient, Value
from durable_raft.errors import ErrorAnswered, NodeUnreachable
from tests.cluster.harness import Cluster
from tests.simulation.sequential import NEVER, Operation, Output, kind_and_input
from tests.support.threads import working
from tests.support.waiting import WAIT_S

NextCommand: TypeAlias = Callable[[random.Random, int], list[bytes]]
"""``(rng, number)`` of a client's next command; the number differs for every command of a run."""

NO_EFFECT_CODES: Final = ("MOVED", "CLUSTERDOWN", "TRYAGAIN", "OVERLOADED", "NOSPACE")
TIMEOUT_S: Final = 3.0
"""Longer than a node holds a command without a leader (2 s): a timeout then means that the node is paused or dead."""
THINK_S: Final = 0.005
PAUSE_S: Final = 0.01
"""After a connection was refused: no busy loop while nobody is there."""


class Recorder:
    """Threads that each ask one command after the other until told to stop, and what they were told."""

    def __init__(
        self, cluster: Cluster, next_command: NextCommand, *, clients: int, seed: int, think_s: float = THINK_S
    ) -> None:
        self._cluster = cluster
        self._next_command = next_command
        self._clients = clients
        self._seed = seed
        self._think_s = think_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._number = 0
        self._faults: list[BaseException] = []
        self.history: list[Operation] = []
        """All commands but those that certainly had no effect; times in seconds."""
        self.answered = 0
        self.counts: Counter[str] = Counter()
        """How often what was not an answer happened, by error code: ``MOVED``, ``UNKNOWN``, ``lost``, ``refused``."""

    @contextmanager
    def running(self) -> Iterator[Recorder]:
        """Ask while the block runs; raises AssertionError when a client ended by anything but what it expects."""
        with working(self._run, self._clients, self._stop) as threads:
            yield self
        assert not any(thread.is_alive() for thread in threads), "a client did not end"
        assert not self._faults, f"a client failed: {self._faults}"

    def wait_for(self, more: int, timeout_s: float = WAIT_S) -> None:
        """Wait until ``more`` further commands were answered; raises AssertionError when they are not in time."""
        target = self.answered + more
        self._cluster.wait(
            lambda: self.answered >= target or bool(self._faults), f"{more} more answered commands", timeout_s
        )

    def summary(self) -> str:
        """Say in one line what was asked and what became of it."""
        unknown = sum(each.returned == NEVER for each in self.history)
        others = ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))
        return f"{self.answered} answered, {unknown} unknown; not answers: {others or 'none'} (seed {self._seed})"

    def _run(self, client: int) -> None:
        try:
            _Client(self, client).run()
        except BaseException as error:
            self._faults.append(error)
            raise

    # -- for the clients --------------------------------------------------------------------------------------------

    @property
    def is_stopped(self) -> bool:
        """Whether the clients are to end."""
        return self._stop.is_set()

    def think(self) -> None:
        """Pause a moment: the processor belongs to the nodes, and a history is judged faster the shorter it is."""
        self._stop.wait(self._think_s)

    @property
    def addresses(self) -> list[Address]:
        """Where the nodes are."""
        return [node.address for node in self._cluster.nodes.values()]

    def rng(self, client: int) -> random.Random:
        """Return the chance of one client."""
        return random.Random(f"{self._seed}-{client}")

    def command(self, rng: random.Random) -> list[bytes]:
        """Return the next command."""
        with self._lock:
            self._number += 1
            number = self._number
        return self._next_command(rng, number)

    def record(self, operation: Operation) -> None:
        """Add an operation to the history."""
        with self._lock:
            self.history.append(operation)
            self.answered += operation.returned != NEVER

    def count(self, what: str) -> None:
        """Count what was not an answer."""
        with self._lock:
            self.counts[what] += 1


class _Client:
    """One thread's side: the connection it has, and where it goes next."""

    def __init__(self, recorder: Recorder, client: int) -> None:
        self._recorder = recorder
        self._client = client
        self._rng = recorder.rng(client)
        self._addresses = recorder.addresses
        self._target = self._addresses[client % len(self._addresses)]
        self._connection: RespClient | None = None

    def run(self) -> None:
        """Ask until told to stop."""
        while not self._recorder.is_stopped:
            connection = self._connected()
            if connection is not None:
                self._ask(connection, self._recorder.command(self._rng))
                self._recorder.think()
        self._leave(self._target)

    def _connected(self) -> RespClient | None:
        if self._connection is None:
            try:
                self._connection = RespClient(self._target, TIMEOUT_S)
            except NodeUnreachable:
                # No command was sent.
                self._recorder.count("refused")
                self._leave(self._rng.choice(self._addresses))
                time.sleep(PAUSE_S)
        return self._connection

    def _ask(self, connection: RespClient, args: Sequence[bytes]) -> None:
        key, kind, given = kind_and_input(args)
        output: Output = None
        invoked, returned = time.monotonic(), NEVER
        try:
            output = _as_output(connection.call(*args))
            returned = time.monotonic()
        except NodeUnreachable:
            self._recorder.count("lost")
            self._leave(self._rng.choice(self._addresses))
        except ErrorAnswered as error:
            returned = time.monotonic()
            output = str(error)
            code, _, rest = output.partition(" ")
            if code in (*NO_EFFECT_CODES, "UNKNOWN"):
                self._recorder.count(code)
                self._leave(parse_redis_address("MOVED", rest.split()[1]) if code == "MOVED" else self._target)
            if code in NO_EFFECT_CODES:
                return
            if code == "UNKNOWN":
                output, returned = None, NEVER
        self._recorder.record(Operation(self._client, key, kind, given, output, invoked, returned))

    def _leave(self, target: Address) -> None:
        """Close the connection, and go to ``target`` next time."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._target = target


def _as_output(value: Value) -> Output:
    return tuple(map(_as_output, value)) if isinstance(value, list) else value
