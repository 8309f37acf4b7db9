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
    for path in (path for path in copy.rglob("*") if path.is_file() and path.name in ("data.mdb", "journal")):
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
    # What may follow the rows is how long each node waits for a leader on a busy machine.
    rows = {line.split()[0]: line.split()[9] for line in shown.stdout.splitlines()[: 1 + len(cluster.node_ids)]}
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
    cluster.logged(third, "event=contradicts_committed")
    assert "truncated_suffix" not in cluster.log(third)


def behind_a_copy(cluster: Cluster) -> tuple[str, str, str]:
    """Have 49 writes acknowledged by two nodes of three, one of which has a copy of before; stop that one.

    Returns:
        The leader, the node with the copy ``copy``, and the node that was away.
    """
    write(cluster, 20)
    leader = cluster.leader()
    forgetful, away = cluster.followers()
    cluster.wait_converged()
    shutil.copytree(cluster.nodes[forgetful].directory, cluster.directory / "copy")
    cluster.kill9(away)
    client = cluster.client(leader)
    for number in range(49):
        client.set(f"acknowledged:{number}", number)
    cluster.stop(forgetful)
    return leader, forgetful, away


def test_an_old_copy_and_a_node_that_was_away_elect_nobody(cluster_of: ClusterFactory) -> None:
    """They are a majority, and both lack 49 acknowledged writes; with the third node back, nothing is lost."""
    cluster = cluster_of(3)
    leader, forgetful, away = behind_a_copy(cluster)
    cluster.stop(leader)
    directory = cluster.nodes[forgetful].directory
    shutil.rmtree(directory)
    shutil.copytree(cluster.directory / "copy", directory)
    cluster.start(forgetful)
    cluster.start(away)
    cluster.wait(lambda: alarms(cluster, forgetful) == "old_copy", "the copy to say so")
    cluster.wait(
        lambda: "event=not_a_voter_yet" in cluster.log(forgetful).rpartition("event=started")[2], "its warning"
    )
    assert all(info["raft_leader_id"] == "" for info in cluster.infos().values())
    cluster.start(leader)
    client = cluster.client(cluster.wait_ready())
    assert client.mget([f"acknowledged:{number}" for number in range(49)]) == [str(n).encode() for n in range(49)]
    cluster.wait(lambda: alarms(cluster, forgetful) == "", "the alarm to end")
    cluster.logged(forgetful, "event=went_back")


def test_a_volume_that_was_rolled_back_is_known_by_who_was_its_leader(cluster_of: ClusterFactory) -> None:
    """Nothing in the directory and its place tells: what the leader remembers does."""
    cluster = cluster_of(3)
    _, forgetful, away = behind_a_copy(cluster)
    put_back(cluster.directory / "copy", cluster.nodes[forgetful].directory)
    cluster.start(forgetful)
    cluster.wait(lambda: "event=went_back" in cluster.log(forgetful), "the copy to learn what it is")
    cluster.logged(forgetful, "it acknowledged")
    assert alarms(cluster, forgetful) == "old_copy"
    cluster.start(away)
    client = cluster.client(cluster.wait_ready())
    assert client.get("acknowledged:48") == b"48"
    cluster.wait(lambda: alarms(cluster, forgetful) == "", "its admission")


def test_a_cluster_whose_directories_were_all_moved_works(cluster_of: ClusterFactory) -> None:
    """Copied to other files, as to other machines: once all have answered, all vote again."""
    cluster = cluster_of(3)
    write(cluster, 20)
    stop_all(cluster)
    for node_id in cluster.node_ids:
        directory = cluster.nodes[node_id].directory
        shutil.copytree(directory, directory.with_name("moved"))
        shutil.rmtree(directory)
        directory.with_name("moved").rename(directory)
    for node_id in cluster.node_ids:
        cluster.start(node_id)
    write(cluster, 20)
    assert all(info["raft_alarms"] == "" for info in cluster.infos().values())
