"""When a checkpoint is due: by the pages it would change, which many changes of few keys share."""

from __future__ import annotations

import time
from typing import Final

import pytest

from durable_raft.server.state.state_hashes import AGREED_MS
from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import Cluster

pytestmark = pytest.mark.cluster

NEVER: Final = 1 << 40
PAGES: Final = 50
TURNS: Final = 20
BY_PAGES: Final = {
    "checkpoint_pages": PAGES,
    "checkpoint_changes": NEVER,
    "checkpoint_bytes": 100 << 20,  # more than is written, and within the memory of any machine
    "checkpoint_log_bytes": NEVER,
    "checkpoint_entries": NEVER,
    "checkpoint_interval_ms": NEVER,
}


def checkpoints(cluster: Cluster) -> int:
    """Return how many checkpoints the node has written."""
    info = cluster.info("n1", "raft")
    assert info is not None
    return int(info["raft_checkpoints"])


def periods_since(began_s: float) -> int:
    """Return how many periods of the cluster's time may have begun since: each has a checkpoint of its own."""
    period_s = AGREED_MS / 1000
    return int((time.time() + 1) // period_s - (began_s - 1) // period_s)


def write(cluster: Cluster, first: int, count: int, value: bytes = b"v") -> None:
    """Set keys number ``first`` and following, each by an entry of its own."""
    with cluster.client("n1") as client:
        for number in range(first, first + count):
            client.set(f"key:{number}", value)


def test_new_keys_are_written_when_they_may_fill_so_many_pages(cluster_of: ClusterFactory) -> None:
    """Two new keys count as a page, beside the few that an empty state has."""
    began_s = time.time()
    cluster = cluster_of(1, **BY_PAGES)
    cluster.wait_ready()
    write(cluster, 0, PAGES)
    before = checkpoints(cluster)
    assert before <= periods_since(began_s)
    write(cluster, PAGES, PAGES)
    cluster.wait(lambda: checkpoints(cluster) > before, "the checkpoint that is due")


def test_changes_of_few_keys_are_not_written_again_and_again(cluster_of: ClusterFactory) -> None:
    """They share pages: however often they change, a checkpoint would change no more of them."""
    began_s = time.time()
    cluster = cluster_of(1, **BY_PAGES)
    cluster.wait_ready()
    write(cluster, 0, 2 * PAGES)
    cluster.wait(lambda: checkpoints(cluster) > 0, "the checkpoint that is due")
    for turn in range(TURNS):
        write(cluster, 0, 2 * PAGES, b"%d" % turn)
    assert checkpoints(cluster) <= 1 + periods_since(began_s)
