"""Writers that remember what was acknowledged to them, and the question that matters afterwards: is it still there?"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, cast

import redis
from redis.exceptions import RedisClusterException

from tests.cluster.harness import Cluster
from tests.support.threads import working
from tests.support.waiting import WAIT_S

if TYPE_CHECKING:
    from redis import RedisCluster

CLIENT_ERRORS: Final = (redis.RedisError, RedisClusterException, OSError)
"""Everything with which redis-py says "no answer": its cluster exception is no RedisError."""

MGET_KEYS: Final = 500
SOCKET_TIMEOUT_S: Final = 5.0
THINK_S: Final = 0.02
"""Between an answer and the writer's next command: the processor belongs to the nodes, not to writers in redis-py."""


class Workload:
    """Threads that write unique keys until told to stop; only what was answered OK counts as acknowledged."""

    def __init__(self, cluster: Cluster, writers: int = 4, value_bytes: int = 0) -> None:
        """Have ``writers`` write values of at least ``value_bytes``."""
        self._cluster = cluster
        self._writers = writers
        self._value_bytes = value_bytes
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._faults: list[BaseException] = []
        self.acknowledged: dict[str, str] = {}
        self.unknown = 0
        """Writes whose fate the client does not know: an error reply or a lost connection."""

    @contextmanager
    def running(self) -> Iterator[Workload]:
        """Write while the block runs; raises AssertionError when a writer ended by anything but a client's error."""
        with working(self._run, self._writers, self._stop) as threads:
            yield self
        assert not any(thread.is_alive() for thread in threads), "a writer did not end"
        assert not self._faults, f"a writer failed: {self._faults}"

    def wait_for(self, more: int, timeout_s: float = WAIT_S) -> None:
        """Wait until ``more`` further writes were acknowledged; raises AssertionError when they are not in time."""
        target = len(self.acknowledged) + more
        self._cluster.wait(
            lambda: len(self.acknowledged) >= target or bool(self._faults),
            f"{more} more acknowledged writes",
            timeout_s,
        )

    def _run(self, writer: int) -> None:
        try:
            self._write(writer)
        except BaseException as error:
            self._faults.append(error)
            raise

    def _write(self, writer: int) -> None:
        client: RedisCluster | None = None
        number = 0
        while not self._stop.is_set():
            number += 1
            key, value = f"w{writer}:{number}", f"v{writer}:{number}".ljust(self._value_bytes, ".")
            try:
                client = client or self._cluster.cluster_client(socket_timeout=SOCKET_TIMEOUT_S)
                if client.set(key, value):
                    with self._lock:
                        self.acknowledged[key] = value
                self._stop.wait(THINK_S)
            except CLIENT_ERRORS:
                with self._lock:
                    self.unknown += 1
                if client is not None:
                    with suppress(*CLIENT_ERRORS):
                        client.close()
                client = None
                # No busy loop while nobody can be connected to.
                time.sleep(0.01)


def missing(client: redis.Redis, acknowledged: Mapping[str, str]) -> list[str]:
    """Return the acknowledged keys whose value is not what was acknowledged, as the node asked has it."""
    keys = sorted(acknowledged)
    lost: list[str] = []
    for start in range(0, len(keys), MGET_KEYS):
        part = keys[start : start + MGET_KEYS]
        values = cast("list[bytes | None]", client.mget(part))
        lost += [
            key for key, value in zip(part, values, strict=True) if value is None or value.decode() != acknowledged[key]
        ]
    return lost


def assert_on_all_nodes(cluster: Cluster, acknowledged: Mapping[str, str]) -> None:
    """Assert that every node, once all agree, has every acknowledged write in its own state; nobody may be writing."""
    assert cluster.running() == cluster.node_ids, cluster.explain("not all nodes run")
    cluster.wait_converged()
    for node_id in cluster.node_ids:
        lost = missing(replica(cluster, node_id), acknowledged)
        assert lost == [], cluster.explain(f"{node_id} lost {len(lost)} of {len(acknowledged)} acknowledged writes")
    hashes = cluster.state_hashes()
    assert len(hashes) == 1, cluster.explain(f"the nodes hold different states: {hashes}")


def replica(cluster: Cluster, node_id: str) -> redis.Redis:
    """Return a client that reads a node's own, possibly stale, state (READONLY)."""
    client = cluster.client(node_id, single_connection_client=True)
    client.execute_command("READONLY")  # type: ignore[no-untyped-call]
    return client
