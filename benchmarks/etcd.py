"""Three etcd nodes with their defaults, and h2load as their client: the peer that is measured beside ours.

A request is one gRPC call: HTTP/2 POST of a 5-byte prefix (no compression, length) and a protobuf message. Put has the
key in field 1 and the value in field 2; Range has the key in field 1 and is linearizable by default. gRPC's errors are
successes of HTTP, so etcd's own count of puts is compared.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from durable_raft.cli.local_cluster import HOST, free_ports, stop_nodes, wait_until

READY_S = 30.0
KEY = b"key:benchmark"
_DONE = re.compile(r"finished in ([0-9.]+)(us|ms|s|m), ([0-9.]+) req/s")
_PUTS = re.compile(r"^etcd_mvcc_put_total ([0-9.e+]+)", re.MULTILINE)
_FAILED = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored")


def _field(number: int, data: bytes) -> bytes:
    size, length = bytearray(), len(data)
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    size.append(length)
    return bytes([number << 3 | 2]) + bytes(size) + data


def body_of(command: str, value_bytes: int) -> bytes:
    """Return the gRPC message of a ``set`` or a ``get``."""
    message = _field(1, KEY)
    if command == "set":
        message += _field(2, b"x" * value_bytes)
    return b"\0" + len(message).to_bytes(4, "big") + message


@contextlib.contextmanager
def etcd_cluster(directory: Path) -> Iterator[list[int]]:
    """Run three nodes; yield their client ports."""
    ports = free_ports(6)
    peers = {f"e{n}": f"http://{HOST}:{ports[3 + n]}" for n in range(3)}
    cluster = ",".join(f"{name}={url}" for name, url in peers.items())
    processes = []
    try:
        for number, (name, url) in enumerate(peers.items()):
            client = f"http://{HOST}:{ports[number]}"
            command = ["etcd", "--name", name, "--data-dir", str(directory / name), "--initial-cluster", cluster]
            command += ["--listen-peer-urls", url, "--initial-advertise-peer-urls", url]
            command += ["--listen-client-urls", client, "--advertise-client-urls", client, "--log-level", "error"]
            log = (directory / f"{name}.log").open("wb")
            processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        if not wait_until(lambda: _answers(ports[0], directory), READY_S):
            raise RuntimeError(f"etcd did not answer within {READY_S} s: see {directory}")
        yield ports[:3]
    finally:
        stop_nodes(processes)


def _answers(port: int, directory: Path) -> bool:
    with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
        return run_h2load(port, directory, "set", clients=1, in_flight=1, requests=1, value_bytes=1) > 0
    return False


def leading_port(ports: list[int], directory: Path) -> int:
    """Return the port of the node that writes fastest by itself: the leader, which no other has to be asked through."""
    rates = {
        port: run_h2load(port, directory, "set", clients=1, in_flight=1, requests=300, value_bytes=16) for port in ports
    }
    return max(rates, key=lambda port: rates[port])


def run_h2load(
    port: int, directory: Path, command: str, *, clients: int, in_flight: int, requests: int, value_bytes: int
) -> float:
    """Return requests per second.

    Raises:
        RuntimeError: a request failed, or h2load did.
    """
    body = directory / f"{command}-{value_bytes}.grpc"
    body.write_bytes(body_of(command, value_bytes))
    method = "Put" if command == "set" else "Range"
    line = ["h2load", "-n", str(requests), "-c", str(clients), "-m", str(in_flight), "-d", str(body)]
    line += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    line += [f"http://{HOST}:{port}/etcdserverpb.KV/{method}"]
    before = _puts(port)
    done = subprocess.run(line, capture_output=True, text=True, timeout=300.0, check=False)
    rate, counts = _DONE.search(done.stdout), _FAILED.search(done.stdout)
    if rate is None or counts is None or int(counts[1]) != requests or counts[2] != "0":
        raise RuntimeError(f"{' '.join(line)}: {done.stdout[-800:]}{done.stderr[-800:]}")
    if command == "set" and _puts(port) - before < requests:
        raise RuntimeError(f"{' '.join(line)}: etcd counts {_puts(port) - before} puts of {requests}")
    return float(rate[3])


def _puts(port: int) -> int:
    """Return how many puts a node has applied."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=10) as answer:
        found = _PUTS.search(answer.read().decode())
        return int(float(found[1])) if found else 0
    return 0
