"""The soak itself, for a moment: it writes, sees the nodes, and finds every acknowledged write again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.harness import Cluster
from tests.soak.soak import soak

pytestmark = pytest.mark.cluster


def test_soak_writes_and_finds_it_again(tmp_path: Path) -> None:
    """On a cluster with long timeouts, with no work beside it."""
    cluster = Cluster(3, tmp_path)
    try:
        seen, load, took = soak(cluster, minutes=0.05, rate=50, writers=2, stress=0)
    finally:
        cluster.close()
    assert load.outcomes["OK"] == len(load.acknowledged) > 10
    assert 0 < load.worst_pause_s <= took
    assert seen.leaders
    assert seen.longest_timeout_ms >= 1_000
