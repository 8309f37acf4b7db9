"""The peer's side: etcd with its defaults, used through its v3 API (gRPC). Needs ``etcd`` and the extra ``bench``."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

import grpc

from benchmarks.etcd import EtcdClient
from benchmarks.etcd_members import EtcdMembers
from tests.moves.load import NotAnswered, Note
from tests.moves.ours import VALUE

SYSTEM: Final = "etcd"
CALL_S: Final = 5.0
"""As redis-py waits for an answer."""
PATIENCE_S: Final = 10.0
"""How long a client asks one node after the other before it gives up."""
PAUSE_S: Final = 0.003
TRANSACTION: Final = 128

_Answer = TypeVar("_Answer")


class PeerClient:
    """A client that goes to the next node when one fails, as redis-py does to ours."""

    def __init__(self, ports: Callable[[], list[int]], note: Note, number: int) -> None:
        """Begin with one node or another by ``number``; ``ports`` are asked again whenever one fails."""
        self._ports = ports
        self._note = note
        self._numbers = itertools.count(number)
        self._client: EtcdClient | None = None

    def set(self, key: bytes, value: bytes) -> None:
        """Write."""
        self._ask(lambda client: client.put(key, value, CALL_S))

    def get(self, key: bytes) -> bytes | None:
        """Read, linearizably."""
        return self._ask(lambda client: client.get(key, CALL_S))

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _ask(self, call: Callable[[EtcdClient], _Answer]) -> _Answer:
        until = time.monotonic() + PATIENCE_S
        while True:
            if self._client is None:
                ports = self._ports()
                self._client = EtcdClient(ports[next(self._numbers) % len(ports)])
            try:
                return call(self._client)
            except grpc.RpcError as error:
                kind = f"{error.code().name}: {error.details()}".partition(" {")[0]
                self.close()
                if time.monotonic() > until:
                    raise NotAnswered(kind) from error
                self._note(error.code().name)
                time.sleep(PAUSE_S)


class PeerNodes:
    """A cluster of etcd that begins with one node."""

    system = SYSTEM

    def __init__(self, directory: Path) -> None:
        """Start n1."""
        self.cluster = EtcdMembers(directory)
        self._numbers = itertools.count()
        self.cluster.__enter__()

    def connect(self, note: Note) -> PeerClient:
        """Make a client."""
        return PeerClient(self._ports, note, next(self._numbers))

    def _ports(self) -> list[int]:
        return [node.client_port for node in list(self.cluster.nodes)]

    def fill(self, keys: int) -> None:
        """Write so many keys, of a hundred bytes each."""
        with EtcdClient(self._ports()[0]) as client:
            for start in range(0, keys, TRANSACTION):
                numbers = range(start, min(keys, start + TRANSACTION))
                client.put_all([(b"key:%08d" % number, VALUE) for number in numbers], PATIENCE_S)

    def members(self) -> list[str]:
        """Return who votes."""
        return [node.name for node in self.cluster.nodes]

    def leader(self) -> str:
        """Wait for one."""
        return self.cluster.leader().name

    def add(self, name: str) -> None:
        """Add a learner, and promote it."""
        self.cluster.add(name)

    def replace(self, old: str, new: str) -> None:
        """Add the new one, then remove the old one: etcd has no step that does both."""
        self.cluster.add(new)
        self.cluster.remove(old)

    def remove(self, name: str) -> None:
        """Remove a node that does not lead any more."""
        self.cluster.remove(name)

    def move(self, name: str) -> None:
        """Change its addresses, and start it there."""
        self.cluster.move(name)

    def transfer(self, target: str) -> None:
        """Have another lead."""
        self.cluster.transfer(target)

    def restart(self, name: str) -> None:
        """Stop with SIGTERM, and start."""
        self.cluster.restart(name)

    def check(self, acknowledged: Mapping[str, str]) -> list[str]:
        """Return what is wrong: acknowledged writes that are not there."""
        with EtcdClient(self._ports()[0]) as client:
            lost = [
                key for key, value in acknowledged.items() if client.get(key.encode(), PATIENCE_S) != value.encode()
            ]
        return [f"etcd lost {len(lost)} of {len(acknowledged)} acknowledged writes, such as {lost[0]}"] if lost else []

    def close(self) -> None:
        """Stop what runs."""
        self.cluster.stop()
