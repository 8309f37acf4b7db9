"""Troubles of nodes: clocks that are wrong, disks that are full, slow or hung, somebody at the address of a dead node.

What each function returns and raises is as in client_troubles.py.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import ExitStack, suppress
from typing import Final

from tests.cluster.stranger import Somebody, never_right
from tests.soak.ground import LASTING, Ground

HOUR_S: Final = 3600.0
SKEWS_S: Final = (HOUR_S, -HOUR_S, 174 * 365 * 24 * HOUR_S, 30.0)
"""How far clocks are wrong; the third is the year 2200."""
WRITES_PER_SECOND: Final = (10, 20, 40)
"""Of a slow disk: a flush is three to seven."""
SLOW_FLUSH_S: Final = 0.05
"""A flush that takes as long was slowed down: what a soak runs on takes a tenth of that."""
HUNG_S: Final = (0.05, 0.6)
REFUSED_S: Final = 20.0
CLOSED_S: Final = 10.0
"""How long a node may take to drop the link of a peer that lies."""


def wrong_clocks(ground: Ground, rng: random.Random) -> int:
    """Set a node's clock wrong until it knows, and right until it knows; no key ends early meanwhile."""
    cluster, node_id = ground.cluster, ground.any_node(rng)

    def differs(is_wrong: bool) -> bool:
        return (cluster.info(node_id) or {}).get("raft_clock_differs") == str(int(is_wrong))

    try:
        cluster.skew(node_id, rng.choice(SKEWS_S))
        cluster.wait(lambda: differs(True), f"{node_id} to know that its clock is wrong")
        ground.hold()
    finally:
        cluster.skew(node_id, 0)
    cluster.wait(lambda: differs(False), f"{node_id} to know that its clock is right")
    with ground.asking(cluster.leader()) as ask:
        key, value = LASTING
        assert ask("GET", key) == value.encode(), cluster.explain(f"{key} vanished")
    return 1


def full_disks(ground: Ground, rng: random.Random) -> int:
    """Leave not a byte on one, two or all disks, for a while; then there is room, and writes are taken again."""
    victims = rng.sample(ground.cluster.node_ids, rng.choice((1, 2, 3)))
    with ExitStack() as undoing:
        struck = 0
        for node_id in victims:
            undoing.callback(ground.disks.make_room, node_id)
            ground.disks.fill(node_id)
            struck += ground.disks.free_bytes(node_id) == 0
        if len(victims) > 1:
            ground.wait_at_most(lambda: not ground.takes_writes(), REFUSED_S)
        ground.hold()
    ground.cluster.wait(ground.takes_writes, "writes to be taken again")
    return struck


def slow_disks(ground: Ground, rng: random.Random) -> int:
    """Let one, two or all disks do few writes a second, for a while; count flushes that were slow."""
    victims = rng.sample(ground.cluster.node_ids, rng.choice((1, 2, 3)))
    struck, until = 0, time.monotonic() + ground.sizes.hold_s
    with ExitStack() as undoing:
        for node_id in victims:
            undoing.enter_context(ground.disks.slow(node_id, rng.choice(WRITES_PER_SECOND)))
        while time.monotonic() < until and not ground.over.is_set():
            struck += ground.disks.flush_s(rng.choice(victims)) >= SLOW_FLUSH_S
    return struck


def hung_disks(ground: Ground, rng: random.Random) -> int:
    """Let everything that changes one disk, or all, wait for moments; count those."""
    victims = rng.sample(ground.cluster.node_ids, rng.choice((1, 3)))
    struck, until = 0, time.monotonic() + ground.sizes.hold_s
    while time.monotonic() < until and not ground.over.is_set():
        with ExitStack() as undoing:
            for node_id in victims:
                undoing.enter_context(ground.disks.hung(node_id))
            ground.over.wait(rng.uniform(*HUNG_S))
        struck += 1
        ground.over.wait(rng.uniform(*HUNG_S))
    return struck


def impostors(ground: Ground, rng: random.Random) -> int:
    """Kill a node, and say at its address what no correct node says; count the lies that were noticed."""
    cluster, victim = ground.cluster, ground.any_node(rng)
    with ground.killed(victim):
        target = cluster.leader(other_than=victim)
        if rng.random() < 0.5:
            target = next(each for each in cluster.node_ids if each not in (victim, target))
        before = ground.counter(target, "raft_peer_misbehaved")
        somebody = Somebody(cluster, victim)

        async def say() -> None:
            for message in never_right():
                with suppress(TimeoutError):
                    async with asyncio.timeout(CLOSED_S):
                        await somebody.say(target, message)

        somebody.play(say, listens=True)
        noticed = ground.counter(target, "raft_peer_misbehaved") - before
    cluster.wait(lambda: cluster.info(victim) is not None, f"{victim} to answer again")
    return max(0, noticed)
