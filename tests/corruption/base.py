"""The healthy directories that every trial damages a copy of: three real nodes, some thousand writes behind them.

Their members were changed on the way: a learner came that nobody is, was given another address, and went. A fourth node
became a voter and was removed, each time through a joint configuration. So a log has configurations at its base and
behind it. In that of the victim another one was appended and cut again at the end.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from durable_raft.raft.changes import Readdress, next_configuration
from durable_raft.raft.configuration import encode
from durable_raft.raft.ready import Write
from durable_raft.raft.types import EntryKind, Index, make_entry
from durable_raft.server.exit_codes import ExitCode
from durable_raft.storage.log.journal import DiskJournalPlace
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from tests.cluster.harness import Cluster
from tests.cluster.operators import operate

VICTIM = "n1"
"""Whose directory is damaged where one alone is."""
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
        # The log begins where the older state is, which so has its place in it still: no other checkpoint is that old.
        log_tail_entries=writes * 9 // 20,
    )
    rng = random.Random(seed)
    model: dict[bytes, bytes] = {}
    base = Base(cluster, place / "sound", place / "older", model)
    for kept, changes in ((base.older, _FIRST_CHANGES), (base.sound, _LATER_CHANGES)):
        if not cluster.running():
            cluster.restart(*cluster.node_ids)
        for change in changes:
            _write(cluster, rng, model, writes // 2 // len(changes))
            change(cluster)
        cluster.wait_converged()
        assert len(cluster.state_hashes()) == 1
        for node_id in cluster.node_ids:
            # One ends as a node does whose power is cut, as far as a process can.
            if node_id == "n3":
                cluster.kill9(node_id)
            else:
                cluster.stop(node_id)
            shutil.copytree(cluster.nodes[node_id].directory, kept / node_id)
    _change_in_vain(base.sound / VICTIM)
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


# -- changes of the members -------------------------------------------------------------------------------------------


def _change(cluster: Cluster, *words: str) -> None:
    """Change the members as an operator does, who waits until that is complete."""
    operate(cluster, cluster.leader(), "member", *words)


def _replace_and_remove(cluster: Cluster) -> None:
    """Let a fourth node become a voter, and go: each through a joint configuration."""
    entry = cluster.join("n4", cluster.wait_ready())
    for words in (("add", entry), ("promote", "n4"), ("remove", "n4")):
        _change(cluster, *words)
    code = cluster.wait_exit("n4")
    assert code == ExitCode.REMOVED, cluster.explain(f"n4 ended with {code}")
    cluster.forget("n4")


_FIRST_CHANGES = (
    lambda cluster: _change(cluster, "add", "n9=127.0.0.1:1@2"),
    _replace_and_remove,
)
_LATER_CHANGES = (
    lambda cluster: _change(cluster, "update", "n9=127.0.0.1:3@4"),
    lambda cluster: _change(cluster, "remove", "n9"),
)


def _change_in_vain(directory: Path) -> None:
    """Append a configuration to a log, and cut it again: what is left of it is in free pages."""
    home = LmdbLogStore.open(directory)
    store = home if home.mark is None else JournaledLogStore(home, DiskJournalPlace(home.path))
    stored = store.load()
    before = stored.newest_configuration(store.membership)
    moved = replace(before.members[0], client_address="in.vain:1")
    entry = make_entry(
        previous=stored.last,
        term=stored.hard_state.current_term,
        kind=EntryKind.CONFIGURATION,
        timestamp_ms=stored.last_timestamp_ms,
        payload=encode(next_configuration(before, [Readdress(moved)])),
    )
    store.persist([Write(1, None, None, (entry,))])
    store.persist([Write(2, None, Index(entry.index), ())])
    again = store.load()
    store.close()
    assert (again.last, again.configurations) == (stored.last, stored.configurations)
