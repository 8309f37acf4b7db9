"""Where a record is in LMDB's data file: page and offset, found by reading the file, without LMDB.

What a branch says is believed as far as it can be read: the answer is for people who look for rot with other tools.

::

    tree    0 u32 | flags u16 | depth u16 | 8 branch pages u64 | leaf pages u64 | overflow pages u64 | entries u64
            | 40 root u64
    node    0 low u16 | 2 middle u16 | 4 flags u16 | 6 key length u16 | 8 key | value
            in a branch low, middle and flags are the page number; in a leaf low and middle are the value's length
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from durable_raft.storage.directory import DATA_FILE
from durable_raft.storage.log.records import IDENT, IDENT_KEY, LOG, LOG_KEY
from durable_raft.storage.wounds import Wound

_META_PAGES: Final = 2
_PAGE_SIZE_AT: Final = 40
_MAIN_ROOT_AT: Final = 128
_TRANSACTION_AT: Final = 144
_ROOT_AT: Final = 40
_HEADER_BYTES: Final = 16
_BRANCH: Final = 0x01
_DEPTH_MAX: Final = 32
_PAGE: Final = struct.Struct("=QHHH")
_NODE: Final = struct.Struct("=HHHH")
_U16: Final = struct.Struct("=H")
_U32: Final = struct.Struct("=I")
_U64: Final = struct.Struct("=Q")


class Place(NamedTuple):
    """Where a record is in the data file."""

    page: int
    offset: int
    """Of its value, in bytes from the beginning of the file."""


def place_of(environment: Path, wound: Wound) -> Place | None:
    """Return where the record lies that ``wound`` names; None when it has none, or no branch leads to it."""
    if wound.index is None or wound.table not in (IDENT, LOG):
        return None
    key = IDENT_KEY.pack(wound.index) if wound.table == IDENT else LOG_KEY.pack(wound.index, 0)
    try:
        with (environment / DATA_FILE).open("rb") as file:
            return _find(file, wound.table.encode(), key)
    except (OSError, struct.error, OverflowError, IndexError):
        return None


def _find(file: BinaryIO, table: bytes, key: bytes) -> Place | None:
    (page_bytes,) = _U32.unpack_from(file.read(_PAGE_SIZE_AT + 4), _PAGE_SIZE_AT)
    metas = []
    for number in range(_META_PAGES):
        file.seek(number * page_bytes)
        metas.append(file.read(page_bytes))
    newest = max(metas, key=lambda meta: int(_U64.unpack_from(meta, _TRANSACTION_AT)[0]))
    found = _descend(file, page_bytes, _U64.unpack_from(newest, _MAIN_ROOT_AT)[0], table)
    if found is None:
        return None
    file.seek(found.offset + _ROOT_AT)
    return _descend(file, page_bytes, _U64.unpack(file.read(8))[0], key)


def _descend(file: BinaryIO, page_bytes: int, number: int, key: bytes) -> Place | None:
    """Return where the value of ``key`` is in the tree whose root is page ``number``."""
    for _ in range(_DEPTH_MAX):
        file.seek(number * page_bytes)
        data = file.read(page_bytes)
        _, _, flags, offsets_end = _PAGE.unpack_from(data)
        offsets = [_U16.unpack_from(data, at)[0] for at in range(_HEADER_BYTES, offsets_end, 2)]
        keys = [_key(data, offset) for offset in offsets]
        if not flags & _BRANCH:
            if key not in keys:
                return None
            at = offsets[keys.index(key)] + _NODE.size + len(key)
            return Place(number, number * page_bytes + at)
        # The first key of a branch stands for everything below the second one.
        position = max([0, *(i for i, each in enumerate(keys) if i and each <= key)])
        low, middle, high, _ = _NODE.unpack_from(data, offsets[position])
        number = low | middle << 16 | high << 32
    return None


def _key(data: bytes, offset: int) -> bytes:
    length = _NODE.unpack_from(data, offset)[3]
    return data[offset + _NODE.size : offset + _NODE.size + length]
