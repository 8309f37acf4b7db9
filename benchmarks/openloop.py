"""Requests that leave on a schedule, whether or not the system keeps up: latency free of coordinated omission.

A request's latency counts from the moment it was due, so a stall of 100 ms shows in every request that was due in it.
No request leaves early: ``select`` waits in microseconds and rounds up, where an event loop rounds to milliseconds.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import hiredis

from durable_raft.cli.local_cluster import HOST

CONNECTIONS = 8
REPLY_S = 30.0
READ_BYTES = 1 << 18


@dataclass(frozen=True)
class Work:
    """What the requests are."""

    value_bytes: int = 128
    keys: int = 1_000
    """Written and read one after the other."""
    reads_in_ten: int = 0
    """The others are writes."""

    def is_read(self, number: int) -> bool:
        """Return whether request ``number`` reads."""
        return number % 10 < self.reads_in_ten

    def key(self, number: int) -> bytes:
        """Return the key of request ``number``; a prime step, so that what is read is also written."""
        return b"open:%06d" % (number * 7_919 % self.keys)


class Wire(Protocol):
    """One connection's protocol: makes requests and takes answers; it does no I/O.

    All methods raise RuntimeError when a request is not answered as it should be.
    """

    def opening(self) -> bytes:
        """Return what is sent first."""

    def request(self, number: int, key: bytes, value: bytes | None) -> bytes:
        """Return what to send now for request ``number``: a write of ``value``, or a read if that is None."""

    def feed(self, data: bytes) -> tuple[Sequence[int], bytes]:
        """Take what was received; return the numbers that it answers, and what is to be sent in turn."""


def set_request(key: bytes, value: bytes) -> bytes:
    """Return a SET as RESP."""
    return b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(value), value)


class RespWire:
    """RESP: answers come in the order of the requests."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._asked: deque[tuple[int, bool]] = deque()

    def opening(self) -> bytes:
        """Return nothing: RESP needs no greeting."""
        return b""

    def request(self, number: int, key: bytes, value: bytes | None) -> bytes:
        """Return a SET or a GET."""
        self._asked.append((number, value is None))
        return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key) if value is None else set_request(key, value)

    def feed(self, data: bytes) -> tuple[Sequence[int], bytes]:
        """Parse replies; raises RuntimeError at one that is neither OK nor a value."""
        self._reader.feed(data)
        answered = []
        while (reply := self._reader.gets()) is not False:
            number, is_read = self._asked.popleft()
            if isinstance(reply, hiredis.ReplyError) or (reply != b"OK" and not is_read):
                raise RuntimeError(f"a {'GET' if is_read else 'SET'} was answered with {reply!r}")
            answered.append(number)
        return answered, b""


def open_loop(
    port: int, rate: float, seconds: float, work: Work, make_wire: Callable[[], Wire] = RespWire
) -> list[float]:
    """Have requests leave at ``rate`` a second over some connections to one node; return each latency in seconds.

    Raises:
        RuntimeError: a request failed or was not answered.
        OSError: the node cannot be reached.
    """
    wires = {socket.create_connection((HOST, port)): make_wire() for _ in range(CONNECTIONS)}
    try:
        for sock, wire in wires.items():
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(wire.opening())
        return _run(wires, rate, int(seconds * rate), work)
    finally:
        for sock in wires:
            sock.close()


def _run(wires: dict[socket.socket, Wire], rate: float, requests: int, work: Work) -> list[float]:
    sockets = list(wires)
    value = b"x" * work.value_bytes
    latencies_s: list[float] = []
    sent = 0
    # What the two ends say to each other first is over by then.
    began = time.perf_counter() + 0.05
    while len(latencies_s) < requests:
        now = time.perf_counter()
        while sent < requests and began + sent / rate <= now:
            sock = sockets[sent % len(sockets)]
            sock.sendall(wires[sock].request(sent, work.key(sent), None if work.is_read(sent) else value))
            sent += 1
        wait_s = REPLY_S if sent == requests else max(0.0, began + sent / rate - time.perf_counter())
        readable = select.select(sockets, [], [], wait_s)[0]
        if not readable and sent == requests:
            raise RuntimeError(f"{requests - len(latencies_s)} requests were not answered within {REPLY_S} s")
        for sock in readable:
            data = sock.recv(READ_BYTES)
            now = time.perf_counter()
            if not data:
                raise RuntimeError("the connection was closed")
            answered, reply = wires[sock].feed(data)
            latencies_s += [now - (began + number / rate) for number in answered]
            if reply:
                sock.sendall(reply)
    return latencies_s


def quantile(latencies_s: Sequence[float], share: float) -> float:
    """Return a quantile in milliseconds."""
    ordered = sorted(latencies_s)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3
