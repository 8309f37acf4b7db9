"""Our side: nodes of durable_raft, changed by the commands that operators are given, and used through redis-py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import redis
from redis.cluster import ClusterNode, RedisCluster

from durable_raft.server.exit_codes import ExitCode
from tests.cluster.harness import Cluster
from tests.cluster.operators import operate_here
from tests.cluster.turns import too_long
from tests.cluster.workload import CLIENT_ERRORS, assert_on_all_nodes
from tests.moves.load import NotAnswered, Note

SYSTEM: Final = "durable_raft"
SOCKET_TIMEOUT_S: Final = 5.0
"""redis-py's own, in the versions that have one."""
FILL_KEYS: Final = 1000
"""In one MSET."""
ASKED: Final = ("SET", "GET")
"""What clients ask; the library asks for more, such as where the slots are."""
VALUE: Final = b"x" * 100


class OurClient:
    """A RedisCluster; what it meets and does not show is noted."""

    def __init__(self, addresses: list[tuple[str, int]], note: Note, timeout_s: float) -> None:
        """Learn who is there; raises NotAnswered when nobody is."""
        places = [ClusterNode(host, port) for host, port in addresses]  # type: ignore[no-untyped-call]
        try:
            self._client = _noting(note)(startup_nodes=places, socket_timeout=timeout_s)
        except CLIENT_ERRORS as error:
            raise NotAnswered(_kind(error)) from error

    def set(self, key: bytes, value: bytes) -> None:
        """Write."""
        try:
            self._client.set(key, value)
        except CLIENT_ERRORS as error:
            raise NotAnswered(_kind(error)) from error

    def get(self, key: bytes) -> bytes | None:
        """Read."""
        try:
            found = self._client.get(key)
        except CLIENT_ERRORS as error:
            raise NotAnswered(_kind(error)) from error
        assert found is None or isinstance(found, bytes)
        return found

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


def _noting(note: Note) -> type[RedisCluster]:
    """Return a RedisCluster that tells of each error before it tries again: redirections, and what took an answer."""

    class Noting(RedisCluster):
        def get_redis_connection(self, node: ClusterNode) -> redis.Redis:
            found: redis.Redis = super().get_redis_connection(node)
            if "parse_response" not in vars(found):
                # An attribute of this object only; its class stays as it is.
                vars(found)["parse_response"] = _told(found.parse_response, note)
            return found

    return Noting


def _told(parse: Callable[..., Any], note: Note) -> Callable[..., Any]:
    def parse_response(connection: Any, command: str, **options: Any) -> Any:
        try:
            return parse(connection, command, **options)
        except CLIENT_ERRORS as error:
            if command in ASKED:
                note(_kind(error))
            raise

    return parse_response


def _kind(error: BaseException) -> str:
    """Return the name of an error of redis-py: MovedError, TryAgainError, ConnectionError (closed, not answered)."""
    name = type(error).__name__
    return f"{name}: {str(error).partition(' ')[0]}" if name == "ResponseError" else name


class OurNodes:
    """A cluster that begins with one node."""

    system = SYSTEM

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, Any],
        *,
        forked: bool = False,
        timeout_s: float = SOCKET_TIMEOUT_S,
    ) -> None:
        """Start n1; ``timeout_s`` is for clients."""
        self.cluster = Cluster(1, directory, forked=forked, **settings)
        self._timeout_s = timeout_s
        self.cluster.wait_ready()

    def connect(self, note: Note) -> OurClient:
        """Make a client that is told of the nodes of today."""
        return OurClient(self.cluster.addresses(), note, self._timeout_s)

    def fill(self, keys: int) -> None:
        """Write so many keys, of a hundred bytes each."""
        client = self.cluster.client(self.leader())
        for start in range(0, keys, FILL_KEYS):
            client.mset({b"key:%08d" % number: VALUE for number in range(start, min(keys, start + FILL_KEYS))})

    def members(self) -> list[str]:
        """Return the nodes that are expected to be there."""
        return self.cluster.node_ids

    def leader(self) -> str:
        """Wait for one."""
        return self.cluster.leader()

    def add(self, name: str) -> None:
        """``serve --join``, ``member add``, ``member promote``."""
        at = self.members()[0]
        entry = self.cluster.join(name, at)
        operate_here(self.cluster, at, "member", "add", entry)
        operate_here(self.cluster, at, "member", "promote", name)
        self.cluster.wait_ready()

    def replace(self, old: str, new: str) -> None:
        """``serve --join``, ``member replace``."""
        at = next(name for name in self.members() if name != old)
        entry = self.cluster.join(new, at)
        operate_here(self.cluster, at, "member", "replace", old, entry)
        self._expect_gone(old)
        self.cluster.wait_ready()

    def remove(self, name: str) -> None:
        """``member remove``; a leader hands over by itself."""
        at = next(each for each in self.members() if each != name)
        operate_here(self.cluster, at, "member", "remove", name)
        self._expect_gone(name)

    def _expect_gone(self, name: str) -> None:
        code = self.cluster.wait_exit(name)
        assert code == ExitCode.REMOVED, self.cluster.explain(f"{name} was removed, and ended with {code}")
        self.cluster.forget(name)

    def move(self, name: str) -> None:
        """``transfer`` if it leads, ``member update``, stop, start."""
        if self.leader() == name:
            self.transfer(next(each for each in self.members() if each != name))
        at = next(each for each in self.members() if each != name)
        entry = self.cluster.readdress(name)
        operate_here(self.cluster, at, "member", "update", entry)
        self.restart(name)

    def transfer(self, target: str) -> None:
        """``transfer --to``."""
        told = operate_here(self.cluster, self.members()[0], "transfer", "--to", target)
        assert told == {"leader": target}, told

    def restart(self, name: str) -> None:
        """SIGTERM, which has to end it well; start, and wait until there is no lag."""
        self.cluster.restart(name)
        self.cluster.wait_ready()

    def check(self, acknowledged: Mapping[str, str]) -> list[str]:
        """Return what is wrong, once nobody writes: what a node lost, what held its loop."""
        try:
            assert_on_all_nodes(self.cluster, acknowledged)
        except AssertionError as error:
            return [str(error)]
        logs = [path.read_text(errors="replace") for path in sorted(self.cluster.directory.glob("*.log"))]
        return [found] if (found := too_long(logs)) else []

    def close(self) -> None:
        """Kill what runs."""
        self.cluster.kill9()
