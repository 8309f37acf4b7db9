"""Clients that write and read at a pace, remember what they were told and when, and have every answer judged.

Each client is one thread with one client library of its own. A turn is due at its time whether or not the one before
was answered, and its latency counts from then. A turn whose time is over when it could begin is left out, and counts
as having waited for the answer that was late. So a pause is seen by all who would have written meanwhile, and a machine
that is too slow for the rate does not add up what is late.

After a rest each begins with a new client, which is told of the nodes of that time: nobody finds a cluster of which he
knows only nodes that are gone.

Half of the turns write a key that is written once, so that no later write can hide its loss. A quarter writes the
client's own register, a quarter reads anybody's: that is the history that is judged. A register has one writer, so a
library that sends a write again changes nothing in the order that must exist. After an error the client goes on to a
new register: a write of unknown fate may come late.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple, Protocol

from tests.simulation.sequential import NEVER, OK, Kind, Operation, Output
from tests.support.threads import working
from tests.support.waiting import wait_until

COMMANDS_PER_REGISTER: Final = 40
"""Writes to a register; then its client goes on to a new one, because the search grows faster than a key's history."""
VALUE_BYTES: Final = 100


class NotAnswered(Exception):
    """A client library gave up; the message is the kind of error. The command was done, or not, or will be."""


class Client(Protocol):
    """What a client library does for one thread; each call raises NotAnswered."""

    def set(self, key: bytes, value: bytes) -> None:
        """Write; return when that is acknowledged."""

    def get(self, key: bytes) -> bytes | None:
        """Read, linearizably."""

    def close(self) -> None:
        """Let go of the connections."""


Note = Callable[[str], None]
"""Takes the kind of an error that a library met, and did not show."""
Connect = Callable[[Note], Client]
"""Makes a client; raises NotAnswered when nobody can be reached."""


class Write(NamedTuple):
    """A write that was acknowledged, or left out while another command was not answered; see above."""

    due: float
    """By the monotonic clock, in seconds, as the other."""
    answered: float
    is_left_out: bool = False


class Error(NamedTuple):
    """What a client met instead of an answer."""

    at: float
    kind: str
    is_shown: bool
    """Whether the client saw it; else its library tried again by itself."""


