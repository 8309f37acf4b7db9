"""Links between nodes: each node dials every other and sends on the link it dialled; it hears on those it accepted.

A link carries frames of wire/peer.py and begins with a handshake: the dialler says who it is and whom it wants, the
other end accepts or says why not. A link that fails is dialled again after a pause that grows; what could not be sent
is dropped, which Raft is made for. What is sent in which order: link_queue.py.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from durable_raft import __version__
from durable_raft.addresses import parse_address
from durable_raft.errors import DiskReplaced, DurableRaftError, PeerError
from durable_raft.raft.messages import Envelope
from durable_raft.raft.types import Identity, Member, NodeId
from durable_raft.server.half_sent import HalfSent
from durable_raft.server.link_queue import LinkQueue
from durable_raft.server.logs import event
from durable_raft.wire.peer import FrameEncoder, FrameParser, Hello, HelloReply, NodeMessage, PeerMessage, encode_frame
from durable_raft.wire.pieces import FRAME_BODY_BYTES_MAX

REDIAL_MIN_S = 0.05
REDIAL_MAX_S = 1.0
"""Pause before a failed link is dialled again: doubled each time between these, so that a node that comes back is
reached within a second and a dead one costs nothing."""

HANDSHAKE_TIMEOUT_S = 2.0
HANDSHAKE_BYTES_MAX = 64 << 10
"""Body of the longest frame that is taken from somebody who has not said who it is."""

MESSAGE_BYTES_MAX = 1 << 30
"""Largest message taken from a peer in pieces: one entry may hold a value of the largest size, with its batch."""

UNSENT_BYTES_MAX = 128 << 10
"""Bytes that the kernel takes before it has sent those before them: they stand in front of the next heartbeat."""

WINDOW_BYTES_MAX = 1 << 20
"""Bytes that the kernel takes from a peer before this node has read those before them."""

TCP_USER_TIMEOUT_MS = 5000
"""How long sent bytes may stay unacknowledged before the kernel gives the link up: a host may vanish silently."""

_logger = logging.getLogger(__name__)

Receive = Callable[[NodeId, NodeMessage], None]


def _tune(transport: asyncio.BaseTransport) -> None:
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)
    if hasattr(socket, "TCP_WINDOW_CLAMP"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, WINDOW_BYTES_MAX)


class _Dialled(asyncio.Protocol):
    """The sending end of a link: says hello, waits to be accepted, then only writes."""

    def __init__(self, identity: Identity, target: NodeId, queue: LinkQueue) -> None:
        self._identity = identity
        self._target = target
        self._queue = queue
        self._parser = FrameParser(identity.cluster_id, HANDSHAKE_BYTES_MAX)
        self.transport: asyncio.Transport
        """There from ``connection_made`` on."""
        self.answer: asyncio.Future[HelloReply] = asyncio.get_running_loop().create_future()
        # Nobody may be waiting any more when it fails; an error that nobody fetched would look like a bug of ours.
        self.answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who dials, and whom."""
        self.transport = transport = cast("asyncio.Transport", transport)
        _tune(transport)
        # uvloop would keep what is written until the end of the turn; a lone write's flush is part of that turn.
        transport.set_write_buffer_limits(high=0)
        hello = Hello(self._identity.node_id, self._identity.node_uuid, self._target, __version__)
        transport.write(encode_frame(self._identity.cluster_id, hello))

    def data_received(self, data: bytes) -> None:
        """Take the answer to the handshake."""
        try:
            for message in self._parser.feed(data):
                if isinstance(message, HelloReply) and not self.answer.done():
                    self.answer.set_result(message)
        except PeerError as error:
            if not self.answer.done():
                self.answer.set_exception(error)
            self.transport.abort()

    def pause_writing(self) -> None:
        """Have no more pieces written: the kernel did not take the last one whole."""
        self._queue.choke()

    def resume_writing(self) -> None:
        """Have the next pieces written."""
        self._queue.unchoke()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the handshake, if it is still under way, and the link."""
        if not self.answer.done():
            self.answer.set_exception(ConnectionError(str(exc) if exc else "closed before the handshake"))
        if not self.closed.done():
            self.closed.set_result(None)


class PeerLink:
    """The link this node dials to one peer."""

    def __init__(
        self,
        identity: Identity,
        member: Member,
        rng: random.Random,
        on_change: Callable[[], None],
        encoder: FrameEncoder,
        was_replaced: Callable[[NodeId, bytes], bool],
    ) -> None:
        self._identity = identity
        self._was_replaced = was_replaced
        self._queue = LinkQueue(member.node_id, encoder, lambda turn: asyncio.get_running_loop().call_soon(turn))
        self._member = member
        self._rng = rng
        self._on_change = on_change
        self._transport: asyncio.Transport | None = None
        self._last_complaint = ""
        self.is_refused_as_replaced = self.is_replaced = False

    @property
    def dropped(self) -> int:
        """Messages that could not be sent."""
        return self._queue.dropped

    @property
    def is_up(self) -> bool:
        """Whether the peer accepted the link and it has not failed since."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, message: NodeMessage) -> None:
        """Send ``message`` or, when the link is down or choked, drop it."""
        self._queue.send(message)

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        pause = REDIAL_MIN_S
        while True:
            try:
                protocol = await self._dial()
            except (OSError, PeerError, TimeoutError) as error:
                # Another peer of ours may be in its place by now.
                self.is_refused_as_replaced &= isinstance(error, DiskReplaced)
                self.is_replaced &= isinstance(error, DiskReplaced)
                self._complain(f"{type(error).__name__}: {error}")
            else:
                pause = REDIAL_MIN_S
                self._last_complaint = ""
                self._transport = protocol.transport
                self.is_refused_as_replaced = self.is_replaced = False
                self._queue.attach(protocol.transport)
                self._on_change()
                event(_logger, logging.INFO, "peer_connected", peer=self._member.node_id)
                try:
                    await protocol.closed
                finally:
                    self._transport = None
                    self._queue.detach()
                    self._on_change()
                    protocol.transport.abort()
                event(_logger, logging.INFO, "peer_disconnected", peer=self._member.node_id)
            await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))
            pause = min(pause * 2, REDIAL_MAX_S)

    async def _dial(self) -> _Dialled:
        address = parse_address("peer_address", self._member.peer_address)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            transport, protocol = await loop.create_connection(
                lambda: _Dialled(self._identity, self._member.node_id, self._queue), address.host, address.port
            )
            try:
                answer = await protocol.answer
                self._check(answer)
            except BaseException:
                transport.abort()
                raise
            return protocol

    def _check(self, answer: HelloReply) -> None:
        address, node_id = self._member.peer_address, self._member.node_id
        self.is_refused_as_replaced = not answer.accepted and answer.is_replaced
        self.is_replaced = answer.node_id == node_id and self._was_replaced(node_id, answer.node_uuid)
        if not answer.accepted:
            kind = DiskReplaced if answer.is_replaced else PeerError
            raise kind(f"{address} refuses this node: {answer.reason}")
        if answer.node_id != node_id:
            raise PeerError(f"{address} is {answer.node_id}, not {node_id}")
        if self.is_replaced:
            raise DiskReplaced(f"{node_id} at {address} runs on a disk that was replaced ({answer.node_uuid.hex()})")

    def _complain(self, complaint: str) -> None:
        """Log why the link cannot be had, once for each reason."""
        if complaint != self._last_complaint:
            self._last_complaint = complaint
            event(_logger, logging.WARNING, "peer_unreachable", peer=self._member.node_id, reason=complaint)


