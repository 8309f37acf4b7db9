"""Upgrade and downgrade as docs/operating.md has them: real nodes of the previous program and of this one.

Each node is stopped, and started with the other program, while clients write. What each program wrote the other reads:
logs, checkpoints, snapshots. After the version was raised there is no way back, and that is said.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from durable_raft.addresses import Address
from durable_raft.raft.versions import OURS
from durable_raft.server.exit_codes import ExitCode
from durable_raft.storage.state.verify import read_checkpoint
from tests import documents
from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import Cluster, checkout_environment
from tests.cluster.previous import VERSION, previous_program
from tests.cluster.workload import Workload, assert_on_all_nodes
from tests.support.waiting import WAIT_S
from tests.tools.directories import raftlog

pytestmark = pytest.mark.cluster

OPERATING: Final = documents.ROOT / "docs" / "operating.md"

SMALL: Final = {"checkpoint_entries": 50, "checkpoint_interval_ms": 300, "log_tail_entries": 20, "log_tail_bytes": 4000}
"""Checkpoints all the time, and logs so short that a node which was away is given a snapshot."""

WRITES: Final = 60
"""While a node is down, and after it came back: more than the log keeps."""


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that was released before this one."""
    return previous_program(tmp_path_factory.mktemp("previous"))


def versions(cluster: Cluster) -> list[str]:
    """Return what each node says that its program is."""
    infos = [cluster.info(node_id, "server") for node_id in cluster.node_ids]
    return [info["durable_raft_version"] for info in infos if info is not None]


def roll(cluster: Cluster, program: Path | None, workload: Workload) -> None:
    """Have one node after the other run another program, the leader last, while clients write."""
    leader = cluster.leader()
    for node_id in [*(each for each in cluster.node_ids if each != leader), leader]:
        exchange(cluster, node_id, program, workload)


def exchange(cluster: Cluster, node_id: str, program: Path | None, workload: Workload) -> None:
    """Have a node run another program, while clients write."""
    assert cluster.stop(node_id) == 0
    workload.wait_for(WRITES)
    cluster.install(node_id, program)
    cluster.start(node_id)
    cluster.wait_ready()
    workload.wait_for(WRITES)


def shown(heading: str) -> list[list[str]]:
    """Return the commands that the page has under a heading."""
    (block,) = documents.shell_blocks(documents.section(documents.text(OPERATING), heading))
    return [shlex.split(line) for line in block.splitlines()]


def run(words: Sequence[str], address: Address) -> subprocess.CompletedProcess[str]:
    """Run a command of the page for the cluster whose first node is at ``address``."""
    _, *arguments = [str(address) if word == "10.0.0.1:7001" else word for word in words]
    command = [sys.executable, "-m", "durable_raft", *arguments]
    environment = checkout_environment()
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False)


def cluster_versions(cluster: Cluster) -> list[int]:
    """Return which version each node says that the cluster has."""
    return [int(info["raft_cluster_version"]) for info in cluster.infos().values()]


