"""A cluster that nobody asks anything: it costs next to nothing, and its heartbeats keep one leader."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import pytest

from tests.cluster.harness import Cluster

pytestmark = pytest.mark.cluster

WINDOW_S: Final = 4.0
WINDOWS: Final = 3
"""One of them must be quiet: a noisy neighbour may make system time dear for a while."""
CORE_SHARE_MAX: Final = 0.03


def _cpu_s(cluster: Cluster) -> dict[str, float]:
    """Return user and system time of every node so far, in seconds (proc(5): utime and stime)."""
    ticks = {}
    for node_id in cluster.node_ids:
        fields = Path(f"/proc/{cluster.pid(node_id)}/stat").read_text().rpartition(")")[2].split()
        ticks[node_id] = int(fields[11]) + int(fields[12])
    return {node_id: count / os.sysconf("SC_CLK_TCK") for node_id, count in ticks.items()}


def _shares(cluster: Cluster) -> dict[str, float]:
    """Return the share of a core that each node used over one window."""
    before, started = _cpu_s(cluster), time.monotonic()
    # The window is what is measured, not a wait for something.
    time.sleep(WINDOW_S)
    passed = time.monotonic() - started
    return {node_id: (cpu_s - before[node_id]) / passed for node_id, cpu_s in _cpu_s(cluster).items()}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processor time is read from /proc")
def test_idle_nodes_use_little_and_keep_their_leader(cluster: Cluster) -> None:
    """Every node of an idle cluster uses under 3 % of a core; leader and term stay; messages have gone round."""
    leader = cluster.wait_ready()
    before = cluster.infos()
    measured: list[dict[str, float]] = []
    for _ in range(WINDOWS):
        measured.append(_shares(cluster))
        if max(measured[-1].values()) < CORE_SHARE_MAX:
            break
    print(f"shares of a core: {measured}")
    assert max(measured[-1].values()) < CORE_SHARE_MAX, cluster.explain(f"shares of a core: {measured}")
    after = cluster.infos()
    assert cluster.leader() == leader
    terms = {info["raft_current_term"] for info in (*before.values(), *after.values())}
    assert len(terms) == 1, cluster.explain(f"terms {terms} while idle")
    assert {info["raft_last_log_index"] for info in after.values()} == {before[leader]["raft_last_log_index"]}