class Load:
    """Clients of one cluster, which rest until they are told to work."""

    def __init__(self, connect: Connect, *, rate: float, clients: int, seed: str) -> None:
        """Have ``clients`` ask ``rate`` times a second, together."""
        self._connect = connect
        self._clients = clients
        self._pause_s = clients / rate
        self._seed = seed
        self._stop = threading.Event()
        self._working = threading.Event()
        self.rests = 0
        """How often the clients were told to rest."""
        self._lock = threading.Lock()
        self._registers = [b"register:%d:0" % each for each in range(clients)]
        self._faults: list[BaseException] = []
        self.writes: list[Write] = []
        """In the order in which they were answered."""
        self.acknowledged: dict[str, str] = {}
        """Keys that are written once."""
        self.history: list[Operation] = []
        self.errors: list[Error] = []

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Have the clients there while the block runs; raises AssertionError when one ended by a fault of the test."""
        with working(self._run, self._clients, self._stop) as threads:
            try:
                yield self
            finally:
                self._stop.set()
                self._working.set()
        assert not any(thread.is_alive() for thread in threads), "a client did not end"
        assert not self._faults, f"a client failed: {self._faults!r}"

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Let the clients ask while the block runs."""
        self._working.set()
        try:
            yield
        finally:
            self.rests += 1
            self._working.clear()

    def wait_for(self, more: int) -> None:
        """Wait until so many writes that were due after this call were acknowledged; raises AssertionError."""
        now = time.monotonic()
        first = len(self.writes)

        def are_there() -> bool:
            assert not self._faults, f"a client failed: {self._faults!r}"
            return sum(write.due >= now and not write.is_left_out for write in self.writes[first:]) >= more

        wait_until(are_there, f"{more} more acknowledged writes")

    def acknowledgements(self) -> list[float]:
        """Return when a write was acknowledged, in order."""
        return sorted(write.answered for write in list(self.writes) if not write.is_left_out)

    def count(self) -> Counter[str]:
        """Return how often each kind of error was shown to a client."""
        return Counter(error.kind for error in self.errors if error.is_shown)

    # -- one client ---------------------------------------------------------------------------------------------------

    def _run(self, number: int) -> None:
        try:
            _Thread(self, number).run()
        except BaseException as error:
            self._faults.append(error)
            raise

    def turns(self, number: int) -> Iterator[tuple[int, float]]:
        """Yield each turn of a client when it is due, and when that was; after a rest there is nothing that is late."""
        turn, due = 0, 0.0
        while not self._stop.is_set():
            if not self._working.is_set() or not due:
                self._working.wait()
                # One client after the other, so that in calm the time between two writes is short.
                due = time.monotonic() + self._pause_s * number / self._clients
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            yield turn, due
            now = time.monotonic()
            turn, due = turn + 1, due + self._pause_s
            while due + self._pause_s < now:
                if not is_read(turn):
                    self._wrote(Write(due, now, is_left_out=True))
                turn, due = turn + 1, due + self._pause_s

    def connect(self) -> Client:
        """Make a client; raises NotAnswered."""
        return self._connect(lambda kind: self.note(kind, is_shown=False))

    def rng(self, number: int) -> random.Random:
        """Return the chance of one client."""
        return random.Random(f"{self._seed}-{number}")

    def note(self, kind: str, *, is_shown: bool) -> None:
        """Remember an error."""
        self.errors.append(Error(time.monotonic(), kind, is_shown))

    def _wrote(self, write: Write) -> None:
        with self._lock:
            self.writes.append(write)

    def wrote(self, key: bytes, value: bytes, due: float) -> None:
        """Remember an acknowledged write to a key that is written once."""
        self._wrote(Write(due, time.monotonic()))
        self.acknowledged[key.decode()] = value.decode()

    def recorded(self, operation: Operation, due: float) -> None:
        """Add to the history; an acknowledged write counts as one."""
        self.history.append(operation)
        if operation.kind is Kind.SET and operation.returned != NEVER:
            self._wrote(Write(due, operation.returned))

    def use_register(self, number: int, key: bytes) -> None:
        """Have a client's register be another one."""
        self._registers[number] = key

    def any_register(self, rng: random.Random) -> bytes:
        """Return one that is written now."""
        return rng.choice(self._registers)


class _Thread:
    """One client's side."""

    def __init__(self, load: Load, number: int) -> None:
        self._load = load
        self._number = number
        self._rng = load.rng(number)
        self._client: Client | None = None
        self._rests = 0
        self._register, self._generation, self._writes = b"", -1, 0

    def run(self) -> None:
        """Take turns until it is time to end."""
        self._next_register()
        for turn, due in self._load.turns(self._number):
            try:
                if self._client is None or self._rests != self._load.rests:
                    self._close()
                    self._rests, self._client = self._load.rests, self._load.connect()
                self._take(self._client, turn, due)
            except NotAnswered as error:
                self._load.note(str(error), is_shown=True)
                self._next_register()
                self._close()
        self._close()

    def _take(self, client: Client, turn: int, due: float) -> None:
        value = b"%d:%d" % (self._number, turn)
        if is_read(turn):
            key = self._load.any_register(self._rng)
            self._record(key, Kind.GET, None, due, lambda: client.get(key))
        elif turn % 2 == 0:
            key, value = b"once:" + value, value.ljust(VALUE_BYTES, b".")
            client.set(key, value)
            self._load.wrote(key, value, due)
        else:
            if self._writes == COMMANDS_PER_REGISTER:
                self._next_register()
            self._writes += 1
            self._record(self._register, Kind.SET, value, due, lambda: _set(client, self._register, value))

    def _record(self, key: bytes, kind: Kind, given: bytes | None, due: float, ask: Callable[[], Output]) -> None:
        output: Output = None
        invoked, returned = time.monotonic(), NEVER
        try:
            output = ask()
            returned = time.monotonic()
        finally:
            self._load.recorded(Operation(self._number, key, kind, given, output, invoked, returned), due)

    def _next_register(self) -> None:
        self._generation, self._writes = self._generation + 1, 0
        self._register = b"register:%d:%d" % (self._number, self._generation)
        self._load.use_register(self._number, self._register)

    def _close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def is_read(turn: int) -> bool:
    """Return whether a client reads in its turn of that number."""
    return turn % 4 == 3


def _set(client: Client, key: bytes, value: bytes) -> Output:
    client.set(key, value)
    return OK
