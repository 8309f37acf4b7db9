"""Partitions between hosts: three network namespaces, one node in each, joined by a bridge whose cables are pulled.

Unlike a proxy, the system's own TCP sees it: nothing is refused, nothing is closed, packets just do not arrive.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from durable_raft.addresses import Address
from durable_raft.cli.local_cluster import LocalNode, start_node
from durable_raft.cli.resp_client import RespClient
from durable_raft.errors import RequestError
from tests.cluster.harness import UNHURRIED, Cluster, checkout_environment
from tests.cluster.recorder import Recorder
from tests.simulation.linearizability import check
from tests.support.waiting import WAIT_S

pytestmark = pytest.mark.cluster

CLIENT_PORT: Final = 7001
PEER_PORT: Final = 17001
SEED: Final = 20_261_123
SILENT_MS: Final = 2 * UNHURRIED["election_timeout_max_ms"]
"""Long enough for any node that hears no leader to have stood."""


def ip(*arguments: str, check: bool = True) -> str:
    """Run ``ip``; return what it said."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stderr.strip()


@dataclass(frozen=True)
class HostNode(LocalNode):
    """A node on a host of its own."""

    host: str = ""

    @property
    def address(self) -> Address:
        """Where clients connect."""
        return Address(self.host, self.client_port)

    @property
    def entry(self) -> str:
        """This node in a --cluster list."""
        return f"{self.node_id}={self.host}:{self.client_port}@{self.peer_port}"


