"""Nodes whose newest writes were in the journal when they died, and what their disks did to them meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
import redis

from durable_raft.storage.log import journal_format
from durable_raft.storage.log.journal import RING_BYTES
from durable_raft.storage.log.journal_format import RING_AT, copy_bytes
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


def _takes_writes(cluster: Cluster) -> bool:
    """Return whether the leader takes a write."""
    with suppress(redis.ResponseError):
        return cluster.client(LEADER).set("probe", "x") is True
    return False


def die_with_pending_groups(cluster: Cluster) -> int:
    """Have writes acknowledged while the victim dies before it moves its newest ones; they are in its journal.

    Returns:
        How many were acknowledged: ``pending:0`` and on.
    """
    cluster.stop(VICTIM)
    cluster.start(VICTIM, crash_at="before_move:4")
    cluster.wait(lambda: cluster.info(VICTIM) is not None or not cluster.is_running(VICTIM), "the victim to work")
    client, number = cluster.client(LEADER), 0
    with suppress(redis.RedisError):
        # Alone the leader holds a write, and then refuses it.
        while cluster.is_running(VICTIM):
            client.set(f"pending:{number}", number)
            number += 1
    assert cluster.wait_exit(VICTIM) == -signal.SIGKILL
    with LogReader.open(cluster.nodes[VICTIM].directory) as reader:
        assert reader.overview().pending_groups
    return number


def forget_the_last_group(directory: Path) -> None:
    """Have both copies of the last group in a journal look as if they had never been written."""
    with LogReader.open(directory) as reader:
        meta = reader.overview().meta
    assert meta is not None
    assert meta.journal is not None
    path = directory / "raft" / "journal"
    image = bytearray(path.read_bytes())
    heads = [head for head, _, _ in journal_format._heads(bytes(image[RING_AT:]), meta.journal.uuid)]
    last = max(heads, key=lambda head: (head.generation, head.number))
    assert (last.generation, last.number > meta.journal.number) == (meta.journal.generation, True)
    end = RING_AT + last.offset + 2 * copy_bytes(last.length)
    image[RING_AT + last.offset : end] = bytes(end - RING_AT - last.offset)
    path.write_bytes(image)


def last_index(directory: Path) -> int:
    """Return the index of the last entry of the log in a directory."""
    with LogReader.open(directory) as reader:
        return reader.overview().last_index


def test_a_group_that_both_copies_forgot_is_known_by_the_leader(cluster_of: ClusterFactory) -> None:
    """Nothing in the directory tells, but the leader counted its flush: with the third it could take the group back."""
    cluster = cluster_of(3, settings_of={LEADER: EAGER}, log_commit="journal", **PATIENT)
    assert cluster.wait_ready() == LEADER
    cluster.kill9(OTHER)
    directory, held, known, pending_entries = cluster.nodes[VICTIM].directory, 1, 0, 0
    while known < held or not pending_entries:
        # It may die before it tells the leader of its last flush: then nothing can be taken back.
        if not cluster.is_running(VICTIM):
            cluster.start(VICTIM)
            assert cluster.wait_ready() == LEADER
        acknowledged = die_with_pending_groups(cluster)
        with LogReader.open(directory) as reader:
            held, pending_entries = reader.overview().last_index, reader.overview().pending_entries
        known = int((cluster.info(LEADER) or {}).get("raft_commit_index", 0))
    while last_index(directory) == held:
        # The last group may hold a standing alone.
        forget_the_last_group(directory)
    cluster.start(VICTIM)
    cluster.wait(lambda: "event=went_back" in cluster.log(VICTIM), "the victim to learn that it went back")
    cluster.logged(VICTIM, "it acknowledged")
    info = cluster.info(VICTIM)
    assert info is not None
    assert info["raft_alarms"] == "old_copy"
    # It is no voter: the two that are left have no majority, and elect nobody.
    cluster.kill9(LEADER)
    cluster.start(OTHER)
    cluster.wait(lambda: "event=peer_connected peer=n2" in cluster.log(OTHER).rpartition("started")[2], "them to meet")
    infos = cluster.infos()
    assert {info["raft_leader_id"] for info in infos.values()} <= {"", LEADER}
    assert infos[VICTIM]["raft_is_voter"] == "0"
    cluster.start(LEADER)
    client = cluster.client(cluster.wait_ready())
    assert [client.get(f"pending:{number}") for number in range(acknowledged)] == [
        str(number).encode() for number in range(acknowledged)
    ]
    cluster.wait(lambda: (cluster.info(VICTIM) or {}).get("raft_alarms") == "", "its admission")


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
    # A majority needs the victim's flush; for a new value it has no room.
    for number in range(5):
        assert cluster.client(LEADER).delete(f"before:{number}") == 1
    assert not (cluster.nodes[VICTIM].directory / "raft" / "journal").exists()
    cluster.start(OTHER)
    disks.make_room(VICTIM)
    cluster.restart(VICTIM, settings={"log_commit": "journal"})
    cluster.wait((cluster.nodes[VICTIM].directory / "raft" / "journal").exists, "a journal to be made")
    cluster.wait(lambda: _takes_writes(cluster), "the leader to know of the room")
    write(cluster, 5, "afterwards")
    cluster.wait_converged()
    assert cluster.log(VICTIM).count("event=journal_not_made") == 1
