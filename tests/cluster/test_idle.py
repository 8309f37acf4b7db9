"""A cluster that nobody asks anything: its nodes sleep between heartbeats, and these keep one leader."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import pytest

from tests.cluster.harness import UNHURRIED, Cluster

pytestmark = pytest.mark.cluster

WINDOW_S: Final = 3.0
WAKEUPS_MAX: Final = 12
"""For each heartbeat. A leader wakes for its timer and for each of two answers, a follower for the heartbeat and its
timer; threads hand work to each other. A node that looks every millisecond whether there is work wakes a hundred times.
"""


def _wakeups(cluster: Cluster) -> dict[str, int]:
    """Return how often the threads of every node have waited for something and gone on (proc(5))."""
    return {
        node_id: sum(
            int(line.split()[1])
            for status in Path(f"/proc/{cluster.pid(node_id)}/task").glob("*/status")
            for line in status.read_text().splitlines()
            if line.startswith("voluntary_ctxt_switches:")
        )
        for node_id in cluster.node_ids
    }


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="wake-ups are read from /proc")
def test_idle_nodes_sleep_and_keep_their_leader(cluster: Cluster) -> None:
    """Every node of an idle cluster wakes some times a heartbeat; leader and term stay; messages have gone round."""
    leader = cluster.wait_ready()
    before = cluster.infos()
    counted, started = _wakeups(cluster), time.monotonic()
    # The window is what is measured, not a wait for something. A busy machine makes it longer and adds no wake-ups.
    time.sleep(WINDOW_S)
    heartbeats = (time.monotonic() - started) * 1000 / UNHURRIED["heartbeat_ms"]
    a_heartbeat = {node_id: (count - counted[node_id]) / heartbeats for node_id, count in _wakeups(cluster).items()}
    print(f"wake-ups for each heartbeat: {a_heartbeat}")
    assert max(a_heartbeat.values()) < WAKEUPS_MAX, cluster.explain(f"wake-ups for each heartbeat: {a_heartbeat}")
    assert min(a_heartbeat.values()) > 0.5, cluster.explain(f"nobody heard a heartbeat: {a_heartbeat}")
    after = cluster.infos()
    assert cluster.leader() == leader
    terms = {info["raft_current_term"] for info in (*before.values(), *after.values())}
    assert len(terms) == 1, cluster.explain(f"terms {terms} while idle")
    assert {info["raft_last_log_index"] for info in after.values()} == {before[leader]["raft_last_log_index"]}
