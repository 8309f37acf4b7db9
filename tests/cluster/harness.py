"""Clusters of real node processes for tests: started, killed, paused and partitioned at will, asked over real sockets.

Every wait has a condition and a deadline; when one passes, the failure carries the ends of all nodes' logs.

::

    def test_something(cluster_of: ClusterFactory) -> None:
        cluster = cluster_of(3, crash_at={"n2": "after_persist:5"}, heartbeat_ms=20)
        leader = cluster.wait_ready()
        cluster.client(leader).set("city", "Paris")
        cluster.kill9(leader)
        assert cluster.cluster_client().get("city") == b"Paris"
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import redis
from redis.cluster import ClusterNode

from durable_raft.cli.local_cluster import (
    LocalNode,
    free_ports,
    local_nodes,
    node_environment,
    serve_command,
    start_node,
)
from durable_raft.cli.resp_client import RespClient
from durable_raft.errors import RequestError
from durable_raft.raft.quorum import majority
from tests.cluster import node_forks
from tests.cluster.proxy import HOST, ProxyNetwork
from tests.cluster.turns import too_long
from tests.support.waiting import WAIT_S, wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
"""The checkout: the nodes run this code, installed or not."""

BINARY: Final = os.environ.get("DURABLE_RAFT_BINARY")
"""A file made by tools/build_binary that the nodes run in place of the checkout's code, or None."""

LOG_COMMIT: Final = os.environ.get("DURABLE_RAFT_TEST_LOG_COMMIT")
"""What makes writes durable (``--log-commit``) in every cluster that asks for neither; None: the default."""

LOG_LINES_SHOWN: Final = 40
UNHURRIED: Final = {"heartbeat_ms": 100, "election_timeout_min_ms": 500, "election_timeout_max_ms": 1000}
"""Settings of every cluster that asks for no others: on a busy machine a node may get no processor for some hundred
milliseconds, and a test that is not about elections shall see none that it did not cause."""
EAGER: Final = {"election_timeout_min_ms": 400, "election_timeout_max_ms": 600}
PATIENT: Final = {"election_timeout_min_ms": 1500, "election_timeout_max_ms": 2000}
"""Where one node is to lead, it is eager and the others are patient."""
ANSWER_S: Final = 10.0
"""How long a node that runs may take to answer."""
CLUSTER_ID: Final = "c0ffee00" * 4
"""Given to proxied nodes: each is told other addresses for its peers, so they would derive different ids."""


