"""A real redis-server on a free port, to hold our replies and errors against; skipped with the reason where none is."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hiredis
import pytest

from tests.support.waiting import wait_until


class RedisOracle:
    """One connection to a running redis-server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=5.0)
        self._reader = hiredis.Reader()

    def ask(self, *args: bytes) -> object:
        """Send one request and return the reply as hiredis reads it; an error reply is returned, not raised."""
        request = b"".join(b"$%d\r\n%s\r\n" % (len(arg), arg) for arg in args)
        self._socket.sendall(b"*%d\r\n" % len(args) + request)
        while (reply := self._reader.gets()) is False:
            received = self._socket.recv(65536)
            assert received, f"redis-server closed the connection on {args}"
            self._reader.feed(received)
        return reply

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


@contextlib.contextmanager
def running_redis(directory: Path, *options: str) -> Iterator[RedisOracle]:
    """Run redis-server in ``directory`` with ``options`` (``--name value``) and yield a connection to it."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    port = _free_port()
    command = [program, "--port", str(port), "--dir", str(directory), "--save", "", "--logfile", "redis.log", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            oracle = _connect(port, process, directory)
            yield oracle
            oracle.close()
        finally:
            process.kill()


def _connect(port: int, process: subprocess.Popen[bytes], directory: Path) -> RedisOracle:
    found: list[RedisOracle] = []

    def is_connected() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            found.append(RedisOracle(port))
        return bool(found) or process.poll() is not None

    def explain(message: str) -> str:
        return f"{message}: {(directory / 'redis.log').read_text(encoding='utf-8')}"

    wait_until(is_connected, f"redis-server on port {port}", explain=explain)
    if not found:
        raise AssertionError(explain(f"redis-server ended with {process.returncode}"))
    return found[0]


def _free_port() -> int:
    """Return a port that was free a moment ago; low enough that a cluster bus port 10000 above it exists."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            if port < 55_000:
                return port
    raise AssertionError("no free port below 55000 in 100 tries")
