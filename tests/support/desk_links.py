"""The links of the node on a desk: to peers that the test plays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from durable_raft.raft.messages import Envelope
from durable_raft.raft.types import DEFAULT_PRIORITY, Member, NodeId
from durable_raft.raft.versions import Versions
from durable_raft.server.cluster_secret import SecretState
from durable_raft.wire.messages import AskTime, NodeMessage, TellMembers
from tests.support.raft_trace import message_words

if TYPE_CHECKING:
    from tests.support.desk import Desk


class DeskLink:
    """The link to one peer."""

    def __init__(self, desk: Desk, node: NodeId) -> None:
        self._desk, self._node = desk, node
        self.dropped = 0
        self.priority = DEFAULT_PRIORITY
        self.is_refused_as_replaced = self.is_replaced = self.is_refused_as_removed = self.is_proven = False

    @property
    def is_up(self) -> bool:
        """Whether the test lets it be."""
        return self._node not in self._desk.unreachable


class DeskLinks:
    """Links to peers that the test plays."""

    refusals = misbehaviours = 0
    secret = SecretState()
    versions: Mapping[NodeId, Versions] = {}
    """What the test has the peers say; nobody says anything by default."""

    def __init__(self, desk: Desk, own: NodeId, members: Sequence[Member]) -> None:
        self._desk, self._own = desk, own
        self.links: dict[NodeId, DeskLink] = {}
        self.follow(members)

    async def start(self, host: str, port: int) -> None:
        """Nothing is dialled."""

    def follow(self, members: Sequence[Member]) -> None:
        """Have a link to each of them, this node left out."""
        others = [member.node_id for member in members if member.node_id != self._own]
        for gone in self.links.keys() - set(others):
            del self.links[gone]
        for node in others:
            self.links.setdefault(node, DeskLink(self._desk, node))

    def send(self, envelopes: Sequence[Envelope]) -> None:
        """Note what is sent."""
        for envelope in envelopes:
            self._desk.note(f"sends to {envelope.target}: {message_words(envelope.message)}")

    def tell(self, target: NodeId, message: NodeMessage) -> None:
        """What is none of the core's is not played here, but for clocks; who the members are is kept."""
        if isinstance(message, AskTime):
            self._desk.asked_time(target, message)
        elif isinstance(message, TellMembers):
            self._desk.told.append((target, message))

    def close(self) -> None:
        """Nothing is open."""
