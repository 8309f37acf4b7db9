"""The hearing end of a link between nodes: who dialled it, and what may be said on it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Final, Protocol, cast

from durable_raft.errors import DiskReplaced, PeerError, PeerMisbehaved, PeerRemoved, PeerTooOld, Unproven
from durable_raft.raft.messages import Introduce, IntroduceResponse, Resume
from durable_raft.raft.types import Identity, NodeId
from durable_raft.raft.versions import FIRST, Versions, heard
from durable_raft.server.callers import Callers
from durable_raft.server.complaints import Complaints, head_of
from durable_raft.server.half_sent import HalfSent
from durable_raft.server.logs import event
from durable_raft.server.proving import HearingEnd, Proofs
from durable_raft.wire.messages import Challenge, Confirm, Confirmed, Proof
from durable_raft.wire.peer import FrameParser, Hello, HelloReply, NodeMessage, PeerMessage
from durable_raft.wire.pieces import FRAME_BODY_BYTES_MAX

HANDSHAKE_TIMEOUT_S = 2.0

PROBE_AFTER_S = 0.5
"""How long a claim waits for the link that is there, before the peer is asked on another: whoever is at the other end
of the old one may hang, or have given the address to another host."""

HANDSHAKE_BYTES_MAX: Final = 64 << 10
"""Body of the longest frame taken from whoever has not proven who it is, and on links that this node dialled."""

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


def tune(transport: asyncio.BaseTransport) -> None:
    """Have the kernel send at once, and notice a peer that vanished."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)
    if hasattr(socket, "TCP_WINDOW_CLAMP"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, WINDOW_BYTES_MAX)


class Way(Protocol):
    """The link that this node dials to one peer, as far as it is needed to learn who dialled another."""

    def has_dialled(self, challenge: bytes) -> bool:
        """Return whether the newest link carries ``challenge``."""

    def ask(self, challenge: bytes) -> None:
        """Ask the peer whether it has dialled the link that carries ``challenge``, on this one once it is there."""

    def probe(self) -> None:
        """Ask the peer about all claims on a new link, beside the one that is there."""

    def note_replaced(self) -> None:
        """Note that somebody dialled as this peer, from a disk that was replaced."""


class Listener(Protocol):
    """All links of one node, as far as one that was accepted uses them."""

    identity: Identity
    ids: frozenset[NodeId]
    callers: Callers
    proofs: Proofs
    accepted: set[asyncio.Transport]
    is_closed: bool
    """Whether nobody is heard any more; a link that was being accepted may still come."""
    refused: Complaints
    misbehaved: Complaints
    receive: Receive
    was_replaced: Callable[[NodeId, bytes], bool]
    was_removed: Callable[[NodeId], bool]
    cluster_version: Callable[[], int]
    half_sent: HalfSent
    priority: int
    """This node's election priority, which whoever dials is told."""

    @property
    def links(self) -> Mapping[NodeId, Way]:
        """The way to each peer."""

    def joined(self, peer: NodeId, link: Accepted) -> None:
        """Hear ``peer`` on ``link``; the one before has ended, though this node may not have noticed."""

    def left(self, peer: NodeId | None, link: Accepted) -> None:
        """Note that ``link`` has ended."""


