"""KV states for the tests of the storage room: a model in memory, and the same on the disk."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from durable_raft.kv.layer import Change
from durable_raft.kv.records import Record, StateSummary, make_record, order_key
from durable_raft.raft.types import Base, Index, LogPoint, Term
from durable_raft.storage.state.meta import KvMeta
from durable_raft.storage.state.store import LmdbKvStore
from tests.support.log_building import IDENTITY, MEMBERSHIP

State = dict[bytes, Record]

LONG_KEY = b"long" * 200
"""Longer than LMDB's keys may be."""


def base_at(index: int) -> Base:
    """Return the entry at ``index`` of a log of one term."""
    return Base(LogPoint(Index(index), Term(1 if index else 0), index * 7), 1000 * index)


def summary_of(state: State) -> StateSummary:
    """Return a state in numbers, counted from its records."""
    records = state.values()
    return StateSummary(len(state), sum(bool(each.deadline_ms) for each in records), sum(each.crc for each in records))


def in_order(changes: dict[bytes, Record | None]) -> list[Change]:
    """Return changes in the order of keys."""
    return sorted(changes.items(), key=lambda change: order_key(change[0]))


def items_of(state: State) -> list[tuple[bytes, Record]]:
    """Return the records in the order of keys."""
    return sorted(state.items(), key=lambda item: order_key(item[0]))


def sample(count: int = 40) -> State:
    """Return ``count`` records and an empty and two long keys; every third one has a deadline."""
    keys = [b"key:%04d" % number for number in range(count)] + [b"", LONG_KEY, LONG_KEY + b"2"]
    return {
        key: make_record(key, b"value of " + key[:9], 0 if number % 3 else 1_800_000_000_000 + number % 7)
        for number, key in enumerate(keys)
    }


def target_of(state: State, index: int = 9) -> KvMeta:
    """Return the meta of a snapshot of ``state`` at ``index``."""
    return KvMeta(1, IDENTITY, MEMBERSHIP, base_at(index), summary_of(state))


def checkpoint(store: LmdbKvStore, state: State, index: int, changes: Iterable[Change] | None = None) -> None:
    """Write ``changes`` (the whole state by default, in the place of the old one), after which it is ``state``."""
    store.write_checkpoint(
        items_of(state) if changes is None else changes,
        is_cleared=changes is None,
        applied=base_at(index),
        summary=summary_of(state),
        membership=MEMBERSHIP,
    )


def make_kv(directory: Path, state: State, index: int = 5) -> Path:
    """Make ``DIR/kv`` with ``state`` at ``index``, closed."""
    LmdbKvStore.create(directory, IDENTITY, MEMBERSHIP)
    store = LmdbKvStore.open(directory)
    checkpoint(store, state, index)
    store.close()
    return directory


def read_kv(directory: Path) -> tuple[int, State]:
    """Open ``DIR/kv``; return the index and every record of what it holds, verified."""
    store = LmdbKvStore.open(directory)
    try:
        assert store.verify() == store.checkpoint.summary
        with store.view() as view:
            state = dict(view.after(None, 1 << 30, 1 << 40))
        return store.checkpoint.applied.point.index, state
    finally:
        store.close()


@contextmanager
def raw_state(directory: Path, table: str, name: str = "kv") -> Iterator[tuple[lmdb.Transaction, lmdb._Database]]:
    """Open one table of a closed state for one transaction, beneath the store."""
    with (
        lmdb.open(str(directory / name), max_dbs=8, map_size=1 << 30, lib_version=0) as environment,
        environment.begin(write=True) as transaction,
    ):
        yield transaction, environment.open_db(table.encode(), txn=transaction, create=False)


def put_raw(directory: Path, table: str, key: bytes, value: bytes | None, name: str = "kv") -> None:
    """Put ``value`` under ``key`` of a closed state, or delete the key."""
    with raw_state(directory, table, name) as (transaction, handle):
        if value is None:
            assert transaction.delete(key, db=handle)
        else:
            transaction.put(key, value, db=handle)


def lose_root(directory: Path, table: str, name: str = "kv") -> None:
    """Let a table of a closed environment begin at a page that is not there: every read of it is an error of LMDB."""
    path = directory / name / "data.mdb"
    data = bytearray(path.read_bytes())
    found = [match.end() for match in re.finditer(re.escape(table.encode()), data)]
    assert found
    for end in found:
        # A table is a record of LMDB's main tree, under its name: 40 bytes of counts, then its root.
        data[end + 40 : end + 48] = (1 << 40).to_bytes(8, sys.byteorder)
    path.write_bytes(data)


def zero_file(environment: Path) -> None:
    """Overwrite the data file of an environment with zeros."""
    path = environment / "data.mdb"
    path.write_bytes(bytes(path.stat().st_size))
