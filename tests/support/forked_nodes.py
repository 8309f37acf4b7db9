"""Real nodes for the server room's own tests: each is ``run(config)`` in a fork of the test's process.

A fork starts in ten milliseconds, where a process of its own imports for half a second; what it runs is measured with
the room's own tests (tests/coverage); and what a test has replaced in a module before is so in its nodes. Everything
else is as in production: sockets on the loopback interface, LMDB files, threads, signals, exit codes.

Every wait has a condition; when it takes longer than ``WAIT_S``, the failure shows the ends of all logs.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import stat
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from durable_raft.addresses import Address
from durable_raft.cli.local_cluster import HOST, free_ports
from durable_raft.cli.resp_client import ClusterClient, RespClient, Value
from durable_raft.errors import DurableRaftError, ErrorAnswered, NodeUnreachable
from durable_raft.raft.types import Member, Membership, NodeId
from durable_raft.server.exit_codes import exit_code_of
from durable_raft.server.logs import start_logging
from durable_raft.server.process import run
from durable_raft.server.settings.config import NodeConfig
from durable_raft.storage.isolation import _die_with_parent
from tests.support.waiting import WAIT_S, wait_until

_PATIENT: Final = {"election_timeout_min_ms": 500, "election_timeout_max_ms": 1000, "heartbeat_ms": 60}


class ForkedNodes:
    """Nodes n1, n2, ... that are started, stopped and killed one by one."""

    def __init__(self, count: int, directory: Path, **settings: Any) -> None:
        """Choose ports; nothing is started. ``settings`` are fields of ``NodeConfig``, the same for all."""
        ports = free_ports(2 * count)
        places = zip(ports[::2], ports[1::2], strict=True)
        self.membership = Membership(
            tuple(
                Member(NodeId(f"n{number}"), f"{HOST}:{client}", f"{HOST}:{peer}")
                for number, (client, peer) in enumerate(places, start=1)
            )
        )
        self.ids = [member.node_id for member in self.membership.voters]
        self._directory = directory
        self._settings = {**_PATIENT, **settings}
        self._pids: dict[str, int] = {}

    def config(self, node_id: str, **settings: Any) -> NodeConfig:
        """Return what a node is told."""
        member = next(each for each in self.membership.voters if each.node_id == node_id)
        return NodeConfig(
            node_id=NodeId(node_id),
            directory=self.directory(node_id),
            client_host=HOST,
            client_port=int(member.client_address.rpartition(":")[2]),
            peer_host=HOST,
            peer_port=int(member.peer_address.rpartition(":")[2]),
            membership=self.membership,
            **{**self._settings, **settings},
        )

    def directory(self, node_id: str) -> Path:
        """Return a node's data directory."""
        return self._directory / node_id

    def log(self, node_id: str) -> str:
        """Return what a node has logged, over all its lives."""
        path = self._directory / f"{node_id}.log"
        return path.read_text() if path.exists() else ""

    # -- life -----------------------------------------------------------------------------------------------------

    def start(self, *node_ids: str, crash_at: str = "", **settings: Any) -> None:
        """Start nodes, all when none is named, and do not wait for them."""
        for node_id in node_ids or self.ids:
            config = self.config(node_id, **settings)
            self._directory.mkdir(exist_ok=True)
            with warnings.catch_warnings():
                # Python 3.12 warns of other threads; the one of pytest's timeout holds no lock that a node takes.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                _live(config, self._directory / f"{node_id}.log", {"DURABLE_RAFT_CRASH_AT": crash_at})
            self._pids[node_id] = pid

    def exit_code(self, node_id: str) -> int:
        """Wait until a node has ended; return its exit code, or minus the signal that ended it."""
        pid, status = 0, 0

        def has_ended() -> bool:
            nonlocal pid, status
            pid, status = os.waitpid(self._pids[node_id], os.WNOHANG)
            return pid != 0

        self.wait(has_ended, f"{node_id} to end")
        del self._pids[node_id]
        return os.waitstatus_to_exitcode(status)

    def stop(self, *node_ids: str) -> None:
        """Stop nodes cleanly, all that run when none is named."""
        stopped = list(node_ids or self._pids)
        for node_id in stopped:
            os.kill(self._pids[node_id], signal.SIGTERM)
        codes = {node_id: self.exit_code(node_id) for node_id in stopped}
        assert not any(codes.values()), self.explain(f"exit codes {codes}")

    def kill(self, node_id: str) -> None:
        """End a node as ``kill -9`` does."""
        os.kill(self._pids[node_id], signal.SIGKILL)
        assert self.exit_code(node_id) == -signal.SIGKILL

    def close(self) -> None:
        """End what still runs; cleanly where it can, so that what it ran is measured."""
        for pid in self._pids.values():
            os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(AssertionError):
            for node_id in list(self._pids):
                self.exit_code(node_id)
        for pid in self._pids.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._pids.clear()

    # -- asking ---------------------------------------------------------------------------------------------------

    def address(self, node_id: str) -> Address:
        """Return where a node's clients connect."""
        return Address(HOST, self.config(node_id).client_port)

    @contextlib.contextmanager
    def client(self, node_id: str) -> Iterator[RespClient]:
        """Connect to a node, once it listens."""
        connected: list[RespClient] = []

        def is_connected() -> bool:
            with contextlib.suppress(NodeUnreachable):
                connected.append(RespClient(self.address(node_id), WAIT_S))
            return bool(connected)

        self.wait(is_connected, f"{node_id} to listen")
        with connected[0] as client:
            yield client

    def ask(self, node_id: str, *command: str | bytes) -> Value:
        """Ask a node one thing on a connection of its own."""
        with self.client(node_id) as client:
            return client.call(*command)

    def leaders_client(self) -> ClusterClient:
        """Return a client that finds the leader, and asks again when there is another."""
        return ClusterClient([self.address(node_id) for node_id in self._pids], WAIT_S)

    def info(self, node_id: str) -> dict[str, str]:
        """Return a node's INFO; empty while it does not answer."""
        try:
            with RespClient(self.address(node_id), WAIT_S) as client:
                text = client.call("INFO")
        except NodeUnreachable:
            return {}
        assert isinstance(text, bytes)
        return dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)

    def number(self, node_id: str, name: str) -> int:
        """Return a number of a node's INFO; -1 while it does not answer."""
        return int(self.info(node_id).get(f"raft_{name}", -1))

    def leader(self) -> str:
        """Wait until a leader has been elected that all running nodes follow and that answers; return its id."""
        found = ""

        def is_led() -> bool:
            nonlocal found
            infos = {node_id: self.info(node_id) for node_id in self._pids}
            leaders = {info.get("raft_leader_id", "") for info in infos.values()}
            if len(leaders) != 1 or not (found := leaders.pop()):
                return False
            with contextlib.suppress(ErrorAnswered, NodeUnreachable):
                return self.ask(found, "GET", "is there a leader") is None
            return False

        self.wait(is_led, "a leader that all follow")
        return found

    def converged(self) -> None:
        """Wait until all running nodes have applied the same entries."""
        names = ("raft_last_log_index", "raft_last_applied", "raft_wounds")

        def is_converged() -> bool:
            infos = [self.info(node_id) for node_id in self._pids]
            told = [[info.get(name) for name in names] for info in infos]
            return all(each == told[0] and each[0] == each[1] is not None and each[2] == "0" for each in told)

        self.wait(is_converged, "all nodes to have applied the same entries")

    def hold_one_state(self) -> None:
        """Wait until the checkpoints of all running nodes are of one place of the log, and of one state."""
        self.converged()
        for node_id in self._pids:
            self.ask(node_id, "RAFT", "CHECKPOINT")

        def is_one() -> bool:
            infos = [self.info(node_id) for node_id in self._pids]
            told = [(info.get("raft_snapshot_index"), info.get("raft_state_hash")) for info in infos]
            return len({*told}) == 1 and all(info.get("raft_last_applied") == told[0][0] for info in infos)

        self.wait(is_one, "all nodes to hold the same state")

    def logged(self, node_id: str, text: str) -> None:
        """Wait until a node has logged ``text``."""
        self.wait(lambda: text in self.log(node_id), f"{node_id} to log {text!r}")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition."""
        wait_until(condition, what, explain=self.explain)

    def explain(self, problem: str) -> str:
        """Return ``problem`` with the ends of all logs."""
        logs = [f"--- {node_id}\n" + "\n".join(self.log(node_id).splitlines()[-25:]) for node_id in self.ids]
        return "\n".join([problem, *logs])


def _live(config: NodeConfig, log: Path, environment: Mapping[str, str]) -> None:
    """Be the node; the process ends with it."""
    code = 70
    try:
        # A test's process that is ended hard, by a timeout, must not leave its nodes behind.
        _die_with_parent()
        _leave_the_test(log)
        output = start_logging(node_id=config.node_id, level="debug", log_format="text")
        try:
            code = run(config, environment)
        except DurableRaftError as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            code = exit_code_of(error)
        finally:
            output.close()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _leave_the_test(log: Path) -> None:
    """Keep nothing of the test's process: its streams, its log, its connections, which would not end with it here."""
    # What is garbage in the test is not collected here: sockets would close numbers that are the node's files by then.
    gc.freeze()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - the directory that is listed is open, too
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                os.close(int(name))
