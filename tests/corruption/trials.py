"""What the trials of a corruption campaign share: whom they damage, what it is told, and how outcomes are counted."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from durable_raft.raft.types import Member, Membership, NodeId
from durable_raft.server.settings.config import NodeConfig
from tests.corruption import start
from tests.corruption.base import VICTIM, Base


@dataclass(slots=True)
class Result:
    """What a campaign counted."""

    outcomes: dict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    failures: list[str] = field(default_factory=list)
    unchanged: Counter[str] = field(default_factory=Counter)
    """Trials whose damage changed no byte."""

    def note(self, kind: str, environment: str, outcome: str, replay: str) -> None:
        """Count an outcome."""
        word = outcome.partition(":")[0] if outcome.startswith(("refused", *start.FAILURES)) else outcome
        self.outcomes[kind, environment][word] += 1
        if outcome.startswith(start.FAILURES):
            self.failures.append(f"{kind} of {environment}: {outcome}\n  again: {replay}")

    def figures(self) -> dict[str, Any]:
        """Return the outcomes by kind and environment, for tests/results."""
        told: dict[str, dict[str, dict[str, int]]] = {}
        for (kind, environment), counts in self.outcomes.items():
            told.setdefault(kind, {})[environment] = dict(counts.most_common())
        return {"outcomes": told, "failures": len(self.failures)}

    def table(self) -> list[str]:
        """Return the outcomes by kind."""
        lines = []
        for (kind, environment), counts in self.outcomes.items():
            told = ", ".join(f"{word} {count}" for word, count in counts.most_common())
            lines.append(f"{kind:24} {environment:5} {sum(counts.values()):5}  {told}")
        return lines


def config_of(base: Base, directory: Path) -> NodeConfig:
    """Return what the victim is told when its directory is ``directory``."""
    members = tuple(
        Member(NodeId(n.node_id), f"127.0.0.1:{n.client_port}", f"127.0.0.1:{n.peer_port}")
        for n in base.cluster.nodes.values()
    )
    me = base.cluster.nodes[VICTIM]
    return NodeConfig(
        node_id=NodeId(VICTIM),
        directory=directory,
        client_host="127.0.0.1",
        client_port=me.client_port,
        peer_host="127.0.0.1",
        peer_port=me.peer_port,
        membership=Membership(members),
        log_commit="lmdb",
    )


def rng_of(seed: int, kind: str, environment: str, number: int) -> random.Random:
    """Return the generator of one trial."""
    return random.Random(f"{seed} {kind} {environment} {number}")
