"""One node's events as a lane of the timeline: in which role and term it was, from when to when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from durable_raft.storage.flight import Field, Flown

_ROLES: Final = {
    "became_follower": "follower",
    "became_pre_candidate": "pre-candidate",
    "became_candidate": "candidate",
    "became_leader": "leader",
}


@dataclass(frozen=True, slots=True)
class Span:
    """A node in one role and one term."""

    begin_ms: int
    end_ms: int
    role: str
    """One of Raft's roles; ``unknown`` before the first that is recorded; ``log`` where only the log tells the term."""
    term: int | None
    leader: str | None
    """Whom a follower follows, as far as it was told."""
    is_recorded: bool
    """False: nothing was recorded any more, the node may have been idle or dead."""


@dataclass(slots=True)
class Lane:
    """One directory's events."""

    name: str
    events: list[Flown]
    """In the order in which they happened."""
    notes: list[str] = field(default_factory=list)

    def spans(self, end_ms: int) -> list[Span]:
        """Return the node's roles up to ``end_ms``."""
        walk = _SpanWalk()
        for event in self.events:
            walk.take(event)
        walk.end(end_ms)
        return walk.spans

    def silent_ends(self) -> list[int]:
        """Return the times (ms) of the last words of lives that ended without a ``stopped``: by kill -9, or a crash."""
        pairs = zip(self.events, self.events[1:], strict=False)
        return [last.wall_ms for last, event in pairs if event.event == "started" and last.event != "stopped"]


class _SpanWalk:
    """Follows the role of a node through its events."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._role: str | None = None
        """None while no process runs."""
        self._term: int | None = None
        self._leader: str | None = None
        self._begin = self._last = 0

    def take(self, event: Flown) -> None:
        """Take the next event."""
        if event.event == "stopped":
            self._change(event.wall_ms, None)
        elif event.event == "started":
            self._fall_silent(event.wall_ms)
            self._change(event.wall_ms, "follower")
        elif event.event in _ROLES:
            self._take_role(event)
        elif event.event == "recovered":
            if self._role is None:
                self._change(event.wall_ms, "follower")
            self._term = _number(event.fields.get("term"))
        elif event.event in ("granted_vote", "term_changed"):
            self._take_term(event)
        elif event.event in ("term_begins_in_log", "log_ends"):
            self._change(event.wall_ms, "log" if event.event == "term_begins_in_log" else None)
            self._term = _number(event.fields.get("term"))
        elif self._role is None:
            self._change(event.wall_ms, "unknown")
        self._last = event.wall_ms

    def end(self, end_ms: int) -> None:
        """Note that there are no more events, and that the time shown goes on until ``end_ms``."""
        self._fall_silent(end_ms)

    def _take_role(self, event: Flown) -> None:
        role, term, leader = _ROLES[event.event], _number(event.fields.get("term")), event.fields.get("leader")
        told = str(leader) if leader is not None else None
        if (role, term) != (self._role, self._term) or (self._leader is not None and told is not None):
            self._change(event.wall_ms, role)
        self._role, self._term, self._leader = role, term, told or (self._leader if role == self._role else None)

    def _take_term(self, event: Flown) -> None:
        term = _number(event.fields.get("term"))
        if term != self._term:
            # Whoever sees a higher term is a follower (Raft §5.1).
            self._change(event.wall_ms, "follower")
            self._term = term

    def _change(self, at: int, role: str | None) -> None:
        if self._role is not None and at > self._begin:
            self.spans.append(Span(self._begin, at, self._role, self._term, self._leader, is_recorded=True))
        self._role, self._begin, self._leader = role, at, None

    def _fall_silent(self, at: int) -> None:
        """Close the span at the last event; from there to ``at`` nothing is known."""
        role, term, leader, last = self._role, self._term, self._leader, self._last
        self._change(last, None)
        if role is not None and at > last:
            self.spans.append(Span(last, at, role, term, leader, is_recorded=False))


def _number(value: Field) -> int | None:
    return value if isinstance(value, int) else None
