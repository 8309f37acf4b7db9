"""cli/local_cluster.py: ports, command lines, and ends of processes."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from durable_raft.cli.local_cluster import (
    HOST,
    free_ports,
    is_free,
    local_nodes,
    node_environment,
    serve_command,
    start_node,
    stop_nodes,
    wait_until,
)
from durable_raft.cli.serve import serve
from durable_raft.server.settings.config import load_config


def test_free_ports_are_free_and_never_the_same() -> None:
    """Ports differ within a call and between calls, and a port that is in use is not offered."""
    first = free_ports(5)
    with socket.create_server((HOST, first[0])):
        assert not is_free(first[0])
        second = free_ports(5)
    assert len(set(first + second)) == 10
    assert all(is_free(port) for port in first + second)


def test_command_line_of_a_node_is_a_configuration(tmp_path: Path) -> None:
    """What is started is a node that knows its id, all nodes, and the settings given."""
    nodes = local_nodes([(7001, 9001), (7002, 9002)], tmp_path)
    command = serve_command(nodes[1], nodes, {"heartbeat_ms": 20, "allow_network_fs": True})
    assert command[1:4] == ["-m", "durable_raft", "serve"]
    with serve.make_context("serve", command[4:]) as context:
        config = load_config(context.params, {})
    assert (config.node_id, config.client_port, config.peer_port) == ("n2", 7002, 9002)
    assert config.membership.ids() == ("n1", "n2")
    assert (config.directory, config.heartbeat_ms, config.allow_network_fs) == (tmp_path / "n2", 20, True)


def test_nodes_do_not_inherit_our_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """DURABLE_RAFT_ variables of the caller's own node do not reach the nodes of a local cluster."""
    monkeypatch.setenv("DURABLE_RAFT_CLUSTER", "n1=a:1")
    monkeypatch.setenv("UNRELATED", "stays")
    environment = node_environment()
    assert "DURABLE_RAFT_CLUSTER" not in environment
    assert environment["UNRELATED"] == "stays"


def test_stubborn_processes_are_killed() -> None:
    """SIGTERM first; a process that ignores it is killed at the deadline."""
    stubborn = "import signal, sys; signal.signal(15, signal.SIG_IGN); print('on', flush=True); signal.pause()"
    polite = "import signal, sys; signal.signal(15, lambda *_: sys.exit(7)); print('on', flush=True); signal.pause()"
    processes = [
        start_node([sys.executable, "-c", script], subprocess.PIPE, node_environment()) for script in (stubborn, polite)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
    stop_nodes(processes, timeout_s=1.0)
    assert [process.returncode for process in processes] == [-9, 7]
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()


def test_wait_until_ends_with_the_condition_or_the_deadline() -> None:
    """True as soon as the condition holds, False when it does not in time."""
    answers = iter([False, False, True])
    assert wait_until(lambda: next(answers), 5.0, pause_s=0.001)
    assert not wait_until(lambda: False, 0.01, pause_s=0.001)
