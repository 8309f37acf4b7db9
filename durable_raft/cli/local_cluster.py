"""A cluster of real node processes on this machine, for ``dev``, ``demo`` and the cluster tests."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from durable_raft.addresses import Address
from durable_raft.cli.secret import make_secret
from durable_raft.server.settings.sources import ENVIRONMENT_PREFIX

HOST: Final = "127.0.0.1"
STOP_S: Final = 10.0
"""How long a node may take to stop cleanly before it is killed."""


@dataclass(frozen=True, slots=True)
class LocalNode:
    """Where one node of a local cluster is."""

    node_id: str
    client_port: int
    peer_port: int
    directory: Path

    @property
    def address(self) -> Address:
        """Where clients connect."""
        return Address(HOST, self.client_port)

    @property
    def entry(self) -> str:
        """This node in a --cluster list."""
        return f"{self.node_id}={HOST}:{self.client_port}@{self.peer_port}"


def _candidates() -> Iterator[int]:
    """Yield ports to try, each once in a long while; the process id spreads what processes begin with.

    Neighbouring process ids begin far from each other: the port of a killed node is free for a moment, and a process
    that starts nodes beside ours must not come by and take it.
    """
    first, last = 10_000, 32_000
    candidate = first + os.getpid() * 13_597 % (last - first)  # the golden section of the range
    while True:
        yield candidate
        candidate = candidate + 1 if candidate < last else first


_ports_to_try: Final = _candidates()


def is_free(port: int) -> bool:
    """Return whether nobody listens on ``port`` of the loopback interface."""
    with socket.socket() as probe:
        # As the node's own listening socket does: connections of a predecessor that linger are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Return ports that are free now, other ones at each call of this process.

    They lie below the range from which the kernel takes the ports of outgoing connections: a node that is killed
    leaves its port alone, and no connection may take it before the node is back.
    """
    return list(itertools.islice(filter(is_free, _ports_to_try), count))


def local_nodes(ports: Sequence[tuple[int, int]], directory: Path) -> list[LocalNode]:
    """Return nodes n1, n2, ... with these (client, peer) ports, their directories inside ``directory``."""
    return [
        LocalNode(f"n{number}", client, peer, directory / f"n{number}")
        for number, (client, peer) in enumerate(ports, start=1)
    ]


def own_secret(directory: Path) -> Path:
    """Return the file of the secret of a cluster inside ``directory``; it is made when it is not there.

    Raises:
        ConfigError: it cannot be made.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "cluster-secret"
    if not file.exists():
        make_secret(file)
    return file


def own_program() -> list[str]:
    """Return how this program is started: by its interpreter or, in the binary of tools/build_binary, by itself."""
    # PyInstaller sets ``frozen``; then ``sys.executable`` is the program that was unpacked.
    return [sys.executable] if getattr(sys, "frozen", False) else [sys.executable, "-m", "durable_raft"]


def serve_command(
    node: LocalNode,
    nodes: Sequence[LocalNode],
    settings: Mapping[str, object],
    program: Sequence[str] | None = None,
) -> list[str]:
    """Return the command line that starts ``node``.

    Args:
        nodes: of its cluster; none: further settings say whom it joins.
        settings: further ones by name (a bool is a switch).
        program: how durable-raft is started; ``own_program`` when not given.
    """
    command = [*(program or own_program()), "serve", "--id", node.node_id, "--dir", str(node.directory)]
    if nodes:
        command += ["--cluster", ",".join(each.entry for each in nodes)]
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            command.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            command += [f"--{flag}", str(value)]
    return command


def node_environment() -> dict[str, str]:
    """Return the environment for a node: ours, without settings meant for another node."""
    return {key: value for key, value in os.environ.items() if not key.startswith(ENVIRONMENT_PREFIX)}


def start_node(
    command: Sequence[str], output: IO[bytes] | int, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a node whose stdout and stderr go to ``output``.

    It gets a process group of its own: Ctrl-C in the terminal reaches the command, which then stops its nodes.
    """
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        process_group=0,
    )


def stop_nodes(processes: Sequence[subprocess.Popen[bytes]], timeout_s: float = STOP_S) -> None:
    """Stop all processes with SIGTERM, and those that do not end in time with SIGKILL."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + timeout_s
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(condition: Callable[[], bool], timeout_s: float, pause_s: float = 0.02) -> bool:
    """Return True as soon as ``condition`` holds, False when it does not within ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
    return True
