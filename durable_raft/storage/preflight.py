"""Checks of an LMDB data file before LMDB maps it: a damaged file can kill the process that does (SIGBUS, SIGABRT).

Pages 0 and 1 are meta pages, written in turn: transaction n goes to page ``n & 1``, so the two transaction ids are
exactly one apart. A flipped bit in one of the ids would silently open the older state; that check alone misses the flip
of bit 1 that makes n into n - 2 or n - 1 into n + 1. The free tree is the second witness: every commit but the first
records the pages that it freed under its own id, so the last key of the tree that a meta page names is that page's id.

One honest state looks like such a flip. When the write of a meta page fails, LMDB puts the old id (n - 2) back into the
page and leaves the rest: transaction n was never acknowledged and the page of n - 1 is right. The store leaves a note
of the failed transaction beside the data file (``note_failed_transaction``), and only with that note is it accepted.

Layout (LMDB 0.9, 64 bit, byte order of the machine)::

    any page   0 page number u64 | pad u16 | 10 flags u16 | 12 end of the node offsets u16 | u16 | 16 node offsets u16 .
    meta page 16 magic u32 | version u32 | address u64 | map size u64
              | 40 free tree 48 bytes: page size u32 | flags u16 | .. | root u64
              | 88 main tree 48 bytes | 136 last page u64 | 144 transaction id u64
    node      page_layout.py
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from durable_raft.errors import CorruptRecord, UnknownFormatVersion
from durable_raft.storage.directory import DATA_FILE, sync_path
from durable_raft.storage.page_layout import DEPTH_MAX, NO_PAGE, P_BRANCH, U64, child_at, key_at
from durable_raft.storage.tree_shape import shape_problems

if TYPE_CHECKING:
    from lmdb import Environment

FAILED_FILE: Final = "failed-transaction"
"""Id of the last transaction that failed; not removed, as it can only excuse that one."""

_MAGIC: Final = 0xBEEFC0DE
_DATA_VERSION: Final = 1
_P_LEAF: Final = 0x02
_P_META: Final = 0x08
_META_BYTES: Final = 152
_TREE_FLAGS_AT: Final = (44, 92)
_TREE_FLAGS: Final = (0x08, 0)
"""Of the free tree (keys are integers) and of the main tree."""
_HEADER: Final = struct.Struct("=QHH")
_PAGE: Final = struct.Struct("=QHHH")
_U16: Final = struct.Struct("=H")
_MAGIC_VERSION: Final = struct.Struct("=II")
_PAGE_SIZE: Final = struct.Struct("=I")
_LAST_PAGE_TXN: Final = struct.Struct("=QQ")
_READ_ATTEMPTS: Final = 50
"""A running node may commit between two reads; another look then finds all of one moment."""


class _MetaPage(NamedTuple):
    page_number: int
    flags: int
    magic: int
    version: int
    page_size: int
    free_root: int
    last_page: int
    transaction_id: int


def check_data_file(environment: Path, *, is_live: bool = False) -> None:
    """Check ``environment/data.mdb``: meta pages, their transaction ids, and its size against the last page.

    Args:
        environment: the directory that holds the file.
        is_live: a node may be writing, so that pages cannot be walked; the size is then not checked.

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
    if size < needed and not is_live:
        _check_missing_tail(environment, size, needed)


def _check_meta_pages(path: Path) -> _MetaPage:
    """Check the two meta pages and return the newer one."""
    with path.open("rb") as file:
        first = _read_meta_page(file.read(_META_BYTES), path, 0)
        if not 512 <= first.page_size <= 65536 or first.page_size & (first.page_size - 1):
            raise CorruptRecord(f"{path}: meta page 0 says the page size is {first.page_size}")
        file.seek(first.page_size)
        second = _read_meta_page(file.read(_META_BYTES), path, 1)
        _check_versions(first, second, path)
        freed = [_last_freeing(file, meta, path) for meta in (first, second)]
    if second.page_size != first.page_size:
        raise CorruptRecord(f"{path}: page size {first.page_size} in meta page 0, {second.page_size} in meta page 1")
    ids = (first.transaction_id, second.transaction_id)
    if abs(ids[0] - ids[1]) != 1 or ids[0] & 1:
        raise CorruptRecord(
            f"{path}: transaction ids {ids[0]} and {ids[1]} in the meta pages; expected an even and an odd one,"
            " one apart"
        )
    for number in (0, 1):
        excused = ids[number] < max(ids) and freed[number] == ids[number] + 2 == _failed_transaction(path)
        if ids[number] > 1 and freed[number] != ids[number] and not excused:
            raise CorruptRecord(
                f"{path}: transaction ids {ids[0]} and {ids[1]} in the meta pages, but page {number} is the state after"
                f" transaction {freed[number]}"
            )
    return max(first, second, key=lambda page: page.transaction_id)


