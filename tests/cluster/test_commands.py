"""The commands ``demo``, ``dev`` and ``status`` with real nodes."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from durable_raft.addresses import PEER_PORT_OFFSET, Address
from durable_raft.cli.local_cluster import HOST, free_ports, is_free
from durable_raft.cli.resp_client import ClusterClient
from durable_raft.cli.status import cluster_status, find_leader
from tests.cluster.harness import ROOT, Cluster
from tests.support.waiting import WAIT_S, wait_until

pytestmark = pytest.mark.cluster


def command(*arguments: str) -> list[str]:
    """Return the command line of one of our commands."""
    return [sys.executable, "-m", "durable_raft", *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of our commands to its end."""
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S, check=False)


def directory_in(text: str) -> Path:
    """Return the temporary directory that a command names."""
    match = re.search(r"Data are in (\S+) ", text)
    assert match, text
    return Path(match[1])


# -- demo -------------------------------------------------------------------------------------------------------------


def test_demo_shows_that_nothing_is_lost(tmp_path: Path) -> None:
    """The README's first command ends with exit code 0, having killed the leader and then everybody."""
    done = run("demo", "--keys", "120", "--keep", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("120 of 120 acknowledged writes are there.") == 2
    assert done.stdout.endswith("Nothing was lost.\n")
    leaders = re.findall(r"(n\d) leads in term (\d+)", done.stdout)
    assert len(leaders) == 3
    assert f"kill -9 {leaders[0][0]}" in done.stdout
    assert leaders[1][0] != leaders[0][0]
    assert [int(term) for _, term in leaders] == sorted({int(term) for _, term in leaders})
    assert {path.name for path in (tmp_path / "kept").iterdir()} >= {"n1", "n2", "n3", "n1.log", "n2.log", "n3.log"}
    assert stat.S_IMODE((tmp_path / "kept" / "cluster-secret").stat().st_mode) == 0o600


def test_demo_notices_a_loss(tmp_path: Path) -> None:
    """A demo whose nodes come back without their data says so and fails: its verdict depends on what it reads."""
    script = (
        "import shutil, sys\n"
        "from durable_raft.cli import demo\n"
        "kill9 = demo.Stage.kill9\n"
        "def kill9_and_wipe(self, node_ids):\n"
        "    node_ids = list(node_ids)\n"
        "    kill9(self, node_ids)\n"
        "    if len(node_ids) == 3:\n"
        "        for node in self.nodes:\n"
        "            shutil.rmtree(node.directory)\n"
        "demo.Stage.kill9 = kill9_and_wipe\n"
        "demo.demo(['--keys', '30'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "   0 of 30 acknowledged writes are there." in done.stdout
    assert "LOST: key:00000" in done.stdout
    assert done.stdout.endswith("Acknowledged writes were LOST.\n")


# -- dev --------------------------------------------------------------------------------------------------------------


def free_row(count: int) -> int:
    """Return the first of ``count`` free ports in a row whose peer ports are free as well."""
    while True:
        (first,) = free_ports(1)
        row = range(first, first + count)
        if all(is_free(port) and is_free(port + PEER_PORT_OFFSET) for port in row):
            return first


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_dev_runs_a_cluster_until_it_is_stopped(number: signal.Signals, tmp_path: Path) -> None:
    """Three nodes come up and take writes, their logs are merged; a signal stops all and removes the data."""
    first = free_row(3)
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(command("dev", "--port", str(first)), cwd=ROOT, stdout=stdout, stderr=stderr)
    try:
        wait_until(
            lambda: "Ready:" in out.read_text(),
            "dev to be ready",
            explain=lambda m: m + out.read_text() + err.read_text(),
        )
        addresses = [Address(HOST, first + offset) for offset in range(3)]
        with ClusterClient(addresses) as client:
            assert client.call("SET", "city", "Paris") == b"OK"
            assert client.call("GET", "city") == b"Paris"
            info = client.call("INFO", "raft")
            assert isinstance(info, bytes)
            assert info.count(b",proven=1") == 2
        text = out.read_text()
        assert f"redis-cli -c -p {first} SET city Paris" in text
        assert directory_in(text).is_dir()
    finally:
        process.send_signal(number)
        code = process.wait(WAIT_S)
    assert code == 0, err.read_text()
    assert not directory_in(out.read_text()).exists()
    assert all(is_free(first + offset) for offset in range(3))
    assert {line[:5] for line in err.read_text().splitlines()} == {"n1 | ", "n2 | ", "n3 | "}
    assert err.read_text().count("ended with exit code 0") == 3


def test_dev_keeps_what_it_is_told_to_keep(tmp_path: Path) -> None:
    """With --dir the data are there again after a stop; a node that dies is reported and the others go on."""
    first = free_row(3)
    addresses = [Address(HOST, first + offset) for offset in range(3)]
    for life in range(2):
        out, err = tmp_path / f"out{life}", tmp_path / f"err{life}"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            line = command("dev", "--port", str(first), "--dir", str(tmp_path / "data"))
            process = subprocess.Popen(line, cwd=ROOT, stdout=stdout, stderr=stderr)
        try:
            with ClusterClient(addresses) as client:
                if life == 0:
                    assert client.call("SET", "city", "Paris") == b"OK"
                    victim = re.search(r"n1 \| .*event=started .*pid=(\d+)", err.read_text())
                    assert victim, err.read_text()
                    os.kill(int(victim[1]), signal.SIGKILL)
                    died = "n1 | ended with exit code -9"
                    wait_until(lambda died=died, err=err: died in err.read_text(), "dev to tell of the death")  # type: ignore[misc]
                assert client.call("GET", "city") == b"Paris"
        finally:
            process.terminate()
            code = process.wait(WAIT_S)
        assert code == 0, err.read_text()
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"n1", "n2", "n3", "cluster-secret"}
    assert stat.S_IMODE((tmp_path / "data" / "cluster-secret").stat().st_mode) == 0o600


def test_dev_refuses_ports_that_are_taken(shared_cluster: Cluster) -> None:
    """A port on which something listens is refused before anything is started, naming it."""
    port = shared_cluster.nodes["n1"].client_port
    done = run("dev", "--port", str(port), "--nodes", "1")
    assert done.returncode == 2
    assert f"something listens on {port}" in done.stderr


# -- status -----------------------------------------------------------------------------------------------------------


def test_status_shows_every_node(shared_cluster: Cluster) -> None:
    """The table has a row per node with role, term and indexes; in JSON the same, with the leader's id."""
    leader = shared_cluster.leader()
    shared_cluster.client(leader).set("city", "Paris")
    shared_cluster.wait_converged()
    done = run("status", "--at", str(shared_cluster.nodes["n1"].address))
    assert done.returncode == 0, done.stderr
    # What may follow is how long each node waits for a leader on a busy machine.
    rows = [line.split() for line in done.stdout.splitlines()[1 : 1 + len(shared_cluster.node_ids)]]
    assert sorted(row[0] for row in rows) == shared_cluster.node_ids
    assert sorted(row[2] for row in rows) == ["follower", "follower", "leader"]
    assert all(row[8:10] == ["0", "ready"] for row in rows)
    parsed = json.loads(run("status", "--json", "--at", str(shared_cluster.nodes["n2"].address)).stdout)
    assert parsed["leader"] == leader
    assert {node["id"]: node["address"] for node in parsed["nodes"]} == {
        node_id: str(node.address) for node_id, node in shared_cluster.nodes.items()
    }
    assert len({(node["term"], node["last_index"], node["applied_index"]) for node in parsed["nodes"]}) == 1


def test_status_shows_a_dead_node_as_unreachable(cluster: Cluster) -> None:
    """A node that was killed is a row without numbers and a line on stderr; the cluster still has a leader."""
    victim = cluster.followers()[0]
    cluster.kill9(victim)
    asked = cluster.nodes[cluster.leader()].address
    done = run("status", "--at", str(asked))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("unreachable") == 1
    assert f"{cluster.nodes[victim].address} does not answer" in done.stderr


def test_status_without_a_leader_exits_with_4(cluster: Cluster) -> None:
    """When two of three nodes are dead there is no leader: the exit code says so, the table is still shown."""
    survivor = cluster.followers()[0]
    cluster.kill9(*(node_id for node_id in cluster.node_ids if node_id != survivor))
    address = cluster.nodes[survivor].address
    cluster.wait(lambda: find_leader(cluster_status([address])) is None, "the survivor to notice")
    done = run("status", "--at", str(address))
    assert done.returncode == 4, done.stdout
    assert "no leader" in done.stderr
    assert done.stdout.count("unreachable") == 2


def test_status_shows_how_far_a_node_is_behind(cluster: Cluster) -> None:
    """A paused node is unreachable; one that missed writes and is asked at once is behind by no more than these."""
    victim = cluster.followers()[0]
    cluster.pause(victim)
    client = cluster.client(cluster.leader())
    for number in range(20):
        client.set(f"key{number}", "x")
    statuses = cluster_status([node.address for node in cluster.nodes.values()])
    assert [status.role for status in statuses].count("unreachable") == 1
    cluster.resume(victim)
    cluster.wait_converged()
    assert [status.lag for status in cluster_status([node.address for node in cluster.nodes.values()])] == [0, 0, 0]
