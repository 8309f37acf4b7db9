"""The seeded random walks of nodes whose lives are counted: no directory goes back, so none may be called a copy.

``pytest "tests/raft/test_random_lives.py::test_walk[17]"`` plays seed 17 again; ``RAFT_LIVES_SEEDS=0-999`` others.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.raft.test_random import SMALL_LIMITS, play, run_walk
from tests.raft.test_random_members import JOINERS, Churn
from tests.support.raft_checks import require
from tests.support.raft_cluster import Cluster
from tests.support.raft_disk import Disk
from tests.support.raft_nodes import disk_uuid

FIRST_SEED, LAST_SEED = (int(seed) for seed in os.environ.get("RAFT_LIVES_SEEDS", "0-59").split("-"))
"""Both inclusive."""


class Lives(Churn):
    """One random history in which every start of a node is a life of its directory."""

    def make_cluster(self, seed: int, *, keeps_trace: bool) -> Cluster:
        """Return a cluster whose disks are in their places."""
        voters = self.rng.choice(["n1 n2 n3", "n1 n2 n3", "n1 n2 n3 n4 n5"])
        disks = {
            name: Disk(is_voter=name not in JOINERS, node_uuid=disk_uuid(name, 1), place=name.encode())
            for name in (*voters.split(), *JOINERS.split())
        }
        return Cluster(voters, joiners=JOINERS, disks=disks, seed=seed, keeps_trace=keeps_trace, **SMALL_LIMITS)

    def mend(self) -> None:
        """Mend everything; then nobody may have been called what it is not."""
        super().mend()
        require(not self.cluster.counts.get("went_back"), "a directory is called a copy that never went back")


@pytest.mark.parametrize("seed", range(FIRST_SEED, LAST_SEED + 1))
def test_walk(seed: int) -> None:
    """Whatever is lost, late and twice, no log is accused of what it acknowledged, and after the mending all agree."""
    play(Lives, seed)


def test_walks_reach_what_they_should() -> None:
    """Lives begin, are told and are answered, among changes of members."""
    counts: Counter[str] = Counter()
    for seed in range(1_000, 1_020):
        walk = Lives(seed, keeps_trace=False)
        run_walk(walk)
        counts += walk.counts + Counter(walk.cluster.counts)
    least = {"crash": 50, "resumed": 50, "admitted": 10, "configuration_complete": 30, "installed_snapshot": 3}
    assert {name: counts[name] for name, number in least.items() if counts[name] < number} == {}
