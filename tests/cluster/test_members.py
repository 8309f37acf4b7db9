"""Members of a running cluster change while clients write: it grows, a node is replaced, the leader leaves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import redis

from durable_raft.server.exit_codes import ExitCode
from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import Cluster
from tests.cluster.operators import operate, run
from tests.support.waiting import WAIT_S

CALM: dict[str, object] = {
    "election_timeout_min_ms": 4000,
    "election_timeout_max_ms": 5000,
    "election_timeout_bound_ms": 20_000,
    "client_hold_ms": 30_000,
}
"""A busy machine costs no leader its place, and no client a write: every error is one of the changes' own."""


def voters(cluster: Cluster, at: str) -> list[str]:
    """Return who votes, as a node knows it."""
    rows = operate(cluster, at, "member", "list")["members"]
    assert isinstance(rows, list)
    return [row["id"] for row in rows if row["member"] == "voter"]


class Writer:
    """Writes one key after the other, as a cluster client does; every error counts."""

    def __init__(self, cluster: Cluster) -> None:
        self._client = cluster.cluster_client(socket_timeout=WAIT_S)
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.written = 0
        self.errors: list[Exception] = []

    def _write(self) -> None:
        while not self._is_stopped.is_set():
            try:
                self._client.set(f"key{self.written}", str(self.written))
            except (redis.RedisError, OSError) as error:
                self.errors.append(error)
                return
            self.written += 1

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for it."""
        self._is_stopped.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


@contextmanager
def writing(cluster: Cluster) -> Iterator[Writer]:
    """Have a client write meanwhile; no write may fail, and what was acknowledged must be there afterwards."""
    writer = Writer(cluster)
    writer.start()
    cluster.wait(lambda: writer.written > 20 or bool(writer.errors), "the client to write")
    try:
        yield writer
        before = writer.written
        cluster.wait(lambda: writer.written > before + 20 or bool(writer.errors), "the client to write on")
    finally:
        writer.stop()
    assert writer.errors == [], cluster.explain(repr(writer.errors))
    keys = [f"key{number}" for number in range(writer.written)]
    client = cluster.client(cluster.leader())
    assert client.mget(keys) == [str(number).encode() for number in range(writer.written)]


def test_a_cluster_grows_from_one_to_three(cluster_of: ClusterFactory) -> None:
    """Each new node knows nothing but an address; then any two of the three are enough."""
    cluster = cluster_of(1, **CALM)
    cluster.wait_ready()
    with writing(cluster):
        for node_id in ("n2", "n3"):
            entry = cluster.join(node_id, "n1")
            operate(cluster, "n1", "member", "add", entry)
            operate(cluster, "n1", "member", "promote", node_id)
    assert voters(cluster, "n3") == ["n1", "n2", "n3"]
    cluster.wait_converged()
    cluster.client(cluster.leader()).set("last", "word")
    cluster.kill9("n1")
    assert cluster.client(cluster.leader(other_than="n1")).get("last") == b"word"
    # It starts as it did first, and goes by what its log says.
    cluster.start("n1")
    cluster.wait_converged()
    assert voters(cluster, "n1") == ["n1", "n2", "n3"]


def test_a_node_whose_disk_is_gone_is_replaced_while_it_is_down(cluster_of: ClusterFactory) -> None:
    """Two of three go on; the new one has an id of its own. The old one, when it is back, says so and stops."""
    cluster = cluster_of(3, **CALM)
    leader = cluster.wait_ready()
    gone = cluster.followers()[0]
    with writing(cluster):
        cluster.kill9(gone)
        entry = cluster.join("n4", leader)
        told = operate(cluster, leader, "member", "replace", gone, entry)
        assert told["voters"] == sorted({"n1", "n2", "n3", "n4"} - {gone})
    cluster.start(gone)
    assert cluster.wait_exit(gone) == ExitCode.REMOVED
    cluster.logged(gone, "was removed from its cluster")
    cluster.forget(gone)
    cluster.wait_converged()


def test_the_leader_is_removed(cluster_of: ClusterFactory) -> None:
    """It leads until that is committed, hands over, and stops with a code of its own; nobody is disturbed."""
    cluster = cluster_of(3, **CALM)
    leader = cluster.wait_ready()
    with writing(cluster):
        operate(cluster, cluster.followers()[0], "member", "remove", leader)
        assert cluster.wait_exit(leader) == ExitCode.REMOVED
        cluster.forget(leader)
        term = cluster.info(cluster.leader())
    after = cluster.info(cluster.leader())
    assert term is not None
    assert after is not None
    assert term["raft_current_term"] == after["raft_current_term"]


def test_leadership_is_handed_over_under_load(cluster_of: ClusterFactory) -> None:
    """Every node in turn; the clients' writes are held meanwhile."""
    cluster = cluster_of(3, **CALM)
    leader = cluster.wait_ready()
    with writing(cluster):
        for _ in range(2):
            for target in [node_id for node_id in cluster.node_ids if node_id != leader]:
                assert operate(cluster, target, "transfer", "--to", target) == {"leader": target}
                leader = target


