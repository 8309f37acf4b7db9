"""Log entries rot on one node's disk while it is down: how long from its start until none is left, by their number.

Beside it the same node with a sound disk, and etcd, whose write-ahead log gets one wrong bit.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import lmdb

from benchmarks.clusters import Node, Ours
from benchmarks.etcd import Etcd
from benchmarks.recovery.long_log import NO_CHECKPOINTS
from benchmarks.recovery.preload import VALUE_BYTES
from benchmarks.recovery.systems import connect, wait_caught_up
from benchmarks.report import progress, spread
from durable_raft.cli.local_cluster import stop_nodes, wait_until
from durable_raft.errors import RequestError
from durable_raft.storage.environment import MAP_BYTES
from durable_raft.storage.log.records import LOG, LOG_KEY

HEAL_S = 120.0
REFUSAL_S = 20.0
"""How long etcd may take until it either ends or serves."""
ETCD_WRITES = 200
PAYLOAD_AT = 40
"""A byte of a log record that lies inside the payload: the head and its proof end at byte 32."""
TIMEOUT_S = 10.0


def measure(wounds: list[int], repeats: int, seed: int) -> dict[str, Any]:
    """Return one row for each number of wounds, 0 first, and what etcd does with one wrong bit.

    Raises:
        RuntimeError: wounds were not found, or not healed.
    """
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory(prefix="durable-raft-bench-") as name,
        Ours(Path(name), 3, NO_CHECKPOINTS) as cluster,
    ):
        entries = max(wounds) + 100
        progress(f"heal: writing {entries} entries, one after the other")
        first = _write_one_by_one(cluster, entries)
        for number in [0, *wounds]:
            seconds = []
            for run in range(1, repeats + 1):
                progress(f"heal: {number} wounds, run {run} of {repeats}")
                indexes = rng.sample(range(first, first + entries), number)
                seconds.append(_heal(cluster, indexes))
            rows.append({"wounds": number, "seconds": seconds})
    progress("")
    return {"seed": seed, "entries": entries, "value_bytes": VALUE_BYTES, "ours": rows, "etcd": _wound_etcd()}


def _write_one_by_one(cluster: Ours, entries: int) -> int:
    """Write, an entry each; return the index of the first."""
    leader = cluster.leader()
    wait_caught_up(cluster)
    first = int(cluster.info(leader)["raft_last_log_index"]) + 1
    with connect(cluster, leader, TIMEOUT_S) as connection:
        for number in range(entries):
            connection.put(b"key:%08d" % number, b"x" * VALUE_BYTES)
    wait_caught_up(cluster)
    return first


def _heal(cluster: Ours, indexes: list[int]) -> float:
    victim = cluster.followers()[0]
    _stop(victim)
    rot(victim.directory, indexes)
    began = time.monotonic()
    cluster.start([victim])
    healed = 0

    def is_sound() -> bool:
        nonlocal healed
        with contextlib.suppress(RequestError):
            info = cluster.info(victim)
            healed = int(info["raft_healed"])
            return info["raft_wounds"] == "0" and info["raft_is_voter"] == "1" and _follows(info)
        return False

    if not wait_until(is_sound, HEAL_S, pause_s=0.005):
        raise RuntimeError(f"{len(indexes)} wounds are not healed within {HEAL_S} s: see {cluster.directory}")
    taken_s = time.monotonic() - began
    if healed != len(indexes):
        raise RuntimeError(f"{victim.name} healed {healed} entries, {len(indexes)} were rotten: {cluster.directory}")
    wait_caught_up(cluster)
    return taken_s


def _follows(info: dict[str, str]) -> bool:
    return info["raft_leader_id"] != "" and info["raft_last_applied"] == info["raft_last_log_index"]


def _stop(node: Node) -> None:
    assert node.process is not None
    stop_nodes([node.process])


def rot(directory: Path, indexes: list[int]) -> None:
    """Flip one bit in the payload of each of these entries, beneath the store of a node that does not run."""
    with (
        lmdb.open(str(directory / "raft"), max_dbs=4, map_size=MAP_BYTES, lib_version=0) as environment,
        environment.begin(write=True) as transaction,
    ):
        table = environment.open_db(LOG.encode(), transaction, create=False)
        for index in indexes:
            key = LOG_KEY.pack(index, 0)
            record = bytearray(transaction.get(key, db=table) or b"")
            record[PAYLOAD_AT] ^= 1
            transaction.put(key, bytes(record), db=table)


def _wound_etcd() -> dict[str, Any]:
    """Flip one bit in the write-ahead log of one of three nodes; return what becomes of the node."""
    marker = b"value-that-rots"
    with tempfile.TemporaryDirectory(prefix="durable-raft-bench-") as name, Etcd(Path(name)) as cluster:
        progress("heal: etcd, one wrong bit")
        with connect(cluster, cluster.leader(), TIMEOUT_S) as connection:
            connection.put(b"rots", marker)
            for number in range(ETCD_WRITES):
                connection.put(b"key:%08d" % number, b"x" * VALUE_BYTES)
        wait_caught_up(cluster)
        victim = cluster.followers()[0]
        _stop(victim)
        _flip_in_files(victim.directory / "member" / "wal", marker)
        cluster.start([victim])
        process = victim.process
        assert process is not None
        wait_until(lambda: process.poll() is not None or cluster.answers(victim), REFUSAL_S)
        log = (cluster.directory / f"{victim.name}.log").read_text(errors="replace").splitlines()
        result = {"wrong_bits": 1, "serves": process.poll() is None, "exit_code": process.poll()}
        reason = next((line for line in reversed(log) if "crc" in line.lower()), "")
    progress("")
    return {**result, "says": reason[-200:]}


def _flip_in_files(directory: Path, text: bytes) -> None:
    for path in directory.glob("*.wal"):
        data = bytearray(path.read_bytes())
        at = data.find(text)
        if at >= 0:
            data[at] ^= 1
            path.write_bytes(data)
            return
    raise RuntimeError(f"{text!r} is in no file of {directory}")


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    click.echo(
        f"a node starts with rotten entries among its {result['entries']:,}, until none is left and it follows: "
        f"seconds, median (least to most); seed {result['seed']}"
    )
    for row in result["ours"]:
        click.echo(f"  ours, {row['wounds']:>6,} wounds    {spread(row['seconds'])}")
    etcd = result["etcd"]
    fate = "serves" if etcd["serves"] else f"never: it ends with exit code {etcd['exit_code']}: {etcd['says']}"
    click.echo(f"  etcd, {etcd['wrong_bits']:>6,} wrong bit {fate}")
