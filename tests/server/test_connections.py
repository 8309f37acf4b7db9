"""Connections over real sockets: bytes in, replies out, before a real dispatcher whose node leads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from durable_raft.cli.local_cluster import free_ports
from durable_raft.server.clients import Clients, Outbox
from durable_raft.server.settings.config import load_config
from tests.support.desk import Desk
from tests.support.node_status import LEADER

WAIT_S = 60.0


@dataclass
class Talk:
    """One client's connection."""

    clients: Clients
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, request: bytes, reply: bytes) -> None:
        """Send bytes, and require these bytes in answer."""
        self.writer.write(request)
        assert await self.reader.readexactly(len(reply)) == reply

    async def ask_bulk(self, request: bytes) -> str:
        """Send bytes and return the bulk string they are answered with."""
        self.writer.write(request)
        size = int((await self.reader.readuntil(b"\r\n"))[1:])
        return (await self.reader.readexactly(size + 2)).decode()

    async def is_ended(self) -> bool:
        """Wait until the node ends the connection; nothing more may have come."""
        try:
            return await self.reader.read() == b""
        except ConnectionResetError:
            return True


@asynccontextmanager
async def listening(host: str = "127.0.0.1") -> AsyncIterator[tuple[Clients, int]]:
    """Listen as a node that leads does; every turn of the dispatcher is taken at once."""
    desk = Desk()
    desk.lead()
    clients = Clients(load_config({"dir": "unused"}, {}), desk.dispatcher, lambda: LEADER, Outbox())
    (port,) = free_ports(1)
    await clients.start(host, port)
    try:
        async with asyncio.timeout(WAIT_S):
            yield clients, port
    finally:
        clients.stop_listening()
        clients.abort()


@asynccontextmanager
async def talking(host: str = "127.0.0.1") -> AsyncIterator[Talk]:
    """Listen, and connect one client."""
    async with listening(host) as (clients, port):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            yield Talk(clients, reader, writer)
        finally:
            writer.close()


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_addresses_of_connections_have_the_form_of_redis(host: str, shown: str) -> None:
    """CLIENT LIST writes an IPv6 address in brackets (Redis ``formatAddr``), and CLIENT KILL takes what it wrote."""

    async def main() -> None:
        async with talking(host) as talk:
            line = await talk.ask_bulk(b"CLIENT LIST\r\n")
            own = f"{shown}:{talk.writer.get_extra_info('sockname')[1]}"
            assert f" addr={own} laddr={shown}:" in line
            await talk.ask(f"CLIENT KILL {own}\r\n".encode(), b"+OK\r\n")
            assert await talk.is_ended()

    asyncio.run(main())
