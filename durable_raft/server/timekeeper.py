"""Keeps the cluster time on one node: asks the others, leads or follows, and says when a clock is wrong.

*A leader* advances it (cluster_time.py) and stamps entries with it. *A follower* hears it from the leader once a second
and counts on by its own monotonic clock, so that whoever is elected next goes on from there. A new leader that does not
know the time (it has just started) takes it, before it stamps anything, from

1. another node that knows it. The time in an answer is as old as the answer was long under way, which may be seconds
   if this node was paused meanwhile. So such answers alone are believed only when two seconds have brought no other;
2. or, when a majority was asked and nobody knows it (all were restarted), the agreed clock, if that is ahead of the
   log: this is the one jump there is, and nothing was stamped since that it could cut short;
3. or, when no majority of clocks agrees and the others do not answer within two seconds, the log: then the time of the
   outage is not counted. A log that has no time yet begins with the middle of the clocks.

What other nodes know counts only if they have applied every reset of the time (``Raft.propose_time_reset``) that this
node may have: else a node that was away would bring back a time that was taken back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, NamedTuple

from durable_raft.raft.core import Raft
from durable_raft.raft.quorum import has_quorum
from durable_raft.raft.types import LEADER, TIME_RESET, Entry, Index, NodeId, Term
from durable_raft.server.agreed_clock import AgreedClock, Agreement
from durable_raft.server.clock import Clock
from durable_raft.server.cluster_time import ClusterTime
from durable_raft.server.logs import event
from durable_raft.wire.messages import AskTime, TellTime

_logger = logging.getLogger(__name__)

ASK_TICKS: Final = 4
"""Looks from one question to the next, about a second; with each look while the time is not certain."""

WAIT_MS: Final = 2000
"""How long a new leader waits for more clocks, when nobody knows the time and those that it has read disagree; and for
a word in time about what time it is, when all that it has heard was long under way."""


class _Told(NamedTuple):
    time_ms: int
    at_ms: int
    applied_index: Index
    is_late: bool
    """Whether the answer was long under way."""

    def present_ms(self, now_ms: int) -> int:
        """Return what the peer's time is now; if the answer was late, at least."""
        return self.time_ms + now_ms - self.at_ms


