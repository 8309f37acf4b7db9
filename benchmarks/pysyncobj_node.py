"""One node of PySyncObj with its journal, and a RESP port beside it: SET, GET and INFO, pipelined or not.

Usage: ``python -m benchmarks.pysyncobj_node --port PORT --self HOST:PORT --others HOST:PORT,... --dir DIR``.

A SET is answered from PySyncObj's commit callback. A GET goes through the log as well, so that it is linearizable on
every node; PySyncObj has no other read that is. Everything is at PySyncObj's defaults, with the two files that make it
durable: the journal, and the dump without which compaction would drop what the journal held. Neither is ever synced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import click
import hiredis
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated

from durable_raft.cli.local_cluster import HOST

READ_BYTES = 1 << 16


class Store(SyncObj):  # type: ignore[misc]
    """A replicated dictionary."""

    def __init__(self, own: str, others: list[str], directory: Path) -> None:
        """Join the others; what the journal holds is applied again."""
        super().__init__(
            own,
            others,
            SyncObjConf(journalFile=str(directory / "journal"), fullDumpFile=str(directory / "dump")),
        )
        self.values: dict[bytes, bytes] = {}

    @replicated  # type: ignore[untyped-decorator]
    def set(self, key: bytes, value: bytes) -> bool:
        """Store a value."""
        self.values[key] = value
        return True

    @replicated  # type: ignore[untyped-decorator]
    def get(self, key: bytes) -> bytes | None:
        """Return the value at this place of the log."""
        return self.values.get(key)


class Connection(asyncio.Protocol):
    """One client: replies leave in the order in which the requests came."""

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop
        self._reader = hiredis.Reader()
        self._waiting: dict[int, bytes | None] = {}
        """Replies by request number, None while unknown; the first is the next to leave."""
        self._asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where replies go."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Start every whole request."""
        self._reader.feed(data)
        while (request := self._reader.gets()) is not False:
            number, self._asked = self._asked, self._asked + 1
            self._waiting[number] = None
            self._execute(number, request)

    def _execute(self, number: int, request: list[bytes]) -> None:
        match [request[0].upper(), *request[1:]]:
            case [b"SET", key, value]:
                self._store.set(key, value, callback=self._answer(number, lambda _: b"+OK\r\n"))
            case [b"GET", key]:
                self._store.get(key, callback=self._answer(number, bulk))
            case [b"INFO", *_]:
                status = self._store.getStatus()
                leads = status["leader"] is not None and status["leader"] == status["self"]
                self._reply(number, bulk(b"role:" + (b"leader" if leads else b"follower") + b"\r\n"))
            case _:
                self._reply(number, b"-ERR unknown command\r\n")

    def _answer(self, number: int, encode: Callable[[bytes | None], bytes]) -> Callable[[bytes | None, int], None]:
        def done(result: bytes | None, reason: int) -> None:  # on PySyncObj's thread
            reply = encode(result) if reason == FAIL_REASON.SUCCESS else b"-TRYAGAIN reason %d\r\n" % reason
            self._loop.call_soon_threadsafe(self._reply, number, reply)

        return done

    def _reply(self, number: int, reply: bytes) -> None:
        self._waiting[number] = reply
        ready = []
        for asked, known in self._waiting.items():
            if known is None:
                break
            ready.append((asked, known))
        for asked, _ in ready:
            del self._waiting[asked]
        if ready and not self._transport.is_closing():
            self._transport.write(b"".join(known for _, known in ready))


def bulk(value: bytes | None) -> bytes:
    """Return a bulk string."""
    return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)


async def serve(store: Store, port: int) -> None:
    """Listen for clients for ever."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(store, loop), HOST, port)
    await server.serve_forever()


@click.command()
@click.option("--port", required=True, type=int, help="Where clients connect")
@click.option("--self", "own", required=True, help="HOST:PORT for PySyncObj")
@click.option("--others", default="", help="HOST:PORT of the other nodes, separated by commas")
@click.option("--dir", "directory", required=True, type=click.Path(path_type=Path), help="Journal and dump")
def main(port: int, own: str, others: str, directory: Path) -> None:
    """Run one node until it is killed."""
    directory.mkdir(parents=True, exist_ok=True)
    asyncio.run(serve(Store(own, [each for each in others.split(",") if each], directory), port))


if __name__ == "__main__":
    main()
