"""Getting an answer out of a child process that may die on a damaged page."""

from __future__ import annotations

import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Final, TypeVar

from durable_raft.errors import StorageError
from durable_raft.storage.isolation import KilledBySignal, run_in_child

_Answer = TypeVar("_Answer")

_PROGRESS_SECONDS: Final = 0.5
INTERRUPTED: Final = 130
"""Exit status after Ctrl-C."""


class Unreadable(StorageError):
    """What was to be read cannot be; the text says why."""


def in_child(function: Callable[[], _Answer]) -> _Answer:
    """Return what ``function`` returns, run in a child process.

    Raises:
        Unreadable: it raised a ``StorageError`` or an ``OSError``, or the child did not end by itself.
        KeyboardInterrupt: Ctrl-C reached the child.
    """
    with tempfile.TemporaryFile() as file:

        def work() -> int:
            try:
                answer: tuple[object, str] = (function(), "")
            except (StorageError, OSError) as error:
                answer = (None, str(error))
            pickle.dump(answer, file)
            file.flush()
            return 0

        try:
            code = run_in_child(work)
        except KilledBySignal as killed:
            clear_progress()
            number = killed.signal_number
            raise Unreadable(f"reading was ended by signal {number}: a page is damaged or cut off") from killed
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise Unreadable(f"reading ended with status {code}")
        file.seek(0)
        answer: _Answer
        answer, reason = pickle.load(file)  # noqa: S301 (written a moment ago, by this program, to a file without a name)
    if reason:
        raise Unreadable(reason)
    return answer


class Progress:
    """A line on standard error that says how far a long walk is; nothing when that is no terminal."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._due = time.monotonic() + _PROGRESS_SECONDS if sys.stderr.isatty() else float("inf")

    def __call__(self, count: int) -> None:
        """Say that ``count`` were checked, twice a second at most."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _PROGRESS_SECONDS
            sys.stderr.write(f"\r\x1b[K{self._what}: {count} checked")
            sys.stderr.flush()


def clear_progress() -> None:
    """Wipe the line."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
