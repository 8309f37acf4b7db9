"""What waits to be written to one link: small messages leave at once, large ones in pieces between them.

A heartbeat that waited behind 64 MiB would come after the follower's election timeout; so would the answer to it, a
vote, or a ReadIndex round. So a *bulk* (wire/pieces.py) waits here, not in the transport: its next piece is written
when all that was written before has been taken by the kernel. Whatever is small passes. What passes has in front of it
at most one piece and what the kernel holds, which is bounded too (peers.py).

Only one order is kept: an AppendEntries does not pass another on whose entries it stands (raft/messages.py). It would
be refused, and the leader would take the entries for lost and send them again.

A message that is not sent is dropped, which Raft is made for.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from durable_raft.raft.messages import AppendEntries, RequestVote, stands_on
from durable_raft.raft.types import NodeId
from durable_raft.server.logs import event
from durable_raft.server.proving import Seal
from durable_raft.wire.peer import FrameEncoder, NodeMessage
from durable_raft.wire.pieces import Bulk

TURN_BYTES: Final = 1 << 20
"""Bytes of bulks written in one turn of the loop, about: a millisecond of work."""

BULK_BYTES_MAX: Final = 128 << 20
"""Bytes of bulks that may wait; a single one may be larger."""

SMALL_BYTES_MAX: Final = 16 << 20
"""Bytes that may wait in the transport: only a peer that reads nothing lets them pile up."""

_logger = logging.getLogger(__name__)


class LinkQueue:
    """The messages for one peer; those of one connection: what waits when it ends is dropped."""

    def __init__(self, peer: NodeId, encoder: FrameEncoder, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """Have bulks written in turns of the loop that ``call_soon`` gives."""
        self._peer = peer
        self._plain = self._encoder = encoder
        self._seal: Seal | None = None
        """Puts tags behind the frames; None: they have none."""
        self._call_soon = call_soon
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[NodeMessage, Bulk | bytes]] = deque()
        """Bulks, and small messages that stand on them; the first may have been begun."""
        self._frames: Iterator[bytes] | None = None
        """The frames of the first one that are not written yet; None: it was not begun."""
        self.waiting_bytes = 0
        """Of what waits here."""
        self._term = 0
        """The newest term of an AppendEntries or RequestVote."""
        self._is_choked = False
        """Whether the transport holds what the kernel did not take."""
        self._is_turn_due = False
        self._has_said_full = False
        self.dropped = 0
        """Messages that were not sent."""

    def attach(self, transport: asyncio.Transport, seal: Seal | None = None) -> None:
        """Write to ``transport`` from now on, with the tags of ``seal`` if there is one."""
        self._transport, self._seal = transport, seal
        self._encoder = self._plain if seal is None else seal.encoder
        self._is_choked = self._has_said_full = False

    def detach(self) -> None:
        """Drop what waits: the link is gone."""
        self._transport = None
        self.dropped += len(self._waiting)
        self._waiting.clear()
        self._frames, self.waiting_bytes = None, 0

    def send(self, message: NodeMessage) -> None:
        """Write ``message``, let it wait, or drop it."""
        transport = self._transport
        # Between a link's end and the task that learns of it other events run; uvloop raises on a closed transport.
        if transport is None or transport.is_closing():
            self.dropped += 1
            return
        if isinstance(message, (AppendEntries, RequestVote)) and message.term > self._term:
            self._term = message.term
            self._drop_older_terms()
        encoded = self._encoder.encode(message)
        if isinstance(encoded, Bulk) or (self._waiting and self._stands_on_waiting(message)):
            self._wait(message, encoded)
        elif transport.get_write_buffer_size() > SMALL_BYTES_MAX:
            self._drop(len(encoded))
        else:
            self._write(transport, encoded)

    def _write(self, transport: asyncio.Transport, frame: bytes) -> None:
        if self._seal is None:
            transport.write(frame)
        else:
            self._seal.write(transport, frame)

    def _stands_on_waiting(self, message: NodeMessage) -> bool:
        return any(stands_on(message, earlier) for earlier, _ in self._waiting)

    def choke(self) -> None:
        """Note that the transport holds what the kernel did not take."""
        self._is_choked = True

    def unchoke(self) -> None:
        """Note that it holds nothing any more."""
        self._is_choked = False
        self._have_turn()

    def _wait(self, message: NodeMessage, encoded: Bulk | bytes) -> None:
        size = len(encoded)
        if self._waiting and self.waiting_bytes + size > BULK_BYTES_MAX:
            self._drop(size)
            return
        self._waiting.append((message, encoded))
        self.waiting_bytes += size
        if len(self._waiting) == 1:
            self._write_turn()

    def _have_turn(self) -> None:
        if self._waiting and not self._is_choked and not self._is_turn_due:
            self._is_turn_due = True
            self._call_soon(self._turn)

    def _turn(self) -> None:
        self._is_turn_due = False
        self._write_turn()

    def _write_turn(self) -> None:
        """Write pieces until the kernel takes no more, or others are to have their turn."""
        written = 0
        transport = self._transport
        while self._waiting and not self._is_choked and written < TURN_BYTES:
            if transport is None or transport.is_closing():
                return
            frame = self._next_frame()
            if frame is not None:
                written += len(frame)
                self._write(transport, frame)
        self._have_turn()

    def _next_frame(self) -> bytes | None:
        """Return the next frame of the first bulk; None, and go on to the next bulk, when it has no more."""
        _, encoded = self._waiting[0]
        if self._frames is None:
            self._frames = self._encoder.cut(encoded) if isinstance(encoded, Bulk) else iter((encoded,))
        frame = next(self._frames, None)
        if frame is None:
            self._waiting.popleft()
            self._frames = None
            self.waiting_bytes -= len(encoded)
        return frame

    def _drop_older_terms(self) -> None:
        """Drop the AppendEntries of older terms that were not begun: the peer would refuse them."""
        kept = [
            (message, encoded)
            for place, (message, encoded) in enumerate(self._waiting)
            if (place == 0 and self._frames is not None)
            or not isinstance(message, AppendEntries)
            or message.term >= self._term
        ]
        self.dropped += len(self._waiting) - len(kept)
        self._waiting = deque(kept)
        self.waiting_bytes = sum(len(encoded) for _, encoded in kept)

    def _drop(self, size: int) -> None:
        """Drop a message for which there is no room; say so once for each connection."""
        self.dropped += 1
        if not self._has_said_full:
            self._has_said_full = True
            event(
                _logger,
                logging.WARNING,
                "peer_reads_too_slowly",
                peer=self._peer,
                waiting_bytes=self.waiting_bytes,
                dropped_bytes=size,
            )
