"""raftlog in a fork of a process that has loaded it already: most of a short run is loading it.

``python -m tests.tools.preloaded`` reads requests, one JSON object a line, runs the command in a child with the
environment, directory and files of the request, and answers each with the child's exit code, negative for a signal. It
has one thread and opens nothing, so that a child is what a process of its own would be.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from raftlog.main import main

from durable_raft.storage.isolation import KilledBySignal, run_in_child

ROOT: Final = Path(__file__).parents[2]
NAME: Final = "python -m raftlog.main"


def run(words: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; return its exit code and output as ``subprocess.run`` does."""
    with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
        request = {"words": words, "environment": dict(environment), "where": str(Path.cwd())}
        code = _ask(request | {"out": out.name, "err": err.name})
        return subprocess.CompletedProcess(words, code, out.read().decode(), err.read().decode())


def _ask(request: Mapping[str, Any]) -> int:
    process = _started()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    return int(process.stdout.readline())


@cache
def _started() -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tools'}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.tools.preloaded"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.__exit__, None, None, None)
    return process


# -- the other process --------------------------------------------------------------------------------------------


def _answer_requests() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        try:
            code = run_in_child(lambda request=request: _run_main(**request))  # type: ignore[misc]
        except KilledBySignal as killed:
            code = -killed.signal_number
        print(code, flush=True)


def _run_main(words: Sequence[str], environment: Mapping[str, str], where: str, out: str, err: str) -> int:
    for path, descriptor in ((os.devnull, 0), (out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_RDWR), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(where)
    try:
        main(list(words), prog_name=NAME)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


if __name__ == "__main__":
    _answer_requests()
