"""What played peers answer when a node asks them what time it is."""

from __future__ import annotations

from dataclasses import dataclass, field

from durable_raft.raft.types import Index, NodeId
from durable_raft.wire.messages import AskTime, TellTime


@dataclass
class PlayedClocks:
    """The clocks of a node's peers; unless told otherwise they show what its own shows, and nobody knows more."""

    timeless: set[NodeId] = field(default_factory=set)
    """Peers that do not answer."""
    ahead_ms: dict[NodeId, int] = field(default_factory=dict)
    """By how much a peer's clock is ahead of the node's."""
    knows: dict[NodeId, tuple[int, Index]] = field(default_factory=dict)
    """What peers say that the cluster time is, and up to where they have applied."""

    def answer(self, peer: NodeId, question: AskTime, time_of_day_ms: int) -> TellTime | None:
        """Return what ``peer`` answers, if anything."""
        if peer in self.timeless:
            return None
        known = self.knows.get(peer, (0, Index(0)))
        return TellTime(question.asked_ms, time_of_day_ms + self.ahead_ms.get(peer, 0), *known)
