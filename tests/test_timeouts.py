"""pytest's own limit on a test: it ends that test, says where it waited, and lets the others run.

uvloop keeps signals from Python while it waits: what runs on it in this process has limits of asyncio's.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.waiting import WAIT_S

ROOT: Final = Path(__file__).resolve().parents[1]

TESTS: Final = """
import asyncio, socket, subprocess, threading
import pytest

async def for_ever():
    await asyncio.Event().wait()

ends = socket.socketpair()
WAITS = {
    "an event": lambda: threading.Event().wait(),
    "a socket": lambda: ends[0].recv(1),
    "a process": lambda: subprocess.run(["sleep", "1000"]),
    "a loop": lambda: asyncio.run(for_ever()),
}

@pytest.mark.timeout(0.5)
@pytest.mark.parametrize("what", WAITS)
def test_hangs(what):
    "Nobody ends its wait."
    WAITS[what]()

def test_is_run_all_the_same():
    "It comes after them."
"""


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="without SIGALRM a timeout ends the run")
def test_timeout_fails_one_test_and_not_the_run(tmp_path: Path) -> None:
    """Tests that wait for ever, in whichever way ours wait, fail at the line that waits; the next one runs."""
    (tmp_path / "test_hang.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "pyproject.toml", "--rootdir", "."]
    command.append(str(tmp_path / "test_hang.py"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, cwd=ROOT, check=False)
    assert "4 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("Timeout (>0.5s)") >= 4, done.stdout
    assert "ends[0].recv(1)" in done.stdout
