"""What README.md and docs/ show is run as it stands: a cluster is started, written to, backed up, restored, repaired.

Only what stands for a value is replaced: addresses, and the words DIR, FILE and $CLUSTER.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from durable_raft.cli.local_cluster import HOST, free_ports
from durable_raft.raft.types import ORIGIN, EntryKind, Term, make_entry
from tests import documents
from tests.cluster.harness import checkout_environment
from tests.support.batches import batch_of
from tests.support.waiting import WAIT_S, wait_until
from tests.tools.directories import make_log, make_state

pytestmark = pytest.mark.cluster

NODE_IDS: Final = ("n1", "n2", "n3")
OPERATING: Final = documents.ROOT / "docs" / "operating.md"
LOG_TOOLS: Final = documents.ROOT / "docs" / "log-tools.md"
CLIENTS: Final = documents.ROOT / "docs" / "clients.md"
EXITS: Final = {"recover": (1,), "repair": (0, 1)}
"""Exit codes of calls that only say what they would do; of all others 0."""


class Shell:
    """Runs what a document shows."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_ports(1)[0]
        programs = directory / "bin"
        programs.mkdir()
        for name, module in (("durable-raft", "durable_raft"), ("raftlog", "raftlog.main")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
            program.chmod(0o755)
        self.environment = {
            **checkout_environment(),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{documents.ROOT}{os.pathsep}{documents.ROOT / 'tools'}",
            "DURABLE_RAFT_ELECTION_TIMEOUT_MIN_MS": "500",
            "DURABLE_RAFT_ELECTION_TIMEOUT_MAX_MS": "900",
        }

    def start(self, script: str, values: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a script with ``values`` in the places of the words that stand for them."""
        for word, value in values.items():
            script = script.replace(word, value)
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(["bash", "-euc", script], env=self.environment, stdout=log, stderr=log)

    def run(self, script: str, values: Mapping[str, str], expected: tuple[int, ...] = (0,)) -> None:
        """Run a script to its end."""
        code = self.start(script, values).wait(WAIT_S)
        assert code in expected, f"{script}: {code}\n{(self.directory / 'log').read_text()[-3000:]}"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell that finds the programs of this checkout."""
    return Shell(tmp_path)


def block(path: Path, heading: str, program: str) -> str:
    """Return the shell block under a heading that calls ``program``."""
    blocks = documents.shell_blocks(documents.section(documents.text(path), heading))
    (found,) = [each for each in blocks if program in each]
    return found


def members(ids: tuple[str, ...]) -> str:
    """Return a list for --cluster with ports that are free."""
    ports = free_ports(2 * len(ids))
    pairs = zip(ids, ports[::2], ports[1::2], strict=True)
    return ",".join(f"{node_id}={HOST}:{port}@{peer_port}" for node_id, port, peer_port in pairs)


@contextlib.contextmanager
def nodes_of(shell: Shell, script: str, cluster: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start the three nodes as the page says; they are ended with this."""
    shown = re.search(r"^CLUSTER=(.*)$", script, re.MULTILINE)
    assert shown is not None
    # exec: the signal for the node must not end a shell around it.
    script = script.replace("durable-raft serve", "exec durable-raft serve")
    nodes = [
        shell.start(script, {shown[1]: cluster, "--id n1": f"--id {node_id}", "DIR": str(shell.directory / node_id)})
        for node_id in NODE_IDS
    ]
    try:
        yield nodes
    finally:
        for node in nodes:
            node.kill()
            node.wait()


def python_block(path: Path) -> str:
    """Return the one block of Python in a document."""
    (found,) = re.findall(r"^```python\n(.*?)^```$", documents.text(path), re.MULTILINE | re.DOTALL)
    return str(found)


def test_a_cluster_is_run_as_the_pages_say(shell: Shell) -> None:
    """Started, written to with redis-py, backed up, stopped and restored."""
    cluster = members(NODE_IDS)
    place = re.search(rf"{HOST}:(\d+)", cluster)
    assert place is not None
    values = {f"{HOST}:7001": place[0], "FILE": str(shell.directory / "backup")}
    with nodes_of(shell, block(OPERATING, "Start", "serve"), cluster) as nodes:
        status = f"durable-raft status --at {place[0]}"
        wait_until(
            lambda: shell.start(status, {}).wait(WAIT_S) == 0,
            "a cluster that has a leader",
            explain=lambda message: f"{message}\n{(shell.directory / 'log').read_text()}",
        )
        for path in (documents.README, CLIENTS):
            shell.run(f"{sys.executable} - <<'END'\n{python_block(path)}END\n", {"port=7001": f"port={place[1]}"})
        shell.run(block(OPERATING, "Back up", "backup"), values)
        for node in nodes:
            node.terminate()
        assert [node.wait(WAIT_S) for node in nodes] == [0, 0, 0]
    restored = shell.directory / "restored"
    shell.run(block(OPERATING, "Restore", "restore"), values | {"DIR": str(restored), "$CLUSTER": members(NODE_IDS)})
    assert (restored / "kv").is_dir()


def _has_started(shell: Shell, node_id: str) -> bool:
    return f"node={node_id} event=started" in (shell.directory / "log").read_text()


def test_members_are_changed_as_the_page_says(shell: Shell) -> None:
    """A node is added, another replaced, one removed, one moved; leadership is handed over."""
    cluster = members(NODE_IDS)
    place = re.search(rf"{HOST}:(\d+)", cluster)
    assert place is not None
    values = {"10.0.0.1:7001": place[0]}
    ports = zip(("4:7001", "5:7001", "4:7002"), free_ports(3), strict=True)
    values |= {f"10.0.0.{shown}": f"{HOST}:{port}" for shown, port in ports}
    with nodes_of(shell, block(OPERATING, "Start", "serve"), cluster), contextlib.ExitStack() as joiners:
        wait_until(
            lambda: shell.start(f"durable-raft status --at {place[0]}", {}).wait(WAIT_S) == 0,
            "a cluster that has a leader",
            explain=lambda message: f"{message}\n{(shell.directory / 'log').read_text()}",
        )
        serve = f"exec {block(OPERATING, 'Members', 'serve')}"
        for number in (4, 5):
            started = serve.replace("n4", f"n{number}").replace("10.0.0.4", f"10.0.0.{number}")
            node = shell.start(started, values | {"DIR": str(shell.directory / f"n{number}")})
            joiners.callback(node.wait)
            joiners.callback(node.kill)
            wait_until(partial(_has_started, shell, f"n{number}"), f"n{number} to listen")
            if number == 4:
                shell.run(block(OPERATING, "Members", "member add"), values)
        # The leader is not moved: the page says to hand leadership over first.
        for program in ("member replace", "member remove", "transfer --to", "member update"):
            shell.run(block(OPERATING, "Members", program), values)
    told = (shell.directory / "log").read_text()
    assert told.count("was removed from its cluster") >= 2
    assert "\nn1 leads\n" in told


@pytest.mark.parametrize(
    ("heading", "program"), [("Looking at a cluster", "raftlog"), ("Repair", "repair"), ("Repair", "recover")]
)
def test_the_log_tool_is_called_as_the_page_says(shell: Shell, heading: str, program: str) -> None:
    """Each line ends with the exit code that says that nothing is wrong; DIR stands for one node after the other."""
    directories = [str(shell.directory / node_id) for node_id in NODE_IDS]
    payload = batch_of([[b"set", b"city", b"Paris"]])
    kind, time_ms = EntryKind.COMMANDS, 1_700_000_000_000
    entry = make_entry(previous=ORIGIN, term=Term(1), kind=kind, timestamp_ms=time_ms, payload=payload)
    for node_id, directory in zip(NODE_IDS, directories, strict=True):
        make_log(Path(directory), [entry], node_id=node_id)
        make_state(Path(directory), None, node_id=node_id)
    script = block(LOG_TOOLS, heading, program)
    setting = "".join(f"{line}\n" for line in script.splitlines() if "raftlog" not in line)
    for line in (line for line in script.splitlines() if "raftlog" in line):
        call = line.replace("--output DIR", f"--output {shell.directory / 'recovered'}")
        for directory in directories:
            call = call.replace("DIR", directory, 1)
        shell.run(setting + call, {}, EXITS.get(call.split()[1], (0,)))
