"""Writes that leave on a schedule, whether or not the system keeps up: latency free of coordinated omission.

A request's latency counts from the moment it was due, so a stall of 100 ms shows in every request that was due in it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import cast

from durable_raft.cli.local_cluster import HOST

CONNECTIONS = 8
REPLY_S = 30.0


def set_request(key: bytes, value: bytes) -> bytes:
    """Return a SET as RESP."""
    return b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(value), value)


class _Client(asyncio.Protocol):
    """One connection; replies come in the order of the requests."""

    def __init__(self, latencies_s: list[float]) -> None:
        self._latencies_s = latencies_s
        self._due: deque[float] = deque()
        self._lines = b""
        self.problem: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where requests go."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """What was asked will not be answered."""
        self.problem = self.problem or f"the connection is lost: {exc}"

    def send(self, due: float, request: bytes) -> None:
        """Send what was due at ``due``."""
        self._due.append(due)
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Note when each reply came."""
        now = time.perf_counter()
        *lines, self._lines = (self._lines + data).split(b"\r\n")
        for line in lines:
            self._latencies_s.append(now - self._due.popleft())
            if line != b"+OK":
                self.problem = f"a SET was answered with {line!r}"

    @property
    def is_idle(self) -> bool:
        """Whether nothing is owed."""
        return not self._due

    def close(self) -> None:
        """End the connection."""
        self._transport.abort()


async def open_loop(port: int, rate: float, seconds: float, value_bytes: int = 128) -> list[float]:
    """Have writes leave at ``rate`` a second over some connections to one node; return each latency in seconds.

    Raises:
        RuntimeError: a request failed or was not answered.
    """
    loop = asyncio.get_running_loop()
    latencies_s: list[float] = []
    clients = [(await loop.create_connection(lambda: _Client(latencies_s), HOST, port))[1] for _ in range(CONNECTIONS)]
    value = b"x" * value_bytes
    try:
        began = time.perf_counter()
        for number in range(int(seconds * rate)):
            due = began + number / rate
            wait_s = due - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            key = b"open:%06d" % (number % 100_000)
            clients[number % len(clients)].send(due, set_request(key, value))
        await _settle(clients)
    finally:
        for client in clients:
            client.close()
    return latencies_s


async def _settle(clients: Sequence[_Client]) -> None:
    """Wait until all is answered."""
    deadline = time.perf_counter() + REPLY_S
    while True:
        for client in clients:
            if client.problem is not None:
                raise RuntimeError(client.problem)
        if all(client.is_idle for client in clients):
            return
        if time.perf_counter() > deadline:
            raise RuntimeError(f"not all writes were answered within {REPLY_S} s")
        await asyncio.sleep(0.005)


def quantile(latencies_s: Sequence[float], share: float) -> float:
    """Return a quantile in milliseconds."""
    ordered = sorted(latencies_s)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3
