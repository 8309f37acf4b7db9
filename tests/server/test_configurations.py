"""Configurations on the disks of real nodes: in checkpoints, at the base of a compacted log, in snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from durable_raft.errors import ErrorAnswered
from durable_raft.raft.configuration import stored_at
from durable_raft.raft.types import Configuration
from durable_raft.server.exit_codes import ExitCode
from durable_raft.storage.log.reader import LogReader
from durable_raft.storage.state.verify import read_checkpoint
from tests.server.test_states import SMALL, a_follower, assert_on_all, write
from tests.support.forked_nodes import ForkedNodes

pytestmark = pytest.mark.cluster


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[ForkedNodes]:
    """Three nodes that are not started yet, and drop their logs early."""
    made = ForkedNodes(3, tmp_path / "nodes", **SMALL)
    yield made
    made.close()


def change(nodes: ForkedNodes, leader: str, *words: str) -> None:
    """Have the leader begin a change of members, as soon as it is ready for one, and wait for its end."""

    def is_begun() -> bool:
        with suppress(ErrorAnswered):
            return nodes.ask(leader, "RAFT.MEMBER", *words) is not None
        return False

    completed = nodes.log(leader).count("event=configuration_complete")
    nodes.wait(is_begun, f"{words} to begin")
    nodes.wait(lambda: nodes.log(leader).count("event=configuration_complete") > completed, f"{words} to be complete")


def of_state(directory: Path) -> Configuration | None:
    """Return the configuration that counts at the checkpoint."""
    return read_checkpoint(directory).stored_configuration


def of_log(directory: Path) -> tuple[Configuration | None, Configuration | None]:
    """Return the configuration that counts where the log begins, and the newest."""
    with LogReader.open(directory) as reader:
        meta = reader.overview().meta
    assert meta is not None
    return stored_at(meta.configurations, meta.base.point.index), meta.configuration


def test_a_configuration_outlives_the_log_that_held_it(nodes: ForkedNodes) -> None:
    """In the checkpoints and where the logs begin; a follower that was away has it from the snapshot."""
    nodes.start()
    written = write(nodes, 20)
    follower = a_follower(nodes)
    nodes.kill(follower)
    leader = nodes.leader()
    assert of_state(nodes.directory(leader)) is None
    config = nodes.config(leader)
    # Its clients reach it under a name now.
    change(nodes, leader, "update", f"{leader}=localhost:{config.client_port}@{config.peer_port}")
    changed_at = nodes.number(leader, "configuration_index")
    written |= write(nodes, 120, "v" * 2000, prefix="then")
    nodes.wait(lambda: nodes.number(leader, "first_log_index") > changed_at, "the log to be compacted")
    nodes.start(follower)
    nodes.wait(lambda: nodes.number(follower, "snapshots_installed") == 1, "the follower to have a snapshot")
    assert_on_all(nodes, written)
    nodes.stop()
    expected = of_state(nodes.directory(leader))
    assert expected is not None
    assert expected.index == changed_at
    assert [each.client_address.partition(":")[0] for each in expected.members].count("localhost") == 1
    for node_id in nodes.ids:
        assert of_state(nodes.directory(node_id)) == expected
        assert of_log(nodes.directory(node_id)) == (expected, expected)
    # And the next life goes by it, and keeps it.
    nodes.start()
    assert_on_all(nodes, written | write(nodes, 60, prefix="later"))
    nodes.stop()
    assert {of_state(nodes.directory(node_id)) for node_id in nodes.ids} == {expected}


def test_a_node_that_is_alone_by_a_change_serves_alone_after_a_restart(nodes: ForkedNodes) -> None:
    """Were the configuration forgotten with the log that held it, it would wait for two that are gone."""
    nodes.start()
    written = write(nodes, 20)
    leader = nodes.leader()
    for node_id in nodes.ids:
        if node_id != leader:
            change(nodes, leader, "remove", node_id)
            # Whoever is removed is told so, and stops by itself.
            assert nodes.exit_code(node_id) == ExitCode.REMOVED
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
