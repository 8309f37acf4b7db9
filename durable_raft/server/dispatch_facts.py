"""What a dispatcher may hold, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    """What the dispatcher may hold, and for how long."""

    hold_s: float
    """How long a command is held while no leader is known, and an open fate is waited for."""
    pending_bytes_max: int
    """Memory of commands that may be taken in and not answered before more are refused."""
    batch_bytes_max: int
    """Size after which a batch is closed and the next one begun; a single larger command travels alone."""


@dataclass(slots=True)
class DispatchCounters:
    """Counted since the start, for INFO."""

    entries: int = 0
    commands: int = 0
    reads: int = 0
    held: int = 0
    moved: int = 0
    unknown: int = 0
    overloaded: int = 0

    @property
    def elsewhere(self) -> int:
        """Commands that came here though another node leads, or none."""
        return self.held + self.moved
