"""Writers that remember which of their writes were acknowledged, and the check that all of these are there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from benchmarks.clusters import Cluster, Node
from benchmarks.etcd import Etcd
from benchmarks.recovery.preload import pipelined
from benchmarks.recovery.systems import Connection, NotServed, connect

PAUSE_S = 0.003
"""Before another node is tried."""
READ_TIMEOUT_S = 30.0


class Writers:
    """Threads that write, each one key after the other, whatever happens to the cluster.

    No key is written twice: a try that failed may have been done or not and is forgotten, an acknowledged one is kept.
    So each acknowledged write has a key of its own, and no later write can hide its loss.
    """

    def __init__(self, cluster: Cluster, count: int) -> None:
        """Start ``count`` of them."""
        self._cluster = cluster
        self._ended = threading.Event()
        self.acknowledged: list[list[int]] = [[] for _ in range(count)]
        """For each writer the counters of its acknowledged writes."""
        self.failed = [0] * count
        """For each writer how many tries failed."""
        self._threads = [threading.Thread(target=self._write, args=(each,), daemon=True) for each in range(count)]
        for thread in self._threads:
            thread.start()

    def count(self) -> int:
        """Return how many writes have been acknowledged."""
        return sum(map(len, self.acknowledged))

    def end(self) -> None:
        """Have all threads end, and wait for them."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _write(self, writer: int) -> None:
        nodes = self._cluster.nodes
        at, counter = writer % len(nodes), 0
        connection: Connection | None = None
        while not self._ended.is_set():
            counter += 1
            try:
                if connection is None:
                    connection = connect(self._cluster, nodes[at])
                connection.put(*pair(writer, counter))
                self.acknowledged[writer].append(counter)
            except NotServed:
                self.failed[writer] += 1
                if connection is not None:
                    connection.close()
                connection = None
                at = (at + 1) % len(nodes)
                self._ended.wait(PAUSE_S)
        if connection is not None:
            connection.close()


def pair(writer: int, counter: int) -> tuple[bytes, bytes]:
    """Return key and value of a writer's write."""
    return b"lost:%d:%d" % (writer, counter), b"value %d of writer %d" % (counter, writer)


def missing(cluster: Cluster, acknowledged: list[list[int]]) -> list[bytes]:
    """Return the keys of acknowledged writes that do not read back with their value, by linearizable reads.

    Raises:
        RuntimeError: a read was refused.
    """
    leader = cluster.leader()
    expected = [pair(writer, counter) for writer, counters in enumerate(acknowledged) for counter in counters]
    found = _read_etcd(leader, cluster, expected) if isinstance(cluster, Etcd) else _read_resp(leader, expected)
    lost = []
    for (key, value), reply in zip(expected, found, strict=True):
        if isinstance(reply, Exception):
            raise RuntimeError(f"{leader.name} answered a GET of {key!r} with {reply!r}")
        if reply != value:
            lost.append(key)
    return lost


def _read_resp(leader: Node, expected: list[tuple[bytes, bytes]]) -> Iterator[object]:
    return pipelined(leader, ((b"GET", key) for key, _ in expected))


def _read_etcd(leader: Node, cluster: Cluster, expected: list[tuple[bytes, bytes]]) -> list[object]:
    with ExitStack() as stack:
        client = stack.enter_context(connect(cluster, leader, READ_TIMEOUT_S))
        pool = stack.enter_context(ThreadPoolExecutor(8))
        return list(pool.map(lambda each: client.get(each[0]), expected))
