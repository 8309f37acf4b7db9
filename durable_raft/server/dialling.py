"""The dialling end of a link between nodes: it says who this is, is accepted, then only writes. It is dialled for ever.

A name in an address is looked up at each dial, so a node that moved under its name is found.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast

from durable_raft import __version__
from durable_raft.addresses import parse_address
from durable_raft.errors import DiskReplaced, PeerError, PeerRemoved
from durable_raft.raft.types import DEFAULT_PRIORITY, Member, NodeId
from durable_raft.raft.versions import OURS, say
from durable_raft.server.callers import CHALLENGE_BYTES, Callers
from durable_raft.server.hearing import HANDSHAKE_BYTES_MAX, HANDSHAKE_TIMEOUT_S, tune
from durable_raft.server.link_queue import LinkQueue
from durable_raft.server.logs import event
from durable_raft.server.proving import DiallingEnd, Proofs
from durable_raft.wire.messages import Challenge, Confirm, Confirmed, Proof
from durable_raft.wire.peer import FrameEncoder, FrameParser, Hello, HelloReply, NodeMessage, PeerMessage

REDIAL_MIN_S = 0.05
REDIAL_MAX_S = 1.0
"""Pause before a failed link is dialled again: doubled each time between these, so that a node that comes back is
reached within a second and a dead one costs nothing."""

_logger = logging.getLogger(__name__)

_CLOSED: Final = (
    "closed before the handshake: another cluster id, another version, or it could not confirm this node at the address"
    " that it knows of it; its log says which"
)


class _Dialled(asyncio.Protocol):
    """The sending end of a link: says hello, waits to be accepted, then only writes."""

    def __init__(
        self,
        proofs: Proofs,
        target: NodeId,
        callers: Callers,
        queue: LinkQueue | None = None,
        on_made: Callable[[_Dialled], None] | None = None,
    ) -> None:
        """Bind the parts: without ``queue`` it only asks, and nothing else is sent on it."""
        self._target = target
        self._callers = callers
        self._queue = queue
        self._on_made = on_made
        self.challenge = secrets.token_bytes(CHALLENGE_BYTES)
        identity, version = proofs.identity, say(proofs.secrets.stance.behind(__version__), OURS)
        self._hello = Hello(identity.node_id, identity.node_uuid, target, version, self.challenge)
        self.end = DiallingEnd(proofs, self._hello)
        """What was proven on this link."""
        self._parser = FrameParser(identity.cluster_id, HANDSHAKE_BYTES_MAX)
        self.transport: asyncio.Transport
        """There from ``connection_made`` on."""
        self.answer: asyncio.Future[HelloReply] = asyncio.get_running_loop().create_future()
        # Nobody may be waiting any more when it fails; an error that nobody fetched would look like a bug of ours.
        self.answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the peer has confirmed a claim on this link."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who dials, and whom."""
        self.transport = transport = cast("asyncio.Transport", transport)
        tune(transport)
        # uvloop would keep what is written until the end of the turn; a lone write's flush is part of that turn.
        transport.set_write_buffer_limits(high=0)
        self.end.say(transport, self._hello)
        if self._on_made is not None:
            self._on_made(self)
        self._ask_all()

    def _ask_all(self) -> None:
        for challenge in self._callers.of(self._target):
            self.ask(challenge)

    def ask(self, challenge: bytes) -> None:
        """Ask whoever listens there whether it has dialled the link that carries ``challenge``, once it is believed."""
        if self.end.is_settled:
            self.end.say(self.transport, Confirm(challenge))

    def data_received(self, data: bytes) -> None:
        """Take the answer to the handshake, and to what was asked."""
        try:
            self._hear(self._parser.feed(data))
        except PeerError as error:
            if not self.answer.done():
                self.answer.set_exception(error)
            self.transport.abort()

    def _hear(self, messages: list[PeerMessage]) -> None:
        for message in messages:
            was_settled = self.end.is_settled
            if isinstance(message, Challenge):
                self.end.say(self.transport, self.end.answer(message))
                continue
            if isinstance(message, Proof):
                behind = self._parser.secure(self.end.take(message))
                self._ask_all()
                self._hear(behind)
                continue
            self.end.check(message)
            if not was_settled:
                self._ask_all()
            if isinstance(message, Confirmed):
                if self._callers.confirm(self._target, message.challenge) and not self.confirmed.done():
                    self.confirmed.set_result(None)
            elif isinstance(message, HelloReply) and not self.answer.done():
                self.answer.set_result(message)

    def pause_writing(self) -> None:
        """Have no more pieces written: the kernel did not take the last one whole."""
        if self._queue is not None:
            self._queue.choke()

    def resume_writing(self) -> None:
        """Have the next pieces written."""
        if self._queue is not None:
            self._queue.unchoke()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the handshake, if it is still under way, and the link."""
        if not self.answer.done():
            self.answer.set_exception(ConnectionError(str(exc) if exc else _CLOSED))
        if not self.closed.done():
            self.closed.set_result(None)


class PeerLink:
    """The link this node dials to one peer."""

    def __init__(
        self,
        member: Member,
        rng: random.Random,
        on_change: Callable[[], None],
        encoder: FrameEncoder,
        was_replaced: Callable[[NodeId, bytes], bool],
        callers: Callers,
        proofs: Proofs,
    ) -> None:
        self._proofs = proofs
        self._callers = callers
        self._was_replaced = was_replaced
        self._queue = LinkQueue(member.node_id, encoder, lambda turn: asyncio.get_running_loop().call_soon(turn))
        self._member = member
        self._rng = rng
        self._on_change = on_change
        self._transport: asyncio.Transport | None = None
        self._dialled: _Dialled | None = None
        """The newest link that was dialled, accepted or not."""
        self._is_wanted = asyncio.Event()
        self._probe: asyncio.Task[None] | None = None
        self._last_complaint = ""
        self._is_closed = False
        self.is_refused_as_replaced = self.is_replaced = self.is_refused_as_removed = False
        self.priority = DEFAULT_PRIORITY
        """The peer's election priority, as it said when the link was made."""

    @property
    def dropped(self) -> int:
        """Messages that could not be sent."""
        return self._queue.dropped

    @property
    def is_up(self) -> bool:
        """Whether the peer accepted the link and it has not failed since."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_proven(self) -> bool:
        """Whether both ends of it have proven the cluster secret to each other."""
        return self.is_up and self._dialled is not None and self._dialled.end.secret is not None

    def send(self, message: NodeMessage) -> None:
        """Send ``message`` or, when the link is down or choked, drop it."""
        self._queue.send(message)

    def has_dialled(self, challenge: bytes) -> bool:
        """Return whether the newest link carries ``challenge``."""
        return self._dialled is not None and secrets.compare_digest(self._dialled.challenge, challenge)

    def ask(self, challenge: bytes) -> None:
        """Ask the peer whether it has dialled the link that carries ``challenge``, on this one once it is there."""
        if self._dialled is None or self._dialled.transport.is_closing():
            self._is_wanted.set()
        else:
            self._dialled.ask(challenge)

    def readdress(self, member: Member) -> None:
        """Dial the peer at another address from now on; a link to where it was ends."""
        is_elsewhere = member.peer_address != self._member.peer_address
        self._member = member
        if is_elsewhere:
            if self._dialled is not None:
                self._dialled.transport.abort()
            self._is_wanted.set()

    def close(self) -> None:
        """End what asks beside the link; the link itself ends with the task that runs it."""
        self._is_closed = True
        if self._probe is not None:
            self._probe.cancel()

    def probe(self) -> None:
        """Ask the peer about all claims on a new link, beside the one that is there."""
        if self._dialled is not None and not self._is_closed and (self._probe is None or self._probe.done()):
            self._probe = asyncio.get_running_loop().create_task(self._ask_anew(self._dialled))

    def drop_unproven(self) -> None:
        """End the links whose ends have proven a secret that counts no more."""
        if self._dialled is not None and not self._proofs.secrets.accepts(self._dialled.end.secret):
            self._dialled.transport.abort()
        if self._probe is not None:
            self._probe.cancel()

    def note_replaced(self) -> None:
        """Note that somebody dialled as this peer, from a disk that was replaced; it counts while this link is down."""
        self.is_replaced = not self.is_up

    async def _ask_anew(self, old: _Dialled) -> None:
        """Ask on a link of its own, once; whoever answers there, and not on ``old``, has left that."""
        address = parse_address("peer_address", self._member.peer_address)
        transport: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                transport, protocol = await asyncio.get_running_loop().create_connection(
                    lambda: _Dialled(self._proofs, self._member.node_id, self._callers), address.host, address.port
                )
                await protocol.confirmed
                old.transport.abort()
        except (OSError, TimeoutError):
            return
        finally:
            if transport is not None:
                transport.abort()

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        pause = REDIAL_MIN_S
        while True:
            try:
                protocol = await self._dial()
            except (OSError, PeerError, TimeoutError) as error:
                # Another peer of ours may be in its place by now.
                self.is_refused_as_replaced &= isinstance(error, DiskReplaced)
                self.is_refused_as_removed &= isinstance(error, PeerRemoved)
                # A replaced disk hears nobody who does not hear it, so a link to it waits in vain.
                self.is_replaced &= isinstance(error, (DiskReplaced, TimeoutError))
                self._complain(f"{type(error).__name__}: {error}")
                if self.is_refused_as_removed:
                    self._on_change()
            else:
                pause = REDIAL_MIN_S
                self._last_complaint = ""
                self._transport = protocol.transport
                self.is_refused_as_replaced = self.is_replaced = self.is_refused_as_removed = False
                self._queue.attach(protocol.transport, protocol.end.seal)
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
            await self._rest(pause * self._rng.uniform(0.5, 1.0))
            pause = min(pause * 2, REDIAL_MAX_S)

    async def _rest(self, pause: float) -> None:
        """Wait before the peer is dialled again; no longer than the shortest pause once it has dialled this node."""
        self._is_wanted.clear()
        await asyncio.sleep(min(pause, REDIAL_MIN_S))
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, pause - REDIAL_MIN_S)):
                await self._is_wanted.wait()

    async def _dial(self) -> _Dialled:
        address = parse_address("peer_address", self._member.peer_address)
        loop = asyncio.get_running_loop()
        transport: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                transport, protocol = await loop.create_connection(self._new_dialled, address.host, address.port)
                self._check(await protocol.answer)
                return protocol
        except BaseException:
            # uvloop closes a transport whose making is cancelled, and that one does not know that it is closing.
            self._dialled = None
            if transport is not None:
                transport.abort()
            raise

    def _new_dialled(self) -> _Dialled:
        return _Dialled(self._proofs, self._member.node_id, self._callers, self._queue, self._note_dialled)

    def _note_dialled(self, dialled: _Dialled) -> None:
        self._dialled = dialled

    def _check(self, answer: HelloReply) -> None:
        address, node_id = self._member.peer_address, self._member.node_id
        self.is_refused_as_replaced = not answer.accepted and answer.is_replaced
        # Whoever listens there may be another node by now, to which this one is a stranger.
        self.is_refused_as_removed = not answer.accepted and answer.is_removed and answer.node_id == node_id
        self.is_replaced = answer.node_id == node_id and self._was_replaced(node_id, answer.node_uuid)
        if not answer.accepted:
            kind = DiskReplaced if answer.is_replaced else PeerRemoved if answer.is_removed else PeerError
            raise kind(f"{address} refuses this node: {answer.reason}")
        if answer.node_id != node_id:
            raise PeerError(f"{address} is {answer.node_id}, not {node_id}")
        if self.is_replaced:
            raise DiskReplaced(f"{node_id} at {address} runs on a disk that was replaced ({answer.node_uuid.hex()})")
        self.priority = answer.priority

    def _complain(self, complaint: str) -> None:
        """Log why the link cannot be had, once for each reason."""
        if complaint != self._last_complaint:
            self._last_complaint = complaint
            event(_logger, logging.WARNING, "peer_unreachable", peer=self._member.node_id, reason=complaint)
