"""Writers that remember what was acknowledged to them, and the question that matters afterwards: is it still there?"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import redis
from redis.cluster import ClusterNode, RedisCluster

Addresses = list[tuple[str, int]]


def cluster_client(addresses: Addresses) -> RedisCluster:
    """Return a cluster client that knows all nodes; it follows -MOVED and retries while there is no leader."""
    nodes = [ClusterNode(host, port) for host, port in addresses]
    return RedisCluster(startup_nodes=nodes, socket_timeout=5.0)


class Workload:
    """Threads that write unique keys until told to stop; only what was answered OK counts as acknowledged."""

    def __init__(self, addresses: Addresses, writers: int = 4) -> None:
        self._addresses = addresses
        self._writers = writers
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.acknowledged: dict[str, str] = {}
        self.unknown = 0
        """Writes whose fate the client does not know: an error reply or a lost connection."""
        self._threads: list[threading.Thread] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[Workload]:
        """Write while the block runs."""
        self._threads = [threading.Thread(target=self._write, args=(i,), daemon=True) for i in range(self._writers)]
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(30.0)

    def wait_for(self, more: int, timeout_s: float = 30.0) -> None:
        """Wait until ``more`` further writes were acknowledged; raises AssertionError when they are not in time."""
        target = len(self.acknowledged) + more
        deadline = time.monotonic() + timeout_s
        while len(self.acknowledged) < target:
            assert time.monotonic() < deadline, f"{len(self.acknowledged)} of {target} writes after {timeout_s} s"
            self._stop.wait(0.005)

    def _write(self, writer: int) -> None:
        client: RedisCluster | None = None
        number = 0
        while not self._stop.is_set():
            number += 1
            key, value = f"w{writer}:{number}", f"v{writer}:{number}"
            try:
                if client is None:
                    client = cluster_client(self._addresses)
                if client.set(key, value):
                    with self._lock:
                        self.acknowledged[key] = value
            except redis.RedisError:
                self.unknown += 1
                if client is not None:
                    client.close()
                client = None


def missing(client: redis.Redis, acknowledged: dict[str, str]) -> list[str]:
    """Return the acknowledged keys whose value is not what was acknowledged, asked of one node by linearizable reads."""
    keys = sorted(acknowledged)
    lost: list[str] = []
    for start in range(0, len(keys), 500):
        part = keys[start : start + 500]
        for key, value in zip(part, client.mget(part), strict=True):
            if value is None or value.decode() != acknowledged[key]:
                lost.append(key)
    return lost
