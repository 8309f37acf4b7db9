"""How long a run waits for its cluster when all faults are over: for what is slow, and not for what is stuck."""

from __future__ import annotations

import pytest

from tests.simulation.process import Livelock
from tests.simulation.swarm import MS
from tests.simulation.test_timeouts import slow_world
from tests.simulation.world import World


def world_of_slow_disks(*, duration: int) -> World:
    """Return a cluster that reads each entry it executes from a slow disk."""
    return slow_world(
        0,
        disk_delay=(20 * MS, 40 * MS),
        cache_bytes_max=0,
        large_bytes=0,
        batch_bytes_max=1,
        checkpoints={},
        commits=("lmdb",),
        clients=24,
        pipeline_max=4,
        think=20 * MS,
        hold_ms=200,
        duration=duration,
    )


def test_nodes_that_execute_a_long_log_again_are_waited_for() -> None:
    """All start over; nothing is committed meanwhile, and no key can be read before they have worked off their logs."""
    world = world_of_slow_disks(duration=39_900 * MS)  # just before all take a checkpoint
    end_of_faults = world.faults_driver.end

    def end_with_a_restart_of_all() -> None:
        end_of_faults()
        for site in world.up():
            site.crashed("killed")

    world.faults_driver.end = end_with_a_restart_of_all  # type: ignore[method-assign]
    world.run()
    took = world.now - world.swarm.duration
    print(f"{len(world.committed)} entries, executed again within {took / 1e6} s")
    assert took > world.patience, "the logs were too short: nothing was to be waited for"


def test_a_cluster_that_gets_nowhere_is_not_waited_for_long() -> None:
    """It is well, but what is asked for never comes about."""
    world = world_of_slow_disks(duration=1_000 * MS)
    world.run()
    began = world.now
    with pytest.raises(Livelock, match="the cluster does not come to an end"):
        world._settle("come to an end", lambda: False)
    assert world.patience <= world.now - began <= 2 * world.patience
