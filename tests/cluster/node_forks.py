"""Nodes as forks of a process that has loaded the program: most of what a node's start costs is loading it.

``python -m tests.cluster.node_forks`` reads requests, one JSON object a line, and answers each with the id of a new
process that runs the command with the environment and output of the request. It has one thread and opens nothing, so
that its forks are what processes of their own would be; each belongs to this process, as a child that it had started.
There are several such processes, because a hash of a string differs between them as it does between nodes.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import random
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
SERVERS: Final = 3
PAUSE_S: Final = 0.01
_PR_SET_CHILD_SUBREAPER: Final = 36


class Fork:
    """A node's process; of ``subprocess.Popen`` what a cluster asks of it."""

    def __init__(self, process_id: int) -> None:
        self.pid = process_id
        self.returncode: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        with self._lock:
            if self.returncode is None:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if ended else None
            return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for the end; raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(PAUSE_S)
        return code


def can_fork() -> bool:
    """Return whether a fork of another process can be made a child of this one: on Linux."""
    return sys.platform == "linux"


def start(name: str, words: Sequence[str], output: Path, environment: Mapping[str, str]) -> Fork:
    """Start ``durable-raft WORDS`` with its output added to a file; nodes of other names hash otherwise."""
    server = _server(sum(name.encode()) % SERVERS)
    assert server.stdin is not None
    assert server.stdout is not None
    request = {"words": list(words), "output": str(output), "environment": dict(environment)}
    # Only while the request is answered: other processes' orphans are not ours.
    _adopt_orphans(True)
    try:
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        return Fork(int(server.stdout.readline()))
    finally:
        _adopt_orphans(False)


def _adopt_orphans(does: bool) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(does), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


@cache
def _server(_: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.node_forks"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tools")))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.__exit__, None, None, None)
    return process


# -- the other process ----------------------------------------------------------------------------------------------


def _answer_requests() -> None:
    for line in sys.stdin:
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            _fork_node(writing, **json.loads(line))
        os.close(writing)
        # When the process between has ended, the node is the tests' child.
        os.waitpid(between, 0)
        with os.fdopen(reading) as pipe:
            print(pipe.read(), flush=True)


def _fork_node(writing: int, words: Sequence[str], output: str, environment: Mapping[str, str]) -> None:
    node = os.fork()
    if node:
        os.setpgid(node, node)
        os.write(writing, b"%d" % node)
        os._exit(0)
    status = 1
    try:
        log = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        # Nothing that is garbage here may close these numbers again, which are the node's files by then.
        gc.freeze()
        os.closerange(3, 64)
        status = _run_main(words, environment)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _run_main(words: Sequence[str], environment: Mapping[str, str]) -> int:
    from durable_raft.cli.main import main

    random.seed()
    os.environ.clear()
    os.environ.update(environment)
    try:
        main(list(words), prog_name="durable-raft")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


if __name__ == "__main__":
    import durable_raft.cli.serve
    import durable_raft.server.process  # noqa: F401

    _answer_requests()
