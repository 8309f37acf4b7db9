"""``durable-raft dev``: a cluster of real nodes in one terminal, for trying things out."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final

import click

from durable_raft.addresses import PEER_PORT_OFFSET, PORT_MAX, refuse
from durable_raft.cli.local_cluster import (
    LocalNode,
    is_free,
    local_nodes,
    node_environment,
    own_secret,
    serve_command,
    start_node,
    stop_nodes,
    wait_until,
)
from durable_raft.cli.status import cluster_status, find_leader
from durable_raft.server.exit_codes import ExitCode

NODES_MAX: Final = 9
LEADER_S: Final = 30.0


class DevCluster:
    """The running nodes, with one thread for each that copies its log to this terminal."""

    def __init__(self, nodes: list[LocalNode], secret: Path) -> None:
        """Run ``nodes``, which prove the secret in the file ``secret`` to each other."""
        self.nodes = nodes
        self._settings = {"cluster_secret_file": secret}
        self.ended = threading.Event()
        """Set when the user or the system wants an end, or no node is left."""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._copiers: list[threading.Thread] = []

    def start(self) -> None:
        """Start every node."""
        for node in self.nodes:
            process = start_node(serve_command(node, self.nodes, self._settings), subprocess.PIPE, node_environment())
            self._processes.append(process)
            if process.stdout is not None:
                copy = (node, process, process.stdout)
                self._copiers.append(threading.Thread(target=self._copy_log, args=copy, daemon=True))
        for copier in self._copiers:
            copier.start()

    def stop(self) -> None:
        """Stop every node and show the last of their logs."""
        stop_nodes(self._processes)
        for copier in self._copiers:
            copier.join(timeout=2.0)

    def _copy_log(self, node: LocalNode, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
        for line in output:
            click.echo(f"{node.node_id} | {line.decode(errors='backslashreplace').rstrip()}", err=True)
        click.echo(f"{node.node_id} | ended with exit code {process.wait()}", err=True)
        if all(each.poll() is not None for each in self._processes):
            self.ended.set()

    def announce(self) -> None:
        """Wait for a leader and say how to connect."""

        def has_leader() -> bool:
            return self.ended.is_set() or find_leader(cluster_status([node.address for node in self.nodes])) is not None

        wait_until(has_leader, LEADER_S, pause_s=0.1)
        if self.ended.is_set():
            return
        port = self.nodes[0].client_port
        click.echo(
            f"Ready: {len(self.nodes)} nodes on {', '.join(str(node.address) for node in self.nodes)}.\n"
            f"  redis-cli -c -p {port} SET city Paris\n"
            f"  durable-raft status --at {self.nodes[0].address}\n"
            "Ctrl-C stops them all."
        )


def _ports(first: int, count: int) -> list[tuple[int, int]]:
    ports = [(port, port + PEER_PORT_OFFSET) for port in range(first, first + count)]
    for port in (port for pair in ports for port in pair):
        if port > PORT_MAX:
            refuse("port", first, f"at most {PORT_MAX - PEER_PORT_OFFSET - count + 1}: peers use these + 10000")
        if not is_free(port):
            refuse("port", first, f"free ports, but something listens on {port} already; try another --port")
    return ports


@click.command(short_help="Run a local cluster in this terminal.")
@click.option("--nodes", default=3, show_default=True, type=click.IntRange(1, NODES_MAX), help="How many nodes")
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="Keep the data here, one directory per node")
@click.option("--port", default=7001, show_default=True, type=click.IntRange(1, PORT_MAX), help="Client port of n1")
def dev(nodes: int, directory: Path | None, port: int) -> None:
    """Run a cluster of real nodes on this machine until Ctrl-C.

    Clients connect to --port and the ports after it, the nodes to each other on these + 10000. Without --dir the data
    go into a temporary directory that is removed at the end. The logs of all nodes come out on stderr.
    """
    ports = _ports(port, nodes)
    with ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="durable-raft-")))
            click.echo(f"Data are in {directory} and are removed at the end; --dir DIR keeps them.")
        cluster = DevCluster(local_nodes(ports, directory), own_secret(directory))
        is_asked = threading.Event()

        def ask_to_end(*_: object) -> None:
            is_asked.set()
            cluster.ended.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, ask_to_end)
        stack.callback(cluster.stop)
        cluster.start()
        cluster.announce()
        cluster.ended.wait()
    if not is_asked.is_set():
        click.echo("durable-raft: every node has ended", err=True)
        click.get_current_context().exit(ExitCode.FAILED)
