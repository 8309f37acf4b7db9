"""Not a byte left on the disk: nodes vote, read and delete, and take writes again by themselves when there is room.

Each node has a small file system of its own. A file beside its directory takes all that is free, as somebody else's
would, while the node works.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from durable_raft.storage.log.journal import RING_BYTES
from tests.cluster.conftest import ClusterFactory
from tests.cluster.disks import Disks, NoDisks
from tests.cluster.harness import LOG_COMMIT, Cluster
from tests.cluster.raw import Conversation
from tests.cluster.workload import Workload, assert_on_all_nodes

pytestmark = pytest.mark.cluster

DISK_BYTES: Final = (128 << 20) + (0 if LOG_COMMIT == "lmdb" else RING_BYTES * 9 // 8)
SETTINGS: Final = {"disk_reserve_bytes": 16 << 20, "checkpoint_interval_ms": 500}


@pytest.fixture(params=["tmpfs", "ext4"])
def disks(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disks]:
    """Small file systems where the first cluster's directories will be; skip without permission to mount."""
    disks = Disks(tmp_path / "cluster1", request.param, DISK_BYTES)
    try:
        disks.mount(["n1", "n2", "n3"])
        yield disks
    except NoDisks as error:
        pytest.skip(str(error))
    finally:
        disks.unmount()


def _ask_leader(cluster: Cluster, *words: str) -> str | None:
    """Ask whoever leads: a leader that notices its full disk first hands over to the next."""
    said: list[str | None] = []

    def is_answered() -> bool:
        with Conversation(cluster, cluster.leader()) as client:
            said.append(client.ask(*words))
        return not str(said[-1]).startswith("-MOVED ")

    cluster.wait(is_answered, f"the leader to answer {words[0]}")
    return said[-1]


def _takes_writes(cluster: Cluster, key: str) -> bool:
    said = _ask_leader(cluster, "SET", key, "x")
    assert said is not None
    return said == "OK"


def _set(cluster: Cluster, key: str, value: str) -> None:
    """Have a write taken, be it by another leader: a slow disk may cost one its office."""
    said: list[str | None] = []

    def is_taken() -> bool:
        said.append(_ask_leader(cluster, "SET", key, value))
        assert not str(said[-1]).startswith("-NOSPACE"), cluster.explain(f"{key}: {said[-1]}")
        return said[-1] == "OK"

    cluster.wait(is_taken, f"{key} to be set")


def _delete(cluster: Cluster, count: int) -> None:
    """Delete so many keys, each once: a leader that notices its full disk first hands over to the next."""
    deleted = 0
    while deleted < count:
        with Conversation(cluster, cluster.leader()) as client:
            while deleted < count and (said := client.ask("DEL", f"key:{deleted}")) == "1":
                deleted += 1
        assert said == "1" or str(said).startswith("-MOVED "), cluster.explain(f"delete {deleted}: {said}")


def test_three_full_disks_take_nothing_down(disks: Disks, cluster_of: ClusterFactory) -> None:
    """SET is refused; GET, DEL, an election and a restart work; all of it without a byte; then SET works again."""
    cluster = cluster_of(3, **SETTINGS)
    leader = cluster.wait_ready()
    with Conversation(cluster, leader) as client:
        for number in range(400):
            assert client.ask("SET", f"key:{number}", "x" * 5000) == "OK"
    for node_id in cluster.node_ids:
        disks.fill(node_id)
        assert disks.free_bytes(node_id) == 0
    cluster.wait(lambda: not _takes_writes(cluster, "refused"), "writes to be refused")
    _delete(cluster, 300)
    leader = cluster.leader()
    with Conversation(cluster, leader) as client:
        assert client.ask("GET", "key:399") == "x" * 5000
        assert str(client.ask("SET", "refused", "x")).startswith("-NOSPACE ")
    cluster.kill9(leader)
    second = cluster.leader(other_than=leader)
    assert _ask_leader(cluster, "GET", "key:399") == "x" * 5000
    assert _ask_leader(cluster, "DEL", "key:300") == "1"
    cluster.start(leader)
    cluster.wait_ready()
    assert all(disks.free_bytes(node_id) < 1 << 20 for node_id in cluster.node_ids)
    cluster.restart()
    cluster.wait_ready()
    assert _ask_leader(cluster, "DEL", "key:301") == "1"
    assert second in cluster.running()
    assert len(cluster.running()) == 3
    for node_id in cluster.node_ids:
        disks.make_room(node_id)
    cluster.wait(lambda: _takes_writes(cluster, "afterwards"), "writes to be taken again")
    cluster.wait_converged()
    with Conversation(cluster, cluster.leader()) as client:
        found = [client.ask("GET", f"key:{number}") for number in range(400)]
    assert found == ["nil"] * 302 + ["x" * 5000] * 98