class Accepted(asyncio.Protocol):
    """The hearing end of a link that somebody dialled: a claim first (callers.py), then a peer."""

    def __init__(self, peers: Listener) -> None:
        self._peers = peers
        self._parser = FrameParser(peers.identity.cluster_id, HANDSHAKE_BYTES_MAX)
        self._hello: Hello | None = None
        """What the dialler said it is."""
        self.versions = Versions(FIRST, FIRST)
        """What the program at the other end can, as it said."""
        self._end = HearingEnd(peers.proofs)
        self._is_claim = False
        """Whether that is to be confirmed, or was: who says more meanwhile is told nothing."""
        self._source: NodeId | None = None
        """Who dialled, once that is proven."""
        self._transport: asyncio.Transport
        """There from ``connection_made`` on, and so are the next two."""
        self._host: str
        self._patience: asyncio.TimerHandle
        self._probe: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        """What the log calls it."""
        return f"link of {self._source or 'nobody known'} from {self._host}"

    @property
    def secret(self) -> bytes | None:
        """Which secret both ends have proven, if one."""
        return self._end.secret

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
        address = transport.get_extra_info("peername")
        self._host = str(address[0]) if address else "unknown"
        tune(transport)
        self._peers.accepted.add(transport)
        # Whoever dials and says nothing would be kept for ever.
        self._patience = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT_S, transport.abort)
        self._peers.callers.opened(self, self._host)
        if self._peers.is_closed:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the link."""
        del exc
        self._peers.half_sent.forget(self)
        self._stop_waiting()
        self._peers.accepted.discard(self._transport)
        self._peers.callers.closed(self)
        self._peers.left(self._source, self)

    def drop(self) -> None:
        """End the link at once."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Hand messages of a proven peer on; drop the link at the first bytes that cannot be believed."""
        message: PeerMessage | tuple[()] = ()
        try:
            messages = self._parser.feed(data)
            self._peers.half_sent.note(self, self._parser.held_bytes, is_new=bool(messages))
            for message in messages:
                if not self._transport.is_closing():
                    self._take(message)
        except PeerMisbehaved as error:
            if (fields := self._peers.misbehaved.note(str(error))) is not None:
                event(_logger, logging.WARNING, "peer_misbehaved", peer=self._source, frame=head_of(message), **fields)
            self.drop()
        except PeerError as error:
            fields = self._peers.refused.note(f"{self._host}: {type(error).__name__}: {error}")
            if fields is not None:
                event(_logger, logging.WARNING, "peer_refused", **fields)
            self._refuse(error)

    def _take(self, message: PeerMessage) -> None:
        source, hello = self._source, self._hello
        if (
            source is not None
            and hello is not None
            and not isinstance(message, (Hello, HelloReply, Confirm, Confirmed, Challenge, Proof))
        ):
            self._hear(source, hello.node_uuid, message)
        elif isinstance(message, Proof):
            self._prove(message)
        elif isinstance(message, Confirm) and hello is not None and self._is_claim:
            self._confirm(NodeId(hello.node_id), message)
        else:
            self._handshake(message)

    def _hear(self, source: NodeId, node_uuid: bytes, message: NodeMessage) -> None:
        if self._peers.was_replaced(source, node_uuid):
            raise DiskReplaced(f"{source} speaks from a disk that was replaced")
        if isinstance(message, (Introduce, IntroduceResponse, Resume)) and message.node_uuid != node_uuid:
            raise PeerMisbehaved(f"the disk {node_uuid.hex()} speaks for the disk {message.node_uuid.hex()}")
        self._peers.receive(source, message)

    def _handshake(self, message: PeerMessage) -> None:
        if not isinstance(message, Hello) or self._hello is not None:
            raise PeerError(f"{type(message).__name__} where a handshake has its place, or a second handshake")
        self._hello = message
        challenge = self._end.challenge(message)
        if challenge is None:
            self._admit(message)
        else:
            self._end.say(self._transport, challenge)

    def _prove(self, message: Proof) -> None:
        """Take the proof of whoever dialled, and give ours; every frame behind them has a tag."""
        proof, opener, seal = self._end.take(message)
        self._end.say(self._transport, proof)
        self._end.seal = seal
        self._peers.callers.proved(self)
        messages = self._parser.secure(opener)
        assert self._hello is not None  # noqa: S101 - it was asked for a proof
        self._admit(self._hello)
        for message_behind in messages:
            if not self._transport.is_closing():
                self._take(message_behind)

    def _admit(self, message: Hello) -> None:
        """Take the link for a claim of a peer, if it can be one."""
        identity, peer = self._peers.identity, NodeId(message.node_id)
        if message.target_id != identity.node_id:
            raise PeerError(f"{peer} wants {message.target_id}, but this is {identity.node_id}")
        if peer not in self._peers.ids:
            if self._peers.was_removed(peer):
                raise PeerRemoved(f"{peer} was removed from this cluster")
            raise PeerError(f"{peer} is not a member of this cluster")
        if self._peers.was_replaced(peer, message.node_uuid):
            self._peers.links[peer].note_replaced()
            raise DiskReplaced(f"the disk of {peer} with uuid {message.node_uuid.hex()} was replaced by another")
        self.versions, version = heard(message.version), self._peers.cluster_version()
        if not self.versions.has(version):
            raise PeerTooOld(
                f"{peer} can {self.versions}, but this cluster has version {version}: install a newer program there"
            )
        self._is_claim = True
        self._peers.callers.claim(self, peer, message.challenge)
        self._peers.links[peer].ask(message.challenge)
        self._probe = asyncio.get_running_loop().call_later(PROBE_AFTER_S, self._peers.links[peer].probe)

    def _confirm(self, peer: NodeId, message: Confirm) -> None:
        """Say that this node has dialled that link, if it has; whoever asks is told nothing else."""
        link = self._peers.links.get(peer)
        if link is not None and link.has_dialled(message.challenge):
            self._end.say(self._transport, Confirmed(message.challenge))

    def confirmed(self) -> None:
        """Hear this peer from now on, and on no other link."""
        if self._hello is None or self._transport.is_closing():
            return
        if not self._peers.proofs.secrets.accepts(self.secret):
            self.drop()
            return
        self._source = NodeId(self._hello.node_id)
        self._stop_waiting()
        self._parser.widen(FRAME_BODY_BYTES_MAX, MESSAGE_BYTES_MAX)
        self._peers.joined(self._source, self)
        self._answer(accepted=True, reason="")

    def _stop_waiting(self) -> None:
        self._patience.cancel()
        if self._probe is not None:
            self._probe.cancel()

    def _refuse(self, error: PeerError) -> None:
        """Close the link; only a Hello is answered with why, as it showed that the cluster's id is known.

        Whoever is to prove the secret, and has not, is told that only, and nothing about this node.
        """
        hello = self._hello
        if isinstance(error, Unproven) and hello is not None and not self._is_claim:
            self._end.say(self._transport, HelloReply(False, str(error), hello.target_id, bytes(len(hello.node_uuid))))
        elif hello is not None and not self._is_claim and not self._end.is_waiting:
            self._answer(accepted=False, reason=str(error), because=error)
        self._transport.close()

    def _answer(self, *, accepted: bool, reason: str, because: PeerError | None = None) -> None:
        identity = self._peers.identity
        is_replaced, is_removed = isinstance(because, DiskReplaced), isinstance(because, PeerRemoved)
        priority = self._peers.priority
        answer = HelloReply(accepted, reason, identity.node_id, identity.node_uuid, is_replaced, is_removed, priority)
        self._end.say(self._transport, answer)