class _Accepted(asyncio.Protocol):
    """The hearing end of a link that a peer dialled."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._parser = FrameParser(peers.identity.cluster_id, HANDSHAKE_BYTES_MAX)
        self._source: NodeId | None = None
        self._node_uuid = b""
        self._transport: asyncio.Transport
        """There from ``connection_made`` on, and so is the next."""
        self._patience: asyncio.TimerHandle

    @property
    def name(self) -> str:
        """What the log calls it."""
        address = self._transport.get_extra_info("peername")
        return f"link of {self._source or 'nobody known'} from {address[0] if address else 'unknown'}"

    @property
    def is_kept_waiting(self) -> bool:
        """Whether nothing is read from it at the moment."""
        return False

    def evict(self, reason: str) -> None:
        """Drop the link; its other end is told nothing."""
        del reason
        self._parser = FrameParser(self._peers.identity.cluster_id, 0)  # Lets go of what it holds.
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the handshake, and not for ever."""
        self._transport = transport = cast("asyncio.Transport", transport)
        _tune(transport)
        self._peers.accepted.add(transport)
        # Whoever dials and says nothing would be kept for ever.
        self._patience = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the link."""
        del exc
        self._peers.half_sent.forget(self)
        self._patience.cancel()
        self._peers.accepted.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        """Hand messages of an accepted peer on; refuse the link at the first bytes that cannot be believed."""
        try:
            messages = self._parser.feed(data)
            self._peers.half_sent.note(self, self._parser.held_bytes, is_new=bool(messages))
            if self._transport.is_closing():
                return
            for message in messages:
                if isinstance(message, (Hello, HelloReply)) or self._source is None:
                    self._handshake(message)
                elif self._peers.was_replaced(self._source, self._node_uuid):
                    raise DiskReplaced(f"{self._source} speaks from a disk that was replaced")
                else:
                    self._peers.receive(self._source, message)
        except PeerError as error:
            self._peers.refused += 1
            address = self._transport.get_extra_info("peername")
            self._peers.complain(f"{address[0] if address else 'unknown'}: {type(error).__name__}: {error}")
            self._refuse(error)

    def _handshake(self, message: PeerMessage) -> None:
        if not isinstance(message, Hello) or self._source is not None:
            raise PeerError(f"{type(message).__name__} where a handshake has its place, or a second handshake")
        identity = self._peers.identity
        if message.target_id != identity.node_id:
            raise PeerError(f"{message.node_id} wants {message.target_id}, but this is {identity.node_id}")
        if NodeId(message.node_id) not in self._peers.ids:
            raise PeerError(f"{message.node_id} is not a member of this cluster")
        if self._peers.was_replaced(NodeId(message.node_id), message.node_uuid):
            raise DiskReplaced(
                f"the disk of {message.node_id} with uuid {message.node_uuid.hex()} was replaced by another"
            )
        self._source, self._node_uuid = NodeId(message.node_id), message.node_uuid
        self._patience.cancel()
        self._parser.widen(FRAME_BODY_BYTES_MAX, MESSAGE_BYTES_MAX)
        self._answer(accepted=True, reason="")

    def _refuse(self, error: PeerError) -> None:
        if self._source is None:
            self._answer(accepted=False, reason=str(error), is_replaced=isinstance(error, DiskReplaced))
        self._transport.close()

    def _answer(self, *, accepted: bool, reason: str, is_replaced: bool = False) -> None:
        identity = self._peers.identity
        answer = HelloReply(accepted, reason, identity.node_id, identity.node_uuid, is_replaced)
        self._transport.write(encode_frame(identity.cluster_id, answer))


class Link(Protocol):
    """One node's way to another, as far as others than ``Links`` use it."""

    @property
    def is_up(self) -> bool:
        """Whether the peer accepted the link and it has not failed since."""

    @property
    def dropped(self) -> int:
        """Messages that could not be sent."""

    @property
    def is_refused_as_replaced(self) -> bool:
        """Whether the peer refuses this node because another disk took its place (raft/admission.py)."""

    @property
    def is_replaced(self) -> bool:
        """Whether what answers there is a disk of the peer that was replaced by another."""


