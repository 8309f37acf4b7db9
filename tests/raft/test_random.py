"""A seeded random walk: messages lost, doubled and overtaken, links cut, disks slow, nodes killed in mid-write.

Every step is checked by all invariants. In the end everything is mended, and the cluster must elect a leader, agree,
and still hold every committed entry. A failure names its seed and prints the last lines of what happened;
``pytest "tests/raft/test_random.py::test_walk[17]"`` plays seed 17 again. ``RAFT_WALK_SEEDS=5000-6000`` walks others.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from durable_raft.raft.timeouts import Timeouts
from durable_raft.raft.types import Index, Role
from tests.support.raft_checks import require
from tests.support.raft_cluster import Cluster
from tests.support.raft_nodes import Limits, Node
from tests.support.random_timeouts import RandomTimeouts

FIRST_SEED, LAST_SEED = (int(seed) for seed in os.environ.get("RAFT_WALK_SEEDS", "0-299").split("-"))
"""Both inclusive; 300 walks take about ten seconds."""

SMALL_LIMITS: Limits = {
    "append_bytes_max": 30,
    "append_inflight_max": 3,
    "append_inflight_bytes_max": 90,
    "log_cache_bytes_max": 40,
}
"""Small enough that every window fills and old entries are read back from the disk."""


class Walk:
    """One random history."""

    steps = 2_500
    """Random ones, some 30 ms of work."""

    def __init__(self, seed: int, *, keeps_trace: bool) -> None:
        self.rng = random.Random(f"walk {seed}")
        self.counts: Counter[str] = Counter()
        self.cluster = self.make_cluster(seed, keeps_trace=keeps_trace)
        self.is_patience_random = self.rng.random() < 0.3
        for node in self.cluster.nodes.values():
            node.is_slow = True
            self._wait_as_chance_gives(node)
        self.proposed = 0

    def make_cluster(self, seed: int, *, keeps_trace: bool) -> Cluster:
        """Return the cluster to walk with."""
        voters = self.rng.choice(["n1 n2 n3", "n1 n2 n3", "n1 n2 n3 n4 n5", "n1 n2", "n1"])
        limits: Limits = {**SMALL_LIMITS, "election_timeout_bound_ms": self.rng.choice([1, 1, 1, 600, 2_000])}
        return Cluster(voters, seed=seed, keeps_trace=keeps_trace, **limits)

    def step(self) -> None:
        """Do one random thing."""
        action = self.rng.choices(ACTIONS, WEIGHTS)[0]
        self.cluster.defers_work = self.rng.random() < 0.25
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
            node = self.rng.choice(nodes)
            self.cluster.restart(node.name)
            self._wait_as_chance_gives(node)
        return bool(nodes)

    def _wait_as_chance_gives(self, node: Node) -> None:
        """Replace what the node has learned to wait, in some walks: no rule of Figure 3 depends on it."""
        if self.is_patience_random:
            state = node.core.state
            state.timeouts = RandomTimeouts(node.config, f"{self.cluster.seed} {node.name}")
            self.counts["random patience"] += 1

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
        cluster.defers_work = False
        cluster.heal()
        for node in cluster.nodes.values():
            if node.raft is None:
                cluster.restart(node.name)
            node.core.state.timeouts = Timeouts(node.config)
            cluster.fast(node.name)
        committed = len(cluster.rules.committed_chains)
        cluster.run_until(self._agrees, ms=10_000)
        self.cluster.propose(cluster.leader() or "", "after the mending")
        cluster.run_until(self._agrees, ms=5_000)
        require(len(cluster.rules.committed_chains) > committed, "nothing was committed after the mending")
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
        return all(
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


def run_walk(walk: Walk) -> None:
    """Walk as many random steps as its kind does, and mend."""
    for _ in range(walk.steps):
        walk.step()
    walk.mend()


def play(kind: type[Walk], seed: int) -> None:
    """Walk, and when that finds something walk once more, to print the end of what happened."""
    try:
        run_walk(kind(seed, keeps_trace=False))
    except Exception:
        print(f"seed {seed}; the end of what happened:")
        replay = kind(seed, keeps_trace=True)
        try:
            run_walk(replay)
        finally:
            print("\n".join(replay.cluster.trace[-80:]))
        raise


@pytest.mark.parametrize("seed", range(FIRST_SEED, LAST_SEED + 1))
def test_walk(seed: int) -> None:
    """Whatever happens, no rule of Figure 3 breaks, and after the mending all agree."""
    play(Walk, seed)


def test_walks_reach_what_they_should() -> None:
    """The walk is no stroll: each kind of trouble, and each answer to it, happens many times in forty seeds."""
    counts: Counter[str] = Counter()
    for seed in range(1_000, 1_040):
        walk = Walk(seed, keeps_trace=False)
        run_walk(walk)
        counts += walk.counts + Counter(walk.cluster.counts)
        for node in walk.cluster.nodes.values():
            counts["reads answered"] += len(node.answered)
            counts["reads lost"] += len(node.lost_reads)
        counts["terms led"] += len(walk.cluster.rules.leaders)
        counts["entries committed"] += len(walk.cluster.rules.committed_chains)

    least = {
        "crash": 300,
        "partition": 300,
        "lose": 300,
        "double": 300,
        "terms led": 150,
        "entries committed": 2_000,
        "reads answered": 500,
        "reads lost": 60,
        "truncated_suffix": 20,
        "lost_quorum": 15,
        "heartbeat_withheld": 10,
        "timeouts_raised": 30,
        "random patience": 30,
    }
    assert {name: counts[name] for name, number in least.items() if counts[name] < number} == {}


def test_same_seed_same_history() -> None:
    """One seed makes one history, line by line: a failure can be played again."""
    first, second = Walk(3, keeps_trace=True), Walk(3, keeps_trace=True)
    run_walk(first)
    run_walk(second)

    assert len(first.cluster.trace) > 1_000
    assert first.cluster.trace == second.cluster.trace
