"""Followers that were away for long, states that differ, and reads while checkpoints are written, on real nodes."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import redis

from durable_raft.kv.records import make_record
from durable_raft.raft.types import NodeId
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.state.store import LmdbKvStore
from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import EAGER, PATIENT, Cluster
from tests.cluster.test_state_crashes import RESTLESS, need_snapshot
from tests.cluster.workload import CLIENT_ERRORS, Workload, assert_on_all_nodes

pytestmark = pytest.mark.cluster

VALUE = "v" * 1000


def counter(cluster: Cluster, node_id: str, name: str) -> int:
    """Return a number of a node's INFO raft."""
    info = cluster.info(node_id)
    assert info is not None, cluster.explain(f"{node_id} does not answer")
    return int(info[f"raft_{name}"])


def fill(cluster: Cluster, keys: int) -> dict[str, str]:
    """Write ``keys`` keys of 1,000 bytes; return them."""
    client = cluster.client(cluster.leader())
    written = {f"fill:{number:06}": VALUE for number in range(keys)}
    items = list(written.items())
    for start in range(0, keys, 200):
        client.mset(dict(items[start : start + 200]))
    return written


def test_follower_that_was_away_catches_up_by_snapshot(cluster_of: ClusterFactory) -> None:
    """It fetches the state in pieces while writes go on, and holds all that was acknowledged meanwhile."""
    cluster = cluster_of(3, **RESTLESS)
    cluster.wait_ready()
    written = fill(cluster, 3000)
    workload = Workload(cluster)
    with workload.running():
        follower = cluster.followers()[0]
        need_snapshot(cluster, follower, workload)
        cluster.start(follower)
        cluster.wait_ready()
        workload.wait_for(30)
    assert counter(cluster, follower, "snapshots_installed") >= 1
    assert counter(cluster, follower, "snapshot_pieces_received") >= 10, "3 MB in pieces of 128 KiB"
    assert_on_all_nodes(cluster, written | workload.acknowledged)


def test_snapshot_goes_on_where_a_kill_interrupted_it(cluster_of: ClusterFactory) -> None:
    """A follower that is killed amid the transfer does not fetch again what it had stored durably."""
    cluster = cluster_of(3, **RESTLESS)
    cluster.wait_ready()
    written = fill(cluster, 12_000)
    workload = Workload(cluster)
    follower = cluster.followers()[0]
    with workload.running():
        need_snapshot(cluster, follower, workload)
    cluster.start(follower, crash_at="after_snapshot_piece:120")
    cluster.wait_exit(follower)
    cluster.start(follower)
    cluster.wait_ready()
    cluster.logged(follower, "event=snapshot_resumed")
    assert counter(cluster, follower, "snapshot_pieces_received") < 100, "12 MB are 192 pieces"
    assert_on_all_nodes(cluster, written | workload.acknowledged)


def tamper(directory: Path, node_id: str, key: bytes) -> None:
    """Change a value in a node's state as no checksum can show: as if its machine had computed something else."""
    log = LmdbLogStore.open(directory)
    kv = LmdbKvStore.open(directory)
    try:
        log.expect(None, NodeId(node_id))
        with kv.view() as view:
            old = view.get(key)
        assert old is not None
        wrong = make_record(key, b"wrong")
        before = kv.checkpoint.summary
        summary = before._replace(state_hash=before.state_hash - old.crc + wrong.crc)
        kv.write_checkpoint(
            [(key, wrong)],
            is_cleared=False,
            applied=kv.checkpoint.applied,
            summary=summary,
            membership=kv.checkpoint.membership,
        )
    finally:
        kv.close()
        log.close()


def _is_set(client: redis.RedisCluster, key: str) -> bool:
    with suppress(*CLIENT_ERRORS):
        return bool(client.set(key, "v"))
    return False


@pytest.mark.parametrize("role", ["follower", "leader"])
def test_replica_that_differs_fences_itself_and_is_rebuilt(cluster_of: ClusterFactory, role: str) -> None:
    """A node whose state a majority contradicts is named, leads no longer, sets its state aside and fetches another.

    It is found when writing has stopped: all take their last checkpoint at one place.
    """
    cluster = cluster_of(3, checkpoint_interval_ms=100)
    cluster.wait_ready()
    client = cluster.cluster_client()
    client.set("account", "100")
    victim = cluster.followers()[0] if role == "follower" else cluster.leader()

    def is_checkpointed() -> bool:
        info = cluster.info(victim)
        return info is not None and info["raft_snapshot_index"] == info["raft_last_log_index"]

    cluster.wait(is_checkpointed, "a checkpoint of all that is applied")
    cluster.kill9(*cluster.node_ids)
    tamper(cluster.nodes[victim].directory, victim, b"account")
    for node_id in cluster.node_ids:
        cluster.start(node_id, settings=EAGER if (node_id == victim) == (role == "leader") else PATIENT)
    cluster.wait_ready()
    client = cluster.cluster_client()
    for number in range(10):
        # It may be found before the first of them, and cost the leader its office.
        cluster.wait(partial(_is_set, client, f"k{number}"), f"k{number} to be set")
    cluster.logged(victim, "event=state_set_aside")
    until_found = cluster.log(victim).partition("event=state_set_aside")[0].rpartition("event=started")[2]
    assert ("event=became_leader" in until_found) == (role == "leader")
    others = [node_id for node_id in cluster.node_ids if node_id != victim]
    assert any(f"nodes={victim}" in cluster.log(node_id) for node_id in others), "the others name it"
    cluster.wait_ready()
    # Before it has another state it moves whoever wants to read.
    cluster.logged(victim, "event=snapshot_installed")
    assert_on_all_nodes(cluster, {"account": "100"} | {f"k{number}": "v" for number in range(10)})
    assert list(cluster.nodes[victim].directory.glob("kv.differs-*")), "nothing is deleted"


def test_scan_misses_nothing_while_checkpoints_move_the_keys(cluster_of: ClusterFactory) -> None:
    """Keys that are there all the time are all returned, once, while others come and go and checkpoints are written."""
    cluster = cluster_of(3, **RESTLESS)
    leader = cluster.wait_ready()
    written = fill(cluster, 2000)
    workload = Workload(cluster)
    client = cluster.client(leader)
    with workload.running():
        before = counter(cluster, leader, "checkpoints")
        for _ in range(5):
            found = [key.decode() for key in client.scan_iter(match="fill:*", count=50)]
            assert sorted(found) == sorted(written)
        workload.wait_for(50)
        cluster.wait(
            lambda: counter(cluster, leader, "checkpoints") > before + 5, "checkpoints to be written meanwhile"
        )
    assert client.dbsize() == len(written) + len(workload.acknowledged)
