"""The seeded random walk of test_random.py in a cluster whose members come and go.

Nodes join, are promoted, demoted and removed, many at once, by whoever believes that it leads; leadership is handed
over; logs are compacted, so that nodes come back by snapshot. Those who were removed run on. In the end everything is
mended: the members must elect a leader, complete the change that is under way, agree, and hold all that was committed.
``pytest "tests/raft/test_random_members.py::test_walk[17]"`` plays seed 17 again; ``RAFT_CHURN_SEEDS=0-999`` others.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from durable_raft.errors import ChangeRefused
from durable_raft.raft.changes import AddLearner, Demote, Promote, Remove, Step
from durable_raft.raft.timeouts import Timeouts
from durable_raft.raft.types import Configuration, Index, Member, NodeId
from tests.raft import test_random
from tests.raft.test_random import SMALL_LIMITS, Walk, play, run_walk
from tests.support.raft_checks import require
from tests.support.raft_cluster import Cluster
from tests.support.raft_nodes import Limits, Node

FIRST_SEED, LAST_SEED = (int(seed) for seed in os.environ.get("RAFT_CHURN_SEEDS", "0-149").split("-"))
"""Both inclusive."""

JOINERS = "n6 n7 n8 n9"


class Churn(Walk):
    """One random history with changes of members."""

    steps = 2_000

    def make_cluster(self, seed: int, *, keeps_trace: bool) -> Cluster:
        """Return a cluster with nodes that wait to be added."""
        limits: Limits = {**SMALL_LIMITS, "election_timeout_bound_ms": self.rng.choice([1, 600, 2_000])}
        voters = self.rng.choice(["n1 n2 n3", "n1 n2 n3", "n1 n2", "n1", "n1 n2 n3 n4"])
        return Cluster(voters, joiners=JOINERS, seed=seed, keeps_trace=keeps_trace, **limits)

    def step(self) -> None:
        """Do one random thing."""
        action = self.rng.choices(ACTIONS, WEIGHTS)[0]
        self.cluster.defers_work = self.rng.random() < 0.25
        if action(self):
            self.counts[action.__name__] += 1

    def change(self) -> bool:
        """Ask a node that believes it leads for a change, sometimes one made against another configuration."""
        leaders = self._leaders()
        if not leaders:
            return False
        leader = self.rng.choice(leaders)
        configuration = leader.core.configuration
        steps = self._steps(configuration)
        against = None if self.rng.random() < 0.95 else configuration.index + 1
        try:
            self.cluster.change(leader.name, *steps, against=against)
        except ChangeRefused as refusal:
            self.counts[type(refusal).__name__] += 1
            return False
        return True

    def _steps(self, configuration: Configuration) -> list[Step]:
        """Mostly exchange voters for learners, several at once: that is what joint configurations are for."""
        rng = self.rng
        if configuration.learners and rng.random() < 0.6:
            promoted = rng.sample(configuration.learners, rng.randint(1, len(configuration.learners)))
            demoted = rng.sample(configuration.voters, min(len(promoted), len(configuration.voters)))
            return [*map(Promote, promoted), *map(Demote, demoted[rng.randint(0, 1) :])]
        if rng.random() < 0.6:
            name = rng.choice(JOINERS.split())
            return [AddLearner(Member(NodeId(name), f"{name}:1", f"{name}:2"))]
        going = rng.sample(configuration.ids(), rng.choice([1, 1, 2]) % len(configuration.members))
        return [Remove(name) if rng.random() < 0.5 else Demote(name) for name in going]

    def transfer(self) -> bool:
        """Have a leader hand its leadership over."""
        leaders = self._leaders()
        if not leaders:
            return False
        leader = self.rng.choice(leaders)
        try:
            self.cluster.transfer(leader.name, self.rng.choice(list(self.cluster.nodes)))
        except ChangeRefused:
            return False
        return True

    def checkpoint(self) -> bool:
        """Let the log of a node begin behind what it has applied and flushed."""
        nodes = self.cluster.up()
        if not nodes:
            return False
        node = self.rng.choice(nodes)
        log = node.core.log
        upto = min(log.last_applied, log.flushed)
        if node.pending or upto <= log.base.index or not node.core.is_whole:
            return False
        self.cluster.checkpoint(node.name, upto)
        return True

    def install(self) -> bool:
        """Have a node go on from the snapshot that it was offered, if that can still be had and is wanted."""
        waiting = [node for node in self.cluster.up() if node.offer is not None]
        return bool(waiting) and self._install(self.rng.choice(waiting))

    def _install(self, node: Node) -> bool:
        offer = node.offer
        if offer is None:
            return False
        giver = self.cluster.node(offer.source)
        if giver.raft is None or not giver.core.log.base.index <= offer.point.index or node.pending:
            return False
        if offer.point.index != giver.core.log.base.index or not node.core.wants_snapshot(offer.point):
            node.offer = None
            return False
        self.cluster.defers_work = False
        self.cluster.install(node.name)
        while node.pending:
            # The state is durable before the log is told (snapshots.py), so the node counts it as flushed at once.
            self.cluster.flush(node.name)
        return True

    def mend(self) -> None:
        """Mend everything, and require that the members elect, complete, agree, and hold all that was committed."""
        cluster = self.cluster
        cluster.defers_work = False
        cluster.heal()
        for node in cluster.nodes.values():
            if node.raft is None:
                cluster.restart(node.name)
            node.core.state.timeouts = Timeouts(node.config)
            cluster.fast(node.name)
        committed = len(cluster.rules.committed_chains)
        cluster.run_until(self._is_mended, ms=20_000)
        self.cluster.propose(cluster.leader() or "", "after the mending")
        cluster.run_until(self._is_mended, ms=5_000)
        require(len(cluster.rules.committed_chains) > committed, "nothing was committed after the mending")
        for node in self._members():
            log = node.core.log
            for index in range(log.base.index or 1, committed + 1):
                chain = cluster.rules.committed_chains[index - 1]
                require(log.chain_at(Index(index)) == chain, f"{node.name} lost the committed entry {index}")
        self.counts["configurations"] += cluster[cluster.leader() or ""].configuration.index > 0

    def _members(self) -> list[Node]:
        leader = self.cluster.leader()
        return [] if leader is None else [self.cluster.node(name) for name in self.cluster[leader].configuration.ids()]

    def _is_mended(self) -> bool:
        for node in self.cluster.nodes.values():
            self._install(node)
        leader = self.cluster.leader()
        if leader is None:
            return False
        core = self.cluster[leader]
        is_complete = core.configuration.is_at_rest and core.is_configuration_committed and not core.is_transferring
        if not is_complete or core.log.last.term != core.current_term:
            return False
        return all(
            node.core.log.last_applied == node.core.log.last.index
            and node.core.log.last == core.log.last
            and node.core.configuration == core.configuration
            for node in self._members()
        )


ACTIONS = [*test_random.ACTIONS, Churn.change, Churn.transfer, Churn.checkpoint, Churn.install]
WEIGHTS = [2.0 * test_random.WEIGHTS[0], *test_random.WEIGHTS[1:], 6, 0.5, 1.0, 4]


@pytest.mark.parametrize("seed", range(FIRST_SEED, LAST_SEED + 1))
def test_walk(seed: int) -> None:
    """Whoever comes and goes, no rule of Figure 3 breaks, and after the mending the members agree."""
    play(Churn, seed)


def test_walks_reach_what_they_should() -> None:
    """Members come and go in all ways, and everything that a change may meet is met many times in forty seeds."""
    counts: Counter[str] = Counter()
    for seed in range(1_000, 1_040):
        walk = Churn(seed, keeps_trace=False)
        run_walk(walk)
        counts += walk.counts + Counter(walk.cluster.counts)

    least = {
        "change": 100,
        "configuration": 600,
        "configuration_complete": 100,
        "admitted": 40,
        "transfer": 10,
        "transfer_begun": 20,
        "installed_snapshot": 15,
        "truncated_suffix": 10,
        "ChangeInProgress": 100,
        "StaleConfiguration": 20,
        "NotReady": 50,
        "NotCaughtUp": 20,
        "NoWorkingMajority": 2,
        "IdUsed": 20,
    }
    assert {name: counts[name] for name, number in least.items() if counts[name] < number} == {}
