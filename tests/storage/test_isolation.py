"""Reading in a child process: what it found is told, and however it ends, this process goes on."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from durable_raft.storage.isolation import TEXT_MAX, Background, KilledBySignal, run_in_child, told_by_child


def _killed() -> str:
    os.kill(os.getpid(), signal.SIGBUS)
    return "not reached"


def _raises() -> str:
    raise ValueError("what it met")


def _interrupted() -> int:
    raise KeyboardInterrupt


def _output_closed() -> int:
    raise BrokenPipeError


def test_the_exit_code_of_the_child_is_the_functions(capfd: pytest.CaptureFixture[str]) -> None:
    """Also when it is interrupted, when nobody reads its output, and when it raises: then a traceback is printed."""
    assert run_in_child(lambda: 3) == 3
    assert run_in_child(_interrupted) == 130
    assert run_in_child(_output_closed) == 0
    assert capfd.readouterr().err == ""
    assert run_in_child(lambda: len(_raises())) == 70
    assert "what it met" in capfd.readouterr().err


def test_the_child_shares_the_streams_and_nothing_is_printed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waited in a buffer before the fork is the parent's."""

    def tell() -> int:
        print("inside")
        return 0

    with (tmp_path / "output").open("w") as output, monkeypatch.context() as redirected:
        redirected.setattr(sys, "stdout", output)
        print("before")
        run_in_child(tell)
        print("after")
    assert (tmp_path / "output").read_text().split() == ["before", "inside", "after"]


def test_the_text_of_the_child_comes_back() -> None:
    """Cut where it is too long for the pipe; a surrogate is no reason to fail."""
    assert told_by_child(lambda: "found: ä \udc80") == "found: ä \\udc80"
    assert told_by_child(lambda: "x" * (TEXT_MAX + 1)) == "x" * TEXT_MAX


def test_a_child_that_is_killed_or_fails_is_told_from_one_that_says_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The signal is named; descriptors do not leak."""
    descriptors = _descriptors()
    with pytest.raises(KilledBySignal) as killed:
        told_by_child(_killed)
    assert killed.value.signal_number == signal.SIGBUS
    with pytest.raises(RuntimeError, match="exit code 70"):
        told_by_child(_raises)
    assert "what it met" in capfd.readouterr().err
    assert told_by_child(str) == ""
    assert _descriptors() == descriptors


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _ended(background: Background) -> str:
    """Wait for what it found."""
    while (found := background.poll()) is None:
        time.sleep(0.001)
    return found


def test_a_background_process_is_asked_while_it_runs() -> None:
    """None while it has not ended; then its text."""
    reading, writing = os.pipe()
    background = Background(lambda: f"closed {not _is_open(writing)}")
    # It keeps no file of this process open: a lock held here would outlive it there.
    assert _ended(background) == "closed True"
    background.close()
    os.close(reading)
    os.close(writing)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _sleeps() -> str:
    while True:
        signal.pause()


def test_a_background_process_is_ended_with_its_owner() -> None:
    """However long it would take; a second close does nothing."""
    background = Background(_sleeps)
    pid = background._pid
    assert background.poll() is None
    background.close()
    background.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


@pytest.mark.parametrize(("function", "error"), [(_killed, KilledBySignal), (_raises, RuntimeError)])
def test_a_background_process_that_fails_says_how(
    function: Callable[[], str], error: type[Exception], capfd: pytest.CaptureFixture[str]
) -> None:
    """It is not taken for one that found nothing."""
    background = Background(function)
    with pytest.raises(error):
        _ended(background)
    background.close()
    assert capfd.readouterr().out == ""
