"""Whatever happens to a cluster, what is kept of a configuration beside the log is what counts at its place."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from durable_raft.errors import InvariantViolation
from durable_raft.raft.core import Raft
from durable_raft.server.state import snapshot_source
from durable_raft.wire.messages import SnapshotChunk
from tests.simulation.campaign import fresh_seed
from tests.simulation.moves import MovingWorld

FRESH_SEEDS = int(os.environ.get("SIMULATION_SEEDS", "12")) // 2
"""How many fresh seeds are played."""

WITH_SNAPSHOTS = (2, 6, 8, 12)
"""Short seeds in which followers get snapshots."""


def played(seed: int) -> Counter[str]:
    """Play one seed; return what was counted."""
    world = MovingWorld(seed, is_traced=True)
    try:
        world.run()
    except Exception:
        print("\n".join([*world.trace[-60:], f"seed {seed}"]))
        raise
    return world.counts


def play_those_with_snapshots() -> None:
    """Play them, until one finds something."""
    for seed in WITH_SNAPSHOTS:
        played(seed)


def test_no_place_forgets_or_outruns_its_configuration() -> None:
    """Through crashes, power cuts, rot, wiped disks and snapshots; and each of the places had one to name."""
    counts: Counter[str] = Counter()
    first = fresh_seed()
    for seed in (*WITH_SNAPSHOTS, *range(first, first + FRESH_SEEDS)):
        counts.update(played(seed))
    for what in ("changes", "states", "bases", "snapshots"):
        name = what if what == "changes" else f"{what} with a configuration"
        assert counts[name], (name, counts)


def _newest(raft: Raft, index: int) -> object:
    del index
    return raft.configuration if raft.configuration.index else None


def test_a_checkpoint_that_names_the_newest_configuration_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may lie behind the checkpoint, and be cut."""
    monkeypatch.setattr(Raft, "stored_configuration_at", _newest)
    with pytest.raises(InvariantViolation, match="the state of"):
        play_those_with_snapshots()


def test_a_snapshot_without_its_configuration_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever installs it would go by the first one."""
    piece_of = snapshot_source._piece_of

    def bare(*arguments: object) -> SnapshotChunk:
        return piece_of(*arguments)._replace(configuration=None)  # type: ignore[arg-type]

    monkeypatch.setattr(snapshot_source, "_piece_of", bare)
    with pytest.raises(InvariantViolation, match=r"the state of .* names None"):
        play_those_with_snapshots()