def test_a_leader_that_stops_hands_over_first(cluster_of: ClusterFactory) -> None:
    """Nobody waits for an election timeout, however long that is."""
    cluster = cluster_of(3, election_timeout_min_ms=20_000, election_timeout_max_ms=21_000, election_timeout_bound_ms=1)
    leader = cluster.leader(2 * WAIT_S)
    assert cluster.stop(leader) == 0
    cluster.logged(leader, "event=transfer_begun")
    cluster.leader(other_than=leader)


def test_a_leader_that_stops_does_not_wait_for_ever_for_whom_it_asks(cluster_of: ClusterFactory) -> None:
    """The others are stuck: it goes long before their election timeout is over."""
    cluster = cluster_of(3, election_timeout_min_ms=12_000, election_timeout_max_ms=13_000, election_timeout_bound_ms=1)
    leader = cluster.leader(2 * WAIT_S)
    for node in cluster.followers():
        cluster.pause(node)
    assert cluster.stop(leader) == 0
    log = cluster.log(leader)
    assert "event=transfer_begun" in log
    assert "was=leader" not in log


def test_what_an_operator_asks_in_vain(cluster_of: ClusterFactory) -> None:
    """Each refusal says why, and changes nothing."""
    cluster = cluster_of(3, **CALM)
    leader = cluster.wait_ready()
    down, other = cluster.followers()
    cluster.kill9(down)

    def has_noticed() -> bool:
        with cluster.client(leader) as client, suppress(redis.ResponseError):
            client.execute_command("RAFT.MEMBER", "REMOVE", other, "DRYRUN")
            return False
        return True

    cluster.wait(has_noticed, f"{leader} to notice that {down} is down")
    refused = str(operate(cluster, leader, "member", "remove", other, code=1)["error"])
    assert "1 answer" in refused
    assert "a majority is 2" in refused
    assert "STALE" in str(operate(cluster, leader, "member", "remove", down, "--against", "77", code=1)["error"])
    assert "IDUSED" in str(operate(cluster, leader, "member", "add", f"{down}=127.0.0.1:1", code=1)["error"])
    told = operate(cluster, leader, "member", "remove", down, "--dry-run")
    assert (told["voters"], told["majority"], told["may_fail"]) == (sorted([leader, other]), 2, 0)
    assert voters(cluster, leader) == ["n1", "n2", "n3"]


def test_an_id_is_used_once(cluster_of: ClusterFactory) -> None:
    """A new directory may not take the id of a voter, or of a node that went."""
    cluster = cluster_of(2, **CALM)
    leader = cluster.wait_ready()
    other = cluster.followers()[0]
    at, new = str(cluster.nodes[leader].address), str(cluster.directory / "new")

    def start() -> str:
        words = ["serve", "--id", other, "--dir", new, "--listen", "127.0.0.1:1234", "--join", at]
        done = run(*words)
        assert done.returncode == ExitCode.USAGE
        return done.stderr

    assert "expected an id that no node of the cluster ever had" in start()
    operate(cluster, leader, "member", "remove", other)
    assert cluster.wait_exit(other) == ExitCode.REMOVED
    assert "expected an id that no node of the cluster ever had" in start()
