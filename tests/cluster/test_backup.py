"""Backup under load, and a new cluster from it, with the commands that people use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from durable_raft.cli.local_cluster import HOST
from durable_raft.server.exit_codes import ExitCode
from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import Cluster, checkout_environment
from tests.cluster.test_snapshots import fill
from tests.cluster.workload import Workload, assert_on_all_nodes

pytestmark = pytest.mark.cluster


def run(*arguments: str, expected: int = 0) -> str:
    """Run a durable-raft command; return what it printed."""
    command = [sys.executable, "-m", "durable_raft", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=checkout_environment(), check=False)
    assert done.returncode == expected, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def back_up(cluster: Cluster, node_id: str, file: Path) -> str:
    """Back a node up; return what the command said."""
    return run("backup", "--at", f"{HOST}:{cluster.nodes[node_id].client_port}", str(file))


def restored(cluster_of: ClusterFactory, file: Path, *options: str) -> Cluster:
    """Restore ``file``, with options, into the three directories of a new cluster and start it."""
    cluster = cluster_of(3)
    cluster.wait_ready()
    cluster.kill9()
    nodes = ",".join(node.entry for node in cluster.nodes.values())
    for node_id, node in cluster.nodes.items():
        refusal = run(
            "restore", str(file), "--dir", str(node.directory), "--id", node_id, "--cluster", nodes, expected=5
        )
        assert "is not empty" in refusal
        subprocess.run(["rm", "-r", str(node.directory)], check=True)
        run("restore", str(file), "--dir", str(node.directory), "--id", node_id, "--cluster", nodes, *options)
    cluster.restart()
    cluster.wait_ready()
    return cluster


def test_backup_under_load_becomes_a_new_cluster(cluster_of: ClusterFactory, tmp_path: Path) -> None:
    """All that was acknowledged before the backup began is in it; the new cluster holds it and goes on by itself."""
    cluster = cluster_of(3)
    cluster.wait_ready()
    written = fill(cluster, 3000)
    workload = Workload(cluster)
    file = tmp_path / "backup"
    with workload.running():
        workload.wait_for(100)
        cluster.wait_ready()
        before = dict(workload.acknowledged)
        said = back_up(cluster, cluster.leader(), file)
        workload.wait_for(20)
    assert said.split(" keys at index ")[1] == run("backup", "verify", str(file)).split(" keys at index ")[1]
    new = restored(cluster_of, file)
    state_hash = said.partition("state hash ")[2][:16]
    assert {info["raft_state_hash"] for info in new.infos().values()} == {state_hash}
    assert {info["raft_cluster_id"] for info in new.infos().values()}.isdisjoint(
        {info["raft_cluster_id"] for info in cluster.infos().values()}
    )
    new.cluster_client().set("afterwards", "x")
    assert_on_all_nodes(new, written | before | {"afterwards": "x"})


def test_backup_of_a_follower_has_what_it_had_applied(cluster_of: ClusterFactory, tmp_path: Path) -> None:
    """Any node can be asked, and the file is checked by ``backup verify``: a flipped byte is refused with its place."""
    cluster = cluster_of(3)
    cluster.wait_ready()
    fill(cluster, 200)
    cluster.wait_converged()
    file = tmp_path / "backup"
    assert "200 keys" in back_up(cluster, cluster.followers()[0], file)
    assert "exists already" in run(
        "backup", "--at", f"{HOST}:{cluster.nodes['n1'].client_port}", str(file), expected=ExitCode.USAGE
    )
    whole = file.read_bytes()
    file.write_bytes(whole[:50_000] + bytes([whole[50_000] ^ 1]) + whole[50_001:])
    damage = run("backup", "verify", str(file), expected=ExitCode.DAMAGED)
    assert "piece" in damage
    assert "offset" in damage
    new = tmp_path / "new"
    nodes = ",".join(node.entry for node in cluster.nodes.values())
    run("restore", str(file), "--dir", str(new), "--id", "n1", "--cluster", nodes, expected=ExitCode.DAMAGED)
    assert not new.exists(), "a damaged backup leaves nothing that looks like a node"


def test_backup_of_nobody_says_so(tmp_path: Path) -> None:
    """A node that does not answer is an error with a code of its own, and no file is left."""
    run("backup", "--at", f"{HOST}:1", str(tmp_path / "backup"), expected=ExitCode.UNREACHABLE)
    assert list(tmp_path.iterdir()) == []
