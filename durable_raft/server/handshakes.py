"""Handshakes under way on the client port: how many at once, how fast they go on, and when one is given up.

A handshake is work that a stranger can ask for: some hundred microseconds of the processor with an elliptic curve,
several milliseconds with an RSA key of 4096 bits, in one call that cannot be cut. So a turn of the loop has time for
some short ones or one long one, and all together get at most half of the loop's time, however many there are.

Half of one costs the stranger nothing, so it must not cost much here either. ``OPEN_MAX`` have memory of OpenSSL's; who
comes then waits with what was read of it, a record at most, and one that has stood still for ``GIVE_WAY_S`` makes room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

OPEN_MAX: Final = 128
"""Handshakes that have begun and not ended, at one time."""

DEADLINE_S: Final = 10.0
"""How long a client may take from its connection to the end of its handshake; time that it waits for this node does not
count, or those who come back together after a failover would be turned away because they are many."""

GIVE_WAY_S: Final = 1.0
"""Who has brought nothing for so long makes room for one who waits."""

SLICE_S: Final = 0.001
"""No handshake goes on in a turn of the loop that has spent so long on others."""

LOOK_S: Final = 0.25
"""How often those are looked for that take too long."""


class Timer(Protocol):
    """What a loop gives for something that it will call."""

    def cancel(self) -> None:
        """Do not call it."""


class Loop(Protocol):
    """An event loop, as far as it is needed here."""

    def call_soon(self, callback: Callable[[], None], /) -> object:
        """Call in the next turn."""

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Timer:
        """Call after ``delay`` seconds."""


class Handshake(Protocol):
    """One client that has not proven itself yet."""

    def go_on(self) -> None:
        """Take the next step with what has come in; ``Handshakes.end`` is called when it was the last one."""

    def give_up(self, why: str) -> None:
        """Close the connection."""


class Handshakes:
    """Of one node; belongs to the event loop."""

    def __init__(self, loop: Loop, monotonic: Callable[[], float]) -> None:
        """Bind the loop and its clock (seconds)."""
        self._loop = loop
        self._monotonic = monotonic
        self._since: dict[Handshake, float] = {}
        """All that have a deadline, and when their time began: later by as long as they have waited for this node."""
        self._kept: dict[Handshake, float] = {}
        """Those that wait for this node, and since when."""
        self._open: dict[Handshake, float] = {}
        """Those that have begun, and when the last step was; who was heard last stands last."""
        self._waiting: dict[Handshake, None] = {}
        """Those that would begin."""
        self._due: deque[Handshake] = deque()
        """Those that have something to go on with, in order."""
        self._is_scheduled = False
        self._rests_until = float("-inf")
        self._look: Timer | None = None

    @property
    def open(self) -> int:
        """How many have begun and not ended."""
        return len(self._open)

    def expect(self, handshake: Handshake) -> None:
        """Give ``handshake`` its time, from now on."""
        self._since[handshake] = self._monotonic()
        if self._look is None:
            self._look = self._loop.call_later(LOOK_S, self._end_late)

    def heard(self, handshake: Handshake) -> None:
        """Have ``handshake`` go on with what has come in, when it is its turn."""
        self._kept.setdefault(handshake, self._monotonic())
        if handshake in self._open or len(self._open) < OPEN_MAX:
            self._begin(handshake)
        else:
            self._waiting[handshake] = None
            self._make_room()

    def end(self, handshake: Handshake) -> None:
        """Forget one that is over, or whose client has gone."""
        self._since.pop(handshake, None)
        self._kept.pop(handshake, None)
        self._waiting.pop(handshake, None)
        if self._open.pop(handshake, None) is not None and self._waiting:
            first = next(iter(self._waiting))
            del self._waiting[first]
            self._begin(first)

    def stop(self) -> None:
        """Give all of them up."""
        for handshake in list(self._since):
            handshake.give_up("the node stops")
            self.end(handshake)
        if self._look is not None:
            self._look.cancel()

    def _begin(self, handshake: Handshake) -> None:
        self._open.pop(handshake, None)
        self._open[handshake] = self._monotonic()
        self._due.append(handshake)
        self._schedule()

    def _schedule(self) -> None:
        if self._is_scheduled or not self._due:
            return
        self._is_scheduled = True
        rest_s = self._rests_until - self._monotonic()
        if rest_s > 0:
            self._loop.call_later(rest_s, self._go_on)
        else:
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Take steps until this turn's time is spent; rest as long before the next ones."""
        self._is_scheduled = False
        began = now = self._monotonic()
        while self._due and now - began < SLICE_S:
            handshake = self._due.popleft()
            if handshake in self._open:
                self._since[handshake] += now - self._kept.pop(handshake, now)
                handshake.go_on()
                if handshake in self._open:
                    self._open[handshake] = self._monotonic()
            now = self._monotonic()
        self._rests_until = now + (now - began)
        self._schedule()

    def _make_room(self) -> None:
        """Let the one that has stood still for longest make room for whoever waits, if that is long."""
        now = self._monotonic()
        for handshake, heard_at in list(self._open.items()):
            if not self._waiting or now - heard_at < GIVE_WAY_S:
                return
            if handshake not in self._kept:
                handshake.give_up("its handshake stood still, and others wait")
                self.end(handshake)

    def _end_late(self) -> None:
        now = self._monotonic()
        for handshake, since in list(self._since.items()):
            if now - since < DEADLINE_S or handshake in self._kept:
                continue
            handshake.give_up(f"its handshake took longer than {DEADLINE_S:g} s")
            self.end(handshake)
        if self._waiting:
            self._make_room()
        self._look = self._loop.call_later(LOOK_S, self._end_late) if self._since else None