class Lan:
    """A bridge in this namespace and three hosts on it; names carry the process id, so that two runs do not meet."""

    def __init__(self) -> None:
        self._tag = f"dr{os.getpid() % 100_000}"
        self._subnet = f"10.{random.SystemRandom().randrange(100, 250)}.{os.getpid() % 250}"
        self.hosts = {f"n{number}": f"{self._subnet}.{number}" for number in (1, 2, 3)}

    def build(self) -> None:
        """Make everything."""
        ip("link", "add", self._tag, "type", "bridge")
        ip("addr", "add", f"{self._subnet}.254/24", "dev", self._tag)
        ip("link", "set", self._tag, "up")
        for node_id, host in self.hosts.items():
            space, cable = self.space(node_id), self._cable(node_id)
            ip("netns", "add", space)
            ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", cable, "master", self._tag)
            ip("link", "set", cable, "up")
            ip("-n", space, "addr", "add", f"{host}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "link", "set", "lo", "up")

    def destroy(self) -> None:
        """Take everything away again."""
        for node_id in self.hosts:
            ip("netns", "del", self.space(node_id), check=False)
            ip("link", "del", self._cable(node_id), check=False)
        ip("link", "del", self._tag, check=False)

    def space(self, node_id: str) -> str:
        """Return the name of a host's namespace."""
        return f"{self._tag}{node_id}"

    def _cable(self, node_id: str) -> str:
        return f"{self._tag}{node_id}"

    def pull(self, node_id: str) -> None:
        """Pull a host's cable: nobody hears it, it hears nobody."""
        ip("link", "set", self._cable(node_id), "down")

    def plug(self, node_id: str) -> None:
        """Put the cable back."""
        ip("link", "set", self._cable(node_id), "up")

    def mute(self, source: str, target: str) -> None:
        """Drop what ``source`` sends to ``target``, in this direction only."""
        ip("-n", self.space(source), "route", "add", "blackhole", f"{self.hosts[target]}/32")

    def unmute(self, source: str, target: str) -> None:
        """Let it pass again."""
        ip("-n", self.space(source), "route", "del", "blackhole", f"{self.hosts[target]}/32")


class HostCluster(Cluster):
    """A cluster whose nodes run on the hosts of a ``Lan``."""

    def __init__(self, lan: Lan, directory: Path) -> None:
        self._lan = lan
        self._is_placed = False
        super().__init__(3, directory)

    def start(self, node_id: str, *, crash_at: str | None = None, settings: Mapping[str, object] | None = None) -> None:
        """Start a node on its host; there are no crash points here."""
        assert crash_at is None
        if not self._is_placed:
            self._is_placed = True
            self.nodes = {
                name: HostNode(name, CLIENT_PORT, PEER_PORT, node.directory, self._lan.hosts[name])
                for name, node in self.nodes.items()
            }
        command = ["ip", "netns", "exec", self._lan.space(node_id), *self.command(node_id, **(settings or {}))]
        with self.log_path(node_id).open("ab") as log:
            self._processes[node_id] = start_node(command, log, checkout_environment())

    def addresses(self) -> list[tuple[str, int]]:
        """Return (host, port) of every node."""
        return [(node.address.host, node.client_port) for node in self.nodes.values()]

    def _as_seen_by(self, node_id: str) -> list[LocalNode]:
        del node_id
        return list(self.nodes.values())

    def write(self, node_id: str, key: str, timeout_s: float) -> str | None:
        """Ask one node for a write; return its reply, None when none came."""
        try:
            with RespClient(self.nodes[node_id].address, timeout_s) as client:
                reply = client.call("SET", key, "x")
        except RequestError as error:
            return None if "broke off" in str(error) or "connect" in str(error) else f"-{error}"
        return reply.decode() if isinstance(reply, bytes) else None


def peer_fields(hosts: HostCluster, node_id: str, peer: str) -> dict[str, str]:
    """Return what a node's INFO says of a peer."""
    info = hosts.info(node_id)
    assert info is not None
    return dict(field.split("=", 1) for field in info[f"raft_peer_{peer}"].split(","))


@pytest.fixture
def lan() -> Iterator[Lan]:
    """Build the network; skip where that is not allowed."""
    if shutil.which("ip") is None:
        pytest.skip("ip (iproute2) is not installed")
    network = Lan()
    try:
        network.build()
    except OSError as error:
        network.destroy()
        pytest.skip(f"network namespaces cannot be made here: {error}")
    yield network
    network.destroy()


@pytest.fixture
def hosts(lan: Lan, tmp_path: Path) -> Iterator[HostCluster]:
    """Start a node on each host."""
    cluster = HostCluster(lan, tmp_path / "hosts")
    yield cluster
    cluster.close()


def counters_and_registers(rng: random.Random, number: int) -> list[bytes]:
    """Return a command on a few keys; every value is written once."""
    key = b"k%d-%d" % (number // 400, rng.randrange(3))
    return rng.choice(([b"GET", key], [b"SET", key, b"v%d" % number], [b"GETSET", key, b"v%d" % number]))


def test_hosts_whose_cables_are_pulled_keep_their_word(hosts: HostCluster, lan: Lan) -> None:
    """The leader's cable, then a follower's: the majority goes on, the cut-off node acknowledges nothing, all heals."""
    hosts.wait_ready()
    recorder = Recorder(hosts, counters_and_registers, clients=4, seed=SEED, think_s=0.02)
    with recorder.running():
        for _ in range(2):
            leader = hosts.leader()
            recorder.wait_for(50)
            lan.pull(leader)
            successor = hosts.leader(other_than=leader)
            assert successor != leader
            recorder.wait_for(100)
            lan.plug(leader)
            hosts.wait_ready()
            follower = hosts.followers()[0]
            lan.pull(follower)
            recorder.wait_for(100)
            lan.plug(follower)
            hosts.wait_ready()
    hosts.wait_converged()
    assert recorder.answered > 500, recorder.summary()
    check(recorder.history).require()


def test_leader_without_a_majority_acknowledges_nothing(hosts: HostCluster, lan: Lan) -> None:
    """With both followers' cables pulled the leader steps down and no write is acknowledged by anybody."""
    leader = hosts.wait_ready()
    assert hosts.write(leader, "before", WAIT_S) == "OK"
    followers = hosts.followers()
    for node_id in followers:
        lan.pull(node_id)
    reply = hosts.write(leader, "during", WAIT_S)
    assert reply is None or reply.startswith(("-UNKNOWN", "-CLUSTERDOWN")), reply
    info = hosts.info(leader)
    assert info is not None
    assert info["raft_role"] != "leader", "it could hear no majority for longer than an election timeout"
    for node_id in followers:
        lan.plug(node_id)
    assert hosts.write(hosts.wait_ready(), "after", WAIT_S) == "OK"
    hosts.wait_converged()


def test_follower_that_hears_and_is_not_heard_does_not_depose_the_leader(hosts: HostCluster, lan: Lan) -> None:
    """A one-way cut between leader and follower costs neither the leadership nor, once over, the follower."""
    leader = hosts.wait_ready()
    info = hosts.info(leader)
    assert info is not None
    term = int(info["raft_current_term"])
    follower = hosts.followers()[0]
    lan.mute(follower, leader)

    def is_silent() -> bool:
        assert hosts.write(leader, "muted", WAIT_S) == "OK"
        return int(peer_fields(hosts, leader, follower)["last_contact_ms"]) > SILENT_MS

    hosts.wait(is_silent, "the follower not to be heard any more")
    info = hosts.info(leader)
    assert info is not None
    assert (info["raft_role"], int(info["raft_current_term"])) == ("leader", term)
    lan.unmute(follower, leader)
    hosts.wait_ready()
    hosts.wait_converged()
