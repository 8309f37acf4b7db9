"""Large values on their way through a cluster: acknowledged, in no new term, and in nobody's way."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import Cluster

pytestmark = pytest.mark.cluster

MIB: Final = 1 << 20
DONE_S: Final = 120


def _terms(cluster: Cluster) -> set[str]:
    return {info["raft_current_term"] for info in cluster.infos().values()}


def test_heartbeats_and_reads_pass_a_value_on_a_slow_network(cluster_of: ClusterFactory) -> None:
    """A value that takes three election timeouts to arrive deposes nobody, and is sent once to each follower.

    A read that comes meanwhile is answered meanwhile: its round passes the value.
    """
    cluster = cluster_of(3, proxied=True, election_timeout_min_ms=2000, election_timeout_max_ms=4000)
    leader = cluster.wait_ready()
    terms = _terms(cluster)
    assert cluster.network is not None
    links = [link for (source, _), link in cluster.network.links.items() if source == leader]
    assert cluster.client(leader).set("city", "Paris")
    value = random.Random(24).randbytes(24 * MIB)
    before = [link.bytes_forwarded for link in links]

    def sent() -> list[int]:
        return [link.bytes_forwarded - was for link, was in zip(links, before, strict=True)]

    cluster.network.throttle(leader, 2 * MIB)
    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(cluster.client(leader, socket_timeout=DONE_S).set, "large", value)
        cluster.wait(lambda: max(sent()) > 2 * MIB, "the value to be on its way")
        assert cluster.client(leader).get("city") == b"Paris"
        assert max(sent()) < 20 * MIB
        assert not writing.done()
        assert writing.result(DONE_S)

    assert _terms(cluster) == terms, cluster.explain("another leader was elected")
    cluster.network.throttle(leader, 0)
    cluster.wait_converged()
    assert max(sent()) < 30 * MIB, "the value was sent more than once"
    assert cluster.client(leader, socket_timeout=DONE_S).get("large") == value


def test_the_largest_value_is_acknowledged_beside_small_ones(cluster_of: ClusterFactory) -> None:
    """63 MiB, a request of nearly the limit; writes of others go on, and the term stays."""
    # On a busy machine three nodes' disks take seconds for it, and a turn of a loop waits for its processor.
    cluster = cluster_of(3, election_timeout_min_ms=2000, election_timeout_max_ms=4000)
    leader = cluster.wait_ready()
    terms = _terms(cluster)
    value = random.Random(64).randbytes(63 * MIB)
    small = cluster.client(leader)
    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(cluster.client(leader, socket_timeout=DONE_S).set, "large", value)
        written = 0
        while not writing.done() or written < 100:
            assert small.set("small", written)
            written += 1
        assert writing.result(DONE_S)
    assert _terms(cluster) == terms, cluster.explain("another leader was elected")
    cluster.wait_converged()
    assert cluster.client(leader).strlen("large") == 63 * MIB


def test_a_follower_is_brought_up_to_date_by_large_entries_from_the_disk(cluster_of: ClusterFactory) -> None:
    """Its leader reads them on another thread: no turn of its loop takes long, which the harness looks at."""
    settings = {"log_tail_bytes": 1 << 30, "log_tail_entries": 1 << 20, "log_cache_bytes_max": MIB}
    cluster = cluster_of(3, election_timeout_min_ms=2000, election_timeout_max_ms=4000, **settings)
    leader = cluster.wait_ready()
    (late, _) = [node_id for node_id in cluster.node_ids if node_id != leader]
    cluster.kill9(late)
    client = cluster.client(leader, socket_timeout=DONE_S)
    for number in range(3):
        assert client.set(f"large:{number}", random.Random(number).randbytes(40 * MIB))
    first = int(cluster.infos()[leader]["raft_first_log_index"])

    cluster.start(late)
    cluster.wait_converged(DONE_S)

    assert int(cluster.infos()[late]["raft_first_log_index"]) == first, "it was brought a snapshot"
