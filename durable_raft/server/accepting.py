"""The client port where TLS is spoken: who has connected, until it is known how it speaks and who it is.

::

    first byte 0x16     a TLS handshake begins (RFC 8446 §5.1): no RESP command begins with it
    any other           RESP: a connection as without TLS, or where TLS is required one error and the end

A client becomes a connection (clients.py) when it has proven what it has to. Before, it is no more than a socket: it
has no session, is in no list, and its bytes are bounded.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from typing import Final, Protocol, cast

from durable_raft.kv.replies import ErrorReply
from durable_raft.server.clients import Clients, Connection
from durable_raft.server.commands.session import RESP2, ClientCertificate
from durable_raft.server.complaints import Complaints
from durable_raft.server.handshakes import Handshakes
from durable_raft.server.logs import event
from durable_raft.server.settings.tls import REQUIRED
from durable_raft.server.slices import Turns
from durable_raft.server.tls_transport import TlsTransport
from durable_raft.wire.resp import encode_reply

HANDSHAKE_RECORD: Final = 0x16
"""First byte of every TLS connection."""

HELLO_BYTES_MAX: Final = 5 + 16_384
"""What a client can send before it has heard anything: one record with its head."""

HANDSHAKE_BYTES_MAX: Final = 64 << 10
"""The same up to the end of the handshake, with all certificates that it shows."""

PLAIN_REFUSED: Final = ErrorReply(
    "ERR this port speaks TLS only: connect with TLS (redis-cli --tls, rediss:// or ssl=True)"
)
TOO_MANY: Final = ErrorReply("ERR max number of clients reached")

_logger = logging.getLogger(__name__)


class Contexts(Protocol):
    """Where the newest certificates are (server/tls.py)."""

    @property
    def context(self) -> ssl.SSLContext:
        """What the next connection is made with."""


class Acceptor:
    """Who has connected to one node and is no connection yet; belongs to the event loop."""

    def __init__(self, clients: Clients, contexts: Contexts, loop: asyncio.AbstractEventLoop) -> None:
        """Bind what connections are made of."""
        self.clients = clients
        self.contexts = contexts
        self.is_required = clients.config.tls_clients == REQUIRED
        self.handshakes = Handshakes(loop, time.monotonic)
        self.turns = Turns(loop.call_soon, time.monotonic)
        """Of those who have much to encrypt."""
        self.sockets: set[ClientSocket] = set()
        """Those of which it is not known yet who they are."""
        self.refused = Complaints(time.monotonic)

    def __call__(self) -> ClientSocket:
        """Return what receives from a socket that was accepted."""
        return ClientSocket(self)

    def stop(self) -> None:
        """Let go of all who are no connection yet."""
        self.handshakes.stop()
        for each in list(self.sockets):
            each.drop()

    def complain(self, address: str, reason: str) -> None:
        """Say why a client was turned away, once for each address and reason."""
        self.clients.tls.refused += 1
        if (fields := self.refused.note(f"{address}: {reason}")) is not None:
            event(_logger, logging.WARNING, "tls_client_refused", **fields)


class ClientSocket(asyncio.Protocol):
    """One socket: undecided, then in its handshake, then the way to and from a connection."""

    def __init__(self, acceptor: Acceptor) -> None:
        self._acceptor = acceptor
        self._raw: asyncio.Transport
        """There from ``connection_made`` on."""
        self._take: Callable[[bytes], None] = self._take_first
        """What is done with what comes in."""
        self._held: list[bytes] = []
        """What has come in of a handshake and waits for its turn."""
        self._taken = 0
        """Bytes that the handshake has taken."""
        self._tls: ssl.SSLObject | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._transport: TlsTransport | None = None
        self._connection: Connection | None = None

    # -- the socket's events --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first byte, and where that has to be TLS not for ever."""
        self._raw = transport = cast("asyncio.Transport", transport)
        acceptor = self._acceptor
        clients = acceptor.clients
        if clients.is_ended:
            transport.abort()
        elif not clients.has_room(len(acceptor.sockets)):
            if not acceptor.is_required:
                transport.write(encode_reply(TOO_MANY, RESP2))
            transport.close()
        else:
            acceptor.sockets.add(self)
            clients.tls.undecided = len(acceptor.sockets)
            if acceptor.is_required:
                acceptor.handshakes.expect(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._leave()
        if self._connection is not None:
            self._connection.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Hand on what has come in."""
        self._take(data)

    def eof_received(self) -> bool:
        """Have the connection answer what it owes; who is none yet has gone."""
        return self._connection is not None and self._connection.eof_received()

    def pause_writing(self) -> None:
        """Encrypt no more for a socket that does not take it."""
        if self._transport is not None:
            self._transport.may_send(may=False)

    def resume_writing(self) -> None:
        """Go on."""
        if self._transport is not None:
            self._transport.may_send(may=True)

    # -- before anything is known ---------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Be undecided no more."""
        acceptor = self._acceptor
        acceptor.sockets.discard(self)
        acceptor.clients.tls.undecided = len(acceptor.sockets)
        acceptor.clients.memory.requests.forget(self)
        acceptor.handshakes.end(self)

    @property
    def _address(self) -> str:
        name = self._raw.get_extra_info("peername")
        return str(name[0]) if name else "unknown"

    @property
    def name(self) -> str:
        """What the log calls it."""
        return f"handshake of {self._address}"

    @property
    def is_kept_waiting(self) -> bool:
        """Whether nothing is read from it at the moment: what it has sent waits for its turn."""
        return bool(self._held)

    def evict(self, reason: str) -> None:
        """Let go of everything and end."""
        self._refuse(reason)

    def drop(self) -> None:
        """End at once, with nothing said."""
        self._take = _ignore
        self._held.clear()
        self._leave()
        self._raw.abort()

    def give_up(self, why: str) -> None:
        """End a handshake that others or time do not allow to go on."""
        self._acceptor.clients.tls.timed_out += 1
        self._acceptor.complain(self._address, why)
        self.drop()

    def _refuse(self, why: str) -> None:
        """Turn the client away."""
        self._acceptor.complain(self._address, why)
        self.drop()

    def _take_first(self, data: bytes) -> None:
        if self._raw.is_closing():
            return
        if data[0] == HANDSHAKE_RECORD:
            if not self._acceptor.is_required:
                self._acceptor.handshakes.expect(self)
            self._take = self._take_handshake
            self._take(data)
        elif self._acceptor.is_required:
            self._take = _ignore
            self._acceptor.complain(self._address, "it does not speak TLS")
            self._leave()
            self._raw.write(encode_reply(PLAIN_REFUSED, RESP2))
            self._raw.close()
        else:
            self._become(self._raw, data)

    # -- the handshake --------------------------------------------------------------------------------------------

    def _take_handshake(self, data: bytes) -> None:
        """Keep what has come in for the next step; nothing is read meanwhile."""
        if self._raw.is_closing():
            return
        self._held.append(data)
        if self._tls is None and sum(map(len, self._held)) > HELLO_BYTES_MAX:
            self._refuse(f"it sends more than {HELLO_BYTES_MAX} bytes before it has heard anything")
            return
        self._raw.pause_reading()
        self._acceptor.clients.memory.requests.note(self, sum(map(len, self._held)), is_new=False)
        if self._held:
            self._acceptor.handshakes.heard(self)

    def go_on(self) -> None:
        """Take the next step of the handshake (``Handshakes``)."""
        held, self._held = b"".join(self._held), []
        self._acceptor.clients.memory.requests.forget(self)
        if self._tls is None:
            context = self._acceptor.contexts.context
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._incoming.write(held)
        self._taken += len(held)
        try:
            self._tls.do_handshake()
            certificate = _certificate_of(self._tls)
        except ssl.SSLWantReadError:
            self._wait_for_more()
        except (ssl.SSLError, ValueError) as error:
            self._say_last()
            self._acceptor.complain(self._address, _reason_of(error))
            self._take = _ignore
            self._leave()
            self._raw.close()
        else:
            self._say_last()
            self._succeed(self._tls, certificate)

    def _say_last(self) -> None:
        if self._outgoing.pending and not self._raw.is_closing():
            self._raw.write(self._outgoing.read())

    def _wait_for_more(self) -> None:
        self._say_last()
        if self._taken > HANDSHAKE_BYTES_MAX:
            self._refuse(f"its handshake has more than {HANDSHAKE_BYTES_MAX} bytes")
        elif not self._raw.is_closing():
            self._raw.resume_reading()

    def _succeed(self, tls: ssl.SSLObject, certificate: ClientCertificate | None) -> None:
        acceptor = self._acceptor
        acceptor.clients.tls.handshakes += 1
        self._transport = TlsTransport(self._raw, tls, self._incoming, self._outgoing, acceptor.turns)
        self._take = self._take_records
        connection = self._become(self._transport, b"")
        connection.session.tls = tls.version() or "TLS"
        connection.session.certificate = certificate
        if not self._raw.is_closing():
            self._raw.resume_reading()
            self._take_records(b"")

    # -- after it -------------------------------------------------------------------------------------------------

    def _become(self, transport: asyncio.Transport, data: bytes) -> Connection:
        """Become a connection that has received ``data``."""
        self._leave()
        self._connection = connection = Connection(self._acceptor.clients)
        connection.connection_made(transport)
        if data:
            self._take = connection.data_received
            self._take(data)
        return connection

    def _take_records(self, data: bytes) -> None:
        transport, connection = self._transport, self._connection
        if transport is None or connection is None or transport.is_ended or self._raw.is_closing():
            return
        try:
            found = transport.received(data)
        except ssl.SSLError as error:
            self._acceptor.complain(self._address, _reason_of(error))
            transport.say_last()
            connection.abort()
            return
        if found:
            connection.data_received(found)
        if transport.is_ended and not transport.is_closing():
            connection.eof_received()


def _ignore(data: bytes) -> None:
    """Do nothing with what comes from a client that was turned away."""
    del data


def _reason_of(error: Exception) -> str:
    """Return what OpenSSL says, without the place in its code."""
    text = getattr(error, "reason", None) or str(error)
    verdict = getattr(error, "verify_message", "")
    return f"{text}: {verdict}" if verdict else str(text)


def _certificate_of(tls: ssl.SSLObject) -> ClientCertificate | None:
    """Return what the client's certificate says that it is; None when it has shown none.

    Raises:
        ValueError: it cannot be read.
    """
    facts = cast("dict[str, tuple[tuple[tuple[str, str], ...], ...]]", tls.getpeercert())
    if not facts:
        return None
    names = [value for part in facts.get("subject", ()) for key, value in part if key == "commonName"]
    alternatives = cast("tuple[tuple[str, str], ...]", facts.get("subjectAltName", ()))
    uris = tuple(value for kind, value in alternatives if kind == "URI")
    return ClientCertificate(names[-1] if names else "", uris)
