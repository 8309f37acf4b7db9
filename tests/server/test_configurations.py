"""Configurations on the disks of real nodes: in checkpoints, at the base of a compacted log, in snapshots.

No command asks for a change of members yet. So RAFT CHECKPOINT does here, at the leader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from durable_raft.raft.changes import Readdress, Remove, Step
from durable_raft.raft.configuration import stored_at
from durable_raft.raft.types import LEADER, Configuration, Index, NodeId
from durable_raft.server.node import Node
from durable_raft.storage.log.reader import LogReader
from durable_raft.storage.state.verify import read_checkpoint
from tests.server.test_states import SMALL, a_follower, assert_on_all, write
from tests.support.forked_nodes import ForkedNodes

pytestmark = pytest.mark.cluster

Steps = Callable[[Configuration, NodeId], Sequence[Step]]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[ForkedNodes]:
    """Three nodes that are not started yet, and drop their logs early."""
    made = ForkedNodes(3, tmp_path / "nodes", **SMALL)
    yield made
    made.close()


def have_changes(monkeypatch: pytest.MonkeyPatch, steps: Steps) -> None:
    """Have the next RAFT CHECKPOINT at the leader ask for the first change of members."""
    checkpoint = Node.request_checkpoint

    def change_first(node: Node) -> None:
        raft = node.raft
        if raft.role is LEADER and not raft.configuration.index:
            raft.change(node._now_ms(), Index(0), steps(raft.configuration, raft.state.config.node_id))
        checkpoint(node)

    monkeypatch.setattr(Node, "request_checkpoint", change_first)


def moved(configuration: Configuration, own: NodeId) -> list[Step]:
    """Have the leader's clients reach it under a name."""
    member = next(each for each in configuration.members if each.node_id == own)
    return [Readdress(replace(member, client_address=member.client_address.replace("127.0.0.1", "localhost")))]


def alone(configuration: Configuration, own: NodeId) -> list[Step]:
    """Let all go but the leader."""
    return [Remove(each) for each in configuration.voters if each != own]


def of_state(directory: Path) -> Configuration | None:
    """Return the configuration that counts at the checkpoint."""
    return read_checkpoint(directory).stored_configuration


def of_log(directory: Path) -> tuple[Configuration | None, Configuration | None]:
    """Return the configuration that counts where the log begins, and the newest."""
    with LogReader.open(directory) as reader:
        meta = reader.overview().meta
    assert meta is not None
    return stored_at(meta.configurations, meta.base.point.index), meta.configuration


def test_a_configuration_outlives_the_log_that_held_it(nodes: ForkedNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the checkpoints and where the logs begin; a follower that was away has it from the snapshot."""
    have_changes(monkeypatch, moved)
    nodes.start()
    written = write(nodes, 20)
    follower = a_follower(nodes)
    nodes.kill(follower)
    leader = nodes.leader()
    assert of_state(nodes.directory(leader)) is None
    nodes.ask(leader, "RAFT", "CHECKPOINT")
    changed_at = nodes.number(leader, "last_log_index")
    written |= write(nodes, 120, "v" * 2000, prefix="then")
    nodes.wait(lambda: nodes.number(leader, "first_log_index") > changed_at, "the log to be compacted")
    nodes.start(follower)
    nodes.wait(lambda: nodes.number(follower, "snapshots_installed") == 1, "the follower to have a snapshot")
    assert_on_all(nodes, written)
    nodes.stop()
    expected = of_state(nodes.directory(leader))
    assert expected is not None
    assert 20 < expected.index <= changed_at
    assert [each.client_address.partition(":")[0] for each in expected.members].count("localhost") == 1
    for node_id in nodes.ids:
        assert of_state(nodes.directory(node_id)) == expected
        assert of_log(nodes.directory(node_id)) == (expected, expected)
    # And the next life goes by it, and keeps it.
    nodes.start()
    assert_on_all(nodes, written | write(nodes, 60, prefix="later"))
    nodes.stop()
    assert {of_state(nodes.directory(node_id)) for node_id in nodes.ids} == {expected}


def test_a_node_that_is_alone_by_a_change_serves_alone_after_a_restart(
    nodes: ForkedNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the configuration forgotten with the log that held it, it would wait for two that are gone."""
    have_changes(monkeypatch, alone)
    nodes.start()
    written = write(nodes, 20)
    leader = nodes.leader()
    nodes.ask(leader, "RAFT", "CHECKPOINT")
    nodes.logged(leader, "event=configuration_complete")
    for node_id in nodes.ids:
        if node_id != leader:
            nodes.kill(node_id)
    changed_at = nodes.number(leader, "configuration_index")
    written |= write(nodes, 120, "v" * 2000, prefix="then")
    nodes.wait(lambda: nodes.number(leader, "first_log_index") > changed_at > 0, "the log to be compacted")
    nodes.stop()
    base, newest = of_log(nodes.directory(leader))
    assert newest is not None
    assert base == newest == of_state(nodes.directory(leader))
    assert newest.voters == (leader,)
    nodes.start(leader)
    assert nodes.leader() == leader
    assert_on_all(nodes, written | write(nodes, 10, prefix="later"))
