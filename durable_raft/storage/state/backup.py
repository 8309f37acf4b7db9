"""A backup: the KV state at one log index in one file, format version 1.

::

    magic     "DRbackup"
    head      version u8 | algorithm u8 | zero u16 | length u32 | meta record (state/meta.py) | crc u32 of all before
    piece     length u32 (above 0) | crc u32 of the body | body
    ...
    end       0 u32 | pieces u64 | chain u32 | crc u32 of the three before

A body is records in the order of keys: ``key length u32 | value length u32 | deadline_ms u64 | crc u32 | key | value``,
the crc being the record's own (kv/records.py). ``chain`` is the CRC-32C over the crcs of all pieces. Integers are
big-endian. So every byte is covered, a lost or doubled piece is seen, and damage has a place in the file.

A file is written under another name and takes its own when it is whole and durable.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, NamedTuple, NoReturn, Self

from durable_raft.checksum import ALGORITHM_CRC32C, crc32c, extend
from durable_raft.errors import CorruptRecord, UnknownFormatVersion
from durable_raft.kv.records import Record, StateSummary, order_key, record_crc
from durable_raft.storage.directory import sync_path
from durable_raft.storage.state.meta import KvMeta, pack_kv_meta, unpack_kv_meta

MAGIC: Final = b"DRbackup"
VERSION: Final = 1
PARTIAL: Final = ".partial"

PIECE_BYTES_MAX: Final = 1 << 30
"""Longest body that is believed; a single value may be 512 MiB."""

_HEAD: Final = struct.Struct(">BBHI")
_U32: Final = struct.Struct(">I")
_PIECE: Final = struct.Struct(">II")
_RECORD: Final = struct.Struct(">IIQI")
_END: Final = struct.Struct(">IQI")

Item = tuple[bytes, Record]


class Progress(NamedTuple):
    """How far a backup was written or read."""

    keys: int
    bytes_done: int


class BackupWriter:
    """Writes a backup; used as a context manager, which leaves nothing behind unless ``complete`` was called."""

    def __init__(self, path: Path, meta: KvMeta) -> None:
        """Begin ``path``, which must not be there, with a state described by ``meta``; raises OSError."""
        self._path = path
        self._partial = path.with_name(path.name + PARTIAL)
        self._meta = meta
        self._file: IO[bytes] = self._partial.open("wb")
        self._pieces = self._chain = 0
        self._summary = StateSummary()
        self._last: bytes | None = None
        packed = pack_kv_meta(meta)
        head = MAGIC + _HEAD.pack(VERSION, ALGORITHM_CRC32C, 0, len(packed)) + packed
        self._file.write(head + _U32.pack(crc32c(head)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._partial.unlink(missing_ok=True)

    @property
    def last_key(self) -> bytes | None:
        """The last key that was added; None before the first."""
        return self._last

    @property
    def progress(self) -> Progress:
        """What was written so far."""
        return Progress(self._summary.key_count, self._file.tell())

    def write_items(self, items: Sequence[Item]) -> None:
        """Write records, in the order of keys, behind those before.

        Raises:
            CorruptRecord: a checksum is wrong, or the order.
        """
        parts: list[bytes] = []
        count, expires, state_hash = self._summary
        for key, record in items:
            _check_item(f"{self._path}: received", key, record, self._last)
            self._last = key
            parts += (
                _RECORD.pack(len(key), len(record.value), record.deadline_ms, record.crc),
                key,
                bytes(record.value),
            )
            count, expires, state_hash = count + 1, expires + bool(record.deadline_ms), state_hash + record.crc
        self._summary = StateSummary(count, expires, state_hash)
        body = b"".join(parts)
        if body:
            crc = crc32c(body)
            self._file.write(_PIECE.pack(len(body), crc) + body)
            self._pieces, self._chain = self._pieces + 1, extend(self._chain, _U32.pack(crc))

    def complete(self) -> None:
        """Make the file whole, durable, and give it its name.

        Raises:
            CorruptRecord: the records are not those that the meta record announced.
        """
        if self._summary != self._meta.summary:
            raise CorruptRecord(f"{self._path}: received {self._summary}, expected {self._meta.summary}")
        end = _END.pack(0, self._pieces, self._chain)
        self._file.write(end + _U32.pack(crc32c(end)))
        self._file.close()
        sync_path(self._partial)
        self._partial.rename(self._path)
        sync_path(self._path.parent)


class BackupReader:
    """Reads a backup, verifying every byte; used as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open ``path``.

        Raises:
            CorruptRecord: it is no backup, or its head is damaged.
            UnknownFormatVersion: it is of a newer version.
            OSError: it cannot be read.
        """
        self._path = path
        self.size_bytes = path.stat().st_size
        self._file: IO[bytes] = path.open("rb")
        self._place = "head"
        try:
            self.meta = self._read_head()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def pieces(self, progress: Callable[[Progress], None] = lambda _: None) -> Iterator[list[Item]]:
        """Yield the records, piece by piece; when it ends, everything in the file was verified.

        Raises:
            CorruptRecord: naming the piece, the offset in the file, what was expected and what was found.
        """
        number = chain = 0
        summary = StateSummary()
        last: bytes | None = None
        while True:
            self._place = f"piece {number + 1} at offset {self._file.tell()}"
            (length,) = _U32.unpack(self._take(_U32.size))
            if not length:
                break
            items, crc = self._read_piece(length, last)
            number, chain, last = number + 1, extend(chain, _U32.pack(crc)), items[-1][0]
            summary = StateSummary(
                summary.key_count + len(items),
                summary.expires_count + sum(bool(record.deadline_ms) for _, record in items),
                summary.state_hash + sum(record.crc for _, record in items),
            )
            progress(Progress(summary.key_count, self._file.tell()))
            yield items
        self._read_end(number, chain, summary)

    # -- parts ----------------------------------------------------------------------------------------------------

    def _read_head(self) -> KvMeta:
        magic = self._file.read(len(MAGIC))
        if magic != MAGIC:
            self._raise(f"a backup begins with {MAGIC!r}", repr(magic))
        fixed = self._take(_HEAD.size)
        version, algorithm, zero, length = _HEAD.unpack(fixed)
        if length > self.size_bytes:
            self._raise(f"a meta record within {self.size_bytes} bytes", f"length {length}")
        packed = self._take(length)
        (crc,) = _U32.unpack(self._take(_U32.size))
        if (found := crc32c(magic + fixed + packed)) != crc:
            self._raise(f"crc {crc:#010x}", f"{found:#010x}")
        if (version, algorithm, zero) != (VERSION, ALGORITHM_CRC32C, 0):
            raise UnknownFormatVersion(f"{self._path}: backup version {version}; this build knows {VERSION}")
        return unpack_kv_meta("backup", packed)

    def _read_piece(self, length: int, last: bytes | None) -> tuple[list[Item], int]:
        (crc,) = _U32.unpack(self._take(_U32.size))
        if length > min(PIECE_BYTES_MAX, self.size_bytes):
            self._raise(f"a piece within {self.size_bytes} bytes", f"length {length}")
        body = self._take(length)
        if (found := crc32c(body)) != crc:
            self._raise(f"crc {crc:#010x}", f"{found:#010x}")
        items: list[Item] = []
        at = 0
        while at < length:
            if at + _RECORD.size > length:
                self._raise("whole records", f"{length - at} bytes left")
            key_bytes, value_bytes, deadline_ms, record = _RECORD.unpack_from(body, at)
            at += _RECORD.size
            end = at + key_bytes + value_bytes
            if end > length:
                self._raise("whole records", f"one of {key_bytes} and {value_bytes} bytes, {length - at} are left")
            key = body[at : at + key_bytes]
            items.append((key, Record(body[at + key_bytes : end], deadline_ms, record)))
            _check_item(f"{self._path}: {self._place}", key, items[-1][1], last)
            last, at = key, end
        return items, crc

    def _read_end(self, number: int, chain: int, summary: StateSummary) -> None:
        self._place = f"end at offset {self._file.tell() - _U32.size}"
        rest = self._take(_END.size - _U32.size)
        end = _U32.pack(0) + rest
        (crc,) = _U32.unpack(self._take(_U32.size))
        if (found := crc32c(end)) != crc:
            self._raise(f"crc {crc:#010x}", f"{found:#010x}")
        _, pieces, expected_chain = _END.unpack(end)
        if (pieces, expected_chain) != (number, chain):
            self._raise(f"{pieces} pieces, chain {expected_chain:#010x}", f"{number}, {chain:#010x}")
        if summary != self.meta.summary:
            self._raise(f"{self.meta.summary}", f"{summary}")
        if self._file.read(1):
            self._raise(f"the end of the file at {self._file.tell() - 1}", f"{self.size_bytes} bytes")

    def _take(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            self._raise(f"{count} bytes more", f"{len(data)}: the file is cut")
        return data

    def _raise(self, expected: str, found: str) -> NoReturn:
        raise CorruptRecord(f"{self._path}: {self._place}: expected {expected}, found {found}")


def _check_item(where: str, key: bytes, record: Record, last: bytes | None) -> None:
    found = record_crc(key, record.deadline_ms, record.value)
    if found != record.crc:
        raise CorruptRecord(f"{where}: key {key[:80]!r}: expected crc {record.crc:#010x}, found {found:#010x}")
    if last is not None and order_key(key) <= order_key(last):
        raise CorruptRecord(f"{where}: expected a key behind {last[:80]!r}, found {key[:80]!r}")
