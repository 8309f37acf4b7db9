"""Wrong clocks on real nodes: no node's time of day makes keys vanish or keeps them, nor outlives being set right."""

from __future__ import annotations

import time
from typing import Final

import pytest
from redis.exceptions import ResponseError

from durable_raft.cli.local_cluster import HOST
from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import Cluster
from tests.cluster.test_backup import back_up, restored, run
from tests.support.waiting import wait_until

pytestmark = pytest.mark.cluster

HOUR_S: Final = 3600.0
YEAR_2200_S: Final = 174 * 365 * 24 * HOUR_S
WRONG_S: Final = 3.0
"""How long a clock is wrong, as in the field reports; other nodes' clocks are right all the while."""


@pytest.fixture
def timed(cluster_of: ClusterFactory) -> Cluster:
    """Three nodes that hold a key with half an hour to live, some seconds of writes into their life."""
    cluster = cluster_of(3)
    cluster.wait_ready()
    cluster.cluster_client().set("hour", "stays", ex=1800)
    return cluster


def write_for(cluster: Cluster, seconds: float) -> None:
    """Write all the while; what is written has the time to live that was asked for."""
    client = cluster.cluster_client()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        client.set("k", "v", px=100_000)
        assert 98_000 < client.pttl("k") <= 100_000


def offset_ms(cluster: Cluster, node_id: str, of: str = "cluster_time_offset_ms") -> int | None:
    """Return by how much a node's cluster time, or its clock, is ahead of the agreed clock, as far as it knows."""
    info = cluster.info(node_id)
    text = "" if info is None else info[f"raft_{of}"]
    return int(text) if text else None


def restart_after(cluster: Cluster, seconds: float, *, odd: dict[str, float] | None = None) -> str:
    """Let all nodes be down and their clocks go on by ``seconds`` meanwhile; return the leader."""
    cluster.kill9()
    for node_id in cluster.node_ids:
        cluster.skew(node_id, (odd or {}).get(node_id, seconds))
        cluster.start(node_id)
    return cluster.wait_ready()


def reset_time(cluster: Cluster, node_id: str) -> int:
    """Ask a node to set the cluster time to the agreed clock; return the time that it proposed."""
    return int(cluster.client(node_id).execute_command("RAFT", "RESETTIME"))  # type: ignore[no-untyped-call]


def lasts_for(cluster: Cluster, seconds: float) -> float:
    """Return how long a key that is given ``seconds`` to live is really there.

    Its life begins when the leader takes the command; the answer may come much later, where disks are busy.
    """
    client = cluster.cluster_client()
    began = time.monotonic()
    client.set("short", "x", px=round(seconds * 1000))
    wait_until(lambda: client.get("short") is None, f"a key of {seconds} s to expire", timeout_s=seconds * 3 + 10)
    return time.monotonic() - began


def assert_time_is_right(cluster: Cluster, skew_s: float = 0) -> None:
    """A key of 3 s goes after about 3 s, and absolute deadlines mean the real time, by clocks that are so far ahead."""
    client = cluster.cluster_client()
    took_s = lasts_for(cluster, 3.0)
    assert took_s > 2.5, cluster.explain(f"a key of 3 s went after {took_s:.1f} s")
    now_ms = time.time_ns() // 1_000_000 + round(skew_s * 1000)
    client.set("absolute", "x", pxat=now_ms + 60_000)
    left_ms = client.pttl("absolute")
    assert 40_000 < left_ms < 62_000, cluster.explain(f"a deadline in 60 s is {left_ms} ms away")


@pytest.mark.parametrize("skew_s", [HOUR_S, YEAR_2200_S, -HOUR_S], ids=["hour ahead", "year 2200", "hour behind"])
def test_a_leader_with_a_wrong_clock_changes_no_time(timed: Cluster, skew_s: float) -> None:
    """The leader's clock is wrong for three seconds, with writes all the while: nobody's keys notice."""
    leader = timed.leader()
    timed.skew(leader, skew_s)
    write_for(timed, WRONG_S)
    assert timed.cluster_client().get("hour") == b"stays", timed.explain("a key vanished")
    assert_time_is_right(timed)
    assert "event=clock_differs" in timed.log(leader)
    assert (timed.info(leader) or {})["raft_clock_differs"] == "1"
    timed.skew(leader, 0)
    timed.wait(lambda: (timed.info(leader) or {}).get("raft_clock_differs") == "0", "the clock to be right again")
    assert_time_is_right(timed)