class Links(Protocol):
    """A node's ways to all others."""

    refused: int
    """Links and frames that were not believed."""

    @property
    def links(self) -> Mapping[NodeId, Link]:
        """The link to each peer."""

    async def start(self, host: str, port: int) -> None:
        """Listen for peers and dial them; raises OSError when the address cannot be listened on."""

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
    was_replaced: Callable[[NodeId, bytes], bool]
    """Asked whether a peer's disk is not to be heard any more (raft/admission.py)."""
    half_sent: HalfSent
    """Is told what links have sent that is not complete."""
    failed: Callable[[BaseException], None]
    """A link ended that should have gone on: a bug."""


class Peers:
    """All links of one node, by TCP."""

    def __init__(
        self,
        identity: Identity,
        members: Sequence[Member],
        rng: random.Random,
        events: LinkEvents,
    ) -> None:
        """Bind the parts; ``rng`` draws the pauses between dials."""
        self.identity = identity
        self.receive = events.receive
        self.was_replaced = events.was_replaced
        self.half_sent = events.half_sent
        self._failed = events.failed
        others = [member for member in members if member.node_id != identity.node_id]
        self.ids = frozenset(member.node_id for member in others)
        encoder = FrameEncoder(identity.cluster_id)
        self.links: dict[NodeId, PeerLink] = {
            member.node_id: PeerLink(identity, member, rng, events.changed, encoder, events.was_replaced)
            for member in others
        }
        self.accepted: set[asyncio.Transport] = set()
        self.refused = 0
        """Links and frames that were not believed."""
        self._complaints: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen for peers and dial them.

        Raises:
            OSError: the address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Accepted(self), host, port)
        self._tasks = [loop.create_task(link.run(), name=f"link-{peer}") for peer, link in self.links.items()]
        for task in self._tasks:
            task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """A dialling task that ends by itself has failed."""
        if not task.cancelled():
            self._failed(task.exception() or DurableRaftError(f"task {task.get_name()} ended"))

    def send(self, envelopes: Sequence[Envelope]) -> None:
        """Send messages to their targets."""
        for envelope in envelopes:
            self.links[envelope.target].send(envelope.message)

    def tell(self, target: NodeId, message: NodeMessage) -> None:
        """Send one message that is none of the core's."""
        self.links[target].send(message)

    def complain(self, complaint: str) -> None:
        """Log why a link that a peer dialled was refused, once for each reason."""
        if complaint not in self._complaints and len(self._complaints) < 1000:
            self._complaints.add(complaint)
            event(_logger, logging.WARNING, "peer_refused", reason=complaint)

    def close(self) -> None:
        """Drop every link."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        for transport in list(self.accepted):
            transport.abort()
