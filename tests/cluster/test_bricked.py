"""A cluster that a lie has bricked: the last term there is, and disks that never were, in every real directory."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from durable_raft.raft.ready import Write
from durable_raft.raft.types import HardState, KnownDisk, Term
from durable_raft.storage.log.journal import DiskJournalPlace
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from tests.cluster.conftest import ClusterFactory
from tests.tools.test_repair import raftlog

pytestmark = pytest.mark.cluster

LAST = Term(2**63 - 1)


def brick(directory: Path) -> None:
    """Leave in a stopped node's directory what one frame of the last term and a forged introduction once did."""
    home = LmdbLogStore.open(directory)
    store = JournaledLogStore(home, DiskJournalPlace(home.path), is_used=False)
    try:
        stored = store.load()
        forged = tuple(
            KnownDisk(known.node_id, b"a forged disk---", (*known.former, known.node_uuid))
            for known in stored.standing.peers
        )
        standing = replace(stored.standing, peers=forged)
        store.persist([Write(1, HardState(LAST, None), None, (), None, standing)])
    finally:
        store.close()


def test_a_bricked_cluster_is_brought_back_with_every_acknowledged_write(cluster_of: ClusterFactory) -> None:
    """Without a leader for ever, and no node heard by another; repaired with its argument, it serves what it had."""
    cluster = cluster_of(3)
    client = cluster.client(cluster.wait_ready())
    expected = {b"key:%d" % number: b"value %d" % number for number in range(200)}
    for key, value in expected.items():
        client.set(key, value)
    for node_id in cluster.node_ids:
        cluster.stop(node_id)
    directories = [cluster.nodes[node_id].directory for node_id in cluster.node_ids]
    for directory in directories:
        brick(directory)
    for node_id in cluster.node_ids:
        cluster.start(node_id)
    cluster.wait(lambda: all("was replaced" in cluster.log(node) for node in cluster.node_ids), "nobody to be heard")
    for node_id in cluster.node_ids:
        assert (info := cluster.info(node_id)) is not None
        assert info["raft_role"] != "leader"
        cluster.stop(node_id)
    peers = [word for directory in directories[1:] for word in ("--peers", directory)]
    code, said = raftlog("repair", directories[0], *peers, "--reset-term", "--reset-disks", "--apply")
    assert code == 0, said
    assert "Votes of other terms are forgotten" in said
    assert "know another disk of n1" in said
    for directory in directories:
        (made,) = directory.parent.glob(f"{directory.name}.repaired-*")
        shutil.rmtree(directory)
        made.rename(directory)
    for node_id in cluster.node_ids:
        cluster.start(node_id)
    client = cluster.client(cluster.wait_ready())
    assert client.mget(list(expected)) == list(expected.values())
    assert client.set("and", "more")
    assert (info := cluster.info("n1")) is not None
    assert int(info["raft_current_term"]) < 1000
