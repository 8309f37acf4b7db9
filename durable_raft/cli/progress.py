"""One line on a terminal that says how far long work has come; nothing where nobody looks."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final, Self

EVERY_S: Final = 0.2


class ProgressLine:
    """Shows ``what``, percent and the rest of the time; used as a context manager."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._is_shown = sys.stderr.isatty()
        self._started = self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def show(self, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` is done, now and then."""
        now = time.monotonic()
        if not self._is_shown or now - self._last < EVERY_S:
            return
        self._last = now
        left_s = (now - self._started) / max(1, done) * max(0, total - done)
        percent = 100 * done // max(1, total)
        sys.stderr.write(f"\r\x1b[K{self._what} {done} of {total} ({percent} %), {left_s:.0f} s left")
        sys.stderr.flush()
