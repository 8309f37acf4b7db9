"""Nodes whose newest writes were in the journal when they died, and what their disks did to them meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from durable_raft.storage.log.journal import RING_BYTES
from durable_raft.storage.log.reader import LogReader
from tests.cluster.conftest import ClusterFactory
from tests.cluster.disks import Disks, NoDisks
from tests.cluster.harness import EAGER, PATIENT, Cluster

pytestmark = pytest.mark.cluster

LEADER: Final = "n1"
VICTIM: Final = "n2"
OTHER: Final = "n3"
SETTINGS: Final = {"disk_reserve_bytes": 16 << 20}


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Disks]:
    """Small file systems where the first cluster's directories will be; skip without permission to mount."""
    disks = Disks(tmp_path / "cluster1", "ext4", (64 << 20) + RING_BYTES)
    try:
        disks.mount([LEADER, VICTIM, OTHER])
        yield disks
    except NoDisks as error:
        pytest.skip(str(error))
    finally:
        disks.unmount()


def write(cluster: Cluster, count: int, name: str) -> None:
    """Have so many writes acknowledged, one entry each."""
    client = cluster.client(LEADER)
    for number in range(count):
        client.set(f"{name}:{number}", number)


def die_with_pending_groups(cluster: Cluster) -> None:
    """Have writes acknowledged while the victim dies before it moves its newest ones; they are in its journal."""
    cluster.stop(VICTIM)
    cluster.start(VICTIM, crash_at="before_move:4")
    cluster.wait(lambda: cluster.info(VICTIM) is not None or not cluster.is_running(VICTIM), "the victim to work")
    client, number = cluster.client(LEADER), 0
    while cluster.is_running(VICTIM):
        client.set(f"pending:{number}", number)
        number += 1
    assert cluster.wait_exit(VICTIM) == -signal.SIGKILL
    with LogReader.open(cluster.nodes[VICTIM].directory) as reader:
        assert reader.overview().pending_groups


def test_pending_groups_and_a_full_disk_keep_no_node_from_starting(disks: Disks, cluster_of: ClusterFactory) -> None:
    """What its log owned behind its end is gone, as in a copy: it follows, and moves them when there is room."""
    cluster = cluster_of(3, settings_of={LEADER: EAGER}, log_commit="journal", **PATIENT, **SETTINGS)
    assert cluster.wait_ready() == LEADER
    die_with_pending_groups(cluster)
    data = cluster.nodes[VICTIM].directory / "raft" / "data.mdb"
    os.truncate(data, data.stat().st_size)
    disks.fill(VICTIM)
    assert disks.free_bytes(VICTIM) == 0
    cluster.start(VICTIM)
    cluster.wait(lambda: "event=disk_full" in cluster.log(VICTIM), "the victim to find no room")
    cluster.wait(lambda: (cluster.info(VICTIM) or {}).get("raft_leader_id") == LEADER, "it to follow")
    write(cluster, 5, "meanwhile")
    with LogReader.open(cluster.nodes[VICTIM].directory) as reader:
        assert reader.overview().pending_groups
    assert cluster.is_running(VICTIM)
    disks.make_room(VICTIM)
    cluster.wait(lambda: "event=disk_has_room" in cluster.log(VICTIM), "it to find room")
    write(cluster, 5, "afterwards")
    cluster.wait_converged()


def test_a_full_disk_keeps_no_node_from_going_over_to_the_journal(disks: Disks, cluster_of: ClusterFactory) -> None:
    """There is no room to make one: its writes go to LMDB directly, until a start finds room."""
    cluster = cluster_of(3, settings_of={LEADER: EAGER}, log_commit="lmdb", **PATIENT, **SETTINGS)
    assert cluster.wait_ready() == LEADER
    write(cluster, 20, "before")
    disks.fill(VICTIM)
    cluster.restart(VICTIM, settings={"log_commit": "journal"})
    cluster.wait(lambda: "event=journal_not_made" in cluster.log(VICTIM), "the victim to say so")
    cluster.stop(OTHER)
    # A majority needs the victim's flush.
    write(cluster, 5, "meanwhile")
    assert not (cluster.nodes[VICTIM].directory / "raft" / "journal").exists()
    cluster.start(OTHER)
    disks.make_room(VICTIM)
    cluster.restart(VICTIM, settings={"log_commit": "journal"})
    cluster.wait((cluster.nodes[VICTIM].directory / "raft" / "journal").exists, "a journal to be made")
    write(cluster, 5, "afterwards")
    cluster.wait_converged()
    assert cluster.log(VICTIM).count("event=journal_not_made") == 1