class Timekeeper:
    """One node's; all of it on the event loop."""

    def __init__(
        self, raft: Raft, clock: Clock, bound_ms: int, tell: Callable[[NodeId, AskTime | TellTime], None]
    ) -> None:
        """Know nothing yet.

        Args:
            bound_ms: clocks that lie within it of each other agree.
            tell: sends a message that promises nothing.
        """
        self._node_id = raft.state.config.node_id
        self._raft = raft
        self._clock = clock
        self._tell = tell
        self._agreed = AgreedClock(self._node_id, lambda: raft.configuration, bound_ms)
        self._time = ClusterTime()
        self._told: dict[NodeId, _Told] = {}
        """What peers last said they know of the cluster time."""
        self._answered: set[NodeId] = set()
        """Peers that have answered in this life."""
        self._applied = raft.log.last_applied
        """The last entry that the machine has executed; the core counts those that are handed out."""
        self._least_applied = self._applied
        """Every reset of the time up to here is behind us: who has applied less may not know of it."""
        self._office: Term | None = None
        """The term in which this node leads and knows the time."""
        self._waits: tuple[Term, int] | None = None
        """The term in which this node leads and waits for more clocks, and until when."""
        self._ticks = 0
        self.agreement = Agreement(None, None, None)
        """What the clocks said at the last look."""
        self.cluster_offset_ms: int | None = None
        """By how much the cluster time was ahead of the agreed clock then; None when either was not known."""
        self.resets = 0
        """Resets of the time applied in this life."""
        self._was: dict[str, bool] = {}
        """What was wrong at the last look."""

    @property
    def bound_ms(self) -> int:
        """Clocks that lie within it of each other agree."""
        return self._agreed.bound_ms

    # -- what time it is ------------------------------------------------------------------------------------------

    def stamp_ms(self) -> int | None:
        """Return the time to stamp an entry with; None on a leader that does not know it yet, and on all others."""
        raft = self._raft
        if raft.role is not LEADER:
            return None
        now_ms, floor_ms = self._now_ms(), raft.log.last_timestamp_ms
        if self._office != raft.current_term and not self._take_office(now_ms):
            return None
        time_ms = self._time.time_ms(now_ms)
        if time_ms < floor_ms:
            self._time.set(floor_ms, now_ms)
        return max(time_ms, floor_ms)

    def present_ms(self) -> int:
        """Return the cluster time as far as this node knows it, leader or not; 0 when not at all."""
        return self._time.time_ms(self._now_ms()) if self._time.is_known else 0

    def agreed_ms(self) -> int | None:
        """Return what time it is by the clocks of a majority, now and not at the last look: a node may be paused."""
        return self._look(self._now_ms()).time_ms

    def _take_office(self, now_ms: int) -> bool:
        """Begin to lead; return whether the time is known."""
        raft = self._raft
        if raft.last_time_reset > self._applied:
            # The log holds a reset that this node has not heard out: its own count may be from before.
            return False
        if not self._time.is_certain and not self._begin(now_ms):
            return False
        self._office = raft.current_term
        return True

    def _begin(self, now_ms: int) -> bool:
        """Take the time from a node that knows it, from the agreed clock, or from the log; see the module docstring."""
        raft, floor_ms = self._raft, self._raft.log.last_timestamp_ms
        known = [told for told in self._told.values() if self._counts(told)]
        if known or self._time.is_known:
            if self._applied < raft.state.term_start_index:
                # What is not applied yet may hold a reset that they do not know.
                return False
            is_late = all(told.is_late for told in known)
            if is_late and self._may_wait(now_ms):
                return False
            own = [self._time.time_ms(now_ms)] if self._time.is_known else []
            self._start("late" if is_late else "peer", max(own + [told.present_ms(now_ms) for told in known]), now_ms)
            return True
        if not has_quorum(raft.configuration, {self._node_id, *self._answered}):
            return False
        agreement = self._look(now_ms)
        has_all = self._answered.issuperset(raft.state.voter_peers)
        if agreement.time_ms is None and not has_all and self._may_wait(now_ms):
            return False
        if agreement.time_ms is not None:
            self._start("clocks", agreement.time_ms, now_ms)
        elif floor_ms or agreement.median_ms is None:
            self._start("log", floor_ms, now_ms)
        else:
            self._start("middle", agreement.median_ms, now_ms)
        return True

    def _counts(self, told: _Told) -> bool:
        """Return whether a peer that said this knows of every reset of the time that is behind this node."""
        return told.applied_index >= self._least_applied

    def _may_wait(self, now_ms: int) -> bool:
        """Return whether a leader that has just begun may wait for clocks, or a word in time, that it does not have."""
        if self._waits is None or self._waits[0] != self._raft.current_term:
            self._waits = (self._raft.current_term, now_ms + WAIT_MS)
        return now_ms < self._waits[1]

    def _start(self, source: str, time_ms: int, now_ms: int) -> None:
        floor_ms = self._raft.log.last_timestamp_ms
        self._time.set(max(time_ms, floor_ms), now_ms)
        event(
            _logger, logging.INFO, "cluster_time_begins", source=source, log_ms=floor_ms, time_ms=max(time_ms, floor_ms)
        )

    # -- asking and telling ---------------------------------------------------------------------------------------

    def receive(self, source: NodeId, message: AskTime | TellTime) -> None:
        """Answer a question, or take an answer."""
        now_ms = self._now_ms()
        if isinstance(message, AskTime):
            # A leader's word is what it stamps with; it has none before it knows.
            knows = self.stamp_ms() is not None if self._raft.role is LEADER else self._time.is_known
            time_ms = self._time.time_ms(now_ms) if knows else 0
            answer = TellTime(message.asked_ms, self._own_ms(), time_ms, self._applied)
            self._tell(source, answer)
            return
        self._answered.add(source)
        self._agreed.read(source, now_ms, message.asked_ms, message.time_of_day_ms)
        is_late = now_ms - message.asked_ms > self.bound_ms // 2
        if message.cluster_time_ms:
            self._take_told(source, _Told(message.cluster_time_ms, now_ms, message.applied_index, is_late))
        elif not is_late:
            self._told.pop(source, None)

    def _take_told(self, source: NodeId, told: _Told) -> None:
        """Take what a peer knows. If that is old, what was counted since an earlier answer may be nearer."""
        now_ms, before = told.at_ms, self._told.get(source)
        if not (told.is_late and before and self._counts(before) and before.present_ms(now_ms) > told.time_ms):
            self._told[source] = told
        is_behind = told.is_late and self._time.is_known and self._time.time_ms(now_ms) > told.time_ms
        if source == self._raft.leader_id and not is_behind:
            self._time.set(told.time_ms, now_ms, is_certain=self._time.is_certain or not told.is_late)

    def ask(self) -> None:
        """Ask every other node what time it is."""
        now_ms = self._now_ms()
        for peer in self._raft.state.peers:
            self._tell(peer, AskTime(now_ms))

    def links_changed(self) -> None:
        """Ask at once when the time is not certain: somebody may have come who knows it."""
        if not self._time.is_certain:
            self.ask()

    def tick(self) -> None:
        """Look at the clocks, steer the cluster time if this node leads, and say what is wrong: four times a second."""
        if self._ticks % ASK_TICKS == 0 or not self._time.is_certain:
            self.ask()
        self._ticks += 1
        now_ms = self._now_ms()
        agreed_ms = self._look(now_ms).time_ms
        leads = self.stamp_ms() is not None
        self.cluster_offset_ms = None
        if self._time.is_known and agreed_ms is not None:
            self.cluster_offset_ms = self._time.time_ms(now_ms) - agreed_ms
        if leads:
            self._time.steer(now_ms, agreed_ms)
        self._report(leads=leads)

    # -- resets ---------------------------------------------------------------------------------------------------

    def reset_proposed(self, entry: Entry) -> None:
        """Go on from the time that this leader has just proposed to go on from."""
        self._time.set(entry.timestamp_ms, self._now_ms())
        self._told.clear()

    def applied(self, entry: Entry) -> None:
        """Note how far the machine is."""
        self._applied = entry.index
        if entry.kind is TIME_RESET:
            self._reset_applied(entry)

    def _reset_applied(self, entry: Entry) -> None:
        """Forget every time that may be from before a reset; a leader in office has begun behind it."""
        self.resets += 1
        self._told.clear()
        self._least_applied = entry.index
        if self._office != self._raft.current_term or self._raft.role is not LEADER:
            self._time.forget()
            self.ask()
        event(_logger, logging.WARNING, "cluster_time_reset", index=entry.index, time_ms=entry.timestamp_ms)

    def state_replaced(self) -> None:
        """Forget every time from before a snapshot: a reset may be in it."""
        self._told.clear()
        self._applied = self._least_applied = self._raft.log.last_applied
        self._time.forget()

    # -- reports --------------------------------------------------------------------------------------------------

    def _look(self, now_ms: int) -> Agreement:
        self.agreement = self._agreed.look(now_ms, self._own_ms())
        own_offset_ms = self.agreement.own_offset_ms
        # A node whose clock is wrong lets others lead (raft/reluctance.py).
        self._raft.be_reluctant(own_offset_ms is not None and abs(own_offset_ms) > self.bound_ms)
        return self.agreement

    def _report(self, *, leads: bool) -> None:
        """Say what has become wrong with the clocks, and when it is right again."""
        agreement, offset_ms = self.agreement, self.cluster_offset_ms if leads else None
        if self._has_turned("own", holds=self._raft.is_reluctant):
            if self._raft.is_reluctant:
                event(_logger, logging.WARNING, "clock_differs", offset_ms=agreement.own_offset_ms)
            else:
                event(_logger, logging.INFO, "clock_agrees", offset_ms=agreement.own_offset_ms)
        disagree = leads and agreement.time_ms is None and agreement.median_ms is not None
        if self._has_turned("all", holds=disagree):
            if disagree:
                event(_logger, logging.WARNING, "clocks_disagree", bound_ms=self.bound_ms)
            else:
                event(_logger, logging.INFO, "clocks_agree")
        is_off = offset_ms is not None and abs(offset_ms) > self.bound_ms
        if self._has_turned("cluster", holds=is_off):
            if is_off:
                event(_logger, logging.WARNING, "cluster_time_differs", offset_ms=offset_ms)
            else:
                event(_logger, logging.INFO, "cluster_time_agrees", offset_ms=offset_ms)

    def _has_turned(self, name: str, *, holds: bool) -> bool:
        """Return whether this is another answer than at the last look."""
        before = self._was.get(name, False)
        self._was[name] = holds
        return before != holds

    # -- clocks ---------------------------------------------------------------------------------------------------

    def _now_ms(self) -> int:
        return int(self._clock.monotonic() * 1000)

    def _own_ms(self) -> int:
        return max(0, self._clock.time_of_day_ns() // 1_000_000)
