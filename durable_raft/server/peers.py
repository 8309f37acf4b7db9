"""Links between nodes: each node dials every other and sends on the link it dialled; it hears on those it accepted.

A link carries frames of wire/peer.py and begins with a handshake: the dialler says who it is and whom it wants, the
other end has that confirmed at the address of the node that is named (callers.py), and accepts (hearing.py). Whoever
does not know the cluster id is told nothing, not even why. A link that fails is dialled again after a pause that grows;
what could not be sent is dropped, which Raft is made for. So is a link on which something is said that no correct node
says. Who the others are may change (members.py). What is sent in which order: link_queue.py.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from durable_raft.errors import DurableRaftError
from durable_raft.raft.messages import Envelope
from durable_raft.raft.types import DEFAULT_PRIORITY, Identity, Member, NodeId
from durable_raft.raft.versions import Versions
from durable_raft.server.callers import Callers
from durable_raft.server.cluster_secret import ClusterSecrets, SecretState
from durable_raft.server.complaints import Complaints
from durable_raft.server.dialling import PeerLink
from durable_raft.server.half_sent import HalfSent
from durable_raft.server.hearing import Accepted, Receive
from durable_raft.server.proving import Proofs
from durable_raft.wire.peer import FrameEncoder, NodeMessage
from durable_raft.wire.proof import Stance

REFRESH_S = 1.0
"""How often the file of the secret is looked at."""

_logger = logging.getLogger(__name__)


class Link(Protocol):
    """One node's way to another, as far as others than ``Links`` use it."""

    @property
    def is_up(self) -> bool:
        """Whether the peer accepted the link and it has not failed since."""

    @property
    def is_proven(self) -> bool:
        """Whether both ends of it have proven the cluster secret to each other."""

    @property
    def dropped(self) -> int:
        """Messages that could not be sent."""

    @property
    def is_refused_as_replaced(self) -> bool:
        """Whether the peer refuses this node because another disk took its place (raft/admission.py)."""

    @property
    def is_refused_as_removed(self) -> bool:
        """Whether the peer refuses this node because it was removed from the cluster."""

    @property
    def is_replaced(self) -> bool:
        """Whether what answers there is a disk of the peer that was replaced by another."""

    @property
    def priority(self) -> int:
        """The peer's election priority, as it said when the link was made."""


class Links(Protocol):
    """A node's ways to all others."""

    @property
    def refusals(self) -> int:
        """Return how many links and frames were not believed."""

    @property
    def misbehaviours(self) -> int:
        """Return how many links were dropped because a peer said what no correct node says."""

    @property
    def links(self) -> Mapping[NodeId, Link]:
        """The link to each peer."""

    @property
    def versions(self) -> Mapping[NodeId, Versions]:
        """Which versions of a cluster each peer can that is heard at present, as it said (raft/versions.py)."""

    @property
    def secret(self) -> SecretState:
        """What an operator is told of the cluster secret."""

    async def start(self, host: str, port: int) -> None:
        """Listen for peers and dial them; raises OSError when the address cannot be listened on."""

    def follow(self, members: Sequence[Member]) -> None:
        """Dial and hear ``members`` from now on, each at its address, and nobody else; this node may be one of them."""

    def send(self, envelopes: Sequence[Envelope]) -> None:
        """Send messages to their targets, in order; what cannot be sent is dropped."""

    def tell(self, target: NodeId, message: NodeMessage) -> None:
        """Send one message that is none of the core's."""

    def close(self) -> None:
        """Drop every link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkEvents:
    """Whom the links tell of what; all of it on the event loop."""

    receive: Receive
    """A peer said something."""
    changed: Callable[[], None]
    """A link has come up or gone down."""
    joined: Callable[[NodeId], None]
    """A peer is heard on a new link from here on."""
    was_replaced: Callable[[NodeId, bytes], bool]
    """Asked whether a peer's disk is not to be heard any more (raft/admission.py)."""
    was_removed: Callable[[NodeId], bool]
    """Asked whether a node was removed from the cluster (members.py)."""
    cluster_version: Callable[[], int]
    """Asked which version the cluster has: who cannot it is not heard."""
    half_sent: HalfSent
    """Is told what links have sent that is not complete."""
    failed: Callable[[BaseException], None]
    """A link ended that should have gone on: a bug."""
    priority: int = DEFAULT_PRIORITY
    """This node's election priority, which whoever dials is told."""


