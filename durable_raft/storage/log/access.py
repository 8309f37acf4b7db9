"""Reading single records inside a transaction: what the store and the read-only reader have in common.

Every function takes an open transaction and leaves it open; every record is verified on each read.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NoReturn

import lmdb

from durable_raft.errors import EntryUnavailable
from durable_raft.raft.log import EntriesLost
from durable_raft.raft.types import Base, Entry, Index, LogPoint, LostEntry, Term, chain_crc
from durable_raft.storage.environment import tree_wound
from durable_raft.storage.log.meta import Meta, choose_meta
from durable_raft.storage.log.records import (
    HEAD_PROOF_END,
    IDENT,
    IDENT_KEY,
    LOG,
    LOG_KEY,
    IdentRecord,
    disagreement,
    entry_of,
    piece_count,
    unpack_ident,
    unpack_log_parts,
)
from durable_raft.storage.log.tables import Tables
from durable_raft.storage.proven import META_KEY
from durable_raft.storage.wounds import Wound, WoundedLog, WoundKind, raise_wounds

if TYPE_CHECKING:
    from lmdb import Cursor, Transaction


def read_meta(transaction: Transaction[bytes], tables: Tables) -> tuple[Meta, tuple[Wound, ...]]:
    """Return what the two copies of meta say, and the one wound that was tolerated; raises as ``choose_meta``."""
    try:
        first = transaction.get(META_KEY, db=tables.meta)
        copy = transaction.get(META_KEY, db=tables.meta_copy)
    except lmdb.Error as error:
        raise WoundedLog([tree_wound("meta", error)]) from error
    return choose_meta(first, copy)


def read_ident(transaction: Transaction[bytes], tables: Tables, index: Index) -> IdentRecord:
    """Return the ident record of ``index``.

    Raises:
        EntryUnavailable: it lies outside what is stored.
        CorruptRecord: it is damaged, or missing between others.
    """
    key = IDENT_KEY.pack(index)
    try:
        value = transaction.get(key, db=tables.ident)
    except lmdb.Error as error:
        raise WoundedLog([tree_wound(IDENT, error)]) from error
    if value is None:
        _raise_absent(transaction, tables, index)
    return unpack_ident(key, value)


def read_point(transaction: Transaction[bytes], tables: Tables, index: Index) -> Base:
    """Return point and timestamp of the entry at ``index``; raises as ``read_ident``."""
    ident = read_ident(transaction, tables, index)
    return Base(LogPoint(index, Term(ident.term), ident.chain), ident.timestamp_ms)


def read_point_or_base(transaction: Transaction[bytes], tables: Tables, index: Index) -> Base:
    """Return point and timestamp of the entry at ``index``, or of the base; raises as ``read_ident``.

    The base is that of this very transaction: another thread may have just made it of an entry.
    """
    try:
        return read_point(transaction, tables, index)
    except EntryUnavailable:
        base = read_meta(transaction, tables)[0].base
        if base.point.index != index:
            raise
        return base


def read_entries(transaction: Transaction[bytes], tables: Tables, lo: Index, hi: Index, bytes_max: int) -> list[Entry]:
    """Return entries of [lo, hi): at least one, at most about ``bytes_max`` bytes of payload; raises as ``read_ident``.

    They end before one whose payload is rotten; ``EntriesLost`` when that is the first.

    The chain is followed from the second entry on, which finds a stale page whose records are valid by themselves.
    """
    try:
        with transaction.cursor(tables.ident) as idents, transaction.cursor(tables.log) as pieces:
            found = _read_entries(idents, pieces, lo, hi, bytes_max)
    except lmdb.Error as error:
        raise WoundedLog([tree_wound(LOG, error)]) from error
    if not found:
        _raise_absent(transaction, tables, lo)
    return found


def _read_entries(idents: Cursor[bytes], pieces: Cursor[bytes], lo: Index, hi: Index, bytes_max: int) -> list[Entry]:
    found: list[Entry] = []
    size = 0
    if not idents.set_range(IDENT_KEY.pack(lo)):
        return found
    pieces.set_range(LOG_KEY.pack(lo, 0))
    expected = int(lo)
    for key, value in idents.iternext():
        index = int.from_bytes(key, "big")
        if index >= hi or (index != expected and not found):
            break
        if index != expected:
            raise_wounds([Wound(IDENT, expected, None, "a record", f"index {index} next", WoundKind.MISSING)])
        ident = unpack_ident(key, value)
        size += ident.length
        if found and size > bytes_max:
            break
        try:
            log = unpack_log_parts(index, *_joined(pieces, index, ident.length))
            if (wound := disagreement(index, ident, log)) is not None:
                raise_wounds([wound])
        except WoundedLog as error:
            if found:
                break
            lost = LostEntry(Index(index), Term(ident.term), ident.crc, ident.chain)
            raise EntriesLost([lost], str(error)) from error
        if found and (chain := chain_crc(found[-1].chain, ident.crc)) != ident.chain:
            wound = Wound(IDENT, index, ident.term, f"chain {chain:#010x}", f"{ident.chain:#010x}", WoundKind.CHAIN)
            raise_wounds([wound])
        found.append(entry_of(index, ident, log.payload))
        expected += 1
    return found


def _joined(pieces: Cursor[bytes], index: int, length: int) -> tuple[bytes, bytes]:
    """Return the joined pieces of ``index``, whose payload has ``length`` bytes; leave the cursor on what follows.

    Returns:
        What stands before the payload, and the payload: a large one is copied no more than it must be.

    Raises:
        WoundedLog: a piece is missing.
    """
    count = piece_count(length)
    # Normally the cursor stands there already: the next entry's pieces follow the last one's.
    if pieces.key() != LOG_KEY.pack(index, 0) and not pieces.set_key(LOG_KEY.pack(index, 0)):
        _raise_missing(index, 0)
    found = list(islice(pieces, count))
    pieces.next()
    # Keys ascend: when so many of them end with the last one's, each of them is there.
    if len(found) < count or found[-1][0] != LOG_KEY.pack(index, count - 1):
        keys = {key for key, _ in found}
        _raise_missing(index, next(n for n in range(count) if LOG_KEY.pack(index, n) not in keys))
    first = found[0][1]
    parts = [first[HEAD_PROOF_END:], *[value for _, value in found[1:]]]
    return first[:HEAD_PROOF_END], parts[0] if count == 1 else b"".join(parts)


def _raise_missing(index: int, number: int) -> NoReturn:
    raise_wounds([Wound(LOG, index, None, f"piece {number}", "none", WoundKind.MISSING)])


def _raise_absent(transaction: Transaction[bytes], tables: Tables, index: Index) -> NoReturn:
    """Raise the error for an index without ident record: outside the log, or a hole in it.

    Raises:
        EntryUnavailable: outside.
        WoundedLog: a hole.
    """
    with transaction.cursor(tables.ident) as idents:
        first = int.from_bytes(idents.key(), "big") if idents.first() else 0
        last = int.from_bytes(idents.key(), "big") if idents.last() else 0
    if first < index < last:
        raise_wounds([Wound(IDENT, index, None, "a record", f"none between {first} and {last}", WoundKind.MISSING)])
    raise EntryUnavailable(f"index {index} is not stored: the log holds [{first}, {last}]")
