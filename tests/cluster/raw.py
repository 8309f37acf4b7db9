"""A connection on which a test decides when to send and when to look: what redis-py does in one step, in two."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

import hiredis

from tests.cluster.harness import Cluster
from tests.cluster.proxy import HOST
from tests.support.waiting import WAIT_S

READ_BYTES = 1 << 16


class Conversation:
    """One client connection to one node; nothing is sent again, followed elsewhere or hidden."""

    def __init__(self, cluster: Cluster, node_id: str) -> None:
        self._socket = socket.create_connection((HOST, cluster.nodes[node_id].client_port), WAIT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()
        self.is_closed = False
        """Whether the node has closed the connection."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def send(self, *args: str) -> None:
        """Send one command and return at once."""
        self._socket.sendall(hiredis.pack_command(args))  # type: ignore[arg-type]

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def read_until(self, end: bytes, timeout_s: float = WAIT_S) -> bytes:
        """Return everything that comes, up to and with ``end`` or the end of the connection.

        Raises:
            TimeoutError: neither came in time.
        """
        self._socket.settimeout(timeout_s)
        data = b""
        while not data.endswith(end):
            try:
                chunk = self._socket.recv(READ_BYTES)
            except ConnectionError:
                chunk = b""
            if not chunk:
                self.is_closed = True
                break
            data += chunk
        return data

    def read_bytes(self, count: int, timeout_s: float = WAIT_S) -> bytes:
        """Return the next ``count`` bytes, fewer if the connection ends before; raises as ``read_until``."""
        self._socket.settimeout(timeout_s)
        data = bytearray()
        while len(data) < count and (chunk := self._socket.recv(min(READ_BYTES, count - len(data)))):
            data += chunk
        return bytes(data)

    def reply(self, timeout_s: float = WAIT_S) -> str | None:
        """Wait for the next reply and return it as text: ``nil``, ``-CODE ...`` for an error; None: closed instead.

        Raises:
            TimeoutError: neither came in time.
        """
        self._socket.settimeout(timeout_s)
        while (value := self._reader.gets()) is False:
            try:
                data = self._socket.recv(READ_BYTES)
            except ConnectionError:
                data = b""
            if not data:
                self.is_closed = True
                return None
            self._reader.feed(data)
        if isinstance(value, hiredis.ReplyError):
            return f"-{value}"
        return "nil" if value is None else value.decode() if isinstance(value, bytes) else str(value)

    def ask(self, *args: str) -> str | None:
        """Send one command and return its reply, as ``reply`` does."""
        self.send(*args)
        return self.reply()
