"""Damaged and lost disks under real nodes: what is healed, from whom, what is set aside, and that nothing is lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import lmdb
import pytest

from durable_raft.storage.environment import MAP_BYTES
from durable_raft.storage.log.records import IDENT, IDENT_KEY, LOG, LOG_KEY
from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import Cluster
from tests.storage.raw import flip_bit
from tests.support.waiting import wait_until

pytestmark = pytest.mark.cluster

WRITES = 200
PAGE = 4096


def filled(cluster: Cluster) -> dict[str, bytes]:
    """Write one entry after the other through the leader; return what was acknowledged."""
    client = cluster.client(cluster.wait_ready())
    expected = {f"key:{number}": f"value {number} ".encode() * 20 for number in range(WRITES)}
    for key, value in expected.items():
        client.set(key, value)
    cluster.wait_converged()
    return expected


def stop_all(cluster: Cluster) -> None:
    """Stop every node."""
    for node_id in cluster.node_ids:
        cluster.stop(node_id)


def require_values(cluster: Cluster, expected: dict[str, bytes]) -> None:
    """Read every key through the leader."""
    client = cluster.client(cluster.wait_ready())
    assert client.mget(list(expected)) == list(expected.values())


def rot(directory: Path, table: str, indexes: Iterable[int]) -> None:
    """Flip a bit of each entry's record; of a log record in the payload."""
    for index in indexes:
        key, byte = (LOG_KEY.pack(index, 0), 40) if table == LOG else (IDENT_KEY.pack(index), 24)
        flip_bit(directory, table, key, byte * 8 + 3)


def wait_healed(cluster: Cluster) -> None:
    """Wait until no node has wounds, and all are voters."""

    def is_healed() -> bool:
        infos = cluster.infos()
        sound = [info for info in infos.values() if info["raft_wounds"] == "0" and info["raft_is_voter"] == "1"]
        return len(sound) == len(cluster.node_ids)

    cluster.wait(is_healed, "every node to be healed")


def test_different_wounds_on_every_replica_are_healed(cluster_of: ClusterFactory) -> None:
    """After a full restart: one intact copy of each entry is enough; the logs say what was healed from whom."""
    cluster = cluster_of(3)
    expected = filled(cluster)
    stop_all(cluster)
    wounds = {"n1": range(5, 15), "n2": range(40, 50), "n3": (100, 101, WRITES)}
    for node_id, indexes in wounds.items():
        rot(cluster.nodes[node_id].directory, LOG, indexes)
    rot(cluster.nodes["n3"].directory, IDENT, (20, 60))
    for node_id in cluster.node_ids:
        cluster.start(node_id)
    require_values(cluster, expected)
    wait_healed(cluster)
    for node_id, indexes in wounds.items():
        log = cluster.log(node_id)
        for index in indexes:
            assert f'wound_found wound="log index {index} term' in log
            assert f"event=entry_healed index={index} " in log
    assert "records_rebuilt entries=2" in cluster.log("n3")


def test_rot_under_a_running_node_is_found_and_healed(cluster_of: ClusterFactory) -> None:
    """The scrubber reads it, and the node goes on; what is still in memory is written again from there."""
    cluster = cluster_of(3, scrub_bytes_per_second=16 << 20)
    expected = filled(cluster)
    leader = cluster.leader()
    for node_id in (leader, cluster.followers()[0]):
        _rot_on_disk(cluster.nodes[node_id].directory, expected["key:7"])
    cluster.wait(lambda: "event=entry_healed" in cluster.log(leader), "the leader's wound to be healed")
    wait_healed(cluster)
    require_values(cluster, expected)
    assert all(cluster.log(node_id).count("event=started") == 1 for node_id in cluster.node_ids)


def _rot_on_disk(directory: Path, payload: bytes) -> None:
    """Flip a byte of ``payload`` wherever the data file has it, as rot would: under the node, not through LMDB."""
    path = directory / "raft" / "data.mdb"
    wait_until(lambda: payload in path.read_bytes(), "the payload to be moved out of the journal")
    at = path.read_bytes().find(payload)
    fd = os.open(path, os.O_RDWR)
    try:
        os.pwrite(fd, bytes([payload[30] ^ 1]), at + 30)
    finally:
        os.close(fd)


@pytest.mark.parametrize("environment", ["raft", "kv"])
def test_a_damaged_tree_is_set_aside_and_fetched_again(cluster_of: ClusterFactory, environment: str) -> None:
    """Zeroed pages kill whoever maps them: they are found before; nothing is deleted, and the node votes again."""
    cluster = cluster_of(3)
    expected = filled(cluster)
    client = cluster.client(cluster.leader())
    client.execute_command("RAFT", "CHECKPOINT")  # type: ignore[no-untyped-call]
    victim = cluster.followers()[0]
    cluster.stop(victim)
    directory = cluster.nodes[victim].directory
    path = directory / environment / "data.mdb"
    pages = path.stat().st_size // PAGE
    with path.open("r+b") as file:
        for page in range(2, pages):
            file.seek(page * PAGE)
            file.write(bytes(PAGE))
    cluster.start(victim)
    wait_healed(cluster)
    require_values(cluster, expected)
    cluster.wait_converged()
    aside = "wounded-*" if environment == "raft" else "kv.wounded-*"
    assert list(directory.glob(aside))
    cluster.logged(victim, "set_aside")


