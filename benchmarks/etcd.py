"""etcd with its defaults, and its two clients: h2load for load, gRPC calls one by one for everything else.

A request is one gRPC call: HTTP/2 POST of a 5-byte prefix (no compression, length) and a protobuf message. Put has the
key in field 1 and the value in field 2; Range has the key in field 1 and is linearizable by default. gRPC's errors are
successes of HTTP, so etcd's own count of puts is compared.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import grpc

from benchmarks.clusters import Cluster, Node
from durable_raft.cli.local_cluster import HOST

KEY = b"key:benchmark:%d"
"""One key for each length of the value, so that what is read is as long as what is compared with it."""
_DONE = re.compile(r"finished in ([0-9.]+)(us|ms|s|m), ([0-9.]+) req/s")
_PUTS = re.compile(r"^etcd_mvcc_put_total ([0-9.e+]+)", re.MULTILINE)
_LEADS = re.compile(r"^etcd_server_is_leader 1$", re.MULTILINE)
_COUNTS = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored")


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def put_request(key: bytes, value: bytes) -> bytes:
    """Return an etcdserverpb.PutRequest."""
    return _field(1, key) + _field(2, value)


def txn_request(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return an etcdserverpb.TxnRequest that puts all ``pairs``, without a condition; etcd's limit is 128."""
    # Field 2 of TxnRequest is a RequestOp done when the conditions hold; field 2 of that is a PutRequest.
    return b"".join(_field(2, _field(2, put_request(key, value))) for key, value in pairs)


def range_request(key: bytes) -> bytes:
    """Return an etcdserverpb.RangeRequest for one key."""
    return _field(1, key)


class Etcd(Cluster):
    """Nodes of etcd with their defaults."""

    system = "etcd"

    def command(self, node: Node) -> list[str]:
        """Return ``etcd ...``."""
        cluster = ",".join(f"{each.name}=http://{HOST}:{each.peer_port}" for each in self.nodes)
        peer, client = f"http://{HOST}:{node.peer_port}", f"http://{HOST}:{node.client_port}"
        command = ["etcd", "--name", node.name, "--data-dir", str(node.directory), "--initial-cluster", cluster]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        return [*command, "--listen-client-urls", client, "--advertise-client-urls", client, "--log-level", "error"]

    def answers(self, node: Node) -> bool:
        """Return whether ``node`` takes a write."""
        with contextlib.suppress(grpc.RpcError), EtcdClient(node.client_port) as client:
            client.put(b"benchmark:ready", b"1", 5.0)
            return True
        return False

    def is_leader(self, node: Node) -> bool:
        """Ask its metrics."""
        return _LEADS.search(metrics(node)) is not None


class EtcdClient:
    """One connection to one node, one call at a time; raises grpc.RpcError when a call fails."""

    def __init__(self, port: int) -> None:
        """Connect at the first call."""
        self._channel = grpc.insecure_channel(f"{HOST}:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
        self._put = self._channel.unary_unary("/etcdserverpb.KV/Put")
        self._range = self._channel.unary_unary("/etcdserverpb.KV/Range")
        self._txn = self._channel.unary_unary("/etcdserverpb.KV/Txn")

    def __enter__(self) -> EtcdClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def put(self, key: bytes, value: bytes, timeout_s: float) -> None:
        """Write one key."""
        self._put(put_request(key, value), timeout=timeout_s)

    def put_all(self, pairs: Sequence[tuple[bytes, bytes]], timeout_s: float) -> None:
        """Write up to 128 keys in one transaction."""
        self._txn(txn_request(pairs), timeout=timeout_s)

    def get(self, key: bytes, timeout_s: float) -> bytes | None:
        """Return one key's value, linearizably; None when it is not there."""
        answer: bytes = self._range(range_request(key), timeout=timeout_s)
        found = fields(answer).get(2)
        return None if found is None else fields(found).get(5, b"")


def fields(message: bytes) -> dict[int, bytes]:
    """Return the length-delimited fields of a protobuf message by number; of several the last."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        if tag & 7 == 0:
            _, at = _read_varint(message, at)
        elif tag & 7 == 2:
            length, at = _read_varint(message, at)
            found[tag >> 3] = message[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {tag & 7} at {at}: none that etcd's KV messages use")
    return found


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


def run_h2load(
    node: Node, directory: Path, command: str, *, clients: int, in_flight: int, requests: int, value_bytes: int
) -> float:
    """Return requests per second of ``set`` or ``get`` on one key, which a ``set`` of that length has written.

    Raises:
        RuntimeError: a request failed, or h2load did.
    """
    key = KEY % value_bytes
    message = put_request(key, b"x" * value_bytes) if command == "set" else range_request(key)
    body = directory / f"{command}-{value_bytes}.grpc"
    body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    line = ["h2load", "-n", str(requests), "-c", str(clients), "-m", str(in_flight), "-d", str(body)]
    line += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    line += [f"http://{HOST}:{node.client_port}/etcdserverpb.KV/{'Put' if command == 'set' else 'Range'}"]
    before = _puts(node)
    done = subprocess.run(line, capture_output=True, text=True, timeout=300.0, check=False)
    rate, counts = _DONE.search(done.stdout), _COUNTS.search(done.stdout)
    if rate is None or counts is None or int(counts[1]) != requests or counts[2] != "0":
        raise RuntimeError(f"{' '.join(line)}: {done.stdout[-800:]}{done.stderr[-800:]}")
    if command == "set" and _puts(node) - before < requests:
        raise RuntimeError(f"{' '.join(line)}: etcd counts {_puts(node) - before} puts of {requests}")
    return float(rate[3])


def metrics(node: Node) -> str:
    """Return what the node's metrics page says; nothing when it cannot be reached."""
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"http://{HOST}:{node.client_port}/metrics", timeout=10) as answer,
    ):
        text: str = answer.read().decode()
        return text
    return ""


def _puts(node: Node) -> int:
    """Return how many puts a node has applied."""
    found = _PUTS.search(metrics(node))
    return int(float(found[1])) if found else 0
