"""Old copies of whole directories from their first hour to their admission, all nodes real (raft/lives.py)."""

from __future__ import annotations

from copy import deepcopy

import pytest

from durable_raft.raft.changes import AddLearner
from durable_raft.raft.types import Member, NodeId
from tests.support.raft_cluster import Cluster
from tests.support.raft_disk import Disk

HERE, THERE = b"here", b"away"


def with_an_image_of_n2() -> tuple[Cluster, Disk]:
    """Have n1 lead, n3 crash, and n1 and n2 commit one entry more; return an image of n2 from before that, too."""
    disks = {name: Disk("1", place=HERE, term=1, node_uuid=name.encode().ljust(16)) for name in ("n1", "n2", "n3")}
    cluster = Cluster("n1 n2 n3", disks=disks)
    cluster.run_until(lambda: all(node.core.is_voter for node in cluster.up()), 2_000)
    cluster.run_until(lambda: cluster.leader() is not None, 5_000)
    if cluster.leader() != "n1":
        cluster.elect("n1")
    cluster.run(200)
    image = deepcopy(cluster.disk("n2"))
    cluster.crash("n3")
    cluster.propose("n1", "acknowledged")
    cluster.run(200)
    return cluster, image


def test_an_old_copy_elects_nobody_who_lacks_what_it_had_acknowledged() -> None:
    """n3 was away while n1 and n2 committed; n2 goes back to before that, and n1 is gone."""
    cluster, image = with_an_image_of_n2()
    assert cluster["n1"].log.commit_index == cluster["n1"].log.last.index > image.last.index
    cluster.crash("n1")
    cluster.crash("n2")
    image.place, image.starts = THERE, 0
    cluster.wipe("n2", image)
    cluster.restart("n2")
    cluster.restart("n3")
    cluster.run(3_000)
    assert cluster.leader() is None
    assert cluster["n2"].is_old_copy
    cluster.restart("n1")
    cluster.run_until(lambda: all(node.core.is_voter for node in cluster.up()), 10_000)
    assert b"acknowledged" in [entry.payload for entry in cluster.disk("n2").all_entries()]


@pytest.mark.parametrize("is_first", ["life", "heartbeat"])
def test_a_leader_forgets_nothing_over_what_a_volume_says_that_was_rolled_back(is_first: str) -> None:
    """n2 is in its place and knows its last life; the leader's heartbeat is there before that life is flushed."""
    cluster, image = with_an_image_of_n2()
    cluster.crash("n2")
    cluster.wipe("n2", image)
    cluster.slow("n2")
    cluster.restart("n2")
    cluster.packets.clear()
    if is_first == "heartbeat":
        cluster.now += 50
        cluster.fire("n1")
        assert cluster.deliver("n1", "n2")
        cluster.settle()
    cluster.fast("n2")
    cluster.run_until(lambda: cluster["n2"].is_old_copy, 2_000)
    cluster.restart("n3")
    cluster.run_until(lambda: all(node.core.is_voter for node in cluster.up()), 10_000)
    assert b"acknowledged" in [entry.payload for entry in cluster.disk("n2").all_entries()]


def test_a_leader_that_starts_again_knows_the_life_of_a_disk_that_it_is_to_admit() -> None:
    """n2 joins. It has told n1 its first life, which has no number yet; n1 is restarted before it admits the disk."""
    cluster = Cluster("n1", joiners="n2", disks={"n1": Disk("1", place=HERE), "n2": Disk(is_voter=False, place=HERE)})
    cluster.elect("n1")
    cluster.run(100)
    cluster.change("n1", AddLearner(Member(NodeId("n2"), "n2:1", "n2:2")))
    cluster.run_until(lambda: NodeId("n1") in cluster["n2"].state.introduced, 1_000)
    known = cluster.disk("n1").standing.peer(NodeId("n2"))
    assert known is not None
    assert known.life is not None
    assert not cluster["n2"].is_voter
    cluster.crash("n1")
    cluster.restart("n1")
    cluster.run_until(lambda: cluster["n2"].is_voter, 5_000)