def test_a_wiped_disk_under_an_old_id_cannot_lose_a_write(cluster_of: ClusterFactory) -> None:
    """Two nodes hold a write that the third lacks, and one loses its disk: its vote must not make the third lead."""
    cluster = cluster_of(3)
    leader = cluster.wait_ready()
    forgetful, behind = cluster.followers()
    cluster.kill9(behind)
    cluster.client(leader).set("city", "Paris")
    cluster.kill9(leader, forgetful)
    shutil.rmtree(cluster.nodes[forgetful].directory)
    cluster.start(forgetful)
    cluster.start(behind)
    cluster.wait(lambda: "event=disk_replaced" in cluster.log(behind), "the new disk to introduce itself")
    info = cluster.info(forgetful)
    assert info is not None
    assert info["raft_is_voter"] == "0"
    assert {each["raft_role"] for each in cluster.infos().values()} <= {"follower", "pre-candidate"}
    cluster.start(leader)
    wait_healed(cluster)
    assert cluster.client(cluster.wait_ready()).get("city") == b"Paris"
    assert "event=admitted" in cluster.log(forgetful).rpartition("event=directory_created")[2]


def test_a_lone_node_mends_what_one_record_tells(cluster_of: ClusterFactory) -> None:
    """A rotten ident is rebuilt from its log record; nobody else is needed."""
    cluster = cluster_of(1)
    expected = filled(cluster)
    cluster.stop("n1")
    rot(cluster.nodes["n1"].directory, IDENT, (3, 50))
    cluster.start("n1")
    require_values(cluster, expected)
    cluster.stop("n1")
    with lmdb.open(str(cluster.nodes["n1"].directory / "raft"), map_size=MAP_BYTES, max_dbs=8, lib_version=0) as env:
        assert env.stat()["entries"] == 4
    cluster.start("n1")
    cluster.wait_ready()
    assert cluster.log("n1").count("wound_found") == 2


def test_a_log_older_than_the_state_is_not_believed(cluster_of: ClusterFactory) -> None:
    """An older copy of the log's file has forgotten votes and entries, with every checksum right."""
    cluster = cluster_of(3)
    filled(cluster)
    victim = cluster.followers()[0]
    cluster.stop(victim)
    directory = cluster.nodes[victim].directory
    old = directory.with_name("old-copy")
    shutil.copytree(directory / "raft", old)
    cluster.start(victim)
    client = cluster.client(cluster.wait_ready())
    for number in range(20):
        client.set("later", number)
    cluster.wait_converged()
    cluster.client(victim).execute_command("RAFT", "CHECKPOINT")  # type: ignore[no-untyped-call]
    cluster.wait(lambda: _checkpointed(cluster, victim), "a checkpoint")
    cluster.stop(victim)
    shutil.rmtree(directory / "raft")
    shutil.copytree(old, directory / "raft")
    cluster.start(victim)
    wait_healed(cluster)
    assert list(directory.glob("wounded-*"))
    cluster.logged(victim, "the log is an older one")


def _checkpointed(cluster: Cluster, node_id: str) -> bool:
    info = cluster.info(node_id)
    return info is not None and info["raft_snapshot_index"] == info["raft_last_applied"]


def test_a_large_state_is_read_while_the_node_serves(cluster_of: ClusterFactory) -> None:
    """In a process of its own: a sound one is called sound, a damaged one is set aside, and nothing is lost."""
    cluster = cluster_of(3)
    client = cluster.client(cluster.wait_ready())
    value = os.urandom(1 << 19)
    for number in range(150):
        client.set(f"large:{number}", value)
    cluster.wait_converged()
    victim = cluster.followers()[0]
    cluster.client(victim).execute_command("RAFT", "CHECKPOINT")  # type: ignore[no-untyped-call]
    cluster.wait(lambda: _checkpointed(cluster, victim), "a checkpoint")
    cluster.restart(victim)
    cluster.wait(lambda: "event=state_sound" in cluster.log(victim), "the state to be read")
    cluster.wait(lambda: cluster.log(victim).count("event=started") == 2, "the second start")
    cluster.stop(victim)
    path = cluster.nodes[victim].directory / "kv" / "data.mdb"
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(data.rfind(value[:2000]) + 1000)
        file.write(bytes(100))
    cluster.start(victim)
    cluster.wait(lambda: "event=state_set_aside" in cluster.log(victim), "the damage to be found")
    wait_healed(cluster)
    assert list(cluster.nodes[victim].directory.glob("kv.wounded-*"))
    client = cluster.client(cluster.leader())
    assert all(client.mget([f"large:{n}" for n in range(first, first + 50)]) == [value] * 50 for first in (0, 50, 100))


def test_a_first_start_waits_for_every_node_and_says_so(cluster_of: ClusterFactory) -> None:
    """Two new nodes of three do not begin: the third may be one that was there before. They say whom they wait for."""
    cluster = cluster_of(3)
    cluster.wait_ready()
    cluster.kill9(*cluster.node_ids)
    for node_id in cluster.node_ids:
        shutil.rmtree(cluster.nodes[node_id].directory)
    for node_id in ("n1", "n2"):
        cluster.start(node_id)
    cluster.wait(lambda: "event=not_a_voter_yet waits_for=n3" in cluster.log("n1"), "n1 to say whom it waits for")
    assert all(info["raft_leader_id"] == "" for info in cluster.infos().values())
    cluster.start("n3")
    cluster.wait_ready()
