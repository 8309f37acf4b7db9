"""Where a record is in LMDB's data file: page and offset, found by reading the file, without LMDB.

What a branch says is believed as far as it can be read: the answer is for people who look for rot with other tools.
Layout: page_layout.py.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from durable_raft.storage.directory import DATA_FILE
from durable_raft.storage.log.records import IDENT, IDENT_KEY, LOG, LOG_KEY
from durable_raft.storage.page_layout import DEPTH_MAX, HEADER_BYTES, NODE, P_BRANCH, U64, child_at, key_at, newest_meta
from durable_raft.storage.wounds import Wound

_MAIN_ROOT_AT: Final = 128
_ROOT_AT: Final = 40
_PAGE: Final = struct.Struct("=QHHH")
_U16: Final = struct.Struct("=H")


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
    newest, page_bytes = newest_meta(file)
    found = _descend(file, page_bytes, U64.unpack_from(newest, _MAIN_ROOT_AT)[0], table)
    if found is None:
        return None
    file.seek(found.offset + _ROOT_AT)
    return _descend(file, page_bytes, U64.unpack(file.read(8))[0], key)


def _descend(file: BinaryIO, page_bytes: int, number: int, key: bytes) -> Place | None:
    """Return where the value of ``key`` is in the tree whose root is page ``number``."""
    for _ in range(DEPTH_MAX):
        file.seek(number * page_bytes)
        data = file.read(page_bytes)
        _, _, flags, offsets_end = _PAGE.unpack_from(data)
        offsets = [_U16.unpack_from(data, at)[0] for at in range(HEADER_BYTES, offsets_end, 2)]
        keys = [key_at(data, offset) for offset in offsets]
        if not flags & P_BRANCH:
            if key not in keys:
                return None
            at = offsets[keys.index(key)] + NODE.size + len(key)
            return Place(number, number * page_bytes + at)
        # The first key of a branch stands for everything below the second one.
        position = max([0, *(i for i, each in enumerate(keys) if i and each <= key)])
        number = child_at(data, offsets[position])
    return None