def _read_meta_page(data: bytes, path: Path, number: int) -> _MetaPage:
    if len(data) < _META_BYTES:
        raise CorruptRecord(f"{path}: meta page {number} is cut off after {len(data)} bytes")
    page_number, _, flags = _HEADER.unpack_from(data)
    magic, version = _MAGIC_VERSION.unpack_from(data, 16)
    (page_size,) = _PAGE_SIZE.unpack_from(data, 40)
    (free_root,) = U64.unpack_from(data, 80)
    last_page, transaction_id = _LAST_PAGE_TXN.unpack_from(data, 136)
    page = _MetaPage(page_number, flags, magic, version, page_size, free_root, last_page, transaction_id)
    if magic != _MAGIC or not flags & _P_META or page_number != number:
        raise CorruptRecord(
            f"{path}: page {number} is not an LMDB meta page: number {page_number}, flags {flags:#x}, magic {magic:#x}"
        )
    trees = tuple(_U16.unpack_from(data, at)[0] for at in _TREE_FLAGS_AT)
    if version == _DATA_VERSION and trees != _TREE_FLAGS:
        # Another flag makes LMDB take the keys for something else: a write would end the process.
        raise CorruptRecord(f"{path}: meta page {number}: flags {trees} of its two trees, expected {_TREE_FLAGS}")
    return page


def _check_versions(first: _MetaPage, second: _MetaPage, path: Path) -> None:
    """Check the format of the file: one page alone with another version is damage."""
    if first.version == second.version != _DATA_VERSION:
        raise UnknownFormatVersion(f"{path}: LMDB data format {first.version}, expected {_DATA_VERSION}")
    if first.version != second.version:
        raise CorruptRecord(
            f"{path}: LMDB data format {first.version} in meta page 0 and {second.version} in meta page 1, expected"
            f" {_DATA_VERSION}"
        )


def _last_freeing(file: BinaryIO, meta: _MetaPage, path: Path) -> int:
    """Return the last key of the free tree that ``meta`` names; 0 when the tree is empty.

    Raises:
        CorruptRecord: a page on the way to it is cut off or not what it should be.
    """
    number = meta.free_root
    if number == NO_PAGE:
        return 0
    for _ in range(DEPTH_MAX):
        try:
            file.seek(number * meta.page_size)
            data = file.read(meta.page_size)
            page_number, _, flags, offsets_end = _PAGE.unpack_from(data)
            (offset,) = _U16.unpack_from(data, offsets_end - _U16.size)
            key, child = key_at(data, offset), child_at(data, offset)
            if page_number != number or flags not in (P_BRANCH, _P_LEAF):
                raise CorruptRecord(
                    f"{path}: page {number} of the free tree says number {page_number}, flags {flags:#x}"
                )
            if flags == _P_LEAF:
                return int.from_bytes(key, sys.byteorder)
        except (struct.error, OSError, OverflowError, ValueError) as error:
            raise CorruptRecord(f"{path}: page {number} of the free tree is cut off or damaged: {error}") from error
        number = child
    raise CorruptRecord(f"{path}: the free tree is deeper than {DEPTH_MAX} pages")


def note_failed_transaction(environment: Path, transaction_id: int) -> None:
    """Leave the note that excuses what LMDB does to a meta page whose write failed.

    As the disk has just failed it may not succeed: the directory is then refused at the next start, which is right for
    a disk that takes no write at all.
    """
    with contextlib.suppress(OSError):
        fd = os.open(environment / FAILED_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.write(fd, b"%d\n" % transaction_id)
            os.fsync(fd)
        finally:
            os.close(fd)
        sync_path(environment)


def _failed_transaction(data_file: Path) -> int | None:
    try:
        return int(data_file.with_name(FAILED_FILE).read_bytes())
    except (OSError, ValueError):
        return None


def cover_last_page(environment: Environment, path: Path) -> None:
    """Lengthen the data file to its last page, after a commit that left it short by right (``_check_missing_tail``).

    A large file would take seconds to be told from a cut one when it is opened next; if this fails, it will.
    """
    data_file = path / DATA_FILE
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    with contextlib.suppress(OSError):
        if data_file.stat().st_size < needed:
            os.truncate(data_file, needed)


def _check_missing_tail(environment: Path, size: int, needed: int) -> None:
    """Tell a file that was cut from one that is short by right.

    LMDB does not write a page that a transaction took at the end of the file and gave back before its commit, so about
    one commit in some thousands leaves a sound file shorter than its last page (seen with 0.9.36). Then every missing
    page is free, which walking all pages shows, without LMDB mapping any.
    """
    if problems := page_problems(environment):
        found = f"{environment / DATA_FILE}: {size} bytes, but its last page ends at {needed}"
        raise CorruptRecord(f"{found}: {'; '.join(problems[:3])}")


def page_problems(environment: Path) -> list[str]:
    """Return what is wrong with the pages of ``environment/data.mdb``, read without mapping it.

    Every page is walked: page numbers, order of keys, counts, and that each page is in use or free, once; then the
    shape of the trees (tree_shape.py). It says something only of a file that nobody writes.
    """
    from lmdb.verify import VerifyError, verify

    try:
        problems: list[str] = verify(str(environment))  # type: ignore[no-untyped-call]
    except VerifyError as error:
        return [str(error)]
    return problems or shape_problems(environment)