def test_a_wrong_clock_changes_no_time_in_a_failover_or_a_restart(timed: Cluster) -> None:
    """The leader that is an hour ahead is killed; then all nodes are, one of them still an hour ahead."""
    leader = timed.leader()
    timed.skew(leader, HOUR_S)
    write_for(timed, 1.0)
    timed.kill9(leader)
    timed.leader(other_than=leader)
    write_for(timed, 1.0)
    assert timed.cluster_client().get("hour") == b"stays", timed.explain("a key vanished in the failover")
    timed.start(leader)
    timed.wait_ready()
    restart_after(timed, 0, odd={leader: HOUR_S})
    assert timed.cluster_client().get("hour") == b"stays", timed.explain("a key vanished in the restart")
    assert_time_is_right(timed)


def test_the_time_of_an_outage_is_counted(timed: Cluster) -> None:
    """All nodes are down for five hours: what had less to live is gone, what had more has five hours less."""
    timed.cluster_client().set("day", "x", ex=24 * 3600)
    leader = restart_after(timed, 5 * HOUR_S)
    client = timed.cluster_client()
    assert client.get("hour") is None
    assert 18.9 * HOUR_S < client.ttl("day") <= 19 * HOUR_S, timed.explain("the outage was not counted")
    assert_time_is_right(timed, 5 * HOUR_S)
    assert "source=clocks" in timed.log(leader)


def test_clocks_that_disagree_count_no_outage(timed: Cluster) -> None:
    """All nodes come back with clocks hours apart: nobody's word counts, and the time goes on from the log."""
    n1, n2, n3 = timed.node_ids
    leader = restart_after(timed, 0, odd={n1: 2 * HOUR_S, n2: 5 * HOUR_S, n3: 9 * HOUR_S})
    assert timed.cluster_client().get("hour") == b"stays", timed.explain("one clock was believed")
    assert lasts_for(timed, 3.0) > 2.5
    timed.wait(lambda: "event=clocks_disagree" in timed.log(leader), "the leader to say that clocks disagree")


def test_a_node_with_a_wrong_clock_lets_others_lead(timed: Cluster) -> None:
    """When the leader dies the node whose clock is wrong follows the third; ``status`` names it."""
    leader, odd = timed.leader(), timed.followers()[0]
    timed.skew(odd, HOUR_S)
    timed.wait(lambda: (timed.info(odd) or {}).get("raft_clock_differs") == "1", "a clock to be found wrong")
    timed.kill9(leader)
    third = timed.leader(other_than=leader)
    assert third != odd, timed.explain("the node with the wrong clock leads")
    assert f"{odd}: its clock is +3600." in run("status", "--at", f"{HOST}:{timed.nodes[third].client_port}")


@pytest.mark.parametrize("how", ["command", "directories", "backup"])
def test_a_cluster_in_the_future_is_brought_back(timed: Cluster, cluster_of: ClusterFactory, how: str) -> None:
    """All clocks were in the year 2200 once: a reset brings the time back, on all replicas, and it stays so."""
    restart_after(timed, YEAR_2200_S)
    timed.cluster_client().set("kept", "x")
    for node_id in timed.node_ids:
        timed.skew(node_id, 0)
    leader = timed.leader()
    timed.wait(lambda: (offset_ms(timed, leader) or 0) > 1000, "the leader to know that the time is in the future")
    if how == "backup":
        file = timed.directory / "backup"
        back_up(timed, leader, file)
        timed = restored(cluster_of, file, "--reset-time")
    elif how == "directories":
        timed.kill9()
        first, *others = (str(node.directory) for node in timed.nodes.values())
        peers = [word for other in others for word in ("--peers", other)]
        run("log", "repair", first, *peers, "--reset-time", "--apply")
        timed.restart()
    else:
        with pytest.raises(ResponseError, match="does not lead"):
            reset_time(timed, timed.followers()[0])
        assert abs(reset_time(timed, leader) - time.time() * 1000) < 60_000
    timed.wait(lambda: abs(offset_ms(timed, timed.leader()) or 10**9) < 1000, "the time to be right")
    assert_time_is_right(timed)
    assert timed.cluster_client().get("kept") == b"x"
    timed.restart()
    timed.wait_ready()
    assert_time_is_right(timed)
    timed.wait_converged()
    assert len(timed.state_hashes()) == 1
    assert not any(list(node.directory.glob("reset-time")) for node in timed.nodes.values())
