"""Filling a cluster: RESP systems by a pipeline to the leader, etcd by transactions of many puts from some threads."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

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

Pairs = list[tuple[bytes, bytes]]


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


def set_request(pair: tuple[bytes, bytes]) -> bytes:
    """Return SET of a key and its value as RESP."""
    key, value = pair
    return b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(value), value)


def _fill_etcd(leader: Node, pairs: Iterator[tuple[bytes, bytes]]) -> None:
    with EtcdClient(leader.client_port) as client, ThreadPoolExecutor(THREADS) as pool:
        while round_ := list(_pieces(islice(pairs, TRANSACTION * THREADS * 8), TRANSACTION)):
            for _ in pool.map(lambda piece: client.put_all(piece, REPLY_S), round_):
                pass


def _fill_resp(leader: Node, pairs: Iterator[tuple[bytes, bytes]]) -> None:
    reader = hiredis.Reader()
    with socket.create_connection((HOST, leader.client_port), REPLY_S) as connection:
        for piece in _pieces(pairs, PIPELINE):
            connection.sendall(b"".join(map(set_request, piece)))
            answered = 0
            while answered < len(piece):
                data = connection.recv(1 << 16)
                if not data:
                    raise RuntimeError(f"{leader.name} closed the connection")
                reader.feed(data)
                while (reply := reader.gets()) is not False:
                    if reply != b"OK":
                        raise RuntimeError(f"{leader.name} answered a SET with {reply!r}")
                    answered += 1


def _pieces(pairs: Iterator[tuple[bytes, bytes]], size: int) -> Iterator[Pairs]:
    while piece := list(islice(pairs, size)):
        yield piece
