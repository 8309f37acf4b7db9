"""Work in slices: what would hold the event loop is cut in steps, and the loop turns between slices of them.

Nothing may hold the loop for more than about 10 ms, or heartbeats are late. So whoever has much to do does it in steps
of well under a millisecond, and looks between two of them whether the slice is used up. A ``Slice`` counts steps beside
the time: a clock that stands still during a turn, as a simulated one does, must end a slice too.

The machine works off its jobs one after the other (``Jobs``): a command is never interrupted by another command, only
by the loop. Connections take turns (``Turns``): one that has sent much delays no other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Final

SLICE_S: Final = 0.003
"""How long a slice lasts. One of the machine and one of the connections fit into a turn of the loop beside its other
business, so that a turn stays under 10 ms."""

PAUSE_S: Final = 0.001
"""After a pause of this length between two connections' steps the loop has turned, or done something else for long."""

STEPS_MAX: Final = 10_000
"""Steps of a slice on a machine whose clock goes on."""

Steps = Generator[None, None, None]
"""Work that can be interrupted wherever it yields."""


class Slice:
    """How much may still be done in one turn of the loop."""

    __slots__ = ("_monotonic", "_steps_left", "_steps_max", "_until")

    def __init__(self, monotonic: Callable[[], float], steps_max: int = STEPS_MAX) -> None:
        """Begin with a slice that is used up."""
        self._monotonic = monotonic
        self._steps_max = steps_max
        self._steps_left = 0
        self._until = 0.0

    def begin(self) -> None:
        """Begin the next slice."""
        self._steps_left = self._steps_max
        self._until = self._monotonic() + SLICE_S

    def take_step(self) -> bool:
        """Count a step; return whether another may follow."""
        self._steps_left -= 1
        return self._steps_left > 0 and self._monotonic() < self._until


class Jobs:
    """Jobs of the machine in the order in which they were added, each done wholly before the next one begins."""

    def __init__(self, monotonic: Callable[[], float], steps_max: int = STEPS_MAX) -> None:
        self._slice = Slice(monotonic, steps_max)
        self._waiting: deque[tuple[Callable[[], Steps], Callable[[], None]]] = deque()
        self._present: Steps | None = None
        self._is_stepping = False
        """Whether a job is at a step right now, and may be the one that asks for something."""

    @property
    def are_under_way(self) -> bool:
        """Whether a job has begun and is not done, or one waits."""
        return self._present is not None or bool(self._waiting)

    def add(self, begin: Callable[[], Steps], drop: Callable[[], None]) -> None:
        """Add a job.

        Args:
            begin: begins it; the job itself is told by ``close`` of its generator when it is dropped later.
            drop: is called in place of ``begin`` when the job is dropped before it has begun.
        """
        self._waiting.append((begin, drop))

    def run(self) -> None:
        """Work off jobs until none is left or the slice is used up; at least one step is done."""
        if self._present is None and not self._waiting:
            return
        self._slice.begin()
        self._is_stepping = True
        try:
            while self._present is not None or self._waiting:
                if self._present is None:
                    begin, _ = self._waiting.popleft()
                    self._present = begin()
                if not self._is_done(self._present):
                    return
        finally:
            self._is_stepping = False

    def _is_done(self, job: Steps) -> bool:
        """Take steps of a job; return whether it is done, or dropped, before the slice is used up."""
        take_step = self._slice.take_step
        for _ in job:
            if self._present is not job:
                job.close()
                return True
            if not take_step():
                return False
        if self._present is job:
            self._present = None
        return True

    def drop(self) -> None:
        """Drop every job: the state that they were for is not the one that counts any more. A job may call it, too."""
        present, self._present = self._present, None
        waiting, self._waiting = self._waiting, deque()
        if present is not None and not self._is_stepping:
            present.close()
        for _, drop in waiting:
            drop()


class Turns:
    """Connections take turns at a slice of each turn of the loop.

    Nobody says when the loop turns, and asking it each time costs as much as a command. So a slice lasts by the clock,
    over as many turns as it will. Who comes at its end, just after another one's step, may be in the same turn still,
    and waits for the next; who comes after a pause is in another, and begins the next slice.
    """

    def __init__(self, call_soon: Callable[[Callable[[], None]], object], monotonic: Callable[[], float]) -> None:
        """``call_soon`` has something called in the loop's next turn."""
        self._call_soon = call_soon
        self._monotonic = monotonic
        self._until = self._last_at = float("-inf")
        """When the slice ends, and when the last step did."""
        self._is_stepping = False
        """Whether somebody is at it."""
        self._is_used_up = False
        """Whether the next slice begins with ``_go_on``."""
        self._waiting: deque[Callable[[], bool]] = deque()

    def may_go_on(self) -> bool:
        """Return whether there is time for a step in this turn of the loop."""
        if self._is_used_up:
            return False
        now = self._monotonic()
        if now >= self._until:
            if self._is_stepping or now - self._last_at < PAUSE_S:
                self._be_used_up()
                return False
            self._until = now + SLICE_S
        self._is_stepping = True
        return True

    def rest(self) -> None:
        """Note that whoever went on does so no longer: other business of the loop follows."""
        self._is_stepping = False
        self._last_at = self._monotonic()

    def wait(self, take_turn: Callable[[], bool]) -> None:
        """Have ``take_turn`` called when it is its turn; it returns whether it waits for another."""
        self._waiting.append(take_turn)
        if not self._is_used_up:
            self._be_used_up()

    def _be_used_up(self) -> None:
        self._is_used_up = True
        self._call_soon(self._go_on)

    def _go_on(self) -> None:
        """Give turns to those who waited before this turn of the loop, as long as there is time."""
        self._is_used_up = False
        self._last_at = self._monotonic()
        self._until = self._last_at + SLICE_S
        for _ in range(len(self._waiting)):
            if not self.may_go_on():
                return
            take_turn = self._waiting.popleft()
            if take_turn():
                self._waiting.append(take_turn)
        self.rest()
        if self._waiting and not self._is_used_up:
            self._be_used_up()
