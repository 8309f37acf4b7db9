"""The ``meta`` record, format version 2: hard state, standing, identity, membership and the base of the log.

::

    version u8 | algorithm u8 | zero u16 | sequence u64 | current_term u64 | base index u64 | base term u64
    | base timestamp_ms u64 | base chain u32 | cluster_id 16 bytes | node_uuid 16 bytes
    | has_vote u8 | voted_for text | node_id text
    | voters u16 | per voter: node_id text, client_address text, peer_address text
    | is_voter u8 | peers u16 | per peer: node_id text, node_uuid 16 bytes, former u16, as many times 16 bytes
    | proof u32

Version 1 ends after the voters: a node that is a voter and has not been told of any disk.

Integers are big-endian; a text is its length in bytes u16 and that many bytes of UTF-8; ``proof`` is the CRC-32C of all
before it, at the end in every version to come (as in records.py). ``voted_for`` is empty when ``has_vote`` is 0.

It is kept twice, written together in one transaction with one sequence number, in the tables ``meta`` and
``meta_copy``. Two tables and not two keys in one: two small values of one table lie on the same leaf page, and one
rotten page would take both.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol, TypeVar

from durable_raft.checksum import ALGORITHM_CRC32C, crc32c
from durable_raft.raft.types import (
    Acquaintance,
    Base,
    HardState,
    Identity,
    Index,
    LogPoint,
    Member,
    Membership,
    NodeId,
    Standing,
    Term,
)
from durable_raft.storage.records import FORMAT_VERSION
from durable_raft.storage.wounds import NewerFormat, Wound, WoundedLog, WoundKind, raise_wounds

META_VERSION: Final = 2

META: Final = "meta"
META_COPY: Final = "meta_copy"
META_KEY: Final = b"meta"
_UUID_BYTES: Final = 16

_FIXED: Final = struct.Struct(">BBHQQQQQI16s16s")
_U8: Final = struct.Struct(">B")
_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")


VOTER: Final = Standing()
"""The standing of version 1."""


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


class _HasSequence(Protocol):
    @property
    def sequence(self) -> int: ...


_AnyMeta = TypeVar("_AnyMeta", bound=_HasSequence)


def pack_meta(meta: Meta) -> bytes:
    """Return the bytes of ``meta``; the same in both tables."""
    point, identity, vote = meta.base.point, meta.identity, meta.hard_state.voted_for
    parts = [
        _FIXED.pack(
            META_VERSION,
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
        _pack_standing(meta.standing),
    ]
    return with_proof(b"".join(parts))


def unpack_meta(table: str, value: bytes) -> Meta:
    """Verify a meta record read from ``table``.

    Raises:
        WoundedLog: it is damaged.
        NewerFormat: its proof is right and its version or algorithm unknown.
    """
    return unpack_proven(table, value, _unpack_body, versions=(FORMAT_VERSION, META_VERSION))


def with_proof(body: bytes) -> bytes:
    """Return the record whose content is ``body``."""
    return body + _U32.pack(crc32c(body))


def unpack_proven(
    table: str, value: bytes, unpack_body: Callable[[bytes], _AnyMeta], versions: Sequence[int] = (FORMAT_VERSION,)
) -> _AnyMeta:
    """Verify proof, version and algorithm, and return what ``unpack_body`` makes of the rest; raises as unpack_meta.

    Args:
        table: where it was read.
        value: the record.
        unpack_body: raises ``struct.error`` or ``ValueError`` when the layout is none of these versions.
        versions: that are known.
    """
    body, found = value[: -_U32.size], value[-_U32.size :]
    proof = crc32c(body)
    if len(found) != _U32.size or proof != int.from_bytes(found, "big"):
        _raise(table, WoundKind.CHECKSUM, f"proof {proof:#010x}", f"0x{found.hex()}")
    if body[0] not in versions or body[1] != ALGORITHM_CRC32C:
        expected = f"version {versions[-1]} algorithm {ALGORITHM_CRC32C}"
        _raise(table, WoundKind.NEWER_FORMAT, expected, f"version and algorithm 0x{body[:2].hex()}")
    try:
        return unpack_body(body)
    except (struct.error, ValueError) as error:
        raise WoundedLog([_wound(table, WoundKind.SHAPE, f"the layout of version {body[0]}", str(error))]) from error


def choose_meta(first: bytes | None, copy: bytes | None) -> tuple[Meta, tuple[Wound, ...]]:
    """Return what the two copies say together, and the one wound that was tolerated; raises as ``choose_copy``."""
    return choose_copy(first, copy, unpack_meta)


def choose_copy(
    first: bytes | None, copy: bytes | None, unpack: Callable[[str, bytes], _AnyMeta]
) -> tuple[_AnyMeta, tuple[Wound, ...]]:
    """Return what the two copies say together, and the one wound that was tolerated, if any: the newest valid wins.

    Raises:
        WoundedLog: no copy is valid, or both are and contradict each other under one sequence number.
        NewerFormat: a copy is of a newer format.
    """
    valid: list[_AnyMeta] = []
    wounds: list[Wound] = []
    for table, value in ((META, first), (META_COPY, copy)):
        if value is None:
            wounds.append(_wound(table, WoundKind.MISSING, "a record", "none"))
            continue
        try:
            valid.append(unpack(table, value))
        except (WoundedLog, NewerFormat) as error:
            wounds += error.wounds
    if not valid or any(wound.what is WoundKind.NEWER_FORMAT for wound in wounds):
        raise_wounds(wounds)
    newest = max(valid, key=lambda meta: meta.sequence)
    oldest = min(valid, key=lambda meta: meta.sequence)
    if newest.sequence != oldest.sequence:
        table = META if valid[0] is oldest else META_COPY
        wounds.append(_wound(table, WoundKind.DISAGREES, f"sequence {newest.sequence}", f"{oldest.sequence}"))
    elif len(valid) > 1 and valid[0] != valid[1]:
        _raise(META_COPY, WoundKind.DISAGREES, f"{valid[0]} as in meta", f"{valid[1]}")
    return newest, tuple(wounds)


def pack_text(value: str) -> bytes:
    """Return the bytes of a text (module docstring)."""
    encoded = value.encode()
    return _U16.pack(len(encoded)) + encoded


def pack_membership(membership: Membership) -> bytes:
    """Return the bytes of the voters (module docstring)."""
    parts = [_U16.pack(len(membership.voters))]
    for voter in membership.voters:
        parts += (pack_text(voter.node_id), pack_text(voter.client_address), pack_text(voter.peer_address))
    return b"".join(parts)


def _pack_standing(standing: Standing) -> bytes:
    parts = [_U8.pack(standing.is_voter), _U16.pack(len(standing.peers))]
    for peer in standing.peers:
        parts += (pack_text(peer.node_id), peer.node_uuid, _U16.pack(len(peer.former)), *peer.former)
    return b"".join(parts)


class MetaReader:
    """Takes values off the front of a record; ``struct.error`` or ``ValueError`` when they are not there."""

    def __init__(self, body: bytes, position: int) -> None:
        self._body = body
        self.position = position

    def number(self, layout: struct.Struct) -> int:
        """Take one number."""
        (value,) = layout.unpack_from(self._body, self.position)
        self.position += layout.size
        return int(value)

    def text(self) -> str:
        """Take one text."""
        length = self.number(_U16)
        encoded = self._body[self.position : self.position + length]
        if len(encoded) != length:
            raise ValueError(f"text of {length} bytes at {self.position}, but {len(encoded)} are left")
        self.position += length
        return encoded.decode()

    def membership(self) -> Membership:
        """Take the voters."""
        count = self.number(_U16)
        return Membership(tuple(Member(NodeId(self.text()), self.text(), self.text()) for _ in range(count)))

    def uuid(self) -> bytes:
        """Take one uuid."""
        found = self._body[self.position : self.position + _UUID_BYTES]
        if len(found) != _UUID_BYTES:
            raise ValueError(f"a uuid at {self.position}, but {len(found)} bytes are left")
        self.position += _UUID_BYTES
        return found

    def standing(self) -> Standing:
        """Take the standing."""
        is_voter = self.number(_U8)
        if is_voter > 1:
            raise ValueError(f"is_voter {is_voter}")
        peers = []
        for _ in range(self.number(_U16)):
            node_id, node_uuid = NodeId(self.text()), self.uuid()
            peers.append(Acquaintance(node_id, node_uuid, tuple(self.uuid() for _ in range(self.number(_U16)))))
        return Standing(bool(is_voter), tuple(peers))


def _unpack_body(body: bytes) -> Meta:
    (_, _, zero, sequence, term, base_index, base_term, base_timestamp_ms, base_chain, cluster_id, node_uuid) = (
        _FIXED.unpack_from(body)
    )
    reader = MetaReader(body, _FIXED.size)
    has_vote = reader.number(_U8)
    vote = reader.text()
    node_id = reader.text()
    membership = reader.membership()
    standing = VOTER if body[0] == FORMAT_VERSION else reader.standing()
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
    )


def _wound(table: str, what: WoundKind, expected: str, found: str) -> Wound:
    return Wound(table, None, None, expected, found, what)


def _raise(table: str, what: WoundKind, expected: str, found: str) -> NoReturn:
    raise_wounds([_wound(table, what, expected, found)])
