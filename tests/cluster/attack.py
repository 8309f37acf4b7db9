"""Clients and strangers who fill a node's memory: they ask and do not read, or begin and do not end."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from durable_raft.raft.messages import AppendEntries
from durable_raft.raft.types import ORIGIN, EntryKind, Index, Term, make_entry
from durable_raft.wire.peer import encode_frame
from tests.cluster.harness import Cluster
from tests.cluster.proxy import HOST
from tests.support.waiting import WAIT_S

PAUSE_S: Final = 1.0
"""How long an attacker waits before it connects again: it is the memory that is attacked, not the processor."""


class Attack:
    """Connections that are made, misused and held until the node closes them; then they are made again."""

    def __init__(self, count: int, connect: Callable[[], socket.socket]) -> None:
        """Keep ``count`` connections, each as ``connect`` leaves it."""
        self._connect = connect
        self._is_over = threading.Event()
        self.closed = 0
        """Connections that the node has closed."""
        self._threads = [threading.Thread(target=self._hold, daemon=True) for _ in range(count)]

    def __enter__(self) -> Attack:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(WAIT_S)

    def _hold(self) -> None:
        while not self._is_over.is_set():
            with contextlib.suppress(OSError), self._connect() as connection:
                while not self._is_over.is_set() and not _is_ended(connection):
                    time.sleep(0.05)
            self.closed += 1
            self._is_over.wait(PAUSE_S)


def _is_ended(connection: socket.socket) -> bool:
    """Return whether the other end is gone, without reading what it sent."""
    connection.setblocking(False)
    try:
        connection.send(b"")
        error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except OSError:
        return True
    established = 1
    return error != 0 or state != established


def sent(port: int, data: bytes) -> socket.socket:
    """Return a connection on which ``data`` was sent and nothing was read; raises OSError."""
    connection = socket.create_connection((HOST, port), WAIT_S)
    try:
        connection.sendall(data)
    except OSError:
        connection.close()
        raise
    return connection


def half_a_message(cluster_id: bytes, size: int) -> bytes:
    """Return the beginning of a message with an entry of ``size`` bytes; half a megabyte is missing."""
    entry = make_entry(previous=ORIGIN, term=Term(1), kind=EntryKind.COMMANDS, timestamp_ms=1, payload=bytes(size))
    message = AppendEntries(Term(1), Index(0), Term(0), 0, (entry,), Index(0), 0, b"")
    return encode_frame(cluster_id, message)[:-500_000]


def closed_for(cluster: Cluster, node_id: str, share: str) -> int:
    """Return how many connections a node has closed because ``share`` of its memory was full; 0: it does not answer."""
    shares = cluster.info(node_id, "memory")
    return 0 if shares is None else int(shares[f"raft_memory_{share}"].rpartition("closed=")[2])
