"""Kinds of damage to a data file, as functions of its bytes, an older version of them, and a seeded generator.

A file may come out as it was: a misdirected page may hit its own copy. The caller compares.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Final

PAGE: Final = 4096
SECTOR: Final = 512
META_BYTES: Final = 152
"""Bytes of a meta page that mean something."""

_HEADER: Final = struct.Struct("=QHHHH")
"""Of a page: its number, padding, flags, end of the node offsets, begin of the nodes."""
_BRANCH: Final = 0x01
_LEAF: Final = 0x02
_U16: Final = struct.Struct("=H")

Damage = Callable[[bytearray, bytes, random.Random], None]


def _page(data: bytearray, rng: random.Random) -> int:
    return rng.randrange(max(1, len(data) // PAGE)) * PAGE


def bit_flip(data: bytearray, older: bytes, rng: random.Random) -> None:
    """Flip one bit anywhere."""
    del older
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def header_bit_flip(data: bytearray, older: bytes, rng: random.Random) -> None:
    """Flip one bit in the first 64 bytes of a page, where LMDB keeps its own."""
    del older
    data[_page(data, rng) + rng.randrange(64)] ^= 1 << rng.randrange(8)


def byte_flip(data: bytearray, older: bytes, rng: random.Random) -> None:
    """Replace one byte."""
    del older
    data[rng.randrange(len(data))] ^= rng.randrange(1, 256)


def node_bit_flip(data: bytearray, older: bytes, rng: random.Random) -> None:
    """Flip one bit of what LMDB keeps about a node: where it lies, its lengths, flags and key."""
    del older
    tree_pages = [at for at in range(2 * PAGE, len(data), PAGE) if _has_nodes(data, at)]
    page = rng.choice(tree_pages)
    number = rng.randrange((_HEADER.unpack_from(data, page)[3] - _HEADER.size) // 2)
    pointer = page + _HEADER.size + 2 * number
    (offset,) = _U16.unpack_from(data, pointer)
    (key_bytes,) = _U16.unpack_from(data, page + offset + 6)
    at = rng.choice([pointer, pointer + 1, *range(page + offset, page + offset + 8 + key_bytes)])
    data[at] ^= 1 << rng.randrange(8)


def _has_nodes(data: bytearray, at: int) -> bool:
    number, _, flags, nodes_end, _ = _HEADER.unpack_from(data, at)
    return number * PAGE == at and flags in (_BRANCH, _LEAF) and nodes_end > _HEADER.size


def zeroed_sector(data: bytearray, older: bytes, rng: random.Random) -> None:
    """Zero 512 bytes."""
    del older
    at = rng.randrange(len(data) // SECTOR) * SECTOR
    data[at : at + SECTOR] = bytes(SECTOR)


def zeroed_page(data: bytearray, older: bytes, rng: random.Random) -> None:
    """Zero a page."""
    del older
    at = _page(data, rng)
    data[at : at + PAGE] = bytes(PAGE)


def random_page(data: bytearray, older: bytes, rng: random.Random) -> None:
    """Fill a page with noise."""
    del older
    at = _page(data, rng)
    data[at : at + PAGE] = rng.randbytes(PAGE)


def misdirected_page(data: bytearray, older: bytes, rng: random.Random) -> None:
    """Write one page where another belongs."""
    del older
    source, target = _page(data, rng), _page(data, rng)
    data[target : target + PAGE] = data[source : source + PAGE]


def swapped_pages(data: bytearray, older: bytes, rng: random.Random) -> None:
    """Exchange two pages."""
    del older
    first, second = _page(data, rng), _page(data, rng)
    kept = bytes(data[first : first + PAGE])
    data[first : first + PAGE] = data[second : second + PAGE]
    data[second : second + PAGE] = kept


def stale_page(data: bytearray, older: bytes, rng: random.Random) -> None:
    """Put a page back as it was some thousand writes ago: a write of it was lost."""
    shared = min(len(data), len(older)) // PAGE
    differing = [n for n in range(2, shared) if data[n * PAGE : (n + 1) * PAGE] != older[n * PAGE : (n + 1) * PAGE]]
    at = rng.choice(differing) * PAGE
    data[at : at + PAGE] = older[at : at + PAGE]


def stale_file(data: bytearray, older: bytes, rng: random.Random) -> None:
    """Put the whole file back as it was."""
    del rng
    data[:] = older


def truncated_file(data: bytearray, older: bytes, rng: random.Random) -> None:
    """Cut the file short."""
    del older
    del data[rng.randrange(len(data)) :]


def meta_bit_flip(data: bytearray, older: bytes, rng: random.Random) -> None:
    """Flip one bit of a meta page."""
    del older
    flip_meta_bit(data, rng.randrange(meta_bits()))


def rot_of(payloads: Sequence[bytes]) -> Damage:
    """Return what flips a bit where one of ``payloads`` is written, one of the places there are, or anywhere else."""

    def rot(data: bytearray, older: bytes, rng: random.Random) -> None:
        places = [
            (found.start(), len(payload))
            for payload in payloads
            for found in re.finditer(re.escape(payload), bytes(data))
        ]
        if not places:
            bit_flip(data, older, rng)
            return
        at, length = rng.choice(places)
        bit = rng.randrange(8 * length)
        data[at + bit // 8] ^= 1 << bit % 8

    return rot


def meta_bits() -> int:
    """Return how many bits the two meta pages have that mean something."""
    return 2 * META_BYTES * 8


def flip_meta_bit(data: bytearray, number: int) -> None:
    """Flip bit ``number`` of ``meta_bits``."""
    page, rest = divmod(number, META_BYTES * 8)
    data[page * PAGE + rest // 8] ^= 1 << rest % 8


KINDS: Final[Mapping[str, Damage]] = {
    each.__name__: each
    for each in (
        bit_flip,
        header_bit_flip,
        byte_flip,
        node_bit_flip,
        zeroed_sector,
        zeroed_page,
        random_page,
        misdirected_page,
        swapped_pages,
        stale_page,
        stale_file,
        truncated_file,
        meta_bit_flip,
    )
}
