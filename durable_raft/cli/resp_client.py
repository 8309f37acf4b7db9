"""Small blocking RESP clients for the commands: one connection to one node, and one that finds the leader.

The commands must work with nothing but this package installed, so they do not use redis-py. hiredis does the parsing.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Sequence
from typing import Final, Self, TypeAlias

import hiredis

from durable_raft.addresses import Address, parse_redis_address
from durable_raft.errors import ErrorAnswered, NodeUnreachable

Value: TypeAlias = "bytes | int | list[Value] | None"
"""What a node answers, status lines included (as bytes)."""

READ_BYTES: Final = 1 << 16
RETRY_PAUSE_S: Final = 0.02
"""Between two rounds over all nodes: short against an election (150 ms), long against a loopback round trip."""

ATTEMPT_S: Final = 3.0
"""How long one node is waited for: longer than it holds a command while there is no leader (2 s by default)."""

RETRIED_CODES: Final = ("CLUSTERDOWN", "TRYAGAIN", "LOADING", "UNKNOWN", "OVERLOADED")
"""Error codes after which a request that may be repeated is asked again."""


class _Spoken:
    """How the clients of this process speak with nodes."""

    tls: ssl.SSLContext | None = None


def use_tls(context: ssl.SSLContext | None) -> None:
    """Have every client that is made from now on speak TLS, or none: a command asks all nodes in one way."""
    _Spoken.tls = context


class RespClient:
    """One connection to one node; not shared between threads."""

    def __init__(self, address: Address, timeout_s: float = 2.0, tls: ssl.SSLContext | None = None) -> None:
        """Connect.

        Args:
            timeout_s: for connecting, and for each wait for bytes of a reply.
            tls: what TLS is spoken with; else as ``use_tls`` said.

        Raises:
            NodeUnreachable: nobody listens there, or not in time.
        """
        self.address = address
        self._reader = hiredis.Reader()
        try:
            self._socket = socket.create_connection((address.host, address.port), timeout_s)
        except OSError as error:
            raise NodeUnreachable(f"{address} does not answer: {error}") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if (context := tls or _Spoken.tls) is not None:
            self._socket = self._wrapped(context)

    def _wrapped(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        try:
            return context.wrap_socket(self._socket, server_hostname=self.address.host)
        except OSError as error:
            self._socket.close()
            raise NodeUnreachable(f"{self.address} does not answer with TLS as expected: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def call(self, *arguments: str | bytes) -> Value:
        """Send one command and return its reply.

        Raises:
            ErrorAnswered: the reply is an error.
            NodeUnreachable: the connection broke or the reply did not come in time; the command may have been executed.
        """
        try:
            # hiredis declares a tuple of one.
            self._socket.sendall(hiredis.pack_command(arguments))  # type: ignore[arg-type]
            while (reply := self._reader.gets()) is False:
                data = self._socket.recv(READ_BYTES)
                if not data:
                    raise ConnectionError("it closed the connection")
                self._reader.feed(data)
        except (OSError, hiredis.ProtocolError) as error:
            raise NodeUnreachable(f"{self.address} broke off {arguments[0]!r}: {error}") from error
        if isinstance(reply, hiredis.ReplyError):
            raise ErrorAnswered(str(reply))
        value: Value = reply
        return value

    def info(self, section: str) -> dict[str, str]:
        """Return one section of INFO as a dictionary.

        Raises:
            ErrorAnswered, NodeUnreachable: as ``call``.
        """
        text = self.call("INFO", section)
        lines = text.decode().splitlines() if isinstance(text, bytes) else []
        pairs = (line.partition(":") for line in lines if line and not line.startswith("#"))
        return {key: value for key, _, value in pairs}


class ClusterClient:
    """Sends each request to the leader, wherever it is, and asks again while there is none.

    A request may therefore be executed more than once: only for reads, and for writes that are the same twice (SET).
    """

    def __init__(self, nodes: Sequence[Address], deadline_s: float = 30.0) -> None:
        """Remember where nodes are; nothing is connected yet.

        Args:
            deadline_s: how long one request may take, over all attempts.
        """
        self._nodes = tuple(nodes)
        self._deadline_s = deadline_s
        self._target = self._nodes[0]
        self._client: RespClient | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def call(self, *arguments: str | bytes) -> Value:
        """Return the leader's reply.

        Raises:
            ErrorAnswered: an error that asking again does not cure.
            NodeUnreachable: no leader answered before the deadline.
        """
        deadline = time.monotonic() + self._deadline_s
        attempts = 0
        while True:
            try:
                if self._client is None:
                    self._client = RespClient(self._target, ATTEMPT_S)
                return self._client.call(*arguments)
            except (NodeUnreachable, ErrorAnswered) as error:
                self._redirect(error)
                if time.monotonic() > deadline:
                    raise NodeUnreachable(f"no leader within {self._deadline_s:g} s; last: {error}") from error
            attempts += 1
            if attempts % len(self._nodes) == 0:
                time.sleep(RETRY_PAUSE_S)

    def _redirect(self, error: NodeUnreachable | ErrorAnswered) -> None:
        """Choose whom to ask next; raise ``error`` again when asking again is no help."""
        code, _, rest = str(error).partition(" ")
        if isinstance(error, ErrorAnswered) and code not in ("MOVED", *RETRIED_CODES):
            raise error
        self.close()
        if isinstance(error, ErrorAnswered) and code == "MOVED":
            self._target = parse_redis_address("MOVED", rest.partition(" ")[2])
            return
        with contextlib.suppress(ValueError):
            self._target = self._nodes[(self._nodes.index(self._target) + 1) % len(self._nodes)]
