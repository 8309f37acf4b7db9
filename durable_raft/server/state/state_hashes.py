"""Do the replicas hold the same state? Each tells the others what its checkpoints are, and of which place of the log.

What a state is, is known once a checkpoint of it was written (kv/layer.py). So checkpoints are taken at *agreed
places*, which every replica finds by itself: entries whose index ``AGREED_ENTRIES`` divides, and the first entry of
each ``AGREED_MS`` of the cluster time. A replica that has too many checkpoints under way leaves one out, and says
nothing of it. Other checkpoints are told of, too: replicas that have nothing to apply take theirs at one place.

A replica that a majority contradicts is wrong, whatever the cause: a machine that is not deterministic, memory or a
disk that lies. It fences itself; the others name it.

What each node says is kept apart, its latest places only. So a node that says much, or speaks of places that nobody
has reached, makes nobody forget what others said. A place is judged once this node has a checkpoint there itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from durable_raft.kv.records import StateSummary
from durable_raft.raft.quorum import has_quorum
from durable_raft.raft.types import Configuration, Index, LogPoint, NodeId
from durable_raft.raft.versions import FIRST
from durable_raft.wire.peer import StateHash

_OF_VERSION: Final = 0x9E3779B97F4A7C15
"""What a version adds to a hash that is told: odd, so no two versions add the same."""

AGREED_ENTRIES: Final = 16_384
"""Entries between two agreed places, at most. Replicas need not agree on it, but compare nothing if they do not."""

AGREED_MS: Final = 20_000
"""The same in cluster time, and up to the next entry."""

KEPT: Final = 64
"""Places that are remembered: a replica that lags further than this is not compared until it has caught up."""


def is_agreed_index(index: Index) -> bool:
    """Return whether all replicas take a checkpoint of the state at ``index``."""
    return not index % AGREED_ENTRIES


def is_agreed_time(time_ms: int, before_ms: int) -> bool:
    """Return whether all replicas take a checkpoint at an entry for its time: a period of ``AGREED_MS`` begins with it.

    Args:
        time_ms: the cluster time that the entry sets.
        before_ms: the cluster time before it; 0: there was none.
    """
    return 0 < before_ms // AGREED_MS != time_ms // AGREED_MS


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a majority says of a place."""

    index: Index
    wrong: tuple[NodeId, ...]
    """Nodes that hold another state than the majority, sorted."""


class StateHashes:
    """What is known of every replica's state at the latest places."""

    def __init__(self, node_id: NodeId, configuration: Callable[[], Configuration]) -> None:
        """Begin with nothing; ``configuration`` returns the present one, of which a majority has a say."""
        self._node_id = node_id
        self._configuration = configuration
        self._said: defaultdict[NodeId, dict[Index, StateHash]] = defaultdict(dict)
        """What each node said, by place, in the order in which it was said."""
        self._judged: set[Index] = set()
        self.compared = 0
        """Places at which a majority was found to agree."""

    def settled(self, point: LogPoint, summary: StateSummary, version: int = FIRST) -> StateHash:
        """Note the own state at ``point``; return what to tell the others.

        The version of the cluster is a part of the state, so what is told differs where only that does.
        """
        state_hash = (summary.state_hash + (version - FIRST) * _OF_VERSION) % 2**64
        said = StateHash(point.index, point.chain, summary.key_count, state_hash)
        self.heard(self._node_id, said)
        return said

    def heard(self, source: NodeId, said: StateHash) -> None:
        """Note what ``source`` says its state is."""
        places = self._said[source]
        # Said again, it is the newest.
        places.pop(said.applied_index, None)
        places[said.applied_index] = said
        if len(places) > KEPT:
            oldest = next(iter(places))
            del places[oldest]
            if source == self._node_id:
                self._judged.discard(oldest)

    def verdict(self, index: Index) -> Verdict | None:
        """Return what a majority says of ``index``; None while none has spoken, or this node has not."""
        said = {node: places[index] for node, places in self._said.items() if index in places}
        if self._node_id not in said:
            return None
        for value in set(said.values()):
            agree = [node for node, other in said.items() if other == value]
            if not has_quorum(self._configuration(), agree):
                continue
            if index not in self._judged:
                self._judged.add(index)
                self.compared += 1
            wrong = tuple(sorted(node for node in said if node not in agree))
            return Verdict(index, wrong) if wrong else None
        return None

    def forget(self) -> None:
        """Forget everything: this node begins with another state."""
        for places in self._said.values():
            places.clear()
        self._judged.clear()
