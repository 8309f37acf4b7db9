"""Links cut one way, both ways, and a leader that sleeps: a minority promises nothing, and all agree afterwards."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

import pytest

from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import Cluster
from tests.cluster.raw import Conversation
from tests.cluster.workload import replica

pytestmark = pytest.mark.cluster

HOLD_MS: Final = 500
NO_PROMISE: Final = ("-UNKNOWN ", "-CLUSTERDOWN ", "-TRYAGAIN ", "-MOVED ")
"""What a node that does not lead may answer."""


def _start(cluster_of: ClusterFactory) -> tuple[Cluster, str]:
    """Return a proxied cluster in which ``city`` is Paris, and its leader."""
    cluster = cluster_of(3, proxied=True, client_hold_ms=HOLD_MS)
    leader = cluster.wait_ready()
    assert cluster.client(leader).set("city", "Paris")
    return cluster, leader


def _others(cluster: Cluster, node_id: str) -> list[str]:
    return [each for each in cluster.node_ids if each != node_id]


def _cut(cluster: Cluster, sources: list[str], targets: list[str]) -> None:
    assert cluster.network is not None
    for source in sources:
        for target in targets:
            cluster.network.cut(source, target)


def _heal(cluster: Cluster) -> None:
    assert cluster.network is not None
    cluster.network.heal()


def _term(cluster: Cluster, node_id: str) -> int:
    info = cluster.info(node_id)
    assert info is not None, cluster.explain(f"{node_id} does not answer")
    return int(info["raft_current_term"])


def _assert_agreed(cluster: Cluster, key: str, allowed: set[bytes | None]) -> None:
    """Assert that all nodes run and have the same one of the allowed values in their own state."""
    assert cluster.running() == cluster.node_ids, cluster.explain("not all nodes run")
    cluster.wait_converged()
    values = {node_id: replica(cluster, node_id).get(key) for node_id in cluster.node_ids}
    assert len(set(values.values())) == 1, cluster.explain(f"{key}: {values}")
    assert set(values.values()) <= allowed, cluster.explain(f"{key}: {values}, expected one of {allowed}")


def test_isolated_leader_answers_nothing_and_its_write_is_gone(cluster_of: ClusterFactory) -> None:
    """A leader without links acknowledges no write and answers no read, before and after it notices; healed, all agree.

    Its write is in its own log only, so that the other side's entries take its place.
    """
    cluster, old = _start(cluster_of)
    _cut(cluster, [old], _others(cluster, old))
    _cut(cluster, _others(cluster, old), [old])
    with Conversation(cluster, old) as writing, Conversation(cluster, old) as reading:
        writing.send("SET", "city", "Rome")
        reading.send("GET", "city")
        new = cluster.leader(other_than=old)
        assert cluster.client(new).set("city", "Oslo")
        assert cluster.client(new).get("city") == b"Oslo"
        assert str(writing.reply()).startswith("-UNKNOWN ")
        assert str(reading.reply()).startswith("-CLUSTERDOWN ")
        assert str(writing.ask("SET", "city", "Bern")).startswith("-CLUSTERDOWN ")
        assert str(reading.ask("GET", "city")).startswith("-CLUSTERDOWN ")
    cluster.logged(old, "event=lost_quorum")
    _heal(cluster)
    _assert_agreed(cluster, "city", {b"Oslo"})
    assert cluster.leader() != old
    cluster.logged(old, "event=truncated_suffix")


@pytest.mark.parametrize("direction", ["not heard", "deaf"])
def test_one_way_cut_of_the_leader_is_survived(cluster_of: ClusterFactory, direction: str) -> None:
    """A leader that is not heard, or does not hear, is replaced once; meanwhile it promises nothing; healed, all agree.

    What a deaf leader wrote reached the others and may be committed by the next leader; then all have it.
    """
    cluster, old = _start(cluster_of)
    others = _others(cluster, old)
    if direction == "deaf":
        _cut(cluster, others, [old])
    else:
        _cut(cluster, [old], others)
    with Conversation(cluster, old) as writing, Conversation(cluster, old) as reading:
        writing.send("SET", "lost", "x")
        reading.send("GET", "city")
        new = cluster.leader(other_than=old)
        term = _term(cluster, new)
        client = cluster.client(new)
        for number in range(50):
            assert client.set("city", f"Oslo{number}")
        assert str(writing.reply()).startswith(NO_PROMISE)
        assert str(reading.reply()).startswith(NO_PROMISE)
    assert _term(cluster, new) == term, cluster.explain("the node that was cut off disturbed the others")
    _heal(cluster)
    _assert_agreed(cluster, "city", {b"Oslo49"})
    _assert_agreed(cluster, "lost", {None, b"x"} if direction == "deaf" else {None})


def test_diverged_leader_is_repaired_when_it_comes_back(cluster_of: ClusterFactory) -> None:
    """Entries that only a dead leader's disk holds are cut when it is back, and its state is that of the others."""
    cluster, old = _start(cluster_of)
    _cut(cluster, [old], _others(cluster, old))
    _cut(cluster, _others(cluster, old), [old])
    with ExitStack() as stack:
        for number in range(10):
            stack.enter_context(Conversation(cluster, old)).send("SET", f"lost{number}", "x")

        def holds_uncommitted() -> bool:
            info = cluster.info(old)
            return info is not None and int(info["raft_flushed_index"]) > int(info["raft_commit_index"])

        cluster.wait(holds_uncommitted, f"entries on the disk of {old} alone")
        cluster.kill9(old)
    new = cluster.leader(other_than=old)
    for number in range(10):
        assert cluster.client(new).set(f"kept{number}", "y")
    _heal(cluster)
    assert "event=truncated_suffix" not in cluster.log(old)
    cluster.start(old)
    cluster.wait_ready()
    for number in range(10):
        _assert_agreed(cluster, f"lost{number}", {None})
        _assert_agreed(cluster, f"kept{number}", {b"y"})
    cluster.logged(old, "event=truncated_suffix")
    assert all("event=chain_mismatch" not in cluster.log(node_id) for node_id in cluster.node_ids)


def test_leader_that_slept_answers_no_stale_read(cluster_of: ClusterFactory) -> None:
    """Reads that wait in the sockets of a stopped leader are never answered with what was true when it stopped."""
    cluster = cluster_of(3, client_hold_ms=HOLD_MS)
    cluster.wait_ready()
    client = cluster.client(cluster.leader())
    assert client.set("city", "Paris0")
    for sleep in range(1, 4):
        old = cluster.wait_ready()
        with ExitStack() as stack:
            readers = [stack.enter_context(Conversation(cluster, old)) for _ in range(8)]
            assert {reader.ask("GET", "city") for reader in readers} == {f"Paris{sleep - 1}"}
            term = _term(cluster, old)
            cluster.pause(old)
            for reader in readers[::2]:
                reader.send("GET", "city")
            new = cluster.leader(other_than=old)
            assert _term(cluster, new) > term
            assert cluster.client(new).set("city", f"Paris{sleep}")
            for reader in readers:
                reader.send("GET", "city")
            cluster.resume(old)
            replies = [reader.reply() for reader in readers] + [reader.reply() for reader in readers[::2]]
        stale = [reply for reply in replies if reply != f"Paris{sleep}" and not (reply or "").startswith(NO_PROMISE)]
        assert stale == [], cluster.explain(f"sleep {sleep}: {replies}")
        _assert_agreed(cluster, "city", {f"Paris{sleep}".encode()})
