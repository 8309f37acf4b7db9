"""Bytes of the commit journal, format version 1: what is in the file, and what of it counts. Pure.

The file never changes its size. Integers are big-endian::

    block 0, block 1   the header, twice: magic "DRJF" | version u8 | algorithm u8 | zero u16 | uuid 16 bytes
                       | generation u64 | ring bytes u64 | proof u32 over all before it
    block 2 and on     the ring

A *group* is what one flush makes durable. It is in the ring twice, its second copy right behind the first. Each copy
begins on a block of 4096 bytes and shares none::

    magic "DRJG" | version u8 | algorithm u8 | zero u16 | uuid 16 bytes | generation u64 | number u64 | held u64
    | offset u64 | length u32 | previous u32 | sum u32 | proof u32 | body, ``length`` bytes (journal_body.py) | zeros

``offset``      of the first copy in the ring: a copy that lies anywhere else is no group
``held``        number of the last group that LMDB certainly held when this one was written
``previous``    sum of the group before in this generation, 0 for the first
``sum``         CRC-32C over all before it and the body; the proof is that of the head, ``sum`` included

Numbers ascend by one for ever; a group that went to LMDB directly uses up one, too. A generation is what was written
between two loads of the log. Uuid, generation and number say which groups belong to the log: those of the generation
that LMDB names (``JournalMark``), numbered after the last one that LMDB holds. Whatever else is in the ring is old.

*What is whole.* A group of which one copy is, or whose sectors can be put together from both.

*Where it ends.* A group is written when the one before is flushed. So of all groups only the last can be torn, and a
group that is not whole is the end when no later one was begun. When a later one was begun, it is damage. So it is when
a sector of the last one is neither what was written nor what was there before: a torn write leaves no such sector.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final, NamedTuple

from durable_raft.checksum import ALGORITHM_CRC32C, crc32c, extend
from durable_raft.storage.log.meta import JournalMark
from durable_raft.storage.wounds import Wound, WoundKind, raise_wounds

JOURNAL: Final = "journal"
"""The table that wounds of the journal name, and the file beside LMDB's."""

JOURNAL_VERSION: Final = 1
BLOCK_BYTES: Final = 4096
"""A group is padded to blocks, so that no flush rewrites bytes that another one made durable."""

SECTOR_BYTES: Final = 512
"""A disk writes these wholly or not at all, in any order."""

RING_AT: Final = 2 * BLOCK_BYTES
"""Where the ring begins in the file."""

_FILE_MAGIC: Final = b"DRJF"
_GROUP_MAGIC: Final = b"DRJG"
_FILE: Final = struct.Struct(">4sBBH16sQQ")
_HEAD: Final = struct.Struct(">4sBBH16sQQQQII")
_U32: Final = struct.Struct(">I")
_SUM: Final = struct.Struct(">II")
HEAD_BYTES: Final = _HEAD.size + _SUM.size
_JOINED_SECTORS_MAX: Final = 6
"""In so many sectors the copies of a group may differ from which it is put together: 64 ways to try."""

_WOUNDS_MAX: Final = 20
"""Groups that are named when many are damaged."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the first blocks of a journal say."""

    uuid: bytes
    """16 bytes that no other journal has."""
    generation: int
    """At least that of every group in the ring."""
    ring_bytes: int


@dataclass(frozen=True, slots=True)
class Group:
    """A group that is whole."""

    number: int
    previous: int
    sum: int
    body: bytes


class _Head(NamedTuple):
    """A copy's head whose proof is right; in the order of the layout."""

    magic: bytes
    version: int
    algorithm: int
    zero: int
    uuid: bytes
    generation: int
    number: int
    held: int
    offset: int
    length: int
    previous: int


def pack_header(header: Header) -> bytes:
    """Return both copies of the header."""
    fields = _FILE.pack(
        _FILE_MAGIC, JOURNAL_VERSION, ALGORITHM_CRC32C, 0, header.uuid, header.generation, header.ring_bytes
    )
    return (fields + _U32.pack(crc32c(fields))).ljust(BLOCK_BYTES, b"\0") * 2


def read_header(image: bytes) -> Header:
    """Return what the header of a journal says: the newer one of its copies.

    Raises:
        WoundedLog: neither copy is valid.
        NewerFormat: one is of a newer format.
    """
    found = [_file_header(image[at : at + _FILE.size + _U32.size]) for at in (0, BLOCK_BYTES)]
    valid = [header for header in found if header is not None]
    if not valid or len({header.uuid for header in valid}) > 1:
        raise_wounds([_wound("a header", f"{len(valid)} valid copies", WoundKind.CHECKSUM)])
    return max(valid, key=lambda header: header.generation)


