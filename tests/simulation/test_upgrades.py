"""Nodes of several programs in the simulation: nothing breaks among all its faults, and what is planted is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from durable_raft.kv.machine import Machine
from durable_raft.raft.versions import Versions
from durable_raft.server.cluster_version import ClusterVersion
from durable_raft.server.state import snapshot_fetch
from durable_raft.server.state.snapshot_fetch import Snapshot
from durable_raft.wire.messages import SnapshotChunk
from tests.simulation.campaign import Failure, run_seed, timeline
from tests.simulation.swarm import DRAWN_FROM, UPGRADES_SHARE, draw_upgrades

SEEDS = (1_000_057, 1_000_142, 1_000_265, 1_000_010, 1_000_043)
"""Short ones; in the first, the last and the fourth nodes of other programs fetch snapshots, in two members change."""

MORE = (1_000_133, 1_000_136, 1_000_152, 1_000_075, 1_000_044)
"""Played for a planted bug that the first do not find."""

SEEN = (
    "upgrades",
    "downgrades",
    "raising begun",
    "raising refused",
    "gone back in haste",
    "frames of a newer program",
    "ended for want of a newer program",
    "refused as too old",
    "states with a version",
    "snapshot_installed",
)


def test_some_seeds_run_several_programs_and_those_of_other_tests_do_not() -> None:
    """As many as they should be."""
    drawn = [seed for seed in range(DRAWN_FROM, DRAWN_FROM + 2_000) if draw_upgrades(seed, 1)]
    assert abs(len(drawn) / 2_000 - UPGRADES_SHARE) < 0.05
    assert not any(draw_upgrades(seed, 1) for seed in (*range(10_000), 20270512, 20290651, 485393837))


def test_clusters_of_several_programs_keep_every_promise() -> None:
    """Each deed of the operator is done, and each refusal met; all of it among faults."""
    counts: Counter[str] = Counter()
    for seed in SEEDS:
        world, rule = run_seed(seed)
        assert rule is None, timeline(Failure(seed, rule))
        counts.update({name: world.counts[name] for name in SEEN})
    assert all(counts[name] for name in SEEN), counts


# -- planted bugs ------------------------------------------------------------------------------------------------------


def _everybody_can(self: ClusterVersion) -> dict[Any, Versions | None]:
    """The leader takes it that all members run its own program."""
    return dict.fromkeys(self._raft.configuration.ids(), self._ours)


def _without_version(chunk: SnapshotChunk) -> Snapshot:
    """A snapshot that comes in names the first version: the log that raised it is not there."""
    return _of_chunk(chunk._replace(version=1))


def _never_raised(self: Machine, version: int) -> None:
    """A node goes on as if nobody had raised the version."""


_of_chunk: Callable[[SnapshotChunk], Snapshot] = snapshot_fetch._snapshot_of


@pytest.mark.parametrize(
    ("target", "name", "bug"),
    [
        (ClusterVersion, "known", _everybody_can),
        (snapshot_fetch, "_snapshot_of", _without_version),
        (Machine, "raise_version", _never_raised),
    ],
    ids=["raised over a member's head", "snapshot without the version", "never raised"],
)
def test_a_planted_bug_is_caught(monkeypatch: pytest.MonkeyPatch, target: object, name: str, bug: object) -> None:
    """By a rule of upgrades.py, by states that differ, or because the node's own guard keeps it from catching up."""
    monkeypatch.setattr(target, name, bug)
    found = next((rule for rule in (run_seed(seed)[1] for seed in (*SEEDS, *MORE)) if rule), "nothing")
    assert found.startswith(("InvariantViolation: Versions: ", "StatesDiffer", "Livelock")), found
