"""Old copies of whole directories under real nodes: nothing acknowledged is taken back unseen, and it is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from durable_raft.cli.status import status
from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import Cluster

pytestmark = pytest.mark.cluster


def write(cluster: Cluster, count: int, *, start: int = 0) -> None:
    """Have so many writes acknowledged, one entry each."""
    client = cluster.client(cluster.wait_ready())
    for number in range(start, start + count):
        client.set(f"key:{number}", number)


def put_back(copy: Path, directory: Path) -> None:
    """Have the files of ``directory`` hold what those of ``copy`` do, as a volume that was rolled back would."""
    for path in (path for path in copy.rglob("*") if path.is_file() and path.name == "data.mdb"):
        with (directory / path.relative_to(copy)).open("r+b") as file:
            file.write(path.read_bytes())
            file.truncate()


def stop_all(cluster: Cluster) -> None:
    """Stop every node that runs."""
    for node_id in cluster.running():
        cluster.stop(node_id)


def alarms(cluster: Cluster, node_id: str) -> str:
    """Return the alarms that a node shows; empty when it does not answer."""
    info = cluster.info(node_id)
    return "" if info is None else info["raft_alarms"]


def test_a_directory_whose_place_was_taken_says_so_everywhere(cluster_of: ClusterFactory) -> None:
    """It was away while its id ran on another disk: refused for ever, in INFO, ``status``, readiness and the log."""
    cluster = cluster_of(3)
    write(cluster, 20)
    victim = cluster.followers()[0]
    directory = cluster.nodes[victim].directory
    cluster.stop(victim)
    away = directory.rename(directory.with_name("away"))
    cluster.start(victim)
    cluster.wait(lambda: cluster.log(victim).count("event=admitted") == 2, "the new disk's admission")
    cluster.stop(victim)
    shutil.rmtree(directory)
    away.rename(directory)
    cluster.start(victim)
    cluster.wait(lambda: alarms(cluster, victim) == "disk_was_replaced", "the alarm")
    info = cluster.info(victim)
    assert info is not None
    assert info["raft_ready"] == "0"
    assert "start it with the directory that took its place" in info["raft_alarm_disk_was_replaced"]
    state = cluster.info(victim, "cluster")
    assert state is not None
    cluster.wait(lambda: "event=alarm name=disk_was_replaced" in cluster.log(victim), "the log line")
    leader = cluster.leader(other_than=victim)

    def leader_says() -> bool:
        told = cluster.info(leader)
        return told is not None and "connected=0,replaced=1" in told[f"raft_peer_{victim}"]

    cluster.wait(leader_says, "the leader's INFO to say so")
    shown = CliRunner().invoke(status, ["--at", str(cluster.nodes[leader].address)])
    rows = {line.split()[0]: line.split()[-1] for line in shown.stdout.splitlines()}
    assert rows[victim] == "disk_was_replaced"
    assert rows[leader] == "ready"
    assert "took its place" in shown.stderr


def test_two_old_copies_outvote_the_third_which_cuts_nothing(cluster_of: ClusterFactory) -> None:
    """Volumes that were rolled back: the third keeps what it knows to be committed, and says so."""
    cluster = cluster_of(3)
    write(cluster, 30)
    cluster.wait_converged()
    for node_id in cluster.node_ids:
        shutil.copytree(cluster.nodes[node_id].directory, cluster.directory / f"copy-{node_id}")
    write(cluster, 60, start=30)
    cluster.wait_converged()
    third = cluster.followers()[0]
    others = [node_id for node_id in cluster.node_ids if node_id != third]
    stop_all(cluster)
    for node_id in others:
        put_back(cluster.directory / f"copy-{node_id}", cluster.nodes[node_id].directory)
        cluster.start(node_id)
    client = cluster.client(cluster.wait_ready())
    client.set("other", "history")
    for number in range(2):
        cluster.start(third)
        cluster.wait(lambda: alarms(cluster, third) == "contradicts_committed", "the third to say so")
        info = cluster.info(third)
        assert info is not None
        assert info["raft_ready"] == "0"
        assert int(info["raft_last_log_index"]) >= 90
        client.set("other", number)
        cluster.kill9(third)
    assert "event=contradicts_committed" in cluster.log(third)
    assert "truncated_suffix" not in cluster.log(third)
