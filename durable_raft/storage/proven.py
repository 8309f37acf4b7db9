"""Records that prove themselves and are kept twice: what the ``meta`` records of log and state have in common.

A record ends with the CRC-32C of all before it, in every version to come, so that an unknown version with a right proof
is newer and one with a wrong proof is damaged. Integers are big-endian; a text is its length in bytes u16 and that many
bytes of UTF-8.

Both copies are written together in one transaction with one sequence number, in the tables ``meta`` and ``meta_copy``.
Two tables and not two keys in one: two small values of one table share a leaf page, and one rotten page would take
both.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, Protocol, TypeVar

from durable_raft.checksum import ALGORITHM_CRC32C, crc32c
from durable_raft.raft.types import Member, Membership, NodeId
from durable_raft.storage.wounds import NewerFormat, Wound, WoundedLog, WoundKind, raise_wounds

META: Final = "meta"
META_COPY: Final = "meta_copy"
META_KEY: Final = b"meta"
_UUID_BYTES: Final = 16

_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")


class _HasSequence(Protocol):
    @property
    def sequence(self) -> int: ...


_AnyRecord = TypeVar("_AnyRecord", bound=_HasSequence)


def with_proof(body: bytes) -> bytes:
    """Return the record whose content is ``body``."""
    return body + _U32.pack(crc32c(body))


def unpack_proven(
    table: str, value: bytes, unpack_body: Callable[[bytes], _AnyRecord], versions: Sequence[int]
) -> _AnyRecord:
    """Verify proof, version and algorithm, and return what ``unpack_body`` makes of the rest.

    Args:
        table: where it was read.
        value: the record.
        unpack_body: raises ``struct.error`` or ``ValueError`` when the layout is none of these versions.
        versions: that are known, ascending.

    Raises:
        WoundedLog: it is damaged.
        NewerFormat: its proof is right and its version or algorithm unknown.
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


def choose_copy(
    first: bytes | None, copy: bytes | None, unpack: Callable[[str, bytes], _AnyRecord]
) -> tuple[_AnyRecord, tuple[Wound, ...]]:
    """Return what the two copies say together, and the one wound that was tolerated, if any: the newest valid wins.

    Raises:
        WoundedLog: no copy is valid, or both are and contradict each other under one sequence number.
        NewerFormat: a copy is of a newer format.
    """
    valid: list[_AnyRecord] = []
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


class ProvenReader:
    """Takes values off the front of a record; ``struct.error`` or ``ValueError`` when they are not there."""

    def __init__(self, body: bytes, position: int) -> None:
        self._body = body
        self.position = position

    def number(self, layout: struct.Struct) -> int:
        """Take one number."""
        (value,) = layout.unpack_from(self._body, self.position)
        self.position += layout.size
        return int(value)

    def numbers(self, layout: struct.Struct) -> tuple[Any, ...]:
        """Take all that ``layout`` describes."""
        values = layout.unpack_from(self._body, self.position)
        self.position += layout.size
        return values

    def text(self) -> str:
        """Take one text."""
        length = self.number(_U16)
        encoded = self._body[self.position : self.position + length]
        if len(encoded) != length:
            raise ValueError(f"text of {length} bytes at {self.position}, but {len(encoded)} are left")
        self.position += length
        return encoded.decode()

    def take(self, length: int) -> bytes:
        """Take so many bytes."""
        found = self._body[self.position : self.position + length]
        if len(found) != length:
            raise ValueError(f"{length} bytes at {self.position}, but {len(found)} are left")
        self.position += length
        return found

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


def _wound(table: str, what: WoundKind, expected: str, found: str) -> Wound:
    return Wound(table, None, None, expected, found, what)


def _raise(table: str, what: WoundKind, expected: str, found: str) -> NoReturn:
    raise_wounds([_wound(table, what, expected, found)])
