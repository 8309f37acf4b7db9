"""A directory that is lost under a running node, and a lock that somebody tries to step around."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from durable_raft.server.exit_codes import ExitCode
from tests.cluster.conftest import ClusterFactory
from tests.cluster.raw import Conversation

pytestmark = pytest.mark.cluster


def _removed(directory: Path) -> None:
    shutil.rmtree(directory)


def _moved(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))


def _state_removed(directory: Path) -> None:
    shutil.rmtree(directory / "kv")


@pytest.mark.parametrize("lose", [_removed, _moved, _state_removed])
@pytest.mark.parametrize("is_asked", [True, False], ids=["asked", "idle"])
def test_a_node_whose_directory_is_lost_ends_with_a_code_of_its_own(
    cluster_of: ClusterFactory, lose: Callable[[Path], None], is_asked: bool
) -> None:
    """With one line that says so, no traceback, and no acknowledgement of what nobody would find again."""
    cluster = cluster_of(1)
    cluster.wait_ready()
    with Conversation(cluster, "n1") as client:
        assert client.ask("SET", "kept", "x") == "OK"
        lose(cluster.nodes["n1"].directory)
        if is_asked:
            said = client.ask("SET", "lost", "x")
            assert said is None or lose is _state_removed, f"acknowledged into a lost file: {said}"
        assert cluster.wait_exit("n1") == ExitCode.DIRECTORY_LOST, cluster.explain("not the code of a lost directory")
    log = cluster.log("n1")
    assert "Traceback" not in log
    assert log.count("event=stopping") == 1
    assert "DirectoryLost" in log


def test_a_follower_that_lost_its_directory_acknowledges_nothing(cluster_of: ClusterFactory) -> None:
    """Three nodes go on without it, and with a new disk in its place."""
    cluster = cluster_of(3)
    cluster.wait_ready()
    victim = cluster.followers()[0]
    _removed(cluster.nodes[victim].directory)
    client = cluster.cluster_client()
    client.set("city", "Paris")
    assert cluster.wait_exit(victim) == ExitCode.DIRECTORY_LOST
    cluster.start(victim)
    cluster.wait_ready()
    assert client.get("city") == b"Paris"


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system where the first cluster's directories will be; skip without permission to mount."""
    place = tmp_path / "cluster1"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    done = subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a file system cannot be mounted: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)


def test_a_disk_that_is_unmounted_under_a_node_is_a_lost_directory(mounted: Path, cluster_of: ClusterFactory) -> None:
    """``umount -l`` leaves the node its open files, which nobody else sees."""
    cluster = cluster_of(1)
    cluster.wait_ready()
    log = cluster.log_path("n1").open()
    subprocess.run(["umount", "-l", str(mounted)], check=True)
    assert cluster.wait_exit("n1") == ExitCode.DIRECTORY_LOST
    assert "DirectoryLost" in log.read()
    log.close()


def test_a_lock_file_that_is_removed_lets_nobody_in(cluster_of: ClusterFactory) -> None:
    """A second process on the directory is refused while the first one works."""
    cluster = cluster_of(1)
    cluster.wait_ready()
    with Conversation(cluster, "n1") as client:
        (cluster.nodes["n1"].directory / "LOCK").unlink()
        second = subprocess.run(
            cluster.command("n1"), capture_output=True, text=True, check=False, timeout=60, env=os.environ.copy()
        )
        assert second.returncode == ExitCode.REFUSED, second.stderr
        assert "is in use" in second.stderr
        assert client.ask("SET", "a", "x") == "OK"
    assert cluster.is_running("n1")
