"""Filling a cluster: RESP systems by a pipeline to the leader, etcd by transactions of many puts from some threads."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import hiredis

from benchmarks.clusters import Cluster, Node
from benchmarks.etcd import Etcd, EtcdClient
from durable_raft.cli.local_cluster import HOST

VALUE_BYTES = 100
PIPELINE = 1_000
"""Requests on their way on the one RESP connection."""
TRANSACTION = 128
"""Puts in one transaction of etcd, which is its limit."""
THREADS = 8
REPLY_S = 60.0

_Item = TypeVar("_Item")


def fill(cluster: Cluster, keys: int, distinct: int | None = None) -> None:
    """Write ``keys`` times a value of 100 bytes, to as many keys, or to ``distinct`` ones in turn.

    Raises:
        RuntimeError: a write was not acknowledged.
    """
    leader = cluster.leader()
    value = b"x" * VALUE_BYTES
    pairs = ((b"key:%08d" % (number % (distinct or keys)), value) for number in range(keys))
    if isinstance(cluster, Etcd):
        _fill_etcd(leader, pairs)
    else:
        _fill_resp(leader, pairs)


def _fill_etcd(leader: Node, pairs: Iterator[tuple[bytes, bytes]]) -> None:
    with EtcdClient(leader.client_port) as client, ThreadPoolExecutor(THREADS) as pool:
        while round_ := list(_pieces(islice(pairs, TRANSACTION * THREADS * 8), TRANSACTION)):
            for _ in pool.map(lambda piece: client.put_all(piece, REPLY_S), round_):
                pass


def _fill_resp(leader: Node, pairs: Iterator[tuple[bytes, bytes]]) -> None:
    for reply in pipelined(leader, ((b"SET", key, value) for key, value in pairs)):
        if reply != b"OK":
            raise RuntimeError(f"{leader.name} answered a SET with {reply!r}")


def pipelined(node: Node, commands: Iterable[tuple[bytes, ...]]) -> Iterator[object]:
    """Yield the reply to each command, errors too; ``PIPELINE`` commands are on their way together.

    Raises:
        RuntimeError: the connection was closed.
    """
    reader = hiredis.Reader()
    with socket.create_connection((HOST, node.client_port), REPLY_S) as connection:
        for piece in _pieces(iter(commands), PIPELINE):
            # hiredis declares a tuple of one.
            requests = [hiredis.pack_command(command) for command in piece]  # type: ignore[arg-type]
            connection.sendall(b"".join(requests))
            answered = 0
            while answered < len(piece):
                data = connection.recv(1 << 16)
                if not data:
                    raise RuntimeError(f"{node.name} closed the connection")
                reader.feed(data)
                while (reply := reader.gets()) is not False:
                    answered += 1
                    yield reply


def _pieces(items: Iterator[_Item], size: int) -> Iterator[list[_Item]]:
    while piece := list(islice(items, size)):
        yield piece
