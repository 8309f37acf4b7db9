"""The ``meta`` record, format version 5: hard state, standing, identity, membership, base, journal and configurations.

::

    version u8 | algorithm u8 | zero u16 | sequence u64 | current_term u64 | base index u64 | base term u64
    | base timestamp_ms u64 | base chain u32 | cluster_id 16 bytes | node_uuid 16 bytes
    | has_vote u8 | voted_for text | node_id text
    | voters u16 | per voter: node_id text, client_address text, peer_address text
    | is_voter u8 | peers u16 | per peer: node_id text, node_uuid 16 bytes, former u16, as many times 16 bytes
    | is_copy u8 | committed index u64 | committed term u64 | committed chain u32 | cut_in u64 | place text
    | lives u16 | per life: number u64, nonce 8 bytes
    | per peer, in the same order: life number u64, life nonce 8 bytes, owed term u64, owed index u64,
      owed in term u64
    | journal uuid 16 bytes | generation u64 | number of the last group held u64 | its sum u32
    | configurations u32 | per configuration: index u64, length u32, as many bytes of its entry's payload
    | proof u32

Version 1 ends after the voters: a node that is a voter and has not been told of any disk. Version 2 ends after the
peers: nothing was remembered of lives and commits. The life nonce of a peer is zero when no life is known; the number
is 0 as well for the first life of a node that joined. ``place`` is in hexadecimal. Version 3 ends before the journal:
all of the log is in LMDB. It is still written where that is so. Version 4 ends before the configurations: the fixed one
of the first start counts, which is ``voters``. It is still written where that is so; in version 5 the journal's fields
are zero where there is none.

The configurations are the one that counts at the log's base, unless it is the fixed one, and those of the entries
behind it (raft/configuration.py). So they are known before the log is read, and when the payload of such an entry rots.

Encoding, proof and the two copies are those of storage/proven.py. ``voted_for`` is empty when ``has_vote`` is 0.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final

from durable_raft.checksum import ALGORITHM_CRC32C
from durable_raft.errors import MalformedConfiguration
from durable_raft.raft.configuration import decode, encode
from durable_raft.raft.types import (
    Base,
    Configuration,
    HardState,
    Identity,
    Index,
    KnownDisk,
    Life,
    LogPoint,
    Membership,
    NodeId,
    Standing,
    Term,
)
from durable_raft.storage.log.records import FORMAT_VERSION
from durable_raft.storage.proven import ProvenReader, choose_copy, pack_membership, pack_text, unpack_proven, with_proof
from durable_raft.storage.wounds import Wound

META_VERSION: Final = 5
_WITH_PEERS: Final = 2
"""The first version that ends no earlier than after the peers."""
_WITHOUT_JOURNAL: Final = 3
_WITH_JOURNAL: Final = 4

_FIXED: Final = struct.Struct(">BBHQQQQQI16s16s")
_U8: Final = struct.Struct(">B")
_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_POINT: Final = struct.Struct(">QQI")
_LIFE: Final = struct.Struct(">Q8s")
_PEER: Final = struct.Struct(">Q8sQQQ")
_U64: Final = struct.Struct(">Q")
_JOURNAL: Final = struct.Struct(">16sQQI")
_CONFIGURATION: Final = struct.Struct(">QI")
_NO_NONCE: Final = bytes(8)


VOTER: Final = Standing()
"""The standing of version 1."""


@dataclass(frozen=True, slots=True)
class JournalMark:
    """Which groups of which journal LMDB holds; written in one transaction with their effect (journal_format.py)."""

    uuid: bytes
    """16 bytes that no other journal has."""
    generation: int
    """Groups of another one are not of this log. Each load begins the next one."""
    number: int
    """Of the last group that LMDB holds."""
    sum: int
    """Of the last group of this generation that was journaled, or 0: the next one names it."""


_NO_JOURNAL: Final = JournalMark(bytes(16), 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Meta:
    """What a meta record says."""

    sequence: int
    """Counts the writes of the record, from 1. Invariant: equal in both copies."""
    hard_state: HardState
    identity: Identity
    membership: Membership
    base: Base
    standing: Standing = VOTER
    journal: JournalMark | None = None
    """None: all of the log is in LMDB."""
    configurations: tuple[Configuration, ...] = ()
    """The one that counts at the base and those of the entries, ascending, without the fixed one of the first start."""

    @property
    def configuration(self) -> Configuration:
        """The newest one, committed or not."""
        return self.configurations[-1] if self.configurations else Configuration.initial(self.membership)

    def behind(self, base: Base) -> Meta:
        """Return what it says once everything up to ``base`` is dropped."""
        passed = [each for each in self.configurations if each.index <= base.point.index]
        kept = [each for each in self.configurations if each.index > base.point.index]
        return replace(self, base=base, configurations=(*passed[-1:], *kept))


def pack_meta(meta: Meta) -> bytes:
    """Return the bytes of ``meta``; the same in both tables."""
    point, identity, vote = meta.base.point, meta.identity, meta.hard_state.voted_for
    parts = [
        _FIXED.pack(
            _version_of(meta),
            ALGORITHM_CRC32C,
            0,
            meta.sequence,
            meta.hard_state.current_term,
            point.index,
            point.term,
            meta.base.timestamp_ms,
            point.chain,
            identity.cluster_id,
            identity.node_uuid,
        ),
        b"\x00" if vote is None else b"\x01",
        pack_text("" if vote is None else vote),
        pack_text(identity.node_id),
        pack_membership(meta.membership),
        pack_standing(meta.standing),
    ]
    mark = meta.journal or (_NO_JOURNAL if meta.configurations else None)
    if mark is not None:
        parts.append(_JOURNAL.pack(mark.uuid, mark.generation, mark.number, mark.sum))
    if meta.configurations:
        parts.append(_U32.pack(len(meta.configurations)))
    for configuration in meta.configurations:
        payload = encode(configuration)
        parts += (_CONFIGURATION.pack(configuration.index, len(payload)), payload)
    return with_proof(b"".join(parts))


def configurations_bytes(meta: Meta) -> int:
    """Return what the configurations take in both copies; in most logs there are none."""
    return sum(2 * (_CONFIGURATION.size + len(encode(each))) for each in meta.configurations)


def _version_of(meta: Meta) -> int:
    """Return the version that says all of ``meta``: the lowest, so that an older build reads what it can."""
    if meta.configurations:
        return META_VERSION
    return _WITHOUT_JOURNAL if meta.journal is None else _WITH_JOURNAL


def unpack_meta(table: str, value: bytes) -> Meta:
    """Verify a meta record read from ``table``.

    Raises:
        WoundedLog: it is damaged.
        NewerFormat: its proof is right and its version or algorithm unknown.
    """
    versions = (FORMAT_VERSION, _WITH_PEERS, _WITHOUT_JOURNAL, _WITH_JOURNAL, META_VERSION)
    return unpack_proven(table, value, _unpack_body, versions)


def choose_meta(first: bytes | None, copy: bytes | None) -> tuple[Meta, tuple[Wound, ...]]:
    """Return what the two copies say together, and the one wound that was tolerated; raises as ``choose_copy``."""
    return choose_copy(first, copy, unpack_meta)


def pack_standing(standing: Standing) -> bytes:
    """Return the bytes of a standing, as they are in every version from 3 on."""
    point = standing.committed
    parts = [_U8.pack(standing.is_voter), _U16.pack(len(standing.peers))]
    for peer in standing.peers:
        parts += (pack_text(peer.node_id), peer.node_uuid, _U16.pack(len(peer.former)), *peer.former)
    parts += (
        _U8.pack(standing.is_copy),
        _POINT.pack(point.index, point.term, point.chain),
        _U64.pack(standing.cut_in),
        pack_text(standing.place.hex()),
    )
    parts += (_U16.pack(len(standing.lives)), *(_LIFE.pack(*life) for life in standing.lives))
    for peer in standing.peers:
        number, nonce = peer.life or (0, _NO_NONCE)
        parts.append(_PEER.pack(number, nonce, peer.owed_term, peer.owed_index, peer.owed_in))
    return b"".join(parts)


def read_standing(reader: ProvenReader, version: int = META_VERSION) -> Standing:
    """Take a standing off ``reader``; raises as the reader does."""
    is_voter = reader.number(_U8)
    if is_voter > 1:
        raise ValueError(f"is_voter {is_voter}")
    peers = []
    for _ in range(reader.number(_U16)):
        node_id, node_uuid = NodeId(reader.text()), reader.uuid()
        peers.append(KnownDisk(node_id, node_uuid, tuple(reader.uuid() for _ in range(reader.number(_U16)))))
    standing = Standing(bool(is_voter), tuple(peers))
    return standing if version == _WITH_PEERS else _with_memory(reader, standing)


def _with_memory(reader: ProvenReader, standing: Standing) -> Standing:
    """Read what version 3 adds to a standing."""
    is_copy = reader.number(_U8)
    if is_copy > 1:
        raise ValueError(f"is_copy {is_copy}")
    point = LogPoint(*reader.numbers(_POINT))
    cut_in = Term(reader.number(_U64))
    place = bytes.fromhex(reader.text())
    lives = tuple(Life(*reader.numbers(_LIFE)) for _ in range(reader.number(_U16)))
    peers = []
    for peer in standing.peers:
        number, nonce, term, index, owed_in = reader.numbers(_PEER)
        life = Life(number, nonce) if nonce != _NO_NONCE else None
        peers.append(replace(peer, life=life, owed_term=term, owed_index=index, owed_in=owed_in))
    return Standing(standing.is_voter, tuple(peers), point, bool(is_copy), lives, cut_in, place)


def _unpack_body(body: bytes) -> Meta:
    (_, _, zero, sequence, term, base_index, base_term, base_timestamp_ms, base_chain, cluster_id, node_uuid) = (
        _FIXED.unpack_from(body)
    )
    reader = ProvenReader(body, _FIXED.size)
    has_vote = reader.number(_U8)
    vote = reader.text()
    node_id = reader.text()
    membership = reader.membership()
    standing = VOTER if body[0] == FORMAT_VERSION else read_standing(reader, body[0])
    mark = JournalMark(*reader.numbers(_JOURNAL)) if body[0] >= _WITH_JOURNAL else None
    configurations = _read_configurations(reader) if body[0] == META_VERSION else ()
    if zero or has_vote > 1 or (vote and not has_vote) or reader.position != len(body):
        raise ValueError(
            f"padding {zero}, has_vote {has_vote}, vote {vote!r}, {len(body) - reader.position} bytes left"
        )
    return Meta(
        sequence,
        HardState(Term(term), NodeId(vote) if has_vote else None),
        Identity(cluster_id, NodeId(node_id), node_uuid),
        membership,
        Base(LogPoint(Index(base_index), Term(base_term), base_chain), base_timestamp_ms),
        standing,
        None if mark == _NO_JOURNAL else mark,
        configurations,
    )


def _read_configurations(reader: ProvenReader) -> tuple[Configuration, ...]:
    found = []
    for _ in range(reader.number(_U32)):
        index, length = reader.numbers(_CONFIGURATION)
        try:
            found.append(decode(Index(index), reader.take(length)))
        except MalformedConfiguration as error:
            raise ValueError(str(error)) from error
    return tuple(found)
