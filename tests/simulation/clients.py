"""Clients of the simulated cluster, and the history of what they asked and were told.

A client sends a pipeline on one connection, waits, follows ``-MOVED``, gives up after a time, and then may try the same
again: what it does not know may have happened once, twice or never. What it asks is drawn by workload.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import hiredis

from durable_raft.raft.types import NodeId
from tests.simulation.process import Connection
from tests.simulation.workload import READS, Command, Workload, final_reads

if TYPE_CHECKING:
    from tests.simulation.world import World

Answer = bytes | int | str | tuple[bytes | None, ...] | None
"""An error line, without its dash, is a ``str``."""

UNKNOWN: Final = "unknown"
NO_EFFECT: Final = (b"-MOVED", b"-CLUSTERDOWN", b"-TRYAGAIN", b"-OVERLOADED", b"-NOSPACE")
"""Errors that say the command certainly had no effect."""


class WrongAnswer(AssertionError):
    """A client was told something that cannot be true."""


@dataclass(slots=True, eq=False)
class Operation:
    """One command of one client. Times in virtual microseconds."""

    client: int
    args: Command
    invoked: int
    place: int
    """In its pipeline, from 1: a connection's commands are executed in order."""
    returned: int | None = None
    """When the answer came; None: the outcome is unknown for ever."""
    answer: Answer = None
    """The value; meaningful only when ``returned`` is set."""

    @property
    def is_read(self) -> bool:
        """Whether it changes nothing."""
        return self.args[0] in READS

    def words(self) -> str:
        """Say it in one line."""
        command = b" ".join(self.args).decode()
        until = f"{self.returned / 1e6:.6f}" if self.returned is not None else "?"
        answer = repr(self.answer) if self.returned is not None else UNKNOWN
        return f"client {self.client} [{self.invoked / 1e6:.6f}, {until}] {command} -> {answer}"


def parse_reply(reply: bytes) -> Answer:
    """Return the value of a whole RESP2 reply."""
    _READER.feed(reply)
    answer = _READER.gets()
    if isinstance(answer, list):
        return tuple(answer)
    return str(answer) if isinstance(answer, hiredis.ReplyError) else answer


_READER: Final = hiredis.Reader()


