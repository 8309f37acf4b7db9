"""Clusters of real processes on this machine, one class for each system that is measured: the same verbs for all.

A cluster is a context manager: it starts its nodes, and stops them at the end. Everything it writes lies inside the
directory it is given.
"""

from __future__ import annotations

import abc
import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from durable_raft.addresses import Address
from durable_raft.cli.local_cluster import (
    HOST,
    LocalNode,
    free_ports,
    local_nodes,
    node_environment,
    serve_command,
    start_node,
    stop_nodes,
    wait_until,
)
from durable_raft.cli.resp_client import RespClient
from durable_raft.errors import RequestError

READY_S = 60.0
"""How long a cluster may take until it serves."""

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True, eq=False)
class Node:
    """One process of a cluster."""

    name: str
    client_port: int
    peer_port: int
    directory: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process; raises RuntimeError while it does not run."""
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"{self.name} does not run")
        return self.process.pid

    def cpu_s(self) -> float:
        """Return the CPU time that the process used, user and system, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_bytes(self, kind: str = "VmRSS") -> int:
        """Return a line of the process's memory in bytes: VmRSS (with mapped files), RssAnon (without), VmHWM."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(kind + ":"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"/proc/{self.pid}/status has no {kind}")

    def file_bytes(self) -> int:
        """Return how much room the node's files take on the disk."""
        return sum(path.stat().st_blocks * 512 for path in self.directory.rglob("*") if path.is_file())


class Cluster(abc.ABC):
    """Some nodes of one system."""

    system: str
    """Name of the system, as the tables say it."""

    def __init__(self, directory: Path, nodes: int = 3) -> None:
        """Give each node its ports and a directory inside ``directory``, which is made."""
        directory.mkdir(parents=True, exist_ok=True)
        ports = free_ports(2 * nodes)
        self.directory = directory
        self.nodes = [
            Node(f"n{number + 1}", ports[2 * number], ports[2 * number + 1], directory / f"n{number + 1}")
            for number in range(nodes)
        ]

    @abc.abstractmethod
    def command(self, node: Node) -> list[str]:
        """Return the command line that starts ``node``."""

    def environment(self) -> dict[str, str]:
        """Return the environment variables of every node.

        Under ``PYTHONDONTWRITEBYTECODE`` the modules of a checkout would be compiled at every start: half of its cost.
        """
        environment = node_environment()
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        return environment

    @abc.abstractmethod
    def answers(self, node: Node) -> bool:
        """Return whether ``node`` serves a write, by itself or through its leader."""

    @abc.abstractmethod
    def is_leader(self, node: Node) -> bool:
        """Return whether ``node`` says that it leads; a node that cannot be reached does not."""

    def __enter__(self) -> Self:
        try:
            self.start(self.nodes)
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self, nodes: Sequence[Node]) -> None:
        """Start the processes of ``nodes``; returns at once."""
        for node in nodes:
            with (self.directory / f"{node.name}.log").open("ab") as log:
                node.process = start_node(self.command(node), log, self.environment())

    def kill(self, nodes: Sequence[Node]) -> None:
        """Kill ``nodes`` with SIGKILL, all before the first is waited for."""
        for node in nodes:
            os.kill(node.pid, signal.SIGKILL)
        for node in nodes:
            if node.process is not None:
                node.process.wait()

    def stop(self) -> None:
        """Stop every node that runs."""
        stop_nodes([node.process for node in self.nodes if node.process is not None])

    def wait_ready(self) -> None:
        """Wait until a write is served; raises RuntimeError when none is."""
        if not wait_until(lambda: any(self.answers(node) for node in self.nodes), READY_S):
            raise RuntimeError(f"{self.system} did not answer within {READY_S} s: see {self.directory}")

    def leader(self) -> Node:
        """Return the leader, waiting for one; raises RuntimeError when there is none."""
        found: list[Node] = []

        def is_led() -> bool:
            found.extend(node for node in self.nodes if self.is_leader(node))
            return bool(found)

        if not wait_until(is_led, READY_S):
            raise RuntimeError(f"{self.system} has no leader within {READY_S} s")
        return found[0]

    def followers(self) -> list[Node]:
        """Return the nodes that do not lead."""
        leader = self.leader()
        return [node for node in self.nodes if node is not leader]


class RespCluster(Cluster):
    """A system that speaks RESP."""

    def answers(self, node: Node) -> bool:
        """Return whether ``node`` takes a write itself."""
        with contextlib.suppress(RequestError), RespClient(Address(HOST, node.client_port), 5.0) as client:
            return client.call("SET", "benchmark:ready", "1") == b"OK"
        return False


class Ours(RespCluster):
    """Nodes of durable_raft."""

    system = "durable_raft"

    def __init__(self, directory: Path, nodes: int = 3, settings: dict[str, object] | None = None) -> None:
        """Run with ``settings`` beside the defaults."""
        super().__init__(directory, nodes)
        self.settings = settings or {}
        ports = [(node.client_port, node.peer_port) for node in self.nodes]
        self._local: list[LocalNode] = local_nodes(ports, directory)

    def command(self, node: Node) -> list[str]:
        """Return ``durable-raft serve ...``."""
        return serve_command(self._local[self.nodes.index(node)], self._local, self.settings)

    def info(self, node: Node, section: str = "raft") -> dict[str, str]:
        """Return INFO of ``node``; raises RequestError when it cannot be reached."""
        with RespClient(Address(HOST, node.client_port), 2.0) as client:
            return client.info(section)

    def term(self) -> int:
        """Return the leader's term."""
        return int(self.info(self.leader())["raft_current_term"])

    def is_leader(self, node: Node) -> bool:
        """Ask it."""
        with contextlib.suppress(RequestError):
            return self.info(node)["raft_role"] == "leader"
        return False


class Redis(RespCluster):
    """One unreplicated Redis that syncs every write before it answers."""

    system = "redis"

    def __init__(self, directory: Path) -> None:
        """Run one node."""
        super().__init__(directory, 1)

    def command(self, node: Node) -> list[str]:
        """Return ``redis-server ...``."""
        node.directory.mkdir(exist_ok=True)
        command = ["redis-server", "--port", str(node.client_port), "--bind", HOST, "--dir", str(node.directory)]
        return [*command, "--save", "", "--appendonly", "yes", "--appendfsync", "always"]

    def is_leader(self, node: Node) -> bool:
        """There is only one."""
        return self.answers(node)
