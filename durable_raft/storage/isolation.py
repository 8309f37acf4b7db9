"""Running a reader in a child process: a damaged page can kill whoever maps it (SIGBUS, SIGABRT, SIGSEGV)."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Final

from durable_raft.errors import StorageError

TEXT_MAX: Final = 4000
_PR_SET_PDEATHSIG: Final = 1


class KilledBySignal(StorageError):
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
    if pid == 0:  # pragma: no cover - these lines of the child are not traced, but what they call is
        _die_with_parent()
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


class Background:
    """A forked process that looks at something while this one goes on, at low priority; it dies with this one."""

    def __init__(self, function: Callable[[], str]) -> None:
        """Begin; before any thread of this process does what the child would need."""
        self._reading, writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:  # pragma: no cover - the child closes the file of the measurement, too
            _die_with_parent()
            # Neither this process's locks nor its files are to outlive it here.
            os.closerange(3, writing)
            os.closerange(writing + 1, 1 << 16)
            os.nice(19)

            def tell() -> int:
                os.write(writing, function()[:TEXT_MAX].encode(errors="backslashreplace"))
                return 0

            _end_with(tell)
        os.close(writing)

    def poll(self) -> str | None:
        """Return what the function returned; None while it has not.

        Raises:
            KilledBySignal: the child did not end by itself.
            RuntimeError: the function raised.
        """
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid == 0:
            return None
        self._pid = 0
        with os.fdopen(self._reading, "rb") as pipe:
            text = pipe.read().decode(errors="backslashreplace")
        if os.WIFSIGNALED(status):
            raise KilledBySignal(os.WTERMSIG(status))
        if os.WEXITSTATUS(status):
            raise RuntimeError(f"the child process ended with exit code {os.WEXITSTATUS(status)}")
        return text

    def close(self) -> None:
        """End it, if it has not ended."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            os.close(self._reading)
            self._pid = 0


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_with(function: Callable[[], int]) -> None:
    """Run ``function`` in the child and end it, without what the parent registered to run at exit."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The parent hears of a signal; a note of it is the parent's own to leave.
    faulthandler.disable()
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