class Client:
    """One client."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self._rng = random.Random(world.rng_of(f"client {number}"))
        self._target: NodeId = self._rng.choice(world.names)
        self._connection: Connection | None = None
        self._waiting: list[Operation] = []
        self._workload = Workload(world.swarm, world.changes, number, self._rng)
        self._again: list[Command] = []
        self._try = 0
        """Number of the present pipeline; answers and timers of earlier ones are stale."""
        self._open: dict[NodeId, Connection | None] = {}
        """Connections to nodes this client has wandered away from."""
        self._counted: dict[bytes, int] = {}
        """Newest answer about each counter in the present pipeline."""
        self.is_stopping = False

    @property
    def is_idle(self) -> bool:
        """Whether it waits for no answer."""
        return not self._waiting

    def begin(self) -> None:
        """Send a pipeline, or stop."""
        if self.is_stopping:
            return
        swarm = self.world.swarm
        commands = self._again or [self._workload.draw() for _ in range(self._rng.randint(1, swarm.pipeline_max))]
        self._again = []
        if swarm.wander and self._rng.random() < swarm.wander:
            self._wander()
        self.send(commands)

    def _wander(self) -> None:
        """Send the next pipeline to any node; connections stay open."""
        self._open[self._target] = self._connection
        self._target = self._rng.choice(self.world.names)
        self._connection = self._open.get(self._target)

    def send(self, commands: list[Command]) -> None:
        """Send ``commands`` in one pipeline to the node this client believes in."""
        world = self.world
        self._try += 1
        self._waiting = [Operation(self.number, args, world.now, place) for place, args in enumerate(commands, start=1)]
        self._counted = {}
        world.history.extend(self._waiting)
        for args in commands:
            world.changes.asked(args)
        if world.is_traced:
            for operation in self._waiting:
                world.say(f"client {self.number} -> {self._target}  {b' '.join(operation.args).decode()}")
        world.at(world.now + self._delay(), None, self._arrive, self._try)
        world.at(world.now + world.swarm.client_timeout, None, self._time_out, self._try)

    def _delay(self) -> int:
        low, high = self.world.swarm.link_delay
        return low + int(self._rng.random() * (high - low))

    # -- the way there and back -----------------------------------------------------------------------------------

    def _arrive(self, attempt: int) -> None:
        if attempt != self._try:
            return
        process = self.world.sites[self._target].process
        if process is None:
            self._refused()
            return
        if self._connection is not None and self._connection.process is not process:
            self._give_up()
            return
        if self._connection is None:
            connection: Connection
            connection = process.connect(
                lambda reply: self._reply_leaves(connection, reply), lambda: self._lost_soon(connection)
            )
            self._connection = connection
        self.world.requests += len(self._waiting)
        process.run(self._connection.take, ([list(operation.args) for operation in self._waiting],))

    def _refused(self) -> None:
        """Nobody listens there: nothing was done."""
        for operation in self._waiting:
            self.world.forget(operation)
        self._waiting = []
        self._turn_to(None)
        self._rest()

    def _reply_leaves(self, connection: Connection, reply: bytes) -> None:
        self.world.at(self.world.now + self._delay_in_order(), None, self._answered, connection, reply)

    def _delay_in_order(self) -> int:
        """Answers of one connection do not overtake each other."""
        return self.world.swarm.link_delay[0]

    def _lost_soon(self, connection: Connection) -> None:
        self.world.at(self.world.now + self._delay(), None, self._lost, connection)

    def _answered(self, connection: Connection, reply: bytes) -> None:
        if connection is not self._connection or not self._waiting:
            return
        operation = self._waiting.pop(0)
        world = self.world
        world.replies += 1
        if world.is_traced:
            world.say(f"client {self.number} <- {reply!r}: {b' '.join(operation.args).decode()}")
        if reply[:1] == b"-":
            self._take_error(operation, reply)
        else:
            self._take_answer(operation, reply)
            if operation.args[-1][:1] == b"c":
                self._check_order(operation)
        if not self._waiting:
            self._rest()

    def _take_answer(self, operation: Operation, reply: bytes) -> None:
        operation.returned, operation.answer = self.world.now, parse_reply(reply)
        self.world.changes.answered(operation.args)

    def _check_order(self, operation: Operation) -> None:
        """Commands of one connection are executed in order: a counter never shows less than it did before."""
        answer, key = operation.answer, operation.args[1]
        assert answer is None or isinstance(answer, bytes | int)
        value = int(answer or 0)
        before = self._counted.get(key, 0)
        if value < before or (value == before and not operation.is_read):
            raise WrongAnswer(f"not in the connection's order: {operation.words()}, after it showed {before}")
        self._counted[key] = value

    def _take_error(self, operation: Operation, reply: bytes) -> None:
        word = reply.split(b" ", 1)[0]
        self.world.counts[f"answered {word.decode()}"] += 1
        if word in NO_EFFECT:
            self.world.forget(operation)
            self._again.append(operation.args)
        elif word == b"-UNKNOWN":
            self._unknown(operation)
        elif word == b"-ERR":
            self._take_answer(operation, reply)
        else:
            raise WrongAnswer(f"{operation.words()} was answered {reply!r}")
        if word == b"-MOVED" and not self._waiting:
            address = reply.split()[2].decode()
            self._turn_to(self.world.name_at(address))
        elif word == b"-CLUSTERDOWN" and not self._waiting:
            self._turn_to(None)

    def _unknown(self, operation: Operation) -> None:
        self.world.counts["outcome unknown"] += 1
        if operation.is_read:
            self.world.forget(operation)
        if self._rng.random() < 0.5:
            self._again.append(operation.args)

    def _lost(self, connection: Connection) -> None:
        if connection is self._connection:
            self._give_up()

    def _time_out(self, attempt: int) -> None:
        if attempt == self._try and self._waiting:
            self._give_up()

    def _give_up(self) -> None:
        """The connection is gone: whatever was not answered may have happened."""
        waiting, self._waiting = self._waiting, []
        for operation in waiting:
            self._unknown(operation)
        self._turn_to(None)
        self._rest()

    def _turn_to(self, name: NodeId | None) -> None:
        """Go to another node."""
        self._connection = None
        self._open.clear()
        self._try += 1
        self._target = name or self._rng.choice(self.world.names)

    def _rest(self) -> None:
        world = self.world
        world.at(world.now + int(self._rng.expovariate(1.0) * world.swarm.think) + 1, None, self._go_on)

    def _go_on(self) -> None:
        """Take a turn, unless it waits for answers: a connection that ends twice makes two turns due."""
        if self.is_idle:
            self.begin()


class FinalReader(Client):
    """Reads every key through the leader when all faults are over."""

    def __init__(self, world: World, on_done: Callable[[], None]) -> None:
        super().__init__(world, 99)
        self._left = final_reads(world.swarm)
        self._on_done = on_done

    def begin(self) -> None:
        """Read the next keys; say when all are read."""
        if self._again:
            again, self._again = self._again, []
            self.send(again)
        elif self._left:
            self._left, commands = self._left[4:], self._left[:4]
            self.send(commands)
        else:
            self._on_done()

    def _unknown(self, operation: Operation) -> None:
        self.world.forget(operation)
        self._again.append(operation.args)

    def _take_error(self, operation: Operation, reply: bytes) -> None:
        super()._take_error(operation, reply)
        if reply.startswith(b"-OVERLOADED") and not self._waiting:
            # It may be a node that no leader comes to any more: one that was removed and could not be told.
            self._turn_to(None)