class Peers:
    """All links of one node, by TCP."""

    def __init__(
        self,
        identity: Identity,
        members: Sequence[Member],
        rng: random.Random,
        events: LinkEvents,
        secrets: ClusterSecrets | None = None,
    ) -> None:
        """Bind the parts; ``rng`` draws the pauses between dials, ``secrets`` are proven on all links if there are."""
        self.identity = identity
        self.proofs = Proofs(identity, secrets or ClusterSecrets())
        self._refresh_timer: asyncio.TimerHandle | None = None
        self.receive = events.receive
        self.was_replaced, self.was_removed = events.was_replaced, events.was_removed
        self.cluster_version = events.cluster_version
        self.half_sent, self.priority = events.half_sent, events.priority
        self._events, self._rng = events, rng
        self._encoder = FrameEncoder(identity.cluster_id)
        self.callers = Callers()
        self.links: dict[NodeId, PeerLink] = {}
        self.ids: frozenset[NodeId] = frozenset()
        self.accepted: set[asyncio.Transport] = set()
        self._proven: dict[NodeId, Accepted] = {}
        """The link on which each peer is heard."""
        self.refused = Complaints(time.monotonic)
        self.misbehaved = Complaints(time.monotonic)
        self._tasks: dict[NodeId, asyncio.Task[None]] = {}
        """What keeps each link up; empty before the start."""
        self._server: asyncio.Server | None = None
        self.is_closed = False
        self.follow(members)

    async def start(self, host: str, port: int) -> None:
        """Listen for peers and dial them.

        Raises:
            OSError: the address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Accepted(self), host, port)
        for peer in self.links:
            self._dial(peer)
        self._refresh()

    def _refresh(self) -> None:
        """Look from time to time whether the file of the secret has changed; end the links of one that is gone."""
        secrets = self.proofs.secrets
        if secrets.refresh():
            for link in self.links.values():
                link.drop_unproven()
            for accepted in list(self._proven.values()):
                if not secrets.accepts(accepted.secret):
                    accepted.drop()
        if secrets.stance is not Stance.NONE:
            self._refresh_timer = asyncio.get_running_loop().call_later(REFRESH_S, self._refresh)

    def _dial(self, peer: NodeId) -> None:
        """Have the link to ``peer`` made, and kept up."""
        task = asyncio.get_running_loop().create_task(self.links[peer].run(), name=f"link-{peer}")
        task.add_done_callback(self._task_ended)
        self._tasks[peer] = task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """A dialling task that ends by itself has failed."""
        if not task.cancelled():
            self._events.failed(task.exception() or DurableRaftError(f"task {task.get_name()} ended"))

    def follow(self, members: Sequence[Member]) -> None:
        """Dial and hear ``members`` from now on, each at its address, and nobody else; this node may be one of them."""
        if self.is_closed:
            return
        others = {member.node_id: member for member in members if member.node_id != self.identity.node_id}
        self.ids = frozenset(others)
        for peer in self.links.keys() - others.keys():
            self._end(peer)
        for peer, member in others.items():
            if peer in self.links:
                self.links[peer].readdress(member)
                continue
            events = self._events
            self.links[peer] = PeerLink(
                member, self._rng, events.changed, self._encoder, events.was_replaced, self.callers, self.proofs
            )
            if self._server is not None:
                self._dial(peer)

    def _end(self, peer: NodeId) -> None:
        """Neither dial nor hear ``peer`` any more."""
        self.links.pop(peer).close()
        if (task := self._tasks.pop(peer, None)) is not None:
            task.cancel()
        if (accepted := self._proven.get(peer)) is not None:
            accepted.drop()

    def send(self, envelopes: Sequence[Envelope]) -> None:
        """Send messages to their targets; what is for a member to whom there is no link is dropped."""
        for envelope in envelopes:
            self.tell(envelope.target, envelope.message)

    def tell(self, target: NodeId, message: NodeMessage) -> None:
        """Send one message that is none of the core's; raises nothing and drops as ``send``."""
        # A configuration may name anybody: what a peer sent must not end this node.
        link = self.links.get(target)
        if link is not None:
            link.send(message)

    @property
    def versions(self) -> Mapping[NodeId, Versions]:
        """Which versions of a cluster each peer can that is heard at present."""
        return {peer: link.versions for peer, link in self._proven.items()}

    @property
    def secret(self) -> SecretState:
        """What an operator is told of the cluster secret."""
        return self.proofs.secrets.state

    @property
    def refusals(self) -> int:
        """Return how many links and frames were not believed."""
        return self.refused.count

    @property
    def misbehaviours(self) -> int:
        """Return how many links were dropped because a peer said what no correct node says."""
        return self.misbehaved.count

    def joined(self, peer: NodeId, link: Accepted) -> None:
        """Hear ``peer`` on ``link``; the one before has ended, though this node may not have noticed."""
        before, self._proven[peer] = self._proven.get(peer), link
        if before is not None:
            before.drop()
        self._events.joined(peer)

    def left(self, peer: NodeId | None, link: Accepted) -> None:
        """Note that ``link`` has ended."""
        if peer is not None and self._proven.get(peer) is link:
            del self._proven[peer]

    def close(self) -> None:
        """Drop every link."""
        self.is_closed = True
        if self._refresh_timer is not None:
            self._refresh_timer.cancel()
        if self._server is not None:
            self._server.close()
        for task in self._tasks.values():
            task.cancel()
        for link in self.links.values():
            link.close()
        for transport in list(self.accepted):
            transport.abort()
