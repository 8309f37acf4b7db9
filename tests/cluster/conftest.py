"""Fixtures for tests with real node processes: clusters that are ended after the test and explained when it fails."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.cluster.harness import Cluster

Strace = Callable[..., list[str]]
"""Makes the beginning of a command line: (trace file, system calls, what to inject)."""

_CLUSTERS = pytest.StashKey[list[Cluster]]()


class ClusterFactory(Protocol):
    """Starts a cluster; see ``Cluster`` for the arguments."""

    def __call__(self, nodes: int = 3, **settings: object) -> Cluster:
        """Start a cluster of that many nodes."""


@pytest.fixture(scope="session")
def strace() -> Strace:
    """Return a maker of strace command lines; skip where there is no strace, or no permission to trace."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed")
    trial = subprocess.run([program, "-f", "true"], capture_output=True, text=True, check=False)
    if trial.returncode != 0:
        pytest.skip(f"strace may not trace here: {trial.stderr.strip()[-200:]}")

    def command(trace: Path, calls: str, inject: str | None = None) -> list[str]:
        injection = [] if inject is None else ["-e", f"inject={inject}"]
        return [program, "-f", "-s", "16", "-o", str(trace), "-e", f"trace={calls}", *injection]

    return command


@pytest.fixture
def cluster_of(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ClusterFactory]:
    """Start clusters of any size; they are killed at the end of the test."""
    clusters: list[Cluster] = []
    request.node.stash[_CLUSTERS] = clusters

    def start(nodes: int = 3, **settings: object) -> Cluster:
        directory = tmp_path / f"cluster{len(clusters) + 1}"
        cluster = Cluster(nodes, directory, **settings)  # type: ignore[arg-type]
        clusters.append(cluster)
        return cluster

    yield start
    for cluster in clusters:
        cluster.close()


@pytest.fixture
def cluster(cluster_of: ClusterFactory) -> Cluster:
    """Three nodes with a leader, all caught up."""
    cluster = cluster_of(3)
    cluster.wait_ready()
    return cluster


@pytest.fixture(scope="module")
def _standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Cluster]]:
    """Give the cluster that a file's tests share: made when first asked for, and again when a node of it has ended."""
    clusters: list[Cluster] = []

    def standing() -> Cluster:
        if not clusters or clusters[-1].running() != clusters[-1].node_ids:
            clusters.append(Cluster(3, tmp_path_factory.mktemp("shared")))
        return clusters[-1]

    yield standing
    for cluster in clusters:
        cluster.close()


@pytest.fixture
def shared_cluster(_standing: Callable[[], Cluster], request: pytest.FixtureRequest) -> Cluster:
    """Three nodes with a leader, all caught up, and no key, shared by tests that leave the nodes alone."""
    cluster = _standing()
    request.node.stash[_CLUSTERS] = [cluster]
    with cluster.client(cluster.wait_ready()) as client:
        client.flushall()
    cluster.wait_ready()
    return cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the ends of all nodes' logs to the report of a test that failed."""
    report = yield
    clusters: list[Cluster] = item.stash.get(_CLUSTERS, [])
    if report.failed and "log lines:" not in report.longreprtext:
        for number, cluster in enumerate(clusters, start=1):
            report.sections.append((f"cluster {number} in {cluster.directory}", cluster.explain("")))
    return report
