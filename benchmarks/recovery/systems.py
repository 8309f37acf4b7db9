"""The systems that are killed here, and one way to write to and read from a node of any of them."""

from __future__ import annotations

import abc
import contextlib
import socket
from functools import partial
from pathlib import Path
from typing import Self

import grpc

from benchmarks.clusters import Cluster, Node, Ours
from benchmarks.etcd import Etcd, EtcdClient
from benchmarks.pysyncobj import PySyncObjCluster
from durable_raft.addresses import Address
from durable_raft.cli.local_cluster import HOST, wait_until
from durable_raft.cli.resp_client import RespClient
from durable_raft.errors import RequestError

SYSTEMS: dict[str, type[Cluster]] = {each.system: each for each in (Ours, Etcd, PySyncObjCluster)}

_TRY_S = {Ours.system: 0.1, Etcd.system: 0.1, PySyncObjCluster.system: 0.5}
"""How long one try waits for its answer. A write takes ours and etcd some milliseconds; PySyncObj works in steps of
50 ms, and takes 0.2 s for a write that a follower passes on."""

CAUGHT_UP_S = 60.0
"""How long a node that was started again may take until it holds all that is acknowledged."""


class NotServed(Exception):
    """A node did not do what it was asked, or it is not known whether it did."""


class Connection(abc.ABC):
    """A connection to one node; after ``NotServed`` it is closed and another is made."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @abc.abstractmethod
    def put(self, key: bytes, value: bytes) -> None:
        """Write; returns when it is acknowledged, raises NotServed when it is not."""

    @abc.abstractmethod
    def get(self, key: bytes) -> bytes | None:
        """Read, linearizably; raises NotServed."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close it."""


class _RespConnection(Connection):
    def __init__(self, node: Node, timeout_s: float) -> None:
        try:
            self._client = RespClient(Address(HOST, node.client_port), timeout_s)
        except RequestError as error:
            raise NotServed(str(error)) from error

    def put(self, key: bytes, value: bytes) -> None:
        if self._call(b"SET", key, value) != b"OK":
            raise NotServed("SET is answered, not with OK")

    def get(self, key: bytes) -> bytes | None:
        value = self._call(b"GET", key)
        assert value is None or isinstance(value, bytes)
        return value

    def _call(self, *arguments: bytes) -> object:
        try:
            return self._client.call(*arguments)
        except RequestError as error:
            raise NotServed(str(error)) from error

    def close(self) -> None:
        self._client.close()


class _EtcdConnection(Connection):
    def __init__(self, node: Node, timeout_s: float) -> None:
        # gRPC waits before it tries to connect again: it is asked only when somebody listens.
        try:
            socket.create_connection((HOST, node.client_port), timeout_s).close()
        except OSError as error:
            raise NotServed(f"{node.name}: {error}") from error
        self._client = EtcdClient(node.client_port)
        self._timeout_s = timeout_s

    def put(self, key: bytes, value: bytes) -> None:
        try:
            self._client.put(key, value, self._timeout_s)
        except grpc.RpcError as error:
            raise NotServed(str(error)) from error

    def get(self, key: bytes) -> bytes | None:
        try:
            return self._client.get(key, self._timeout_s)
        except grpc.RpcError as error:
            raise NotServed(str(error)) from error

    def close(self) -> None:
        self._client.close()


def connect(cluster: Cluster, node: Node, timeout_s: float | None = None) -> Connection:
    """Connect to ``node``; every request may take ``timeout_s``, by default as long as a short try of its system.

    Raises:
        NotServed: it cannot be reached.
    """
    limit_s = _TRY_S[cluster.system] if timeout_s is None else timeout_s
    return _EtcdConnection(node, limit_s) if isinstance(cluster, Etcd) else _RespConnection(node, limit_s)


def wait_caught_up(cluster: Cluster) -> None:
    """Wait until every node has applied what the cluster had acknowledged when this was called.

    Raises:
        RuntimeError: one has not within ``CAUGHT_UP_S``.
    """
    if isinstance(cluster, Ours):
        committed: list[int] = []
        caught_up = wait_until(lambda: _is_applied_everywhere(cluster, committed), CAUGHT_UP_S)
    else:
        # Their followers take writes, and answer when they have applied them themselves.
        caught_up = all(wait_until(partial(_serves, cluster, node), CAUGHT_UP_S) for node in cluster.nodes)
    if not caught_up:
        raise RuntimeError(f"{cluster.system}: a node is not back within {CAUGHT_UP_S} s: see {cluster.directory}")


def _serves(cluster: Cluster, node: Node) -> bool:
    with contextlib.suppress(NotServed), connect(cluster, node) as connection:
        connection.put(b"benchmark:ready", b"1")
        return True
    return False


def _is_applied_everywhere(cluster: Ours, committed: list[int]) -> bool:
    """Return whether all nodes have applied what the first call that reached all of them found committed."""
    with contextlib.suppress(RequestError):
        infos = [cluster.info(node) for node in cluster.nodes]
        if not any(info["raft_role"] == "leader" for info in infos):
            return False
        if not committed:
            committed.append(max(int(info["raft_commit_index"]) for info in infos))
        return all(int(info["raft_last_applied"]) >= committed[0] and info["raft_is_voter"] == "1" for info in infos)
    return False


def make(system: str, directory: Path) -> Cluster:
    """Return three nodes of ``system`` with its defaults."""
    return SYSTEMS[system](directory / system)
