"""How LMDB 0.9 lays out a page (64 bit, byte order of the machine), for those who read its file without it.

preflight.py has the fields of meta pages. Nothing is checked here: what does not fit raises ``struct.error``.

::

    tree    0 u32 | flags u16 | depth u16 | 8 branch pages u64 | leaf pages u64 | overflow pages u64 | entries u64
            | 40 root u64
    node    0 low u16 | 2 middle u16 | 4 flags u16 | 6 key length u16 | 8 key | value
            in a branch low, middle and flags are the page number; in a leaf low and middle are the value's length
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Final

HEADER_BYTES: Final = 16
P_BRANCH: Final = 0x01
NO_PAGE: Final = (1 << 64) - 1
"""Root of an empty tree."""
DEPTH_MAX: Final = 32
"""LMDB's own bound of a cursor's depth."""
NODE: Final = struct.Struct("=HHHH")
U64: Final = struct.Struct("=Q")
_U32: Final = struct.Struct("=I")
_PAGE_SIZE_AT: Final = 40
_TRANSACTION_AT: Final = 144


def newest_meta(file: BinaryIO) -> tuple[bytes, int]:
    """Return the fields of the meta page with the higher transaction id, and the size of a page."""
    file.seek(0)
    first = file.read(_TRANSACTION_AT + U64.size)
    (page_bytes,) = _U32.unpack_from(first, _PAGE_SIZE_AT)
    file.seek(page_bytes)
    second = file.read(len(first))
    return max(first, second, key=lambda meta: int(U64.unpack_from(meta, _TRANSACTION_AT)[0])), page_bytes


def key_at(data: bytes, offset: int) -> bytes:
    """Return the key of the node at ``offset``."""
    length = NODE.unpack_from(data, offset)[3]
    return data[offset + NODE.size : offset + NODE.size + length]


def child_at(data: bytes, offset: int) -> int:
    """Return the number of the page that the node at ``offset`` of a branch names."""
    low, middle, high, _ = NODE.unpack_from(data, offset)
    return int(low | middle << 16 | high << 32)
