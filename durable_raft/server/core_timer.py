"""The timer behind the core's deadline, and why a follower's rings twice.

When a whole machine stands still, a virtual one while its host is busy, its leader and its followers wake together: the
leader's heartbeat is a moment away, and the followers' election timeouts have passed. So a follower's timeout counts
only when the process has run for a moment after it was noticed.

A process that gets no processor for a while has not run in that moment either: a heartbeat waits in its socket. So a
ring that comes late is not believed, and one more is waited for. Not for ever: where each is late, the node must still
be able to stand for election.
"""

from __future__ import annotations

from collections.abc import Callable

from durable_raft.server.clock import Clock, Loop, Timer

RUNNING_S = 0.015
"""How long a process must have run before its election timeout is believed. A ring as late as that is a late one."""

DOUBTS_MAX = 8
"""So many late rings in a row are not believed."""


class CoreTimer:
    """Calls ``act`` when the core's deadline has passed; it may be called early, and looks at the deadline itself."""

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        is_leader: Callable[[], bool],
        act: Callable[[], None],
    ) -> None:
        """Ring on ``loop``, which keeps the time of ``clock``."""
        self._loop = loop
        self._clock = clock
        self._is_leader = is_leader
        self._act = act
        self._handle: Timer | None = None
        self._due = 0.0
        """When ``_handle`` runs; uvloop gives a handle that cannot tell when it is due at once."""
        self._believed_at: float | None = None
        """When an election timeout that was noticed is believed."""
        self._doubts = 0
        """Late rings since it was noticed."""

    def arm(self, when: float) -> None:
        """Have it ring at ``when``; one that is due earlier stays, and looks again then."""
        if self._believed_at is not None and not self._is_leader():
            when = max(when, self._believed_at)
        if self._handle is not None:
            if self._due <= when:
                return
            self._handle.cancel()
        self._due = when
        self._handle = self._loop.call_at(when, self._ring)

    def cancel(self) -> None:
        """Ring no more."""
        if self._handle is not None:
            self._handle.cancel()

    def _ring(self) -> None:
        self._handle = None
        if self._is_leader() or not self._is_doubtful():
            self._believed_at, self._doubts = None, 0
            self._act()
            return
        self._believed_at = self._clock.monotonic() + RUNNING_S
        self.arm(self._believed_at)

    def _is_doubtful(self) -> bool:
        """Return whether the process has not run for long enough since the timeout was noticed."""
        if self._believed_at is None:
            return True
        is_late = self._clock.monotonic() - self._due > RUNNING_S
        self._doubts += is_late
        return is_late and self._doubts <= DOUBTS_MAX
