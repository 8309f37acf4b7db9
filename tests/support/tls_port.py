"""A node's client port where TLS is spoken, with a desk behind it, and those who connect to it."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop

from durable_raft.cli.local_cluster import free_ports
from durable_raft.server.accepting import Acceptor
from durable_raft.server.clients import Clients, Outbox
from durable_raft.server.memory import NodeMemory
from durable_raft.server.settings.config import load_config
from durable_raft.server.tls import TlsKeeper
from durable_raft.server.watchdog import Watchdog, watched
from tests.support.certificates import Certificates
from tests.support.desk import Desk, desk_at
from tests.support.node_status import LEADER, Actions
from tests.support.waiting import WAIT_S

HOST = "127.0.0.1"


@dataclass
class Port:
    """A node's client port and whoever has connected to it."""

    desk: Desk
    clients: Clients
    acceptor: Acceptor
    port: int
    made: Certificates

    async def plain(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect without TLS."""
        return await asyncio.open_connection(HOST, self.port)

    async def secure(
        self, client: Path | None, context: ssl.SSLContext | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect with TLS and show the certificate ``client``."""
        return await asyncio.open_connection(HOST, self.port, ssl=context or self.made.client_context(client))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds here."""
        while not condition():
            await asyncio.sleep(0.001)

    def nothing_left(self) -> bool:
        """Return whether nobody is remembered."""
        house = self.acceptor.handshakes
        return not (
            self.acceptor.sockets
            or self.clients.connections
            or house._since
            or house._open
            or house._waiting
            or self.clients.memory.requests.share.held
            or self.clients.memory.replies.share.held
        )


@asynccontextmanager
async def listening(mode: str = "required", **more: object) -> AsyncIterator[Port]:
    """Listen as a node that leads does; ``off``: without TLS, though certificates are there."""
    with tempfile.TemporaryDirectory() as place, desk_at(Path(place) / "n1") as desk:
        desk.lead()
        made, outbox = Certificates(Path(place) / "tls"), Outbox()
        if "tls_crl_file" in more:
            revoked = [made.client("revoked")]
            more["tls_crl_file"] = str(made.revoke(revoked))
        spoken = "required" if mode == "off" else mode
        config = load_config({"dir": "unused", **made.settings(made.node(), spoken), **more}, {})
        clients = Clients(
            config, desk.dispatcher, lambda _: LEADER, Actions(), outbox, NodeMemory(config, time.monotonic)
        )
        acceptor = Acceptor(clients, TlsKeeper(config), asyncio.get_running_loop())
        (port,) = free_ports(1)
        await clients.start(HOST, port, None if mode == "off" else acceptor)
        try:
            async with asyncio.timeout(WAIT_S):
                yield Port(desk, clients, acceptor, port, made)
        finally:
            clients.stop_listening()
            acceptor.stop()
            clients.abort()


def run(main: Callable[[], Coroutine[object, object, None]]) -> None:
    """Run on the loop that nodes run on, and on Python's own."""
    for loop in (uvloop.Loop, asyncio.SelectorEventLoop):
        with asyncio.Runner(loop_factory=lambda loop=loop: watched(loop)(Watchdog())) as runner:  # type: ignore[misc]
            runner.run(main())


async def refused(port: Port, client: Path | None, context: ssl.SSLContext | None = None) -> str:
    """Connect as somebody who is not let in; return what the client is told."""
    try:
        reader, writer = await port.secure(client, context)
        writer.write(b"PING\r\n")
        answer = await reader.read()
    except ssl.SSLError as error:
        return error.reason or str(error)
    except ConnectionError as error:
        return str(error)
    assert answer == b""
    return "closed"