def test_an_upgrade_loses_nothing_and_is_final_when_the_version_is_raised(
    cluster_of: ClusterFactory, previous: Path
) -> None:
    """The drill "Upgrade": node by node under load, then the version; an older program says why it does not start."""
    cluster = cluster_of(3, program=previous, **SMALL)
    cluster.wait_ready()
    assert versions(cluster) == [VERSION] * 3
    dry, final = shown("Upgrade")
    with Workload(cluster).running() as workload:
        workload.wait_for(WRITES)
        last, *others = cluster.node_ids
        for node_id in others:
            exchange(cluster, node_id, None, workload)
        # A leader of the new program, and an old follower that is sent what it writes.
        assert cluster.stop(last) == 0
        cluster.start(last)
        leader = cluster.wait_ready()
        assert leader != last
        workload.wait_for(WRITES)
        refused = run(dry, cluster.nodes[leader].address)
        assert (refused.returncode, f"for version {OURS.newest}: {last} can version 1" in refused.stderr) == (1, True)
        assert cluster.stop(last) == 0
        assert "is not heard" in run(final, cluster.nodes[leader].address).stderr
        cluster.install(last, None)
        cluster.start(last)
        cluster.wait_ready()
        for words in (dry, final):
            found = run(words, cluster.nodes[leader].address)
            assert found.returncode == 0, found.stderr
        assert cluster_versions(cluster) == [OURS.newest] * 3
        workload.wait_for(WRITES)
    assert_on_all_nodes(cluster, workload.acknowledged)
    assert {read_checkpoint(cluster.nodes[node_id].directory).version for node_id in cluster.node_ids} == {OURS.newest}
    told = raftlog("timeline", *(cluster.nodes[node_id].directory for node_id in cluster.node_ids)).stdout
    assert told.count(f"cluster_version version={OURS.newest} was=1") == 3
    refuses_to_go_back(cluster, last, previous)
    assert_on_all_nodes(cluster, workload.acknowledged)


def refuses_to_go_back(cluster: Cluster, node_id: str, previous: Path) -> None:
    """The previous program does not start on the node's directory, changes nothing there, and says what it found."""
    assert cluster.stop(node_id) == 0
    directory = cluster.nodes[node_id].directory
    names = {path.name for path in directory.iterdir()}
    cluster.install(node_id, previous)
    cluster.start(node_id)
    assert cluster.wait_exit(node_id) == ExitCode.REFUSED
    assert "expected version 2" in cluster.log(node_id)
    assert {path.name for path in directory.iterdir()} == names
    cluster.install(node_id, None)
    cluster.start(node_id)
    cluster.wait_ready()


def test_a_downgrade_before_the_version_is_raised_loses_nothing(cluster_of: ClusterFactory, previous: Path) -> None:
    """The drill "Downgrade": what the new program wrote, the old one reads."""
    cluster = cluster_of(3, **SMALL)
    cluster.wait_ready()
    with Workload(cluster).running() as workload:
        workload.wait_for(WRITES)
        roll(cluster, previous, workload)
    assert versions(cluster) == [VERSION] * 3
    assert_on_all_nodes(cluster, workload.acknowledged)


@pytest.mark.parametrize("log_commit", ["lmdb", "journal"])
def test_a_node_that_missed_the_raising_is_not_heard_with_the_old_program(
    cluster_of: ClusterFactory, previous: Path, log_commit: str
) -> None:
    """Its directory knows nothing of the version yet; so the others tell it. Its neighbour's log has the entry."""
    cluster = cluster_of(3, log_commit=log_commit)
    leader = cluster.wait_ready()
    missed, knows = (node_id for node_id in cluster.node_ids if node_id != leader)
    cluster.pause(missed)
    found = run(
        ["durable-raft", "raise-version", "--timeout", "5", "--at", str(cluster.nodes[leader].address)], _NOWHERE
    )
    silent = cluster.nodes[missed].address
    assert f"it takes too long: {silent} did not say version {OURS.newest}" in found.stderr
    cluster.client(leader).set("city", "Paris")
    cluster.kill9(missed, knows)
    for node_id in (missed, knows):
        cluster.install(node_id, previous)
        cluster.start(node_id)
    assert cluster.wait_exit(knows) == ExitCode.REFUSED
    assert "expected kind 0, 1, 2, 3 and padding 0, found kind 4" in cluster.log(knows)
    cluster.logged(
        missed, f"{missed} can version 1, but this cluster has version {OURS.newest}: install a newer program"
    )
    cluster.kill9(missed)
    for node_id in (missed, knows):
        cluster.install(node_id, None)
        cluster.start(node_id)
    cluster.wait_ready()
    assert_on_all_nodes(cluster, {"city": "Paris"})


_NOWHERE: Final = Address("127.0.0.1", 1)
