"""The whole trial: three real nodes, one or all of them damaged; the cluster must serve every value, and heal."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

from durable_raft.raft.types import EntryKind, Index
from durable_raft.storage.environment import MAP_BYTES
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.records import LOG, LOG_KEY
from tests.cluster.harness import Cluster
from tests.corruption.base import Base
from tests.corruption.damage import KINDS
from tests.storage.raw import flip_bit
from tests.tools import directories

PAYLOAD_AT = 33
"""Where the second byte of a payload is in the record."""
PAYLOAD_BYTES = 3

EVERY_NODE = "payloads_of_every_node"
"""The kind of damage that wounds all three nodes, each at places of its own."""


def damaged(base: Base, kind: str, environment: str, rng: random.Random) -> list[str]:
    """Give the stopped cluster sound directories but for the damage; return which nodes have it."""
    cluster = base.cluster
    for node_id in cluster.node_ids:
        base.refill(node_id, cluster.nodes[node_id].directory)
    if kind == EVERY_NODE:
        _rot_payloads(cluster, rng)
        return list(cluster.node_ids)
    victim = rng.choice(cluster.node_ids)
    path = cluster.nodes[victim].directory / environment / "data.mdb"
    data = bytearray(path.read_bytes())
    KINDS[kind](data, base.older_file(victim, environment), rng)
    path.write_bytes(data)
    return [victim]


def _rot_payloads(cluster: Cluster, rng: random.Random) -> None:
    """Rot a tenth of the log's payloads on each node, none on two; an entry without commands has none."""
    spans, empty, configurations = [], set[int](), set[int]()
    for node_id in cluster.node_ids:
        store = LmdbLogStore.open(cluster.nodes[node_id].directory, map_bytes=MAP_BYTES)
        stored = store.load_held()
        for entry in store.entries(Index(stored.base.index + 1), Index(stored.last.index + 1), 1 << 30):
            if len(entry.payload) <= PAYLOAD_BYTES:
                empty.add(entry.index)
            if entry.kind is EntryKind.CONFIGURATION:
                configurations.add(entry.index)
        store.close()
        spans.append((stored.base.index, stored.last.index))
    span = range(max(low for low, _ in spans) + 1, min(high for _, high in spans) + 1)
    indexes = [index for index in span if index not in empty]
    rng.shuffle(indexes)
    # A configuration is the first of those that rot on the first node.
    indexes.sort(key=lambda index: index not in configurations)
    share = len(indexes) // 10
    for place, node_id in enumerate(cluster.node_ids):
        for index in indexes[place * share : (place + 1) * share][:60]:
            bit = rng.randrange(PAYLOAD_AT * 8, (PAYLOAD_AT + PAYLOAD_BYTES) * 8)
            flip_bit(cluster.nodes[node_id].directory, LOG, LOG_KEY.pack(index, 0), bit)


def outcome_of(base: Base, victims: list[str]) -> str:
    """Start the nodes, read everything, wait until all is healed, stop; return what became of it."""
    cluster = base.cluster
    logs = {node_id: len(cluster.log(node_id)) for node_id in cluster.node_ids}
    for node_id in cluster.node_ids:
        cluster.start(node_id)
    try:
        died = _wait_healed(cluster, victims)
        client = cluster.client(cluster.leader())
        keys = list(base.model)
        found = client.mget(keys)
        wrong = [key for key, value in zip(keys, found, strict=True) if value != base.model[key]]
        if wrong or client.dbsize() != len(base.model):
            return f"wrong: {len(wrong)} values, the first {wrong[:1]}, {client.dbsize()} keys of {len(base.model)}"
        cluster.wait_converged()
    except AssertionError as error:
        return f"hangs: {error}"
    finally:
        for node_id in cluster.running():
            cluster.stop(node_id)
    said = "".join(cluster.log(node_id)[logs[node_id] :] for node_id in cluster.node_ids)
    if "Traceback" in said and "event=reopening" not in said:
        return f"traceback: {said[said.index('Traceback') :][:2000]}"
    if (complaint := _verified(cluster)) is not None:
        return f"wrong: not clean afterwards: {complaint}"
    return _word(said) + died


def _word(said: str) -> str:
    for event, word in (
        ("event=directory_set_aside", "directory set aside, rejoined"),
        ("event=state_set_aside", "state set aside, fetched"),
        ("event=entry_healed", "healed from peers"),
        ("event=records_rebuilt", "rebuilt from the other record"),
        ("event=wounds_compacted", "compacted away"),
    ):
        if event in said:
            return word
    return "nothing that is in use"


def _wait_healed(cluster: Cluster, victims: list[str]) -> str:
    """Wait until no node has wounds; start a node that a signal ended once, as a supervisor does."""
    died = ""

    def is_healed() -> bool:
        nonlocal died
        for node_id in victims:
            if node_id not in cluster.running() and not died:
                died = f", {node_id} ended once"
                cluster.start(node_id)
        infos = cluster.infos()
        sound = [i for i in infos.values() if i["raft_wounds"] == "0" and i["raft_is_voter"] == "1"]
        return len(sound) == len(cluster.node_ids)

    cluster.wait(is_healed, "every node to be healed")
    cluster.wait_ready()
    return died


def _verified(cluster: Cluster) -> str | None:
    """Return what ``raftlog verify`` has to say against the directories."""
    line = directories.command("verify", *[cluster.nodes[node_id].directory for node_id in cluster.node_ids])
    done = subprocess.run(line, env=directories.environment(), capture_output=True, text=True, timeout=120, check=False)
    return None if done.returncode == 0 else f"{done.returncode}: {done.stdout[-1500:]} {done.stderr[-500:]}"


def keep(base: Base, place: Path) -> None:
    """Keep the directories of a failed trial."""
    for node_id in base.cluster.node_ids:
        shutil.copytree(base.cluster.nodes[node_id].directory, place / node_id, dirs_exist_ok=True)
