"""Running a reader in a child process: a damaged page can kill whoever maps it (SIGBUS, SIGABRT, SIGSEGV)."""

from __future__ import annotations

import os
import resource
import sys
import traceback
from collections.abc import Callable
from typing import Final

TEXT_MAX: Final = 4000


class KilledBySignal(Exception):
    """The child was ended by a signal."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        super().__init__(f"signal {signal_number}")


def run_in_child(function: Callable[[], int]) -> int:
    """Return what ``function`` returns, run in a forked process that shares this one's standard streams.

    Raises:
        KilledBySignal: the child did not end by itself.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _end_with(function)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        raise KilledBySignal(os.WTERMSIG(status))
    return os.WEXITSTATUS(status)


def told_by_child(function: Callable[[], str]) -> str:
    """Return the text that ``function`` returns in a forked process, its first ``TEXT_MAX`` characters.

    Raises:
        KilledBySignal: the child did not end by itself.
        RuntimeError: the function raised; what, is on standard error.
    """
    reading, writing = os.pipe()

    def tell() -> int:
        text = function()[:TEXT_MAX]
        os.write(writing, text.encode(errors="backslashreplace"))
        return 0

    try:
        try:
            code = run_in_child(tell)
        finally:
            os.close(writing)
        if code:
            raise RuntimeError(f"{function} failed in a child process with exit code {code}")
        # It fits into the pipe: the child never waited for this.
        return os.read(reading, 1 << 16).decode(errors="backslashreplace")
    finally:
        os.close(reading)


def _end_with(function: Callable[[], int]) -> None:
    """Run ``function`` in the child and end it, without what the parent registered to run at exit."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = 70
    try:
        status = function()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has seen enough.
        status = 0
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