class Cluster:
    """Nodes n1, n2, ... with their processes, ports, directories and log files under ``directory``."""

    def __init__(
        self,
        nodes: int,
        directory: Path,
        *,
        proxied: bool = False,
        forked: bool = True,
        crash_at: Mapping[str, str] | None = None,
        settings_of: Mapping[str, Mapping[str, object]] | None = None,
        program: Path | None = None,
        **settings: object,
    ) -> None:
        """Choose ports and start every node.

        Args:
            proxied: put a proxy into every link between nodes (``network``).
            forked: start nodes as forks of a process that has loaded the program; else as users start them.
            crash_at: node id -> ``POINT:COUNT``, in force for the first start of that node only.
            settings_of: node id -> settings over the cluster's, for the first start of that node only.
            program: what every node runs until another is installed (``install``).
            settings: of ``serve``, by their names in the TOML file.
        """
        self.directory = directory
        self._is_forked = forked and BINARY is None and node_forks.can_fork()
        ports = free_ports(2 * nodes)
        self.nodes = {
            node.node_id: node for node in local_nodes(list(zip(ports[::2], ports[1::2], strict=True)), directory)
        }
        self._founders = list(self.nodes.values())
        self.settings = UNHURRIED | ({} if LOG_COMMIT is None else {"log_commit": LOG_COMMIT}) | settings
        self.network: ProxyNetwork | None = None
        self._processes: dict[str, subprocess.Popen[bytes] | node_forks.Fork] = {}
        self._paused: set[str] = set()
        self._programs: dict[str, Path] = {}
        """The trees that nodes run in place of this checkout."""
        self._log_starts: dict[str, int] = {}
        """Where in its log the newest life of each node begins that nobody has waited to end."""
        self._proxy_ports: dict[tuple[str, str], int] = {}
        self._joined_at: dict[str, str] = {}
        """Nodes that were started with --join, and where they asked."""
        self._clients: list[redis.Redis | redis.RedisCluster] = []
        directory.mkdir(parents=True, exist_ok=True)
        if proxied:
            self._add_proxies()
        for node_id in self.node_ids:
            self.skew(node_id, 0)
            self.install(node_id, program)
            self.start(node_id, crash_at=(crash_at or {}).get(node_id), settings=(settings_of or {}).get(node_id))

    # -- the nodes --------------------------------------------------------------------------------------------------

    @property
    def node_ids(self) -> list[str]:
        """All node ids."""
        return list(self.nodes)

    def addresses(self) -> list[tuple[str, int]]:
        """Return (host, port) of every node, for clients."""
        return [(HOST, node.client_port) for node in self.nodes.values()]

    def is_running(self, node_id: str) -> bool:
        """Return whether the node's process lives and is not paused."""
        return node_id in self.running()

    def running(self) -> list[str]:
        """Return the ids of the nodes whose process lives and is not paused."""
        return [
            node_id
            for node_id, process in self._processes.items()
            if process.poll() is None and node_id not in self._paused
        ]

    def pid(self, node_id: str) -> int:
        """Return the process id of a node's newest process."""
        return self._processes[node_id].pid

    def start(
        self,
        node_id: str,
        *,
        crash_at: str | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """Start a node that does not run; ``crash_at`` is ``POINT:COUNT``, ``settings`` go over the cluster's."""
        process = self._processes.get(node_id)
        assert process is None or process.poll() is not None, f"{node_id} runs already"
        tree = self._programs.get(node_id)
        environment = checkout_environment(tree) | {"DURABLE_RAFT_CLOCK_SKEW": str(self._skew_path(node_id))}
        if crash_at is not None:
            environment["DURABLE_RAFT_CRASH_AT"] = crash_at
        command = self.command(node_id, **(settings or {}))
        log_path = self.log_path(node_id)
        self._log_starts[node_id] = log_path.stat().st_size if log_path.exists() else 0
        if self._is_forked and tree is None:
            words = command[command.index("serve") :]
            self._processes[node_id] = node_forks.start(node_id, words, self.log_path(node_id), environment)
            return
        with self.log_path(node_id).open("ab") as log:
            self._processes[node_id] = start_node(command, log, environment)

    def install(self, node_id: str, program: Path | None) -> None:
        """Have a node run another tree from its next start on; None: this checkout."""
        if program is None:
            self._programs.pop(node_id, None)
        else:
            self._programs[node_id] = program

    def join(self, node_id: str, at: str, *, settings: Mapping[str, object] | None = None) -> str:
        """Start a new node that knows nothing but where the node ``at`` is; return it as ``member add`` wants it."""
        client_port, peer_port = free_ports(2)
        node = self.nodes[node_id] = LocalNode(node_id, client_port, peer_port, self.directory / node_id)
        self._joined_at[node_id] = str(self.nodes[at].address)
        self.skew(node_id, 0)
        self.start(node_id, settings=settings)
        return node.entry

    def readdress(self, node_id: str) -> str:
        """Choose other ports for a node that joined, from its next start on; return it as ``member update`` asks."""
        client_port, peer_port = free_ports(2)
        node = self.nodes[node_id] = LocalNode(node_id, client_port, peer_port, self.directory / node_id)
        return node.entry

    def refound(self) -> None:
        """Take the nodes of today for those that a new cluster is first started with."""
        self._founders = list(self.nodes.values())
        self._joined_at.clear()

    def forget(self, node_id: str) -> None:
        """Expect nothing any more of a node that was removed, or is gone for good."""
        del self.nodes[node_id]

    def skew(self, node_id: str, seconds: float) -> None:
        """Set a node's time of day wrong by so much, at once and for its later lives."""
        path = self._skew_path(node_id)
        path.with_suffix(".new").write_text(str(seconds))
        path.with_suffix(".new").rename(path)

    def _skew_path(self, node_id: str) -> Path:
        return self.directory / f"{node_id}.skew"

    def command(self, node_id: str, **settings: object) -> list[str]:
        """Return the command line of a node (to be run under strace, say)."""
        extra = {"cluster_id": CLUSTER_ID} if self._proxy_ports else {}
        program = [BINARY] if BINARY and node_id not in self._programs else None
        if node_id in self._joined_at:
            node, at = self.nodes[node_id], self._joined_at[node_id]
            places = {"listen": node.address, "peer_listen": f"{HOST}:{node.peer_port}", "join": at}
            return serve_command(node, [], places | self.settings | settings, program)
        return serve_command(self.nodes[node_id], self._as_seen_by(node_id), extra | self.settings | settings, program)

    def run_under(self, node_id: str, wrapper: Sequence[str], **settings: object) -> None:
        """Start a node as the child of another program, ``[*wrapper, node command]`` (strace, prlimit)."""
        with self.log_path(node_id).open("ab") as log:
            self._processes[node_id] = start_node(
                [*wrapper, *self.command(node_id, **settings)], log, checkout_environment()
            )

    def kill9(self, *node_ids: str) -> None:
        """Kill nodes (all when none is named) with SIGKILL, all before the first is waited for."""
        victims = [node_id for node_id in node_ids or self.node_ids if node_id in self._processes]
        for node_id in victims:
            self._signal(node_id, signal.SIGKILL)
        for node_id in victims:
            self._processes[node_id].wait(WAIT_S)
            # A node that ran under strace ends a moment after it, and holds its directory until then.
            wait_until(partial(_is_gone, self.pid(node_id)), f"all of {node_id} to be dead")
        self._paused -= set(node_ids or self.node_ids)

    def stop(self, node_id: str, timeout_s: float = WAIT_S) -> int:
        """Stop a node with SIGTERM and return its exit code."""
        self.resume(node_id)
        self._signal(node_id, signal.SIGTERM)
        return self.wait_exit(node_id, timeout_s)

    def restart(self, *node_ids: str, settings: Mapping[str, object] | None = None) -> None:
        """Start nodes (all when none is named) anew; those that run are stopped first, and must stop cleanly."""
        for node_id in node_ids or self.node_ids:
            if self._processes[node_id].poll() is None:
                code = self.stop(node_id)
                assert code == 0, self.explain(f"{node_id} stopped with exit code {code} instead of 0")
        for node_id in node_ids or self.node_ids:
            self.start(node_id, settings=settings)

    def pause(self, node_id: str) -> None:
        """Stop a node in its tracks (SIGSTOP): its connections stay open, nothing answers."""
        self._signal(node_id, signal.SIGSTOP)
        self._paused.add(node_id)

    def resume(self, node_id: str) -> None:
        """Let a paused node go on."""
        if node_id in self._paused:
            self._paused.discard(node_id)
            self._signal(node_id, signal.SIGCONT)

    def _signal(self, node_id: str, number: signal.Signals) -> None:
        """Send a signal to the node's whole process group: a node may run under strace."""
        if self._processes[node_id].poll() is None:
            os.killpg(self.pid(node_id), number)

    def wait_exit(self, node_id: str, timeout_s: float = WAIT_S) -> int:
        """Wait until a node's process has ended; return its exit code (-9 after SIGKILL)."""
        self._log_starts.pop(node_id, None)
        try:
            return self._processes[node_id].wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.explain(f"{node_id} did not end within {timeout_s:g} s")) from None

    def _check_started(self) -> None:
        """No node may have refused to start, unless its end was waited for: others would wait for it in vain."""
        for node_id, begins in self._log_starts.items():
            code = self._processes[node_id].poll()
            if code is not None and code > 0 and b"event=started" not in self.log_path(node_id).read_bytes()[begins:]:
                raise AssertionError(self.explain(f"{node_id} refused to start, with exit code {code}"))

    def close(self) -> None:
        """Kill what runs and release everything; the directories stay."""
        for client in self._clients:
            with suppress(redis.RedisError, OSError):
                client.close()
        self.kill9()
        if self.network is not None:
            self.network.close()
        self._check_turns()

    def _check_turns(self) -> None:
        """No turn of a node's loop may have taken long, of its own processor time: heartbeats wait for it."""
        found = too_long(self.log(node_id) for node_id in self.node_ids if self.log_path(node_id).exists())
        assert not found, self.explain(found)

    # -- asking ------------------------------------------------------------------------------------------------------

    def info(self, node_id: str, section: str = "raft", timeout_s: float = ANSWER_S) -> dict[str, str] | None:
        """Return a section of a node's INFO, or None when it does not answer."""
        try:
            with RespClient(self.nodes[node_id].address, timeout_s) as client:
                return client.info(section)
        except RequestError:
            return None

    def infos(self) -> dict[str, dict[str, str]]:
        """Return INFO raft of every running node that answers."""
        answers = {node_id: self.info(node_id) for node_id in self.running()}
        return {node_id: info for node_id, info in answers.items() if info is not None}

    def leader(self, timeout_s: float = WAIT_S, *, other_than: str | None = None) -> str:
        """Wait for a leader whom a majority follows in one term; return it.

        Args:
            other_than: a former leader that does not count, though it may not know yet.
        """
        found: list[str] = []

        def is_led() -> bool:
            self._check_started()
            infos = self.infos()
            if any(info["raft_is_voter"] == "0" for node_id, info in infos.items() if node_id != other_than):
                # A first start, or a new disk: it is about to be admitted.
                return False
            for node_id, info in infos.items():
                followers = [
                    each
                    for each in infos.values()
                    if (each["raft_leader_id"], each["raft_current_term"]) == (node_id, info["raft_current_term"])
                ]
                if _leads(info) and node_id != other_than and len(followers) >= majority(len(self.nodes)):
                    found[:] = [node_id]
            return bool(found)

        self.wait(is_led, "a leader followed by a majority", timeout_s)
        return found[0]

    def wait_ready(self, timeout_s: float = WAIT_S) -> str:
        """Wait until all running nodes follow one leader and have applied what it had at the time; return it.

        This comes about while clients write, too; ``wait_converged`` needs them to have stopped.
        """
        info = self.info(self.leader(timeout_s))
        target = int(info["raft_last_log_index"]) if info else 0
        found: list[str] = []

        def is_ready() -> bool:
            self._check_started()
            infos = self.infos()
            leaders = {(info["raft_leader_id"], info["raft_current_term"]) for info in infos.values()}
            found[:] = [leader_id for leader_id, _ in leaders if leader_id in infos and _leads(infos[leader_id])]
            applied = [int(info["raft_last_applied"]) for info in infos.values()]
            return len(infos) == len(self.running()) and len(leaders) == len(found) == 1 and min(applied) >= target

        self.wait(is_ready, f"all running nodes to follow one leader and apply entry {target}", timeout_s)
        return found[0]

    def state_hashes(self) -> set[str]:
        """Have every running node write a checkpoint of all that is applied; return what it says of its state then.

        Nobody may be writing.
        """

        def are_written() -> bool:
            infos = self.infos()
            return len(infos) == len(self.running()) and all(
                info["raft_snapshot_index"] == info["raft_last_applied"] for info in infos.values()
            )

        for node_id in self.running():
            self.client(node_id).execute_command("RAFT", "CHECKPOINT")  # type: ignore[no-untyped-call]
        self.wait(are_written, "checkpoints of all that is applied")
        return {info["raft_state_hash"] for info in self.infos().values()}

    def wait_converged(self, timeout_s: float = WAIT_S) -> None:
        """Wait until all running nodes have flushed, committed and applied the same log in the same term.

        Nobody may be writing: the nodes are not asked at one and the same instant.
        """

        def is_converged() -> bool:
            self._check_started()
            infos = self.infos()
            keys = ("raft_current_term", "raft_leader_id", "raft_last_log_index", "raft_commit_index")
            if (
                len(infos) < len(self.running())
                or len({tuple(info[key] for key in keys) for info in infos.values()}) != 1
            ):
                return False
            return all(
                info["raft_last_log_index"]
                == info["raft_flushed_index"]
                == info["raft_commit_index"]
                == info["raft_last_applied"]
                for info in infos.values()
            )

        self.wait(is_converged, "all running nodes to hold and have applied the same log", timeout_s)

    def followers(self) -> list[str]:
        """Return the running nodes but the leader, which is waited for."""
        leader = self.leader()
        return [node_id for node_id in self.running() if node_id != leader]

    def client(self, node_id: str, **options: object) -> redis.Redis:
        """Return a redis-py client of one node; it does not repeat commands on its own unless asked to."""
        defaults: dict[str, object] = {"socket_timeout": WAIT_S, "retry": None}
        node = self.nodes[node_id]
        client = redis.Redis(host=HOST, port=node.client_port, **(defaults | options))  # type: ignore[arg-type]
        self._clients.append(client)
        return client

    def cluster_client(self, **options: object) -> redis.RedisCluster:
        """Return a redis-py cluster client that knows all nodes to begin with."""
        places = [ClusterNode(host, port) for host, port in self.addresses()]  # type: ignore[no-untyped-call]
        client = redis.RedisCluster(startup_nodes=places, **options)  # type: ignore[arg-type]
        self._clients.append(client)
        return client

    # -- waiting and explaining ----------------------------------------------------------------------------------------

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        """Wait until ``condition`` holds; fail with the nodes' logs when it does not in time."""
        wait_until(condition, what, timeout_s, explain=self.explain)

    def log_path(self, node_id: str) -> Path:
        """Return the file that holds the log of a node over all its lives."""
        return self.directory / f"{node_id}.log"

    def log(self, node_id: str) -> str:
        """Return the log of a node over all its lives."""
        return self.log_path(node_id).read_text(errors="replace")

    def logged(self, node_id: str, text: str) -> None:
        """Wait until the log of a node has ``text``: its lines are written by a thread, some time after the event."""
        self.wait(lambda: text in self.log(node_id), f"{node_id} to log {text!r}")

    def explain(self, message: str) -> str:
        """Return ``message`` with what every node is and the ends of the logs."""
        parts = [message]
        for node_id, process in self._processes.items():
            code = process.poll()
            state = "paused" if node_id in self._paused else "running" if code is None else f"ended with {code}"
            lines = self.log(node_id).splitlines()
            parts += [f"--- {node_id}: {state}; the last of {len(lines)} log lines:", *lines[-LOG_LINES_SHOWN:]]
        return "\n".join(parts)

    # -- proxies -------------------------------------------------------------------------------------------------------

    def _add_proxies(self) -> None:
        self.network = ProxyNetwork()
        pairs = [(source, target) for source in self.node_ids for target in self.node_ids if source != target]
        for (source, target), port in zip(pairs, free_ports(len(pairs)), strict=True):
            self._proxy_ports[source, target] = port
            self.network.add(source, target, port=port, target_port=self.nodes[target].peer_port)

    def _as_seen_by(self, node_id: str) -> list[LocalNode]:
        """Return the nodes of the first start, with the peer ports that ``node_id`` is told: its proxies', if any."""
        return [
            LocalNode(
                node.node_id,
                node.client_port,
                self._proxy_ports.get((node_id, node.node_id), node.peer_port),
                node.directory,
            )
            for node in self._founders
        ]


def _is_gone(group: int) -> bool:
    """Return whether a process group has no member but zombies (proc(5): state and pgrp).

    A process whose first thread is one holds its files until the last thread has ended.
    """
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
            if int(pgrp) == group and (state not in "ZX" or len([*stat.with_name("task").iterdir()]) > 1):
                return False
    return True


def checkout_environment(tree: Path | None = None) -> dict[str, str]:
    """Return the environment of a node: this checkout's code, or another's, and no setting that the test did not give.

    What is in the present directory must not come before that.
    """
    tree = tree or ROOT
    return node_environment() | {"PYTHONPATH": os.pathsep.join((str(tree), str(tree / "tools"))), "PYTHONSAFEPATH": "1"}


def _leads(info: Mapping[str, str]) -> bool:
    return info["raft_role"] == "leader"
