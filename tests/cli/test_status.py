"""cli/status.py without a cluster: the table, the choice of the leader, and nodes that do not answer."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from durable_raft.addresses import Address
from durable_raft.cli.local_cluster import HOST, free_ports
from durable_raft.cli.main import main
from durable_raft.cli.status import NodeStatus, _timeouts, ask, cluster_status, find_leader, table, version_of


def test_table_lines_up_and_marks_what_is_unknown() -> None:
    """Texts are aligned left, numbers right, and a dash stands where a node could not be asked."""
    statuses = [
        NodeStatus("n1", "127.0.0.1:7001", "leader", 12, 1000, 1000, 999, 998, 0, "ready"),
        NodeStatus(None, "127.0.0.1:7002", "unreachable", error="refused"),
    ]
    assert table(statuses).splitlines() == [
        "NODE  ADDRESS         ROLE         TERM  LAST  FLUSHED  COMMIT  APPLIED  LAG  STATE",
        "n1    127.0.0.1:7001  leader         12  1000     1000     999      998    0  ready",
        "-     127.0.0.1:7002  unreachable     -     -        -       -        -    -      -",
    ]


def test_a_node_that_waits_longer_says_why() -> None:
    """What stretches its timeouts is named, each with its number; a node that waits as configured says nothing."""
    calm = {"raft_election_timeout_ms": "150-300", "raft_late_ms": "0", "raft_slow_flush_ms": "0"}
    assert _timeouts(calm) is None
    assert _timeouts(calm | {"raft_election_timeout_ms": "400-800", "raft_late_ms": "100"}) == (
        "waits 400-800 ms for a leader: others are late by 100 ms"
    )
    both = calm | {"raft_slow_flush_ms": "310", "raft_failed_campaigns": "2"}
    assert _timeouts(both) == "waits 150-300 ms for a leader: a flush takes 310 ms, 2 elections were lost"


def test_leader_is_the_one_of_the_newest_term() -> None:
    """A deposed leader that does not know it yet is not the leader; without any there is none."""
    old, new = NodeStatus("n1", "a:1", "leader", 3), NodeStatus("n2", "b:1", "leader", 4)
    assert find_leader([old, new, NodeStatus("n3", "c:1", "follower", 5)]) is new
    assert find_leader([NodeStatus("n3", "c:1", "candidate", 5)]) is None


def test_how_far_the_version_can_be_raised_is_said() -> None:
    """Or who keeps it; where nothing can be raised nothing is said. A node of 0.1.0 says nothing of versions."""

    def node(name: str, present: int | None, can: str | None) -> NodeStatus:
        return NodeStatus(name, f"{name}:1", "follower", cluster_version=present, versions=can)

    new, newer, old = node("n1", 1, "1-2"), node("n2", 1, "1-3"), node("n3", None, None)
    assert version_of([new, newer]) == "cluster version 1: all nodes can 2 (durable-raft raise-version)"
    assert version_of([new, newer, old]) == "cluster version 1: n3 can no newer one, or did not say"
    assert version_of([old]) is None
    assert version_of([node("n1", 2, "1-2"), node("n2", 1, "1-2")]) is None
    assert version_of([]) is None


def test_dead_nodes_are_shown_as_unreachable() -> None:
    """A node that does not answer is a row with the reason, not an error."""
    addresses = [Address(HOST, port) for port in free_ports(2)]
    statuses = cluster_status(addresses)
    assert [status.address for status in statuses] == [str(address) for address in addresses]
    assert {status.role for status in statuses} == {"unreachable"}
    assert "does not answer" in str(ask(addresses[0]).error)


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_status_of_nobody_exits_with_4(flags: list[str]) -> None:
    """When the node that is asked does not answer, the exit code is 4 and stderr names it."""
    (port,) = free_ports(1)
    result = CliRunner().invoke(main, ["status", "--at", f"{HOST}:{port}", *flags])
    assert result.exit_code == 4
    assert f"{HOST}:{port} does not answer" in result.stderr
    assert result.stdout == ""


def test_statuses_can_be_written_as_json() -> None:
    """A status holds nothing that JSON does not know."""
    from dataclasses import asdict

    assert json.loads(json.dumps(asdict(NodeStatus("n1", "a:1", "leader", 1))))["role"] == "leader"
