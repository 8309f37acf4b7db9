"""A disk that fills up: writes are refused in time, everything that needs no room goes on, nothing is lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.conftest import ClusterFactory
from tests.cluster.raw import Conversation

pytestmark = pytest.mark.cluster

DISK_BYTES = 48 << 20
RESERVE_BYTES = 16 << 20
MAP_BYTES = 1 << 30


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small file system where the first cluster's directories will be; skip without permission to mount."""
    place = tmp_path / "cluster1"
    place.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(place)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_without_the_reserve_writes_are_refused_and_the_rest_goes_on(cluster_of: ClusterFactory) -> None:
    """With less room than the reserve a node refuses SET with NOSPACE, reads, deletes and restarts, and recovers."""
    cluster = cluster_of(1)
    cluster.wait_ready()
    with Conversation(cluster, "n1") as client:
        assert client.ask("SET", "kept", "x") == "OK"
        assert client.ask("SET", "dropped", "x") == "OK"
    cluster.restart("n1", settings={"map_bytes": MAP_BYTES, "disk_reserve_bytes": MAP_BYTES - 1})
    cluster.wait_ready()
    with Conversation(cluster, "n1") as client:
        assert str(client.ask("SET", "refused", "x")).startswith("-NOSPACE ")
        assert client.ask("GET", "kept") == "x"
        assert client.ask("DEL", "dropped") == "1"
        assert client.ask("GET", "dropped") == "nil"
        assert str(client.ask("SET", "refused", "x")).startswith("-NOSPACE ")
    assert cluster.is_running("n1")
    cluster.restart("n1")
    cluster.wait_ready()
    with Conversation(cluster, "n1") as client:
        assert [client.ask("GET", key) for key in ("kept", "dropped", "refused")] == ["x", "nil", "nil"]
        assert client.ask("SET", "refused", "x") == "OK"


def test_flood_of_writes_onto_a_small_disk_is_refused_before_it_is_full(
    small_disk: Path, cluster_of: ClusterFactory
) -> None:
    """Writes as fast as they come never fill the disk: they are refused in time, the node lives on with its data."""
    cluster = cluster_of(1, disk_reserve_bytes=RESERVE_BYTES)
    cluster.wait_ready()
    value = "x" * (256 << 10)
    acknowledged: list[str] = []
    refused = 0
    with ExitStack() as stack:
        clients = [stack.enter_context(Conversation(cluster, "n1")) for _ in range(4)]
        for step in range(4 * DISK_BYTES // len(value) // 16):
            for number, client in enumerate(clients):
                for each in range(4):
                    client.send("SET", f"key{step}:{number}:{each}", value)
            for number, client in enumerate(clients):
                for each in range(4):
                    reply = client.reply()
                    assert reply is not None, cluster.explain("the node gave up")
                    assert reply == "OK" or reply.startswith("-NOSPACE "), reply
                    refused += reply != "OK"
                    acknowledged += [f"key{step}:{number}:{each}"] if reply == "OK" else []
        assert refused
        assert clients[0].ask("GET", acknowledged[0]) == value
        assert clients[0].ask("DEL", acknowledged.pop()) == "1"
    free = os.statvfs(small_disk)
    assert free.f_bavail * free.f_frsize > 0
    cluster.kill9("n1")
    cluster.start("n1")
    cluster.wait_ready()
    with Conversation(cluster, "n1") as client:
        assert [key for key in acknowledged if client.ask("GET", key) != value] == []
