"""Clients of the simulated cluster, and the history of what they asked and were told.

A client sends a pipeline on one connection, waits, follows ``-MOVED``, gives up after a time, and then may try the same
again: what it does not know may have happened once, twice or never. Registers (SET, SET NX, GET, DEL) get values that
are written once; counters are only incremented and read.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from durable_raft.raft.types import NodeId
from tests.simulation.process import Connection

if TYPE_CHECKING:
    from tests.simulation.world import World

Answer = bytes | int | None

UNKNOWN: Final = "unknown"
NO_EFFECT: Final = (b"-MOVED", b"-CLUSTERDOWN", b"-TRYAGAIN", b"-OVERLOADED", b"-NOSPACE")
"""Errors that say the command certainly had no effect."""


class WrongAnswer(AssertionError):
    """A client was told something that cannot be true."""


@dataclass(slots=True, eq=False)
class Operation:
    """One command of one client. Times in virtual microseconds."""

    client: int
    args: tuple[bytes, ...]
    invoked: int
    returned: int | None = None
    """When the answer came; None: the outcome is unknown for ever."""
    answer: Answer = None
    """The value; meaningful only when ``returned`` is set."""

    @property
    def key(self) -> bytes:
        """The key it is about."""
        return self.args[1]

    @property
    def is_read(self) -> bool:
        """Whether it changes nothing."""
        return self.args[0] == b"get"

    def words(self) -> str:
        """Say it in one line."""
        command = b" ".join(self.args).decode()
        until = f"{self.returned / 1e6:.6f}" if self.returned is not None else "?"
        answer = repr(self.answer) if self.returned is not None else UNKNOWN
        return f"client {self.client} [{self.invoked / 1e6:.6f}, {until}] {command} -> {answer}"


def parse_reply(reply: bytes) -> Answer:
    """Return the value of a RESP2 reply that is no error."""
    kind = reply[:1]
    if kind == b":":
        return int(reply[1:])
    if kind == b"+":
        return reply[1:-2]
    if reply == b"$-1\r\n":
        return None
    return reply[reply.index(b"\r\n") + 2 : -2]


class Client:
    """One client."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self._rng = random.Random(world.rng_of(f"client {number}"))
        self._target: NodeId = self._rng.choice(world.names)
        self._connection: Connection | None = None
        self._waiting: list[Operation] = []
        self._again: list[tuple[bytes, ...]] = []
        self._try = 0
        """Number of the present pipeline; answers and timers of earlier ones are stale."""
        self._values = 0
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
        if self.is_stopping or self._waiting:
            return
        swarm = self.world.swarm
        commands = self._again or [self._draw() for _ in range(self._rng.randint(1, swarm.pipeline_max))]
        self._again = []
        if swarm.wander and self._rng.random() < swarm.wander:
            self._wander()
        self.send(commands)

    def _wander(self) -> None:
        """Send the next pipeline to any node; connections stay open."""
        self._open[self._target] = self._connection
        self._target = self._rng.choice(self.world.names)
        self._connection = self._open.get(self._target)

    def send(self, commands: list[tuple[bytes, ...]]) -> None:
        """Send ``commands`` in one pipeline to the node this client believes in."""
        world = self.world
        self._try += 1
        self._waiting = [Operation(self.number, args, world.now) for args in commands]
        self._counted = {}
        world.history.extend(self._waiting)
        if world.is_traced:
            for operation in self._waiting:
                world.say(f"client {self.number} -> {self._target}  {b' '.join(operation.args).decode()}")
        world.at(world.now + self._delay(), None, self._arrive, self._try)
        world.at(world.now + world.swarm.client_timeout, None, self._time_out, self._try)

    def _draw(self) -> tuple[bytes, ...]:
        rng = self._rng
        key = b"%d" % rng.randrange(self.world.swarm.keys)
        if rng.random() < self.world.swarm.reads:
            return (b"get", rng.choice((b"r", b"c")) + key)
        choice = rng.random()
        if choice < 0.45:
            return (b"incr", b"c" + key)
        self._values += 1
        value = b"%d.%d" % (self.number, self._values)
        if choice < 0.78:
            return (b"set", b"r" + key, value)
        if choice < 0.87:
            return (b"set", b"r" + key, value, b"nx")
        if choice < 0.92:
            return (b"del", b"r" + key)
        # Expiry has no history: replicas must agree on it, whatever their clocks say.
        return (b"set", b"t" + key, value, b"px", b"%d" % rng.randint(1, 2_000))

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
            operation.returned, operation.answer = world.now, parse_reply(reply)
            if operation.key[:1] == b"c":
                self._check_order(operation)
        if not self._waiting:
            self._rest()

    def _check_order(self, operation: Operation) -> None:
        """Commands of one connection are executed in order: a counter never shows less than it did before."""
        answer = operation.answer
        value = answer if isinstance(answer, int) else int(answer or b"0")
        before = self._counted.get(operation.key, 0)
        if value < before or (value == before and not operation.is_read):
            raise WrongAnswer(f"not in the connection's order: {operation.words()}, after it showed {before}")
        self._counted[operation.key] = value

    def _take_error(self, operation: Operation, reply: bytes) -> None:
        word = reply.split(b" ", 1)[0]
        self.world.counts[f"answered {word.decode()}"] += 1
        if word in NO_EFFECT:
            self.world.forget(operation)
            self._again.append(operation.args)
        elif word == b"-UNKNOWN":
            self._unknown(operation)
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
        world.at(world.now + int(self._rng.expovariate(1.0) * world.swarm.think) + 1, None, self.begin)


class FinalReader(Client):
    """Reads every key through the leader when all faults are over."""

    def __init__(self, world: World, keys: list[bytes], on_done: Callable[[], None]) -> None:
        super().__init__(world, 99)
        self._left: list[tuple[bytes, ...]] = [(b"get", key) for key in keys]
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
