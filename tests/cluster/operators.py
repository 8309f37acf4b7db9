"""What an operator does: commands of ``durable-raft``, run to their end."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

from durable_raft.cli.main import main
from tests.cluster.harness import Cluster, checkout_environment
from tests.support.waiting import WAIT_S


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ``durable-raft`` to its end."""
    command = [sys.executable, "-m", "durable_raft", *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=2 * WAIT_S, check=False, env=checkout_environment()
    )


def operate(cluster: Cluster, at: str, *words: str, code: int = 0) -> dict[str, object]:
    """Run a command for operators at a node; return what it says."""
    done = run(*words, "--at", str(cluster.nodes[at].address), "--json")
    assert done.returncode == code, cluster.explain(f"{words} ended with {done.returncode}: {done.stderr}")
    found: dict[str, object] = json.loads(done.stdout) if code == 0 else {"error": done.stderr}
    return found


def operate_here(cluster: Cluster, at: str, *words: str) -> dict[str, object]:
    """Do the same in this process: starting another takes processor time from the nodes, which is measured then."""
    answer, said = io.StringIO(), io.StringIO()
    with redirect_stdout(answer), redirect_stderr(said):
        code = main([*words, "--at", str(cluster.nodes[at].address), "--json"], standalone_mode=False)
    assert not code, cluster.explain(f"{words} ended with {code}: {said.getvalue()}")
    found: dict[str, object] = json.loads(answer.getvalue())
    return found
