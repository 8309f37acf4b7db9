"""How long a cluster is away: the time from a crash to the next write that it acknowledges, whichever node does."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable

from benchmarks.clusters import READY_S, Cluster, Node
from benchmarks.recovery.systems import Connection, NotServed, connect

PAUSE_S = 0.003
"""Between two tries on one node."""


def outage_s(cluster: Cluster, crash: Callable[[], None]) -> float:
    """Run ``crash`` and return the seconds from its beginning to the first acknowledged write sent after it.

    Raises:
        RuntimeError: no node acknowledges one within ``READY_S``.
    """
    probes = _Probes(cluster)
    began = time.monotonic()
    try:
        crash()
        return probes.first() - began
    finally:
        probes.end()


class _Probes:
    """One thread for each node, connected before the crash, which writes again and again from then on."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._crashed, self._served = threading.Event(), threading.Event()
        self._at: list[float] = []
        ready = threading.Barrier(len(cluster.nodes) + 1)
        self._threads = [
            threading.Thread(target=self._probe, args=(node, ready), daemon=True) for node in cluster.nodes
        ]
        for thread in self._threads:
            thread.start()
        ready.wait()

    def first(self) -> float:
        """Let them write, and return the time of the first acknowledgement."""
        self._crashed.set()
        if not self._served.wait(READY_S):
            raise RuntimeError(f"{self._cluster.system}: no write within {READY_S} s: see {self._cluster.directory}")
        return min(self._at)

    def end(self) -> None:
        """Let the threads end."""
        self._crashed.set()
        self._served.set()
        for thread in self._threads:
            thread.join()

    def _probe(self, node: Node, ready: threading.Barrier) -> None:
        connection: Connection | None = None
        with contextlib.suppress(NotServed):
            connection = connect(self._cluster, node)
            connection.get(b"benchmark:ready")
        ready.wait()
        self._crashed.wait()
        for number in itertools.count():
            try:
                if connection is None:
                    connection = connect(self._cluster, node)
                connection.put(f"benchmark:probe:{node.name}".encode(), str(number).encode())
                self._at.append(time.monotonic())
                self._served.set()
            except NotServed:
                if connection is not None:
                    connection.close()
                connection = None
            if self._served.wait(PAUSE_S):
                break
        if connection is not None:
            connection.close()
