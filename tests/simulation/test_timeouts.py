"""Clusters that are slow and nothing else, at the default timeouts: few terms are used, and those are led."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from tests.simulation.swarm import MS, Swarm
from tests.simulation.world import World

MINUTE = 60_000 * MS
TERMS_PER_MINUTE = 3
"""What a slow cluster may use: the first, and some until it has learned."""
STARVED: dict[str, object] = {"faults": ("starved",), "faults_weights": (1.0,), "fault_interval": 2_000 * MS}


def slow_world(seed: int, **slow: object) -> World:
    """Return three nodes at the paper's timeouts, without any fault but those given, for a minute."""
    world = World(seed)
    quiet: dict[str, object] = {
        "heartbeat_ms": 50,
        "election_min_ms": 150,
        "election_max_ms": 300,
        "bound_ms": 2_000,
        "is_patience_random": False,
        "nodes": 3,
        "loss": 0.0,
        "duplicate": 0.0,
        "reorder": 0.0,
        "faults": (),
        "faults_weights": (),
        "fault_interval": 0,
        "clients": 1,
        "think": 500 * MS,
        "client_timeout": 5_000 * MS,
        "link_delay": (200, 3_000),
        "disk_delay": (500, 8_000),
        "loop_lag": 0,
        "duration": MINUTE,
    }
    swarm: Swarm = dataclasses.replace(world.swarm, **(quiet | slow))  # type: ignore[arg-type]
    return World(seed, swarm=swarm)


def terms_of(world: World) -> int:
    """Return the highest term that any node is in."""
    return max(site.process.node.raft.current_term for site in world.up() if site.process)


@pytest.mark.parametrize("delay_ms", [300, 700])
@pytest.mark.parametrize("seed", range(3))
def test_slow_disks_elect_and_keep_their_leader(seed: int, delay_ms: int) -> None:
    """Every flush takes longer than an election timeout: one campaign or a few, and a leader that stays."""
    world = slow_world(seed, disk_delay=(delay_ms * MS, (delay_ms + 20) * MS))
    world.run()
    print(f"seed {seed}: {terms_of(world)} terms, led by {world.rules.leaders}")
    assert terms_of(world) <= TERMS_PER_MINUTE
    assert len(world.rules.leaders) >= 1


@pytest.mark.parametrize("seed", range(3))
def test_slow_network_keeps_its_leader(seed: int) -> None:
    """Messages take up to 200 ms each way, in jumps."""
    world = slow_world(seed, link_delay=(1 * MS, 200 * MS))
    world.run()
    assert terms_of(world) <= TERMS_PER_MINUTE


def test_nodes_that_learn_nothing_lose_their_leader() -> None:
    """The same seeds with the paper's timeouts for ever: the faults above are the ones that cost leaders."""
    terms = 0
    for seed in range(4):
        world = slow_world(seed, bound_ms=300, **STARVED)
        world.run()
        terms += terms_of(world)
    assert terms > 4 * TERMS_PER_MINUTE


def test_starved_nodes_keep_their_leader() -> None:
    """Nodes get a processor only now and then: after the first records are broken the leader stays, in most minutes."""
    terms = 0
    for seed in range(4):
        world = slow_world(seed, **STARVED)
        world.run()
        counts: Counter[str] = world.faults
        print(f"seed {seed}: {terms_of(world)} terms, starved {counts['starved']} times")
        assert counts["starved"] > 5
        terms += terms_of(world)
    assert terms <= 4 * TERMS_PER_MINUTE
