"""TLS between a connection and its socket: what the connection takes for its transport.

The event loop has transports for TLS, too. This one is ours because of what a node promises: no turn of the loop is
long, and what waits for a client is counted. It encrypts a large reply in pieces, as fast as the socket takes them.
What is not encrypted yet waits here, uncopied, and is counted beside what waits for the socket. What comes in is
decrypted at once: of a client that is kept waiting nothing stays behind but one record that is not complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from typing import Any, Final

from durable_raft.server.slices import Turns

RECORD_BYTES: Final = 16_384
"""The most that one TLS record holds (RFC 8446 §5.1)."""

PIECE_BYTES: Final = 4 * RECORD_BYTES
"""What is encrypted at once: some tens of microseconds with AES in hardware, under a millisecond without."""

SOCKET_BYTES: Final = 2 * PIECE_BYTES
"""So much waits for a socket before no more is encrypted for it."""

UNASKED_BYTES_MAX: Final = 1 << 20
"""What TLS itself has to say (keys that change, alerts) to a client that does not read, before it is cut off."""


class TlsTransport(asyncio.Transport):
    """The encrypting end of one connection, from the end of the handshake on."""

    def __init__(
        self, raw: asyncio.Transport, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, turns: Turns
    ) -> None:
        """Bind the socket's transport and the two ends of ``tls``; ``turns`` are those of all who encrypt much."""
        super().__init__()
        self._raw = raw
        self._tls = tls
        self._incoming, self._outgoing = incoming, outgoing
        self._turns = turns
        self._backlog: deque[memoryview] = deque()
        """What is written and not encrypted yet."""
        self._backlog_bytes = 0
        self._is_turn_due = self._is_closing = self._is_ended = False
        self._may_send = True
        """Whether the socket takes more."""
        raw.set_write_buffer_limits(high=SOCKET_BYTES)

    # -- what the connection uses ---------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the socket."""
        return self._raw.get_extra_info(name, default)

    def is_closing(self) -> bool:
        """Return whether nothing more can be written."""
        return self._is_closing or self._raw.is_closing()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait, encrypted or not."""
        return self._backlog_bytes + self._raw.get_write_buffer_size()

    def pause_reading(self) -> None:
        """Read no more from the socket."""
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if not self._raw.is_closing():
            self._raw.resume_reading()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send: at once what fits into a record, the rest piece by piece."""
        if self.is_closing():
            return
        if not self._backlog and self._may_send and len(data) <= RECORD_BYTES:
            self._encrypt(memoryview(data))
        elif data:
            self._backlog.append(memoryview(data))
            self._backlog_bytes += len(data)
            self._wait_for_turn()

    def close(self) -> None:
        """Send what was written, say that this is the end, and close."""
        if not self._is_closing:
            self._is_closing = True
            if not self._backlog:
                self._end()

    def abort(self) -> None:
        """Close at once; what waits is dropped."""
        self._is_closing = True
        self._backlog.clear()
        self._backlog_bytes = 0
        self._raw.abort()

    # -- what the socket's owner uses -----------------------------------------------------------------------------

    @property
    def is_ended(self) -> bool:
        """Whether the client has said that it sends no more."""
        return self._is_ended

    def received(self, data: bytes) -> bytes:
        """Return what is in the records that are complete with ``data``.

        Raises:
            ssl.SSLError: they are not what the other end can have sent; or it takes nothing and has TLS answer much.
        """
        if self._is_ended:
            # Whatever follows the end would be kept for ever (RFC 8446 §6.1: it is ignored).
            return b""
        self._incoming.write(data)
        found: list[bytes] = []
        with contextlib.suppress(ssl.SSLWantReadError):
            while not self._is_ended and (self._incoming.pending or self._tls.pending()):
                piece = self._tls.read(RECORD_BYTES)
                self._is_ended = not piece
                found.append(piece)
        if self._outgoing.pending and not self._raw.is_closing():
            self._raw.write(self._outgoing.read())
            if self._raw.get_write_buffer_size() > UNASKED_BYTES_MAX + SOCKET_BYTES:
                raise ssl.SSLError("the client does not read what TLS has to answer")
        return found[0] if len(found) == 1 else b"".join(found)

    def say_last(self) -> None:
        """Send the alert that tells why the connection ends, if there is one."""
        if self._outgoing.pending and not self._raw.is_closing():
            self._raw.write(self._outgoing.read())

    def may_send(self, *, may: bool) -> None:
        """Note whether the socket takes more."""
        self._may_send = may
        if may and self._backlog:
            self._wait_for_turn()

    # -- encrypting -----------------------------------------------------------------------------------------------

    def _wait_for_turn(self) -> None:
        if not self._is_turn_due and self._may_send:
            self._is_turn_due = True
            self._turns.wait(self._take_turn)

    def _take_turn(self) -> bool:
        """Encrypt what waits while there is time; return whether this waits for another turn."""
        while self._has_work and self._turns.may_go_on():
            data = self._backlog.popleft()
            if len(data) > PIECE_BYTES:
                self._backlog.appendleft(data[PIECE_BYTES:])
                data = data[:PIECE_BYTES]
            self._backlog_bytes -= len(data)
            self._encrypt(data)
        if not self._backlog and self._is_closing:
            self._end()
        self._is_turn_due = self._has_work
        return self._is_turn_due

    @property
    def _has_work(self) -> bool:
        """Whether something waits that the socket would take."""
        return bool(self._backlog) and self._may_send and not self._raw.is_closing()

    def _encrypt(self, data: memoryview) -> None:
        while data:
            data = data[self._tls.write(data) :]
        self._raw.write(self._outgoing.read())

    def _end(self) -> None:
        if self._raw.is_closing():
            return
        with contextlib.suppress(ssl.SSLError):
            # The other end need not answer: what it was owed is sent (RFC 8446 §6.1).
            self._tls.unwrap()
        self.say_last()
        self._raw.close()
