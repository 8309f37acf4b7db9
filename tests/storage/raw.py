"""Putting damage into a data directory, beneath the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

TABLES = (b"meta", b"meta_copy", b"ident", b"log")


@contextmanager
def raw_tables(directory: Path) -> Iterator[tuple[lmdb.Transaction, dict[str, lmdb._Database]]]:
    """Open a closed store's environment for one transaction: (transaction, handles by name)."""
    environment = lmdb.open(str(directory / "raft"), max_dbs=4, map_size=1 << 30, lib_version=0)
    try:
        handles = {name.decode(): environment.open_db(name, create=False) for name in TABLES}
        with environment.begin(write=True) as transaction:
            yield transaction, handles
    finally:
        environment.close()


def flip_bit(directory: Path, table: str, key: bytes, bit: int) -> None:
    """Flip one bit of the value of ``key``."""
    with raw_tables(directory) as (transaction, handles):
        value = bytearray(transaction.get(key, db=handles[table]) or b"")
        value[bit // 8] ^= 1 << bit % 8
        transaction.put(key, bytes(value), db=handles[table])


def rekey(directory: Path, table: str, old: bytes, new: bytes) -> None:
    """Overwrite a key in the pages themselves, as a flipped bit would, so that the order of the keys may break."""
    path = directory / "raft" / "data.mdb"
    with raw_tables(directory) as (transaction, handles):
        value = bytes(transaction.get(old, db=handles[table]) or b"")
    data = bytearray(path.read_bytes())
    needle = old + value
    start = data.find(needle)
    assert start >= 0
    while start >= 0:
        data[start : start + len(old)] = new
        start = data.find(needle, start + 1)
    path.write_bytes(data)


def change(directory: Path, table: str, key: bytes, value: bytes | None) -> None:
    """Put ``value`` under ``key``, or delete the key."""
    with raw_tables(directory) as (transaction, handles):
        if value is None:
            assert transaction.delete(key, db=handles[table])
        else:
            transaction.put(key, value, db=handles[table])


def value_of(directory: Path, table: str, key: bytes) -> bytes:
    """Return the value under ``key``."""
    with raw_tables(directory) as (transaction, handles):
        return bytes(transaction.get(key, db=handles[table]) or b"")
