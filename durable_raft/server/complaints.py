"""What is to be said of other people's bytes: once for each reason, and never so much that it hides the rest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

REASONS_MAX: Final = 256
"""Reasons that are remembered as said."""

LINES_PER_MINUTE: Final = 60
"""Lines at most, however many reasons there are: whoever sends rubbish can make a new reason with every frame."""

REASON_CHARACTERS_MAX: Final = 300

SHOWN_CHARACTERS: Final = 24
"""Of each field of a message that is shown."""


class Complaints:
    """What was said of one kind of event."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Begin with nothing said; ``now`` is monotonic (seconds)."""
        self._now = now
        self._said: OrderedDict[str, None] = OrderedDict()
        self._minute = 0
        self._lines = 0
        self._unsaid = 0
        self.count = 0
        """How often there was reason to complain, since the start."""

    def note(self, reason: str) -> dict[str, object] | None:
        """Count ``reason``; return the fields of the line that is due: None when it was said lately, or too much."""
        self.count += 1
        reason = reason[:REASON_CHARACTERS_MAX]
        if reason in self._said:
            self._said.move_to_end(reason)
            return None
        if not self._has_room():
            self._unsaid += 1
            return None
        self._said[reason] = None
        if len(self._said) > REASONS_MAX:
            self._said.popitem(last=False)
        fields: dict[str, object] = {"reason": reason}
        if self._unsaid:
            fields["unsaid"], self._unsaid = self._unsaid, 0
        return fields

    def _has_room(self) -> bool:
        minute = int(self._now() // 60)
        if minute != self._minute:
            self._minute, self._lines = minute, 0
        self._lines += 1
        return self._lines <= LINES_PER_MINUTE


def head_of(message: tuple[object, ...]) -> str:
    """Return the kind of a message and its fields, each cut short: no more than a line, whatever it holds."""
    fields = ", ".join(f"{value!r:.{SHOWN_CHARACTERS}}" for value in message)
    return f"{type(message).__name__}({fields})"[:REASON_CHARACTERS_MAX]
