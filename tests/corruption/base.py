"""The healthy directories that every trial damages a copy of: three real nodes, some thousand writes behind them."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.harness import Cluster

WRITES = 3_000
KEYS = 900
SIZES = (1, 20, 200, 200, 200, 3_000, 12_000)


@dataclass(slots=True)
class Base:
    """What a trial begins with."""

    cluster: Cluster
    """Stopped; its nodes' directories are replaced for each trial."""
    sound: Path
    """Copies of the directories, by node id."""
    older: Path
    """The same, half of the writes ago."""
    model: dict[bytes, bytes]
    """Every key there is, and its value."""

    def refill(self, node_id: str, directory: Path) -> None:
        """Make ``directory`` a copy of a sound one."""
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(self.sound / node_id, directory)

    def older_file(self, node_id: str, environment: str) -> bytes:
        """Return an older version of a data file."""
        return (self.older / node_id / environment / "data.mdb").read_bytes()


def prepare(place: Path, seed: int, writes: int = WRITES, *, log_commit: str = "lmdb") -> Base:
    """Run a cluster under ``place``, write, and keep its directories from the middle and from the end."""
    cluster = Cluster(
        3,
        place / "cluster",
        log_commit=log_commit,
        checkpoint_changes=writes // 10,
        checkpoint_interval_ms=600_000,
        log_tail_entries=writes // 2,
    )
    rng = random.Random(seed)
    model: dict[bytes, bytes] = {}
    base = Base(cluster, place / "sound", place / "older", model)
    for kept in (base.older, base.sound):
        if not cluster.running():
            cluster.restart(*cluster.node_ids)
        _write(cluster, rng, model, writes // 2)
        cluster.wait_converged()
        for node_id in cluster.node_ids:
            # One ends as a node does whose power is cut, as far as a process can.
            if node_id == "n3":
                cluster.kill9(node_id)
            else:
                cluster.stop(node_id)
            shutil.copytree(cluster.nodes[node_id].directory, kept / node_id)
    return base


def _write(cluster: Cluster, rng: random.Random, model: dict[bytes, bytes], count: int) -> None:
    client = cluster.client(cluster.wait_ready())
    for _ in range(count):
        key = b"key:%d" % rng.randrange(KEYS)
        if rng.random() < 0.1:
            client.delete(key)
            model.pop(key, None)
        else:
            model[key] = value = rng.randbytes(rng.choice(SIZES))
            client.set(key, value)