def test_a_follower_without_room_lives_on_and_catches_up(disks: Disks, cluster_of: ClusterFactory) -> None:
    """The others take writes that it has no room for; it says so, and takes them later."""
    cluster = cluster_of(3, **SETTINGS)
    cluster.wait_ready()
    victim = cluster.followers()[0]
    disks.fill(victim)
    value = "x" * (256 << 10)
    for number in range(60):
        _set(cluster, f"key:{number % 20}", value)
    # It refuses them, or has taken some that its disk cannot hold before it was told how much that holds.
    cluster.wait(lambda: bool(re.search("event=(entries_refused|disk_full)", cluster.log(victim))), "a full follower")
    _set(cluster, "key:last", "x")
    assert cluster.is_running(victim)
    cluster.wait(lambda: _follows(cluster, victim, cluster.leader()), "the full node to follow")
    disks.make_room(victim)
    cluster.wait_converged()
    assert re.search("event=(entries_accepted_again|disk_has_room)", cluster.log(victim))
    assert "event=stopping" not in cluster.log(victim)


def test_a_leader_without_room_hands_over_and_follows(disks: Disks, cluster_of: ClusterFactory) -> None:
    """The others have room for writes, so one of them leads; the full node lives on, and catches up."""
    cluster = cluster_of(3, **SETTINGS)
    victim = cluster.wait_ready()
    _set(cluster, "before", "x")
    disks.fill(victim)
    cluster.logged(victim, "event=leader_without_room")
    leader = cluster.leader(other_than=victim)
    for number in range(20):
        cluster.wait(lambda key=f"key:{number}": _takes_writes(cluster, key), "a write to be taken")  # type: ignore[misc]
    cluster.wait(lambda: _follows(cluster, victim, cluster.leader()), f"{victim} to follow {leader}")
    assert "event=stopping" not in cluster.log(victim)
    disks.make_room(victim)
    cluster.wait_converged()
    assert _ask_leader(cluster, "GET", "key:19") == "x"


def _follows(cluster: Cluster, node_id: str, leader: str) -> bool:
    """Return whether a node answers, and says who leads it."""
    info = cluster.info(node_id)
    return info is not None and info["raft_leader_id"] == leader


def test_a_snapshot_without_room_waits(disks: Disks, cluster_of: ClusterFactory) -> None:
    """A node that starts with a full disk, and is too far behind for the log, runs on and fetches the state later."""
    cluster = cluster_of(3, **SETTINGS, log_tail_entries=50, log_tail_bytes=65536, checkpoint_entries=100)
    leader = cluster.wait_ready()
    victim = cluster.followers()[0]
    cluster.kill9(victim)
    with Conversation(cluster, leader) as client:
        for number in range(600):
            assert client.ask("SET", f"key:{number}", "x" * 10_000) == "OK"
    disks.fill(victim)
    cluster.start(victim)
    cluster.wait(lambda: "event=snapshot_waits_for_room" in cluster.log(victim), "the snapshot to wait")
    with Conversation(cluster, leader) as client:
        assert client.ask("SET", "key:last", "x") == "OK"
    cluster.wait(lambda: _follows(cluster, victim, leader), "the node without room to follow its leader")
    disks.make_room(victim)
    cluster.wait_converged()
    cluster.logged(victim, "event=snapshot_installed")
    assert "event=stopping" not in cluster.log(victim)


def test_disks_that_fill_and_empty_under_writers_lose_nothing(disks: Disks, cluster_of: ClusterFactory) -> None:
    """Twice the last byte goes while four clients write: no node ends, and all that was acknowledged is there."""
    cluster = cluster_of(3, **SETTINGS)
    cluster.wait_ready()
    workload = Workload(cluster, value_bytes=20_000)
    with workload.running():
        for _ in range(2):
            workload.wait_for(50)
            for node_id in cluster.node_ids:
                disks.fill(node_id)
            cluster.wait(lambda: not _takes_writes(cluster, "refused"), "writes to be refused")
            assert str(_ask_leader(cluster, "GET", "refused")) in ("x", "nil")
            for node_id in cluster.node_ids:
                disks.make_room(node_id)
        workload.wait_for(50)
    assert sorted(cluster.running()) == cluster.node_ids
    assert_on_all_nodes(cluster, workload.acknowledged)
    assert all("event=stopping" not in cluster.log(node_id) for node_id in cluster.node_ids)
