"""Connections over real sockets: bytes in, replies out, before a real dispatcher whose node leads."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop

from durable_raft.cli.local_cluster import free_ports
from durable_raft.server.clients import Clients, Outbox
from durable_raft.server.memory import NodeMemory
from durable_raft.server.settings.config import load_config
from tests.support.desk import Desk, desk_at
from tests.support.node_status import LEADER, Actions
from tests.support.waiting import WAIT_S


@dataclass
class Talk:
    """One client's connection."""

    node: Desk
    clients: Clients
    port: int
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
async def talking(host: str = "127.0.0.1") -> AsyncIterator[Talk]:
    """Listen as a node that leads does, and connect one client."""
    with tempfile.TemporaryDirectory() as place, desk_at(Path(place) / "n1") as desk:
        desk.lead()
        outbox = Outbox()
        config = load_config({"dir": "unused"}, {})
        memory = NodeMemory(config, time.monotonic)
        clients = Clients(config, desk.dispatcher, lambda _: LEADER, Actions(), outbox, memory)
        (port,) = free_ports(1)
        await clients.start(host, port)
        try:
            async with asyncio.timeout(WAIT_S):
                reader, writer = await asyncio.open_connection(host, port)
                yield Talk(desk, clients, port, reader, writer)
                writer.close()
        finally:
            clients.stop_listening()
            clients.abort()


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


def test_killed_connection_ends_at_once() -> None:
    """Nothing more is said on it, though it is owed a reply; the asking one learns how many there were."""

    async def main() -> None:
        async with talking() as talk:
            talk.writer.write(b"SET a 1\r\n")
            while not talk.clients.commands_processed:
                await asyncio.sleep(0)
            reader, writer = await asyncio.open_connection("127.0.0.1", talk.port)
            other = Talk(talk.node, talk.clients, talk.port, reader, writer)
            await other.ask(b"cLiEnT kIlL ID 1\r\n", b":1\r\n")
            assert await talk.is_ended()
            await other.ask(b"PING\r\n", b"+PONG\r\n")
            writer.close()

    asyncio.run(main())


def test_killing_one_connection_leaves_others_that_are_ending_their_reply() -> None:
    """A client that said QUIT behind a write is owed the write's reply, whomever another client kills meanwhile."""

    async def main() -> None:
        async with talking() as talk:
            talk.writer.write(b"SET a 1\r\nQUIT\r\n")
            while not any(each.session.closing for each in talk.clients.connections.values()):
                await asyncio.sleep(0)
            reader, writer = await asyncio.open_connection("127.0.0.1", talk.port)
            other = Talk(talk.node, talk.clients, talk.port, reader, writer)
            await other.ask(b"CLIENT KILL ID 4711\r\n", b":0\r\n")
            talk.node.turn()
            talk.node.acknowledge()
            talk.clients.outbox.flush()
            assert await talk.reader.read() == b"+OK\r\n+OK\r\n"
            writer.close()

    asyncio.run(main())


def test_skipped_reply_is_one_of_a_run() -> None:
    """CLIENT REPLY SKIP takes the reply of the next command only, though that runs together with those behind it."""

    async def main() -> None:
        async with talking() as talk:
            talk.writer.write(b"CLIENT REPLY SKIP\r\nSET a 1\r\nsEt a 2\r\nSET a 3\r\nPING\r\n")
            while talk.clients.commands_processed != 5:
                await asyncio.sleep(0)
            talk.node.turn()
            talk.node.acknowledge()
            talk.clients.outbox.flush()
            expected = b"+OK\r\n+OK\r\n+PONG\r\n"
            assert await talk.reader.readexactly(len(expected)) == expected

    asyncio.run(main())


def test_refused_requests_are_answered_and_not_counted() -> None:
    """As in Redis, total_commands_processed counts what was executed: neither unknown names nor wrong arities."""

    async def main() -> None:
        async with talking() as talk:
            await talk.ask(b"GET\r\n", b"-ERR wrong number of arguments for 'get' command\r\n")
            await talk.ask(b"ECHO\r\n", b"-ERR wrong number of arguments for 'echo' command\r\n")
            await talk.ask(b"NoSuch\r\n", b"-ERR unknown command 'NoSuch', with args beginning with: \r\n")
            assert talk.clients.commands_processed == 0
            await talk.ask(b"echo 1\r\n", b"$1\r\n1\r\n")
            assert talk.clients.commands_processed == 1

    asyncio.run(main())


def test_nothing_behind_quit_is_executed() -> None:
    """Neither what it runs together with nor what follows; the reply to QUIT is the last."""

    async def main() -> None:
        async with talking() as talk:
            talk.writer.write(b"PING\r\nQUIT\r\nQUIT\r\nPING\r\n")
            assert await talk.reader.read() == b"+PONG\r\n+OK\r\n"
            assert talk.clients.commands_processed == 2

    asyncio.run(main())


@pytest.mark.parametrize("turns", range(6))
def test_a_client_that_was_being_accepted_when_all_were_dropped_is_dropped_too(turns: int) -> None:
    """However far the loop has come with it; else its transport outlives the loop, which then cannot be closed."""

    async def main() -> None:
        async with talking() as talk:
            with socket.socket() as late:
                late.setblocking(False)
                late.connect_ex(("127.0.0.1", talk.port))
                for _ in range(turns):
                    await asyncio.sleep(0)
                talk.clients.stop_listening()
                talk.clients.abort()
                with suppress(ConnectionError):
                    assert await asyncio.get_running_loop().sock_recv(late, 1) == b""

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
