"""Checks of an LMDB data file before LMDB maps it: a damaged file can kill the process that does (SIGBUS, SIGABRT).

Pages 0 and 1 are meta pages, written in turn: transaction n goes to page ``n & 1``, so the two transaction ids are
exactly one apart. A flipped bit in the newer id would silently open the older state. Layout (LMDB 0.9, 64 bit, byte
order of the machine)::

    page header 16 bytes: page number u64 | pad u16 | flags u16 | ...
    16 magic u32 | version u32 | address u64 | map size u64 | free tree 48 bytes, the page size u32 first
    | main tree 48 bytes | 136 last page u64 | 144 transaction id u64
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final, NamedTuple

from durable_raft.errors import CorruptRecord, UnknownFormatVersion

DATA_FILE: Final = "data.mdb"

_MAGIC: Final = 0xBEEFC0DE
_DATA_VERSION: Final = 1
_P_META: Final = 0x08
_META_BYTES: Final = 152
_HEADER: Final = struct.Struct("=QHH")
_MAGIC_VERSION: Final = struct.Struct("=II")
_PAGE_SIZE: Final = struct.Struct("=I")
_LAST_PAGE_TXN: Final = struct.Struct("=QQ")
_READ_ATTEMPTS: Final = 5
"""A running node may commit between the reading of the two pages; another look then finds them one apart."""


class _MetaPage(NamedTuple):
    page_number: int
    flags: int
    magic: int
    version: int
    page_size: int
    last_page: int
    transaction_id: int


def check_data_file(environment: Path) -> None:
    """Check ``environment/data.mdb``: meta pages, their transaction ids, and its size against the last page.

    Raises:
        CorruptRecord: what was found and what was expected.
        UnknownFormatVersion: a data file of another LMDB format.
    """
    path = environment / DATA_FILE
    for attempt in range(1, _READ_ATTEMPTS + 1):
        try:
            newest = _check_meta_pages(path)
            break
        except CorruptRecord:
            if attempt == _READ_ATTEMPTS:
                raise
    size = path.stat().st_size
    needed = (newest.last_page + 1) * newest.page_size
    if size < needed:
        _check_missing_tail(environment, size, needed)


def _check_meta_pages(path: Path) -> _MetaPage:
    """Check the two meta pages and return the newer one."""
    with path.open("rb") as file:
        first = _read_meta_page(file.read(_META_BYTES), path, 0)
        if not 512 <= first.page_size <= 65536 or first.page_size & (first.page_size - 1):
            raise CorruptRecord(f"{path}: meta page 0 says the page size is {first.page_size}")
        file.seek(first.page_size)
        second = _read_meta_page(file.read(_META_BYTES), path, 1)
    if second.page_size != first.page_size:
        raise CorruptRecord(f"{path}: page size {first.page_size} in meta page 0, {second.page_size} in meta page 1")
    ids = (first.transaction_id, second.transaction_id)
    if abs(ids[0] - ids[1]) != 1 or ids[0] & 1:
        raise CorruptRecord(
            f"{path}: transaction ids {ids[0]} and {ids[1]} in the meta pages; expected an even and an odd one,"
            " one apart"
        )
    return max(first, second, key=lambda page: page.transaction_id)


def _read_meta_page(data: bytes, path: Path, number: int) -> _MetaPage:
    if len(data) < _META_BYTES:
        raise CorruptRecord(f"{path}: meta page {number} is cut off after {len(data)} bytes")
    page_number, _, flags = _HEADER.unpack_from(data)
    magic, version = _MAGIC_VERSION.unpack_from(data, 16)
    (page_size,) = _PAGE_SIZE.unpack_from(data, 40)
    last_page, transaction_id = _LAST_PAGE_TXN.unpack_from(data, 136)
    page = _MetaPage(page_number, flags, magic, version, page_size, last_page, transaction_id)
    if magic != _MAGIC or not flags & _P_META or page_number != number:
        raise CorruptRecord(
            f"{path}: page {number} is not an LMDB meta page: number {page_number}, flags {flags:#x}, magic {magic:#x}"
        )
    if version != _DATA_VERSION:
        raise UnknownFormatVersion(f"{path}: LMDB data format {version}, expected {_DATA_VERSION}")
    return page


def _check_missing_tail(environment: Path, size: int, needed: int) -> None:
    """Tell a file that was cut from one that is short by right.

    LMDB does not write a page that a transaction took at the end of the file and gave back before its commit, so about
    one commit in some thousands leaves a sound file shorter than its last page (seen with 0.9.36). Then every missing
    page is free, which walking all pages shows, without LMDB mapping any.
    """
    from lmdb.verify import VerifyError, verify

    found = f"{environment / DATA_FILE}: {size} bytes, but its last page ends at {needed}"
    try:
        problems: list[str] = verify(str(environment))  # type: ignore[no-untyped-call]
    except VerifyError as error:
        raise CorruptRecord(f"{found}: {error}") from error
    if problems:
        raise CorruptRecord(f"{found}: {'; '.join(problems[:3])}")
