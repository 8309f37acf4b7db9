"""A seeded random walk: messages lost, doubled and overtaken, links cut, disks slow, nodes killed in mid-write.

Every step is checked by all invariants. In the end everything is mended, and the cluster must elect a leader, agree,
and still hold every committed entry. A failure names its seed: ``pytest tests/raft/test_random.py -k "walk[17]"`` plays
it again, and prints the last lines of what happened.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from durable_raft.raft.types import Index, NodeId, Role
from tests.support.raft_cluster import Cluster, Node
from tests.support.raft_checks import require

SEEDS = 150
STEPS = 2_500
"""Per seed; together about fifteen seconds on one core."""

REGRESSIONS: tuple[int, ...] = ()
"""Seeds that once failed, and now must not."""

SMALL_LIMITS = {
    "append_bytes_max": 30,
    "append_inflight_max": 3,
    "append_inflight_bytes_max": 90,
    "log_cache_bytes_max": 40,
}
"""Small enough that every window fills and old entries are read back from the disk."""


class Walk:
    """One random history."""

    def __init__(self, seed: int, *, keeps_trace: bool) -> None:
        self.rng = random.Random(f"walk {seed}")
        voters = self.rng.choice(["n1 n2 n3", "n1 n2 n3", "n1 n2 n3 n4 n5", "n1 n2", "n1"])
        self.cluster = Cluster(voters, seed=seed, keeps_trace=keeps_trace, **SMALL_LIMITS)
        for node in self.cluster.nodes.values():
            node.is_slow = True
        self.counts: Counter[str] = Counter()
        self.proposed = 0

    def step(self) -> None:
        """Do one random thing."""
        action = self.rng.choices(ACTIONS, WEIGHTS)[0]
        if action(self):
            self.counts[action.__name__] += 1

    def deliver(self) -> bool:
        """Let one message arrive, mostly the oldest, sometimes one that overtook others."""
        packets = self.cluster.packets
        if not packets:
            return False
        position = 0 if self.rng.random() < 0.7 else self.rng.randrange(len(packets))
        self.cluster.arrive(packets.pop(position))
        return True

    def lose(self) -> bool:
        """Lose one message."""
        packets = self.cluster.packets
        if packets:
            packets.pop(self.rng.randrange(len(packets)))
        return bool(packets)

    def double(self) -> bool:
        """Let one message arrive a second time, later."""
        packets = self.cluster.packets
        if packets:
            packets.append(self.rng.choice(packets))
        return bool(packets)

    def flush(self) -> bool:
        """Flush the oldest write in flight of some node."""
        nodes = [node for node in self.cluster.up() if node.pending]
        if nodes:
            self.cluster.flush(self.rng.choice(nodes).name)
        return bool(nodes)

    def wait(self) -> bool:
        """Let a little time pass and fire the timers that are due; some fire late, as on a busy machine."""
        cluster = self.cluster
        cluster.now += self.rng.randrange(30)
        for node in cluster.up():
            deadline = node.core.deadline()
            if deadline is not None and deadline <= cluster.now and self.rng.random() < 0.8:
                cluster.fire(node.name)
        return True

    def propose(self) -> bool:
        """Propose a write wherever some node believes that it leads."""
        leaders = self._leaders()
        if leaders:
            self.proposed += 1
            self.cluster.propose(self.rng.choice(leaders).name, f"write {self.proposed}")
        return bool(leaders)

    def read(self) -> bool:
        """Ask for a read wherever some node believes that it leads."""
        leaders = self._leaders()
        if leaders:
            leader = self.rng.choice(leaders)
            after = leader.core.log.last.index if self.rng.random() < 0.3 else 0
            self.cluster.read(leader.name, after)
        return bool(leaders)

    def crash(self) -> bool:
        """Kill a node; some of its writes in flight may have reached the disk."""
        nodes = self.cluster.up()
        if nodes:
            node = self.rng.choice(nodes)
            self.cluster.crash(node.name, reached_disk=self.rng.randint(0, len(node.pending)))
        return bool(nodes)

    def restart(self) -> bool:
        """Start a node that is down."""
        nodes = [node for node in self.cluster.nodes.values() if node.raft is None]
        if nodes:
            self.cluster.restart(self.rng.choice(nodes).name)
        return bool(nodes)

    def partition(self) -> bool:
        """Split the cluster in two, or cut one direction of one link."""
        names = list(self.cluster.nodes)
        if len(names) < 2:
            return False
        self.rng.shuffle(names)
        if self.rng.random() < 0.5:
            self.cluster.cut(names[0], names[1])
        else:
            half = self.rng.randrange(1, len(names))
            self.cluster.partition(names[:half], names[half:])
        return True

    def heal(self) -> bool:
        """Mend every link."""
        self.cluster.heal()
        return True

    def mend(self) -> None:
        """Mend everything, and require that the cluster elects, agrees, and holds all that was committed."""
        cluster = self.cluster
        cluster.heal()
        for node in cluster.nodes.values():
            if node.raft is None:
                cluster.restart(node.name)
            cluster.fast(node.name)
        committed = len(cluster.rules.committed_chains)
        cluster.run_until(self._agrees, ms=5_000)
        require(len(cluster.rules.committed_chains) > committed, "a new entry is committed after the mending")
        for node in cluster.nodes.values():
            for index in range(1, committed + 1):
                chain = cluster.rules.committed_chains[index - 1]
                require(node.core.log.chain_at(Index(index)) == chain, f"{node.name} lost the committed entry {index}")

    def _agrees(self) -> bool:
        leader = self.cluster.leader()
        if leader is None:
            return False
        last = self.cluster[leader].log.last
        if last.term != self.cluster[leader].current_term:
            return False
        if last.index == self.cluster[leader].log.commit_index and self.cluster[leader].log.last_applied == last.index:
            self.cluster.propose(leader, "after the mending") if not self.counts["mended"] else None
            self.counts["mended"] += 1
        return self.counts["mended"] > 0 and all(
            node.core.log.last_applied == node.core.log.last.index and node.core.log.last == last
            for node in self.cluster.nodes.values()
        )

    def _leaders(self) -> list[Node]:
        return [node for node in self.cluster.up() if node.core.role is Role.LEADER]


ACTIONS = [
    Walk.deliver,
    Walk.flush,
    Walk.wait,
    Walk.propose,
    Walk.read,
    Walk.lose,
    Walk.double,
    Walk.crash,
    Walk.restart,
    Walk.partition,
    Walk.heal,
]
WEIGHTS = [40, 14, 16, 8, 3, 2, 2, 0.6, 2, 1.0, 1.0]


def walk(seed: int, steps: int = STEPS, *, keeps_trace: bool = False) -> Walk:
    """Walk ``steps`` random steps and mend."""
    walked = Walk(seed, keeps_trace=keeps_trace)
    for _ in range(steps):
        walked.step()
    walked.mend()
    return walked
