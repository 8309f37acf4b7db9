"""The client port where TLS is spoken, fed with handshakes that were damaged: a stub for the kernel, all else is real.

The seed says what is damaged and where. OpenSSL's own random numbers are in the bytes as well, so a failure is not
played again bit by bit.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

from durable_raft.server.accepting import Acceptor, ClientSocket
from durable_raft.server.clients import Clients, Outbox
from durable_raft.server.memory import NodeMemory
from durable_raft.server.settings.config import load_config
from durable_raft.server.slices import Turns
from durable_raft.server.tls import TlsKeeper
from tests.fuzz import inputs
from tests.support.certificates import Certificates
from tests.support.desk import desk_at
from tests.support.node_status import LEADER, Actions

FLIGHTS_MAX: Final = 6
"""A handshake has fewer."""


class _Later:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Do not call it."""
        self.callback = None


class _Loop:
    """A loop on which everything is due at its next turn."""

    def __init__(self) -> None:
        self._due: list[_Later] = []

    def call_soon(self, callback: Callable[[], None]) -> _Later:
        self._due.append(_Later(callback))
        return self._due[-1]

    def call_later(self, delay: float, callback: Callable[[], None]) -> _Later:
        del delay
        return self.call_soon(callback)

    def turn(self) -> None:
        """Call what is due."""
        due, self._due = self._due, []
        for each in due:
            if each.callback is not None:
                each.callback()


class _Socket:
    def setsockopt(self, *_: object) -> None:
        """Nothing is set."""


class _Raw:
    """A socket's transport; what is written to it is kept for the client."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.is_closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        del default
        return _Socket() if name == "socket" else ("10.0.0.1", 1)

    def set_write_buffer_limits(self, high: int) -> None:
        """Nothing ever waits."""

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_closed

    def write(self, data: bytes) -> None:
        if self.is_closed:
            raise AssertionError("written to a closed socket")
        self.written += data

    def abort(self) -> None:
        self.is_closed = True

    close = abort

    def pause_reading(self) -> None:
        """Nothing comes by itself."""

    resume_reading = pause_reading


class Port:
    """A node's client port, and clients that are mistaken or mean harm."""

    def __init__(self, rng: random.Random, clients: Clients, acceptor: Acceptor, made: Certificates) -> None:
        self._rng = rng
        self._loop = cast("_Loop", acceptor.handshakes._loop)
        self._clients, self._acceptor = clients, acceptor
        certified = made.client_context(made.client())
        old = made.client_context(made.client("old"))
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        self._contexts = (certified, old, made.client_context())
        self.opened = 0
        """Handshakes that came to their end."""

    def play(self) -> None:
        """Have one client connect, say what it says, and go."""
        rng, raw = self._rng, _Raw()
        end = ClientSocket(self._acceptor)
        end.connection_made(cast("asyncio.Transport", raw))
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = rng.choice(self._contexts).wrap_bio(incoming, outgoing, server_hostname="localhost")
        harm_at = rng.randrange(FLIGHTS_MAX)
        for flight in range(FLIGHTS_MAX):
            with contextlib.suppress(ssl.SSLError):
                tls.do_handshake()
                tls.write(rng.choice(inputs.REQUESTS))
            said = outgoing.read() or rng.randbytes(rng.randrange(40))
            if flight == harm_at and said:
                said = inputs.damaged(rng, said)
            for piece in inputs.pieces(rng, said):
                if raw.is_closed:
                    break
                if piece:
                    end.data_received(piece)
                if rng.random() < 0.7:
                    self._loop.turn()
            self._loop.turn()
            if raw.is_closed or rng.random() < 0.02:
                break
            incoming.write(bytes(raw.written))
            raw.written.clear()
        self.opened += self._acceptor.clients.tls.handshakes
        self._acceptor.clients.tls.handshakes = 0
        raw.is_closed = True
        end.connection_lost(None)
        for _ in range(3):
            self._loop.turn()

    def leftovers(self) -> int:
        """Return how much is remembered of clients that have gone."""
        house, clients = self._acceptor.handshakes, self._clients
        held = clients.memory.requests.share.held + clients.memory.replies.share.held
        return len(self._acceptor.sockets) + len(house._since) + house.open + len(clients.connections) + held


@contextmanager
def open_port(rng: random.Random, place: Path) -> Iterator[Port]:
    """Open a client port below ``place``."""
    made, loop = Certificates(place / "tls"), _Loop()
    mode = rng.choice(("required", "optional"))
    settings = made.settings(made.node(), mode, tls_auth_clients=rng.choice(("yes", "optional")))
    config = load_config({"dir": "unused", **settings}, {})
    with desk_at(place / "n1") as desk:
        desk.lead()
        memory = NodeMemory(config, time.monotonic)
        clients = Clients(config, desk.dispatcher, lambda _: LEADER, Actions(), Outbox(), memory)
        clients.turns = Turns(loop.call_soon, time.monotonic)
        acceptor = Acceptor(clients, TlsKeeper(config), cast("asyncio.AbstractEventLoop", loop))
        yield Port(rng, clients, acceptor, made)
