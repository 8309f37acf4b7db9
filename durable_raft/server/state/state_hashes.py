"""Do the replicas hold the same state? Each tells the others what its own is at the same places of the log.

The places are the entries whose index ``EVERY`` divides, so that all speak of the same state without asking. A replica
that a majority contradicts is wrong, whatever the cause: a machine that is not deterministic, memory or a disk that
lies. It fences itself; the others name it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from durable_raft.kv.records import StateSummary
from durable_raft.raft.quorum import majority
from durable_raft.raft.types import Entry, Index, NodeId
from durable_raft.wire.peer import StateHash

EVERY: Final = 128
"""Entries between two comparisons."""

KEPT: Final = 64
"""Places that are remembered: a replica that lags further than this is not compared until it has caught up."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a majority says of a place."""

    index: Index
    wrong: tuple[NodeId, ...]
    """Nodes that hold another state than the majority, sorted."""


class StateHashes:
    """What is known of every replica's state at the latest places."""

    def __init__(self, node_id: NodeId, voters: Iterable[NodeId]) -> None:
        """Begin with nothing; ``voters`` are all that count, this node included."""
        self._node_id = node_id
        self._majority = majority(len(tuple(voters)))
        self._said: dict[Index, dict[NodeId, StateHash]] = {}
        self._judged: set[Index] = set()
        self.compared = 0
        """Places at which a majority was found to agree."""

    def applied(self, entry: Entry, summary: StateSummary) -> StateHash | None:
        """Note the own state after ``entry``; return what to tell the others, None where nothing is compared."""
        if entry.index % EVERY:
            return None
        said = StateHash(entry.index, entry.chain, summary.key_count, summary.state_hash)
        self.heard(self._node_id, said)
        return said

    def heard(self, source: NodeId, said: StateHash) -> None:
        """Note what ``source`` says its state is."""
        if said.applied_index % EVERY:
            return
        self._said.setdefault(said.applied_index, {})[source] = said
        if len(self._said) > KEPT:
            oldest = min(self._said)
            del self._said[oldest]
            self._judged.discard(oldest)

    def verdict(self, index: Index) -> Verdict | None:
        """Return what a majority says of ``index``; None while none has spoken, or nothing has changed since."""
        said = self._said.get(index, {})
        for value in set(said.values()):
            agree = [node for node, other in said.items() if other == value]
            if len(agree) < self._majority:
                continue
            if index not in self._judged:
                self._judged.add(index)
                self.compared += 1
            wrong = tuple(sorted(node for node in said if node not in agree))
            return Verdict(index, wrong) if wrong else None
        return None

    def forget(self) -> None:
        """Forget everything: this node begins with another state."""
        self._said.clear()
        self._judged.clear()
