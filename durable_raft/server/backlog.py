"""Commands that wait to be routed: anew, since leadership changed, or until a leader is known.

Clients may have sent a hundred thousand of them when a leader is found, or lost. So they are routed and given up a
slice in each turn of the loop (slices.py), in the order in which they came: while some are left, whatever comes goes
behind them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from durable_raft.kv.replies import ErrorReply
from durable_raft.server.pending import Waiting
from durable_raft.server.slices import Slice

NO_LEADER: Final = ErrorReply("CLUSTERDOWN no leader; the command had no effect")


class Backlog:
    """Of one dispatcher, which routes what is due."""

    def __init__(self, monotonic: Callable[[], float], slice_steps: int, route: Callable[[Waiting], None]) -> None:
        """Bind the parts.

        Args:
            monotonic: seconds.
            slice_steps: how many runs are routed or given up in one turn of the loop at most.
            route: sends a run where it belongs now; it may ``hold`` it.
        """
        self._slice = Slice(monotonic, slice_steps)
        self._route = route
        self._routing: deque[Waiting] = deque()
        """To be routed anew."""
        self._held: deque[Waiting] = deque()
        """No leader was known when they were routed. They are older than what is to be routed anew."""
        self._given_up_until = float("-inf")
        """Held commands are given up whose time was up then (monotonic, seconds)."""

    def __bool__(self) -> bool:
        """Whether anything waits here."""
        return bool(self._routing or self._held)

    @property
    def is_routing(self) -> bool:
        """Whether what comes now has to ``route_later``, or it would overtake."""
        return bool(self._routing)

    @property
    def has_held(self) -> bool:
        """Whether commands wait for a leader."""
        return bool(self._held)

    def route_later(self, waiting: Waiting) -> None:
        """Add a run that is to be routed behind all others."""
        self._routing.append(waiting)

    def take_back(self, unproposed: Sequence[Waiting]) -> None:
        """Add runs that were routed before all others and must be again."""
        self._routing.extendleft(reversed(unproposed))

    def hold(self, waiting: Waiting) -> None:
        """Add a run that waits for a leader, until its deadline."""
        self._held.append(waiting)

    def route_held(self) -> None:
        """Have everything routed: there is a leader."""
        self.take_back(self._held)
        self._held.clear()

    def take_all(self) -> list[Waiting]:
        """Return what waits, in order; nothing does afterwards."""
        taken = [*self._held, *self._routing]
        self._held.clear()
        self._routing.clear()
        return taken

    def give_up(self, now: float) -> None:
        """Have held commands given up whose time is up (monotonic, seconds)."""
        self._given_up_until = now

    def has_due(self) -> bool:
        """Return whether ``work_off`` has something to do."""
        return bool(self._routing or (self._held and self._held[0].deadline <= self._given_up_until))

    def work_off(self) -> None:
        """Route and give up what is due, a slice of it."""
        if not self.has_due():
            return
        self._slice.begin()
        is_time_left = True
        while is_time_left and self.has_due():
            if self._routing:
                self._route(self._routing.popleft())
            else:
                self._held.popleft().slot.fill(NO_LEADER)
            is_time_left = self._slice.take_step()
