"""What a node refuses: settings that cannot work, directories that are not its own, peers that are strangers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess

import lmdb
import pytest

from durable_raft.cli.local_cluster import HOST, free_ports
from durable_raft.server.exit_codes import ExitCode
from durable_raft.storage.log.records import LOG, LOG_KEY
from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import Cluster, checkout_environment
from tests.support.waiting import WAIT_S

pytestmark = pytest.mark.cluster


def run_node(cluster: Cluster, node_id: str, *changes: tuple[str, str], **settings: object) -> tuple[int, str]:
    """Run a node that is to refuse; return its exit code and what it said. ``changes`` replace flags' values."""
    command = cluster.command(node_id, **settings)
    for flag, value in changes:
        command[command.index(flag) + 1] = value
    log = cluster.directory / "refused.log"
    with log.open("wb") as output:
        code = subprocess.run(
            command, stdout=output, stderr=output, env=checkout_environment(), timeout=WAIT_S, check=False
        ).returncode
    return code, log.read_text()


@pytest.mark.parametrize(
    ("changes", "settings", "said"),
    [
        ((("--id", "n9"),), {}, "expected one of the ids in --cluster"),
        ((), {"heartbeat_ms": 400}, "at most half of election_timeout_min_ms=500"),
        ((), {"election_timeout_max_ms": 500}, "more than election_timeout_min_ms=500"),
        ((("--cluster", "n1=127.0.0.1:7001,n2=127.0.0.1:7001"),), {}, "127.0.0.1:7001"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    cluster_of: ClusterFactory, changes: tuple[tuple[str, str], ...], settings: dict[str, object], said: str
) -> None:
    """Exit code 2 and one line: which setting, its value, what was expected."""
    cluster = cluster_of(1)
    cluster.stop("n1")
    code, output = run_node(cluster, "n1", *changes, **settings)
    assert code == ExitCode.USAGE, output
    assert said in output


def test_directory_of_another_node_or_cluster_is_refused(cluster_of: ClusterFactory) -> None:
    """Exit code 5, naming whose directory it is and what was expected."""
    cluster = cluster_of(3)
    cluster.wait_ready()
    for node_id in cluster.node_ids:
        cluster.stop(node_id)
    code, output = run_node(cluster, "n1", ("--dir", str(cluster.nodes["n2"].directory)))
    assert code == ExitCode.REFUSED, output
    assert "belongs to node 'n2', expected 'n1'" in output
    code, output = run_node(cluster, "n1", cluster_id="ab" * 16)
    assert code == ExitCode.REFUSED, output
    assert "belongs to cluster" in output
    smaller = ",".join(cluster.nodes[node_id].entry for node_id in ("n1", "n2"))
    code, output = run_node(cluster, "n1", ("--cluster", smaller))
    assert code == ExitCode.REFUSED, output
    assert "belongs to a cluster of n1, n2, n3" in output


def test_another_cluster_name_is_another_cluster(cluster_of: ClusterFactory) -> None:
    """The directory keeps the name; one that has none yet takes the name that it is given."""
    cluster = cluster_of(1)
    cluster.wait_ready()
    cluster.stop("n1")
    code, output = run_node(cluster, "n1", cluster_name="another")
    assert code == ExitCode.REFUSED, output
    assert "belongs to the cluster 'default', but --cluster-name is 'another'" in output
    (cluster.nodes["n1"].directory / "cluster-name").unlink()
    cluster.start("n1", settings={"cluster_name": "another"})
    cluster.wait_ready()
    cluster.stop("n1")
    code, output = run_node(cluster, "n1")
    assert code == ExitCode.REFUSED, output


def test_a_log_is_rotated_with_sighup(cluster_of: ClusterFactory) -> None:
    """The node goes on, and so does its log, in a new file at the same path."""
    cluster = cluster_of(1)
    cluster.wait_ready()
    path = cluster.log_path("n1")
    old = path.with_suffix(".1")
    path.rename(old)
    os.kill(cluster.pid("n1"), signal.SIGHUP)
    cluster.wait(lambda: path.exists() and "event=log_reopened" in path.read_text(), "a new log")
    assert cluster.client("n1").set("city", "Paris")
    assert cluster.stop("n1") == ExitCode.OK
    assert "event=stopping" in path.read_text()
    assert "event=started" in old.read_text()
    assert "event=stopping" not in old.read_text()


def test_changed_addresses_must_be_said(cluster_of: ClusterFactory) -> None:
    """Other addresses for the same ids are refused, unless the operator says that the nodes have moved."""
    cluster = cluster_of(1)
    cluster.wait_ready()
    cluster.client("n1").set("city", "Paris")
    cluster.stop("n1")
    client_port, peer_port = free_ports(2)
    moved = f"n1={HOST}:{client_port}@{peer_port}"
    code, output = run_node(cluster, "n1", ("--cluster", moved))
    assert code == ExitCode.REFUSED, output
    assert "--accept-new-addresses" in output
    cluster.start("n1", settings={"cluster": moved, "accept_new_addresses": True})
    cluster.wait(lambda: is_served(client_port), "the node at its new address")


def is_served(port: int) -> bool:
    """Return whether somebody listens."""
    try:
        socket.create_connection((HOST, port), 1.0).close()
    except OSError:
        return False
    return True


def test_directory_in_use_is_refused(shared_cluster: Cluster) -> None:
    """A second process on one directory is refused, naming the first; the first goes on."""
    client_port, peer_port = free_ports(2)
    code, output = run_node(shared_cluster, "n1", listen=f"{HOST}:{client_port}", peer_listen=f"{HOST}:{peer_port}")
    assert code == ExitCode.REFUSED, output
    assert f"pid {shared_cluster.pid('n1')}" in output
    assert shared_cluster.info("n1") is not None


def test_wounded_log_of_a_lone_node_is_refused_and_left_as_it_is(cluster_of: ClusterFactory) -> None:
    """A payload fails its checksum, and nobody can heal it: exit code 3, the wound is named, nothing is cut away."""
    cluster = cluster_of(1)
    cluster.wait_ready()
    for number in range(10):
        cluster.client("n1").set(f"key:{number}", number)
    cluster.stop("n1")
    environment = lmdb.open(str(cluster.nodes["n1"].directory / "raft"), max_dbs=8, map_size=1 << 30, lib_version=0)
    table = environment.open_db(LOG.encode())
    with environment.begin(write=True) as transaction:
        key = LOG_KEY.pack(5, 0)
        record = bytearray(transaction.get(key, db=table) or b"")
        record[-1] ^= 1
        transaction.put(key, bytes(record), db=table)
        before = transaction.stat(table)["entries"]
    environment.close()
    code, output = run_node(cluster, "n1")
    assert code == ExitCode.DAMAGED, output
    assert "log index 5" in output
    assert "checksum" in output
    environment = lmdb.open(str(cluster.nodes["n1"].directory / "raft"), max_dbs=8, map_size=1 << 30, lib_version=0)
    with environment.begin() as transaction:
        assert transaction.stat(environment.open_db(LOG.encode(), txn=transaction))["entries"] == before
    environment.close()


def test_peer_of_another_cluster_is_rejected_and_never_followed(cluster_of: ClusterFactory) -> None:
    """A node with another cluster id gets no entry, no vote and no leadership; the others say so once."""
    cluster = cluster_of(3)
    cluster.wait_ready()
    cluster.kill9("n3")
    shutil.rmtree(cluster.nodes["n3"].directory)
    cluster.start("n3", settings={"cluster_id": "ab" * 16})
    leader = cluster.leader(other_than="n3")
    cluster.client(leader).set("city", "Paris")
    cluster.wait(lambda: "event=peer_refused" in cluster.log(leader), "the stranger to be refused")
    cluster.wait(lambda: cluster.log("n3").count("ForeignCluster") >= 1, "the stranger to be told")
    info = cluster.info("n3")
    assert info is not None
    assert info["raft_role"] != "leader"
    assert info["raft_last_log_index"] == "0"
    assert info["raft_is_voter"] == "0"
    assert cluster.log(leader).count("event=peer_refused") == 1
    assert "ab" * 16 in cluster.log(leader)


def test_rubbish_on_the_peer_port_is_dropped(shared_cluster: Cluster) -> None:
    """Bytes that are no frame end their link and are counted; the node does not notice otherwise."""
    node = shared_cluster.nodes["n1"]
    for rubbish in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 200, b"DRpf" + b"\xff" * 100):
        with socket.create_connection((HOST, node.peer_port), WAIT_S) as link:
            link.sendall(rubbish)
            while link.recv(4096):
                pass
    info = shared_cluster.info("n1")
    assert info is not None
    assert int(info["raft_peer_refused"]) >= 3
    assert shared_cluster.wait_ready()


def test_clean_stop_answers_what_is_in_flight(cluster: Cluster) -> None:
    """SIGTERM: exit code 0; every write that was answered OK is there afterwards."""
    leader = cluster.leader()
    client = cluster.client(leader)
    for number in range(50):
        client.set(f"key:{number}", number)
    assert cluster.stop(leader) == ExitCode.OK
    successor = cluster.leader(other_than=leader)
    assert cluster.client(successor).mget([f"key:{n}" for n in range(50)]) == [b"%d" % n for n in range(50)]


def test_a_link_that_says_nothing_is_closed(shared_cluster: Cluster) -> None:
    """Whoever dials the peer port and stays silent is not kept."""
    address = (HOST, shared_cluster.nodes["n1"].peer_port)
    with contextlib.suppress(ConnectionResetError), socket.create_connection(address, WAIT_S) as link:
        assert link.recv(100) == b""
    assert shared_cluster.wait_ready()
