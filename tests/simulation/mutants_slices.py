"""Planted bugs of work in slices: what takes an entry that is under way for one that is applied."""

from __future__ import annotations

from collections.abc import Sequence

from durable_raft.server.dispatch import Dispatcher
from durable_raft.server.pending import Waiting
from durable_raft.server.slices import Jobs
from durable_raft.server.state.keeper import StateKeeper
from tests.simulation.planting import Patch, mutant


@mutant
def checkpoint_in_the_middle() -> Sequence[Patch]:
    """A checkpoint begins while an entry is applied by half, and claims the whole of it."""

    def consider(self: StateKeeper) -> None:
        if not self.fetcher.is_finishing:
            self.checkpointer.consider()

    return [(StateKeeper, "consider", consider)]


@mutant
def jobs_overtake() -> Sequence[Patch]:
    """A job that its slice did not end waits behind the others: the next entry is applied in its middle."""
    run = Jobs.run

    def fair(self: Jobs) -> None:
        run(self)
        present, self._present = self._present, None
        if present is not None:
            self.add(lambda: present, lambda: None)

    return [(Jobs, "run", fair)]


@mutant
def lost_read_is_judged_late() -> Sequence[Patch]:
    """A read that lost its leadership is executed when its turn comes, whatever its connection has sent since."""

    def route_again(self: Dispatcher, waiting: Waiting) -> None:
        self._route_later(waiting)

    return [(Dispatcher, "_route_again", route_again)]
