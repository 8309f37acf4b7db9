"""A TCP proxy for every directed link between nodes, so that a test can cut, stall and heal each by itself.

Each node dials every other and sends only on the link it dialled, so the proxy n1 -> n2 carries what n1 says to n2 and
nothing of what n2 says to n1, but for the handshake: cutting one proxy is a one-way partition.

A cut link behaves as a network that drops packets does: no error, no byte, connections stay open. After ``heal`` they
are dropped, as the bytes that were lost cannot be made up for; after ``stall`` and ``resume`` they are delivered late.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, TypeVar

from tests.support.waiting import WAIT_S

HOST = "127.0.0.1"
CHUNK_BYTES = 1 << 16

T = TypeVar("T")


class Link:
    """One proxied link; all methods run on the network's event loop."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.bytes_forwarded = 0
        self.connections = 0
        """Connections accepted since the start."""
        self.bytes_per_s = 0
        """How many bytes pass in a second, about; 0: as many as come."""
        self._open = asyncio.Event()
        """Clear while the link is cut or stalled: nothing is read, nothing connected."""
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, port: int) -> None:
        """Listen on ``port``."""
        self._server = await asyncio.start_server(self._accept, HOST, port)

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is not None:
            self._server.close()
        await self.reset()

    async def hold(self) -> None:
        """Let nothing through."""
        self._open.clear()

    async def release(self) -> None:
        """Let everything through, what was sent meanwhile included."""
        self._open.set()

    async def reset(self) -> None:
        """Abort every connection."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        writers = [writer]
        try:
            await self._open.wait()
            far_reader, far_writer = await asyncio.open_connection(HOST, self.target_port)
            writers.append(far_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(reader, far_writer))
                group.create_task(self._forward(far_reader, writer))
        except* (OSError, EOFError):
            pass
        except* asyncio.CancelledError:
            pass
        finally:
            for each in writers:
                each.transport.abort()
            self._tasks.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            data = await reader.read(CHUNK_BYTES)
            await self._open.wait()
            if not data:
                raise EOFError
            # Counted first: whoever has received the bytes may ask how many there were.
            self.bytes_forwarded += len(data)
            writer.write(data)
            await writer.drain()
            if self.bytes_per_s:
                await asyncio.sleep(len(data) / self.bytes_per_s)


class ProxyNetwork:
    """All proxied links of a cluster, run by an event loop in a thread of its own; methods may be called by tests."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()
        self.links: dict[tuple[str, str], Link] = {}
        """(who dials, whom) -> link."""

    def add(self, source: str, target: str, *, port: int, target_port: int) -> None:
        """Proxy what ``source`` sends to ``target``: listen on ``port``, connect to ``target_port``."""

        async def make() -> Link:
            link = Link(target_port)
            await link.start(port)
            return link

        self.links[source, target] = self._run(make())

    def cut(self, source: str, target: str) -> None:
        """Drop whatever ``source`` sends to ``target`` from now on (one way)."""
        self._run(self.links[source, target].hold())

    def stall(self, source: str, target: str) -> None:
        """Keep back whatever ``source`` sends to ``target`` until ``resume``."""
        self._run(self.links[source, target].hold())

    def resume(self, source: str, target: str) -> None:
        """Deliver what was kept back, late but whole."""
        self._run(self.links[source, target].release())

    def throttle(self, source: str, bytes_per_s: int) -> None:
        """Let only so many bytes a second pass on each link that ``source`` dials."""
        for (dialler, _), link in self.links.items():
            if dialler == source:
                link.bytes_per_s = bytes_per_s

    def partition(self, *groups: Iterable[str]) -> None:
        """Cut every link between nodes of different groups, in both directions."""
        sides = [set(group) for group in groups]
        for source, target in self.links:
            if any(source in side and target not in side for side in sides):
                self.cut(source, target)

    def isolate(self, node_id: str) -> None:
        """Cut every link from and to one node."""
        for source, target in self.links:
            if node_id in (source, target):
                self.cut(source, target)

    def heal(self) -> None:
        """Mend every link that was cut; its connections are dropped, what was sent meanwhile is lost."""
        for link in self.links.values():
            if not link._open.is_set():
                self._run(link.reset())
                self._run(link.release())

    def close(self) -> None:
        """End every link and the thread."""
        for link in self.links.values():
            with suppress(TimeoutError):
                self._run(link.stop())
        stop: Callable[[], None] = self._loop.stop
        self._loop.call_soon_threadsafe(stop)
        self._thread.join(WAIT_S)
        if not self._loop.is_running():
            self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WAIT_S)
