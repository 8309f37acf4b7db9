"""The flight recorder survives kill -9, and ``raftlog timeline`` tells what really happened."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from durable_raft.storage.flight import read_flight
from durable_raft.storage.log.records import LOG, LOG_KEY
from tests.cluster.conftest import ClusterFactory
from tests.storage.raw import flip_bit
from tests.tools.test_repair import raftlog

pytestmark = pytest.mark.cluster


def test_three_elections_and_a_healed_wound(cluster_of: ClusterFactory, tmp_path: Path) -> None:
    """Leaders and terms in order, as the nodes said they were; the page is whole and has a lane for each node."""
    cluster = cluster_of(3)
    seen: list[tuple[str, int]] = []
    for number in range(3):
        leader = cluster.wait_ready()
        info = cluster.info(leader)
        assert info is not None
        seen.append((leader, int(info["raft_current_term"])))
        client = cluster.client(leader)
        for key in range(30):
            client.set(f"key:{number}:{key}", "value" * 20)
        if number < 2:
            cluster.kill9(leader)
            last = read_flight(cluster.nodes[leader].directory)[-1]
            assert last.event in ("progress", "became_leader", "admitted"), last
            cluster.leader(other_than=leader)
            cluster.start(leader)
    victim = cluster.followers()[0]
    cluster.wait_converged()
    cluster.stop(victim)
    flip_bit(cluster.nodes[victim].directory, LOG, LOG_KEY.pack(20, 0), 40 * 8)
    cluster.start(victim)
    cluster.wait(lambda: "event=entry_healed" in cluster.log(victim), "the wound to be healed")
    cluster.wait_ready()
    directories = [cluster.nodes[node_id].directory for node_id in cluster.node_ids]
    code, said = raftlog("timeline", *directories, "--json")
    assert code == 0, said
    events = [json.loads(line) for line in said.splitlines()]
    elected = [(each["node"], each["term"]) for each in events if each["event"] == "became_leader"]
    assert [each for each in elected if each in seen] == seen
    assert [(e["node"], e["index"]) for e in events if e["event"] == "entry_healed"] == [(victim, 20)]
    assert [each["time"] for each in events] == sorted(each["time"] for each in events)
    page = tmp_path / "timeline.html"
    code, said = raftlog("timeline", *directories, "--html", page)
    assert code == 0, said
    text = page.read_text()
    HTMLParser().feed(text)
    assert "http" not in text
    assert all(f">{node_id}</text>" in text for node_id in cluster.node_ids)
    assert text.count("entry_healed index=20") == 1


def test_a_directory_without_a_recorder_is_told_by_its_log(cluster_of: ClusterFactory) -> None:
    """The terms that begin in the log are known; what is damaged of the ring is skipped."""
    cluster = cluster_of(1)
    cluster.client(cluster.wait_ready()).set("city", "Paris")
    cluster.stop("n1")
    directory = cluster.nodes["n1"].directory
    flight = directory / "flight"
    before = read_flight(directory)
    data = bytearray(flight.read_bytes())
    data[256 * 2 + 30] ^= 1
    flight.write_bytes(data)
    assert len(read_flight(directory)) == len(before) - 1
    flight.write_bytes(b"no ring at all" * 1000)
    cluster.start("n1")
    cluster.wait_ready()
    cluster.stop("n1")
    assert {"started", "stopped"} <= {each.event for each in read_flight(directory)}
    flight.unlink()
    code, said = raftlog("timeline", directory)
    assert code == 0
    assert "term_begins_in_log term=1 index=1" in said
