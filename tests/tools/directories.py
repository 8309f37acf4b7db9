"""Data directories for the tests of raftlog, damage to them, and the command as users run it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lmdb

from durable_raft.kv.records import Record, StateSummary, make_record
from durable_raft.raft.ready import Write
from durable_raft.raft.types import (
    ORIGIN,
    Base,
    Entry,
    EntryKind,
    HardState,
    Identity,
    Index,
    LogPoint,
    NodeId,
    Standing,
    Term,
    make_entry,
)
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.state.records import stored_key
from durable_raft.storage.state.store import LmdbKvStore
from tests.support.batches import batch_of
from tests.support.log_building import MEMBERSHIP, point_of
from tests.tools import preloaded

ROOT = Path(__file__).parents[2]
CLUSTER_ID = b"cluster-id-16-by"
PAGE_BYTES = 4096


def command(*arguments: object) -> list[str]:
    """Return the command line that runs raftlog."""
    return [sys.executable, "-m", "raftlog.main", *map(str, arguments)]


def environment() -> dict[str, str]:
    """Return the environment in which it is found."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tools'}"}


def raftlog(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, in a process of its own (preloaded.py); it never ends with a traceback."""
    found = preloaded.run(list(map(str, arguments)), environment())
    assert "Traceback" not in found.stderr, found.stderr
    return found


def identity(node_id: str) -> Identity:
    """Return whose a directory is."""
    return Identity(CLUSTER_ID, NodeId(node_id), node_id.encode().ljust(16, b"-"))


def sets(previous: LogPoint, terms: Iterable[int], payload: str = "value") -> list[Entry]:
    """Return one entry per term after ``previous``, each ``SET key:INDEX payload``."""
    entries: list[Entry] = []
    for term in terms:
        batch = batch_of([[b"SET", b"key:%d" % (previous.index + 1), payload.encode()]])
        entry = make_entry(
            previous=previous,
            term=Term(term),
            kind=EntryKind.COMMANDS,
            timestamp_ms=1_700_000_000_000 + previous.index,
            payload=batch,
        )
        entries.append(entry)
        previous = point_of(entry)
    return entries


def make_log(
    directory: Path,
    entries: Sequence[Entry],
    *,
    node_id: str = "n1",
    term: int | None = None,
    compact_to: int = 0,
    standing: Standing | None = None,
) -> Path:
    """Make a closed directory with a log of ``entries``; ``term`` is the current one, the last entry's by default."""
    LmdbLogStore.create(directory, identity(node_id), MEMBERSHIP)
    store = LmdbLogStore.open(directory)
    store.load()
    current = Term(term if term is not None else entries[-1].term if entries else 0)
    store.persist([Write(1, HardState(current, None), None, tuple(entries), standing=standing)])
    while compact_to and store.compact(Index(compact_to), compact_to) < compact_to:
        pass
    store.close()
    return directory


def make_state(directory: Path, at: Entry | LogPoint | None, keys: int = 40, *, node_id: str = "n1") -> Path:
    """Put a KV state beside the log, taken at an entry or a point; every fourth key has a deadline."""
    LmdbKvStore.create(directory, identity(node_id), MEMBERSHIP)
    if at is None:
        return directory
    changes: list[tuple[bytes, Record | None]] = []
    summary = StateSummary()
    for number in range(keys):
        key = b"key:%06d" % number
        record = make_record(key, b"value of %d " % number * 5, 0 if number % 4 else 1_800_000_000_000 + number)
        changes.append((key, record))
        summary = StateSummary(number + 1, summary.expires_count + (not number % 4), summary.state_hash + record.crc)
    point = at if isinstance(at, LogPoint) else point_of(at)
    store = LmdbKvStore.open(directory)
    store.write_checkpoint(
        changes, is_cleared=False, applied=Base(point, 1_700_000_000_000), summary=summary, membership=MEMBERSHIP
    )
    store.close()
    return directory


def whole(directory: Path, count: int = 9, *, node_id: str = "n1") -> list[Entry]:
    """Make a directory with ``count`` entries, the first four of term 1, the others of term 3, and a state at 7."""
    entries = sets(ORIGIN, [1] * 4 + [3] * (count - 4))
    make_log(directory, entries, node_id=node_id)
    make_state(directory, entries[6], node_id=node_id)
    return entries


def flip_bit_of_state(directory: Path, table: str, key: bytes, bit: int) -> None:
    """Flip one bit of the value of ``key`` in the KV state."""
    with _table_of_state(directory, table) as (transaction, handle):
        value = bytearray(transaction.get(key, db=handle) or b"")
        value[bit // 8] ^= 1 << bit % 8
        transaction.put(key, bytes(value), db=handle)


def lose_record_of_state(directory: Path, key: bytes) -> None:
    """Delete a record from the KV state, beneath the store: what is left no longer is what meta says."""
    with _table_of_state(directory, "keys") as (transaction, handle):
        assert transaction.delete(stored_key(key), db=handle)


@contextmanager
def _table_of_state(directory: Path, table: str) -> Iterator[tuple[lmdb.Transaction, lmdb._Database]]:
    with (
        lmdb.open(str(directory / "kv"), max_dbs=8, map_size=1 << 30, lib_version=0) as environment,
        environment.begin(write=True) as transaction,
    ):
        yield transaction, environment.open_db(table.encode(), txn=transaction, create=False)


def zeroed_copies(directory: Path, name: str, target: Path) -> list[Path]:
    """Return copies of ``directory``, in each of which one page of environment ``name`` is zeroed, meta pages too."""
    data = (directory / name / "data.mdb").read_bytes()
    copies = []
    for page in range(len(data) // PAGE_BYTES):
        copy = target / f"{name}-{page}"
        shutil.copytree(directory, copy)
        start = page * PAGE_BYTES
        damaged = data[:start] + bytes(PAGE_BYTES) + data[start + PAGE_BYTES :]
        (copy / name / "data.mdb").write_bytes(damaged)
        copies.append(copy)
    return copies
