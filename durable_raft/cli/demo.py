"""``durable-raft demo``: the main job before your eyes. Real processes, real kills; the exit code says whether it held.

It counts what was acknowledged and looks every one of these writes up again, after the leader's death and after the
death of all nodes at once.
"""

from __future__ import annotations

import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final

import click

from durable_raft.cli.local_cluster import (
    LocalNode,
    free_ports,
    local_nodes,
    node_environment,
    own_secret,
    serve_command,
    start_node,
    stop_nodes,
    wait_until,
)
from durable_raft.cli.resp_client import ClusterClient
from durable_raft.cli.status import NodeStatus, cluster_status, find_leader, table
from durable_raft.errors import DurableRaftError, NodeUnreachable
from durable_raft.server.exit_codes import ExitCode

NODE_COUNT: Final = 3
READY_S: Final = 60.0
"""How long an election or a restart may take before the demo gives up; on a slow disk it is still far less."""
LOG_LINES_SHOWN: Final = 15


class Stage:
    """The nodes of the demo and what is done to them."""

    def __init__(self, directory: Path) -> None:
        ports = free_ports(2 * NODE_COUNT)
        self.nodes = local_nodes(list(zip(ports[::2], ports[1::2], strict=True)), directory)
        self._directory = directory
        self._settings = {"cluster_secret_file": own_secret(directory)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def addresses(self) -> list[str]:
        """Where clients connect, as text."""
        return [str(node.address) for node in self.nodes]

    def client(self) -> ClusterClient:
        """Return a client that finds the leader."""
        return ClusterClient([node.address for node in self.nodes], deadline_s=READY_S)

    def start(self) -> None:
        """Start every node that does not run."""
        for node in self.nodes:
            if node.node_id not in self._processes:
                with self._log_file(node).open("ab") as log:
                    self._processes[node.node_id] = self._start(node, log)

    def _start(self, node: LocalNode, log: IO[bytes]) -> subprocess.Popen[bytes]:
        return start_node(serve_command(node, self.nodes, self._settings), log, node_environment())

    def _log_file(self, node: LocalNode) -> Path:
        return self._directory / f"{node.node_id}.log"

    def kill9(self, node_ids: Iterable[str]) -> None:
        """Kill those of these nodes that run, as a power cut would, all before the first is waited for."""
        processes = [self._processes.pop(node_id) for node_id in node_ids if node_id in self._processes]
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            process.wait()

    def check_running(self) -> None:
        """Check that every node runs that was not killed here.

        Raises:
            DurableRaftError: one has ended; the message holds the end of the nodes' logs.
        """
        for node_id, process in self._processes.items():
            if process.poll() is not None:
                raise DurableRaftError(f"{node_id} ended with exit code {process.returncode}\n{self._log_ends()}")

    def stop(self) -> None:
        """Stop what still runs."""
        stop_nodes(list(self._processes.values()))

    def wait_for(self, members: int) -> NodeStatus:
        """Wait until there is a leader and ``members`` nodes have its whole log on disk; return the leader.

        Raises:
            NodeUnreachable: that does not happen in time; the message holds the end of the nodes' logs.
        """
        found: list[NodeStatus] = []

        def is_settled() -> bool:
            self.check_running()
            statuses = cluster_status([node.address for node in self.nodes])
            leader = find_leader(statuses)
            found[:] = [leader] if leader is not None else []
            return bool(found) and sum(status.lag == 0 for status in statuses) >= members

        if not wait_until(is_settled, READY_S):
            raise NodeUnreachable(f"the cluster did not come up within {READY_S:g} s\n{self._log_ends()}")
        return found[0]

    def _log_ends(self) -> str:
        parts = []
        for node in self.nodes:
            lines = self._log_file(node).read_text(errors="replace").splitlines()
            parts += [f"--- {node.node_id}", *lines[-LOG_LINES_SHOWN:]]
        return "\n".join(parts)


class Writer(threading.Thread):
    """Writes keys one after the other, and remembers which were acknowledged and when."""

    def __init__(self, client: ClusterClient, keys: int) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._keys = keys
        self.acknowledged: dict[str, str] = {}
        """Key -> value for which OK came back."""
        self.acknowledged_at: list[float] = []
        """When each OK came (monotonic seconds)."""
        self.error: DurableRaftError | None = None

    def run(self) -> None:
        """Write all keys; an error that cannot be cured by asking again ends it and is kept."""
        try:
            for number in range(self._keys):
                key, value = f"key:{number:05}", f"value-{number * 7919}"
                if self._client.call("SET", key, value) == b"OK":
                    self.acknowledged[key] = value
                    self.acknowledged_at.append(time.monotonic())
        except DurableRaftError as error:
            self.error = error


def _missing(client: ClusterClient, acknowledged: dict[str, str]) -> list[str]:
    """Return the acknowledged keys that do not read back with their value (linearizable reads)."""
    return [key for key, value in acknowledged.items() if client.call("GET", key) != value.encode()]


def _check(client: ClusterClient, acknowledged: dict[str, str]) -> bool:
    missing = _missing(client, acknowledged)
    click.echo(f"   {len(acknowledged) - len(missing)} of {len(acknowledged)} acknowledged writes are there.")
    for key in missing[:10]:
        click.echo(f"   LOST: {key}")
    return not missing


def _write_through_leader_death(stage: Stage, client: ClusterClient, keys: int) -> dict[str, str]:
    """Write ``keys`` keys and kill the leader at a third of them; return what was acknowledged."""
    writer = Writer(client, keys)
    writer.start()

    def is_busy() -> bool:
        stage.check_running()
        return len(writer.acknowledged) >= keys // 3 or not writer.is_alive()

    wait_until(is_busy, READY_S, pause_s=0.002)
    if writer.error is not None:
        raise writer.error
    victim = stage.wait_for(members=0).id
    killed_at = time.monotonic()
    stage.kill9([str(victim)])
    click.echo(
        f"2. kill -9 {victim}, the leader, after {len(writer.acknowledged)} acknowledged writes; writing goes on."
    )
    writer.join(2 * READY_S)
    if writer.error is not None:
        raise writer.error
    pause = next((at - killed_at for at in writer.acknowledged_at if at > killed_at + 0.001), None)
    leader = stage.wait_for(members=NODE_COUNT - 1)
    within = f"; the first write after the kill took {pause * 1000:.0f} ms" if pause is not None else ""
    click.echo(f"   {leader.id} leads in term {leader.term}{within}.")
    return writer.acknowledged


def _play(stage: Stage, keys: int) -> bool:
    """Play the story; return whether every acknowledged write survived."""
    click.echo(f"Starting three nodes on {', '.join(stage.addresses)} ...")
    stage.start()
    leader = stage.wait_for(members=NODE_COUNT)
    click.echo(f"   {leader.id} leads in term {leader.term}.")
    click.echo(f"1. Writing {keys} keys. Each OK means: flushed to the disks of at least two of the three nodes.")
    with stage.client() as client:
        acknowledged = _write_through_leader_death(stage, client, keys)
        survived_leader = _check(client, acknowledged)
        click.echo("3. kill -9 all nodes at once, then start all three again.")
        stage.kill9([node.node_id for node in stage.nodes])
        stage.start()
        leader = stage.wait_for(members=NODE_COUNT)
        click.echo(f"   {leader.id} leads in term {leader.term}.")
        survived_all = _check(client, acknowledged)
    click.echo(table(cluster_status([node.address for node in stage.nodes])))
    return survived_leader and survived_all and len(acknowledged) == keys


@click.command(short_help="See acknowledged writes survive kill -9.")
@click.option("--keys", default=600, show_default=True, type=click.IntRange(10), help="How many keys to write")
@click.option("--keep", type=click.Path(path_type=Path, exists=False), metavar="DIR", help="Keep data and logs in DIR")
def demo(keys: int, keep: Path | None) -> None:
    """Start three nodes, write, kill -9 the leader, kill -9 all of them, and look every acknowledged write up again.

    Needs nothing but this package. Exit code 0 only when nothing was lost.
    """
    with ExitStack() as stack:
        if keep is None:
            keep = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="durable-raft-demo-")))
        keep.mkdir(parents=True, exist_ok=True)
        stage = Stage(keep)
        stack.callback(stage.stop)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        is_whole = _play(stage, keys)
    click.echo("Nothing was lost." if is_whole else "Acknowledged writes were LOST.")
    click.get_current_context().exit(ExitCode.OK if is_whole else ExitCode.FAILED)
