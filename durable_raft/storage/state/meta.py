"""The ``meta`` record of ``DIR/kv``, format version 3: which state it is that lies beside it.

::

    version u8 | algorithm u8 | zero u16 | sequence u64 | applied index u64 | applied term u64
    | applied timestamp_ms u64 | applied chain u32 | key_count u64 | expires_count u64 | state_hash u64
    | cluster_id 16 bytes | node_uuid 16 bytes
    | node_id text | voters u16 | per voter: node_id text, client_address text, peer_address text
    | configuration index u64 | length u32 | as many bytes of its entry's payload
    | version of the cluster u16
    | proof u32

Version 1 ends after the voters: the fixed configuration of the first start counts, which is ``voters``. It is still
written where that is so, and version 2, which ends after the configuration, where the version of the cluster is 1
(raft/versions.py). In version 3 the configuration's index and length are 0 where it is the fixed one.

The configuration is the one that counts at the applied index (raft/configuration.py), and the version is the cluster's
there: once the log behind it is gone, nothing else tells them.

Encoding, proof and the two copies are those of storage/proven.py. It is written in the transaction that writes the
records, so the applied index is never apart from the data.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import lmdb

from durable_raft.checksum import ALGORITHM_CRC32C
from durable_raft.errors import MalformedConfiguration
from durable_raft.kv.records import StateSummary
from durable_raft.raft.configuration import decode, encode
from durable_raft.raft.types import (
    ORIGIN,
    Base,
    Configuration,
    Identity,
    Index,
    LogPoint,
    Membership,
    NodeId,
    Term,
)
from durable_raft.raft.versions import FIRST
from durable_raft.storage.environment import tree_wound
from durable_raft.storage.proven import (
    META,
    META_KEY,
    ProvenReader,
    choose_copy,
    pack_membership,
    pack_text,
    unpack_proven,
    with_proof,
)
from durable_raft.storage.state.records import KvTables
from durable_raft.storage.wounds import Wound, WoundedLog, WoundedState

if TYPE_CHECKING:
    from lmdb import Transaction

_Buffer = TypeVar("_Buffer", bytes, memoryview)

KV_META_VERSION: Final = 3
_WITHOUT_CONFIGURATION: Final = 1
_WITHOUT_VERSION: Final = 2

_VERSIONS: Final = (_WITHOUT_CONFIGURATION, _WITHOUT_VERSION, KV_META_VERSION)

_FIXED: Final = struct.Struct(">BBHQQQQIQQQ16s16s")
_CONFIGURATION: Final = struct.Struct(">QI")
_U16: Final = struct.Struct(">H")


@dataclass(frozen=True, slots=True)
class KvMeta:
    """Which state it is."""

    sequence: int
    """Counts the checkpoints, from 1. Invariant: equal in both copies."""
    identity: Identity
    membership: Membership
    applied: Base
    """The last entry that is in it; its timestamp is the cluster time."""
    summary: StateSummary
    stored_configuration: Configuration | None = None
    """The one that counts at ``applied``; None: the fixed one of the first start, which is ``membership``."""
    version: int = FIRST
    """Of the cluster, at ``applied``."""

    @property
    def configuration(self) -> Configuration:
        """The one that counts at ``applied``."""
        return self.stored_configuration or Configuration.initial(self.membership)


def first_meta(identity: Identity, membership: Membership) -> KvMeta:
    """Return the meta of the state before the first entry."""
    return KvMeta(1, identity, membership, Base(ORIGIN, 0), StateSummary())


def pack_kv_meta(meta: KvMeta) -> bytes:
    """Return the bytes of ``meta``; the same in both tables, of the lowest version that says all of it."""
    point, identity, configuration = meta.applied.point, meta.identity, meta.stored_configuration
    fixed = _FIXED.pack(
        _format_of(meta),
        ALGORITHM_CRC32C,
        0,
        meta.sequence,
        point.index,
        point.term,
        meta.applied.timestamp_ms,
        point.chain,
        *meta.summary,
        identity.cluster_id,
        identity.node_uuid,
    )
    parts = [fixed, pack_text(identity.node_id), pack_membership(meta.membership)]
    if configuration is not None:
        payload = encode(configuration)
        parts += (_CONFIGURATION.pack(configuration.index, len(payload)), payload)
    if meta.version > FIRST:
        if configuration is None:
            parts.append(_CONFIGURATION.pack(0, 0))
        parts.append(_U16.pack(meta.version))
    return with_proof(b"".join(parts))


def _format_of(meta: KvMeta) -> int:
    """Return the version of the record that says all of ``meta``: the lowest, so that an older build reads it."""
    if meta.version > FIRST:
        return KV_META_VERSION
    return _WITHOUT_CONFIGURATION if meta.stored_configuration is None else _WITHOUT_VERSION


def unpack_kv_meta(table: str, value: bytes) -> KvMeta:
    """Verify a meta record read from ``table``.

    Raises:
        WoundedLog: it is damaged.
        NewerFormat: its proof is right and its version or algorithm unknown.
    """
    return unpack_proven(table, value, _unpack_body, _VERSIONS)


def _unpack_body(body: bytes) -> KvMeta:
    form, _, zero, sequence, index, term, timestamp_ms, chain, keys, expires, state_hash, cluster_id, node_uuid = (
        _FIXED.unpack_from(body)
    )
    reader = ProvenReader(body, _FIXED.size)
    node_id = reader.text()
    membership = reader.membership()
    configuration = None
    if form > _WITHOUT_CONFIGURATION:
        configuration = _read_configuration(reader, Index(index), may_be_fixed=form > _WITHOUT_VERSION)
    version = reader.number(_U16) if form > _WITHOUT_VERSION else FIRST
    if zero or reader.position != len(body):
        raise ValueError(f"padding {zero}, {len(body) - reader.position} bytes left")
    return KvMeta(
        sequence,
        Identity(cluster_id, NodeId(node_id), node_uuid),
        membership,
        Base(LogPoint(Index(index), Term(term), chain), timestamp_ms),
        StateSummary(keys, expires, state_hash),
        configuration,
        version,
    )


def _read_configuration(reader: ProvenReader, applied: Index, *, may_be_fixed: bool) -> Configuration | None:
    index, length = reader.numbers(_CONFIGURATION)
    if may_be_fixed and not index and not length:
        return None
    if not 0 < index <= applied:
        raise ValueError(f"a configuration at {index} in the state at {applied}")
    try:
        return decode(Index(index), reader.take(length))
    except MalformedConfiguration as error:
        raise ValueError(str(error)) from error


def put_kv_meta(transaction: Transaction[_Buffer], tables: KvTables, meta: KvMeta) -> None:
    """Write both copies."""
    value = pack_kv_meta(meta)
    transaction.put(META_KEY, value, db=tables.meta)
    transaction.put(META_KEY, value, db=tables.meta_copy)


def read_kv_meta(transaction: Transaction[_Buffer], tables: KvTables) -> tuple[KvMeta, tuple[Wound, ...]]:
    """Return what the two copies say, and the one wound that was tolerated, if any: the newest valid wins.

    Raises:
        WoundedState: no copy is valid, or they contradict each other.
        NewerFormat: a copy is of a newer format.
    """
    try:
        first = transaction.get(META_KEY, db=tables.meta)
        copy = transaction.get(META_KEY, db=tables.meta_copy)
        return choose_copy(_bytes(first), _bytes(copy), unpack_kv_meta)
    except lmdb.Error as error:
        raise WoundedState([tree_wound(META, error)]) from error
    except WoundedLog as error:
        raise WoundedState(error.wounds) from error


def _bytes(value: bytes | memoryview | None) -> bytes | None:
    return None if value is None else bytes(value)
