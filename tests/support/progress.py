"""How far a campaign is, on standard error: in one line that is written over, or now and then where nobody looks."""

from __future__ import annotations

import sys
from typing import Final

_LINES: Final = 20
"""About so many lines come of a whole campaign when standard error is no terminal."""


def tell(what: str, done: int, count: int, failures: int) -> None:
    """Say that ``done`` of ``count`` were played, and how many failed."""
    shows = sys.stderr.isatty()
    if shows or done == count or done % max(1, count // _LINES) == 0:
        end = "\r" if shows and done < count else "\n"
        print(f"{what}: {done} of {count}, {failures} failures", file=sys.stderr, end=end, flush=True)