def newest_header_at(image: bytes) -> int:
    """Return where the copy is that ``read_header`` believes, 0 or ``BLOCK_BYTES``: it is to be rewritten last.

    Raises:
        WoundedLog: neither is valid.
        NewerFormat: one is of a newer format.
    """
    header = read_header(image)
    return 0 if _file_header(image[: _FILE.size + _U32.size]) == header else BLOCK_BYTES


def _file_header(data: bytes) -> Header | None:
    fields = data[: _FILE.size]
    if len(data) != _FILE.size + _U32.size or crc32c(fields) != int.from_bytes(data[_FILE.size :], "big"):
        return None
    magic, version, algorithm, _, uuid, generation, ring_bytes = _FILE.unpack(fields)
    if magic != _FILE_MAGIC:
        return None
    _require_known(version, algorithm)
    return Header(uuid, generation, ring_bytes)


def copy_bytes(body_bytes: int) -> int:
    """Return what one copy of a group with such a body takes in the ring."""
    return -(-(HEAD_BYTES + body_bytes) // BLOCK_BYTES) * BLOCK_BYTES


def pack_group(mark: JournalMark, number: int, offset: int, body: bytes) -> tuple[bytes, int]:
    """Return one copy of the group ``number``, padded, and its sum.

    Args:
        mark: uuid and generation; the last group that LMDB holds; the sum of the group before.
        number: of this group.
        offset: where its first copy goes in the ring.
        body: as ``pack_write`` made it.
    """
    fields = _HEAD.pack(
        _GROUP_MAGIC,
        JOURNAL_VERSION,
        ALGORITHM_CRC32C,
        0,
        mark.uuid,
        mark.generation,
        number,
        mark.number,
        offset,
        len(body),
        mark.sum,
    )
    total = extend(crc32c(fields), body)
    start = fields + _U32.pack(total)
    return b"".join((start, _U32.pack(crc32c(start)), body)).ljust(copy_bytes(len(body)), b"\0"), total


def read_groups(ring: bytes, mark: JournalMark) -> list[Group]:
    """Return the groups that LMDB does not hold, in order, up to the end of the journal.

    Args:
        ring: all of it.
        mark: what LMDB says it holds.

    Raises:
        WoundedLog: a group is lost that was flushed, or LMDB has forgotten one that it held.
        NewerFormat: a group of a newer format.
    """
    groups, wounds = find_groups(ring, mark)
    if wounds:
        raise_wounds(wounds)
    return groups


def find_groups(ring: bytes, mark: JournalMark) -> tuple[list[Group], list[Wound]]:
    """Return the groups that LMDB does not hold, in order, up to the end or the first one lost; and what is wrong.

    Raises:
        NewerFormat: a group of a newer format.
    """
    whole: dict[int, Group] = {}
    broken: dict[int, tuple[_Head, int]] = {}
    newest = mark.number
    wounds: list[Wound] = []
    for head, total, at in _heads(ring, mark.uuid):
        if head.generation > mark.generation or (head.generation == mark.generation and head.held > mark.number):
            found = f"group {head.number} of generation {head.generation}, of which it held {head.held}"
            expected = f"generation {mark.generation}, LMDB holding group {mark.number}"
            wounds.append(_wound(expected, found, WoundKind.ORDER))
        elif head.generation == mark.generation and head.number > mark.number:
            newest = max(newest, head.number)
            body = ring[at + HEAD_BYTES : at + HEAD_BYTES + head.length]
            if _sum_of(head, body) == total:
                _take(whole, Group(head.number, head.previous, total, body), wounds)
            else:
                broken[head.number] = (head, total)
    for number, (head, total) in broken.items():
        if number not in whole and (joined := _joined(ring, head, total)) is not None:
            whole[number] = Group(number, head.previous, total, joined)
    groups = list(_consecutive(whole, mark, wounds))
    end = mark.number + len(groups)
    lost = [number for number in range(end + 1, min(newest, end + 1 + _WOUNDS_MAX)) if number not in whole]
    wounds += [_wound(f"group {number}, as {newest} was begun", "no whole copy", WoundKind.MISSING) for number in lost]
    if not lost and _is_rotten(ring, mark, end + 1):
        found = "a sector that no torn write leaves, and no whole copy"
        wounds.append(_wound(f"group {end + 1}, or what was there before", found, WoundKind.CHECKSUM))
    return groups, wounds[:_WOUNDS_MAX]


def _sum_of(head: _Head, body: bytes) -> int:
    return extend(crc32c(_HEAD.pack(*head)), body)


def _joined(ring: bytes, head: _Head, total: int) -> bytes | None:
    """Return the body of a group put together from the sectors of both copies; None when no way gives its sum."""
    end, size = HEAD_BYTES + head.length, copy_bytes(head.length)
    copies = [
        [ring[at : at + SECTOR_BYTES] for at in range(start, start + end, SECTOR_BYTES)]
        for start in (head.offset, head.offset + size)
    ]
    differing = [number for number, (first, second) in enumerate(zip(*copies, strict=True)) if first != second]
    if len(differing) > _JOINED_SECTORS_MAX:
        return None
    sectors = copies[0].copy()
    for choice in product(copies, repeat=len(differing)):
        for number, copy in zip(differing, choice, strict=True):
            sectors[number] = copy[number]
        body = b"".join(sectors)[HEAD_BYTES:end]
        if _sum_of(head, body) == total:
            return body
    return None


def _is_rotten(ring: bytes, mark: JournalMark, number: int) -> bool:
    """Return whether a sector certainly is a rotten one of group ``number``, no copy of which is whole.

    Only the first sector of a copy tells who it is. It proves itself by its head, or wholly where the body ends in it.
    """
    for at in _marked_blocks(ring):
        head = _Head(*_HEAD.unpack_from(ring, at))
        if (head.uuid, head.generation, head.number) != (mark.uuid, mark.generation, number):
            continue
        total, proof = _SUM.unpack_from(ring, at + _HEAD.size)
        if crc32c(ring[at : at + HEAD_BYTES - _U32.size]) != proof:
            return True
        body = ring[at + HEAD_BYTES : at + HEAD_BYTES + head.length]
        if HEAD_BYTES + head.length <= SECTOR_BYTES and _sum_of(head, body) != total:
            return True
    return False


def _take(whole: dict[int, Group], group: Group, wounds: list[Wound]) -> None:
    other = whole.get(group.number)
    if other is not None and other.sum != group.sum:
        expected, found = f"sum {other.sum:#010x} of group {group.number}", f"{group.sum:#010x} in its other copy"
        wounds.append(_wound(expected, found, WoundKind.DISAGREES))
    whole[group.number] = group


def _consecutive(whole: dict[int, Group], mark: JournalMark, wounds: list[Wound]) -> Iterator[Group]:
    number, total = mark.number + 1, mark.sum
    while (group := whole.get(number)) is not None:
        if group.previous != total:
            expected, found = f"group {number} after sum {total:#010x}", f"after {group.previous:#010x}"
            wounds.append(_wound(expected, found, WoundKind.CHAIN))
        yield group
        number, total = number + 1, group.sum


def _heads(ring: bytes, uuid: bytes) -> Iterator[tuple[_Head, int, int]]:
    """Yield every head of this journal that is valid and in its place: head, sum, and where in the ring it is."""
    for at in _marked_blocks(ring):
        if (found := _head(ring, at, uuid)) is not None:
            yield (*found, at)


def _marked_blocks(ring: bytes) -> Iterator[int]:
    """Yield where a block begins as a group does."""
    at = ring.find(_GROUP_MAGIC)
    while at >= 0:
        if at % BLOCK_BYTES == 0:
            yield at
        at = ring.find(_GROUP_MAGIC, at + 1)


def _head(ring: bytes, at: int, uuid: bytes) -> tuple[_Head, int] | None:
    data = ring[at : at + HEAD_BYTES]
    head = _Head(*_HEAD.unpack_from(data))
    total, proof = _SUM.unpack_from(data, _HEAD.size)
    if head.uuid != uuid or crc32c(data[: -_U32.size]) != proof:
        return None
    _require_known(head.version, head.algorithm)
    size = copy_bytes(head.length)
    is_in_place = at in (head.offset, head.offset + size) and head.offset + 2 * size <= len(ring)
    return (head, total) if is_in_place else None


def _require_known(version: int, algorithm: int) -> None:
    if version != JOURNAL_VERSION or algorithm != ALGORITHM_CRC32C:
        expected = f"version {JOURNAL_VERSION} algorithm {ALGORITHM_CRC32C}"
        raise_wounds([_wound(expected, f"version {version} algorithm {algorithm}", WoundKind.NEWER_FORMAT)])


def _wound(expected: str, found: str, what: WoundKind) -> Wound:
    return Wound(JOURNAL, None, None, expected, found, what)
