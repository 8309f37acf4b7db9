"""What a power cut may leave: the model of a disk and of the file system on it.

The rules, each at least as hard as what real systems do:

- What a flush covered is on the disk. A descriptor opened with O_DSYNC flushes the pages of its own write, and nothing
  else of the file. Flushing a file does not make its name durable; only flushing the directory does.
- Writes that are not flushed may each be kept, dropped or torn, in any combination and whatever their order. A tear
  goes between sectors of 512 bytes (devices) or pages of 4096 (page cache); a sector itself is written whole or not at
  all. LMDB rests on that: its meta page is 120 bytes inside one sector.
- Where writes overlap the later one wins, because both went through one page of the cache.
- A file grows with the writes that were kept (ext4 data=ordered, XFS, Btrfs), or, in images of the kind ``extended``,
  has its new size with zeros in it although the bytes were lost (ext4 data=writeback).
- Names: a journal (ext4, XFS) keeps some prefix of the changes since the last flush; Btrfs, or a system without
  journal, may lose any of them by itself. Both are tried. A rename is one step in all of them.

Most systems promise more: ext4 and XFS make a new file's name durable with its first fsync, and write all names before
when a directory is flushed. Nothing here relies on it. Not modelled: a device that confirms a flush and forgets, bytes
that change by themselves, a sector torn in its middle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, TypeAlias

from tests.power_loss.operations import (
    ROOT,
    Flush,
    Link,
    Marker,
    NameOperation,
    Operation,
    Rename,
    Truncate,
    Unlink,
    Write,
)

SECTOR: Final = 512
PAGE: Final = 4096
ALL: Final = -1
"""A choice that keeps every piece."""

WITHOUT_MEANING: Final = ("LOCK", "lock.mdb")
"""Files whose bytes recovery must not depend on: not told apart, and filled with rubbish in half of the images."""


@dataclass(frozen=True)
class PendingWrite:
    """A write that is not flushed, in pieces that do not cross a sector."""

    number: int
    pieces: tuple[tuple[int, bytes], ...]
    """(offset, bytes), ascending."""

    @cached_property
    def pages(self) -> tuple[int, ...]:
        """The page of each piece."""
        return tuple(offset // PAGE for offset, _ in self.pieces)

    @cached_property
    def whole(self) -> tuple[int, bytes] | None:
        """(offset, bytes) of all pieces together, None when they have gaps."""
        offset = self.pieces[0][0]
        data = b"".join(piece for _, piece in self.pieces)
        return (offset, data) if offset + len(data) == self.end else None

    @property
    def end(self) -> int:
        """Where the last piece ends."""
        offset, data = self.pieces[-1]
        return offset + len(data)


@dataclass(frozen=True)
class PendingTruncate:
    """A change of size that is not flushed."""

    number: int
    size: int


Pending: TypeAlias = PendingWrite | PendingTruncate


@dataclass(frozen=True)
class FileState:
    """A file: what is certainly on the disk, and what may be."""

    base: bytes = b""
    pending: tuple[Pending, ...] = ()

    @cached_property
    def touched(self) -> frozenset[int]:
        """Pages that a pending write goes to."""
        return frozenset(page for each in self.pending if isinstance(each, PendingWrite) for page in each.pages)

    @cached_property
    def rest_digest(self) -> int:
        """Digest of the pages that no pending write goes to."""
        pages = range((len(self.base) + PAGE - 1) // PAGE)
        return _digest_of(self.base, (page for page in pages if page not in self.touched))


@dataclass(frozen=True)
class PendingName:
    """A change of names that is not flushed in each of ``directories``."""

    operation: NameOperation
    directories: frozenset[int]

    @property
    def number(self) -> int:
        """Number of the operation."""
        return self.operation.number


@dataclass(frozen=True)
class Snapshot:
    """Everything at one cut: what is durable, and what is pending in the order in which it was done."""

    cut: int
    files: Mapping[int, FileState]
    directories: Mapping[int, Mapping[str, int]]
    """Durable entries; every directory that was ever made has some, reachable or not."""
    names: tuple[PendingName, ...]
    meaningless: frozenset[int]
    """Files of the names ``WITHOUT_MEANING``."""

    @cached_property
    def writes(self) -> list[Pending]:
        """Pending changes of files that have a meaning, in their order."""
        states = (state for inode, state in self.files.items() if inode not in self.meaningless)
        return sorted((each for state in states for each in state.pending), key=lambda each: each.number)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of the pending operations the power cut spared."""

    kept: Mapping[int, int]
    """Number of an operation -> bit mask of its pieces, ``ALL`` for all; one that is not there was lost."""
    is_extended: bool = False
    """Whether files have the size that lost writes would have given them."""


@dataclass(frozen=True, slots=True)
class Image:
    """What a power cut left."""

    directories: tuple[str, ...]
    """Paths relative to the root, parents first."""
    files: tuple[tuple[str, bytes], ...]
    digest: bytes = field(compare=False)
    """Equal for images that do not differ in anything that has a meaning."""


def replay(operations: Sequence[Operation]) -> list[Snapshot]:
    """Return the snapshot of every cut: one before the first operation and one after each."""
    return list(snapshots_of(operations))


def snapshots_of(operations: Sequence[Operation]) -> Iterator[Snapshot]:
    """Yield what ``replay`` returns, one at a time: files may be large."""
    snapshot = Snapshot(0, {}, {ROOT: {}}, (), frozenset())
    yield snapshot
    for operation in operations:
        snapshot = replace(_after(snapshot, operation), cut=operation.number + 1)
        yield snapshot


def _after(snapshot: Snapshot, operation: Operation) -> Snapshot:
    match operation:
        case Marker():
            return snapshot
        case Flush(inode=inode) if inode in snapshot.directories:
            return _flush_names(snapshot, operation)
        case Write(number, inode, offset, data):
            if not data:
                return snapshot
            return _with_pending(snapshot, inode, PendingWrite(number, tuple(_pieces(offset, data))))
        case Truncate(number, inode, size):
            return _with_pending(snapshot, inode, PendingTruncate(number, size))
        case Flush(inode=inode, covers=covers):
            return replace(snapshot, files={**snapshot.files, inode: flushed(snapshot.files[inode], covers)})
        case Link(directory=directory, name=name, inode=inode, is_directory=is_directory):
            pending = PendingName(operation, frozenset({directory}))
            made = replace(snapshot, names=(*snapshot.names, pending))
            if is_directory:
                return replace(made, directories={**made.directories, inode: {}})
            meaningless = made.meaningless | {inode} if name in WITHOUT_MEANING else made.meaningless
            return replace(made, files={**made.files, inode: FileState()}, meaningless=meaningless)
        case Unlink(directory=directory):
            return replace(snapshot, names=(*snapshot.names, PendingName(operation, frozenset({directory}))))
        case Rename(source=source, target=target):
            return replace(snapshot, names=(*snapshot.names, PendingName(operation, frozenset({source, target}))))


def _pieces(offset: int, data: bytes) -> Iterable[tuple[int, bytes]]:
    end = offset + len(data)
    start = offset
    while start < end:
        stop = min(end, (start // SECTOR + 1) * SECTOR)
        yield start, data[start - offset : stop - offset]
        start = stop


def _with_pending(snapshot: Snapshot, inode: int, pending: Pending) -> Snapshot:
    state = snapshot.files[inode]
    changed = FileState(state.base, (*state.pending, pending))
    return replace(snapshot, files={**snapshot.files, inode: changed})


def flushed(state: FileState, covers: Sequence[int]) -> FileState:
    """Return the file after a flush of the operations ``covers``.

    What was written before to the same pages goes with them: a page of the cache is written as it is. A change of size
    before one of them does, too.
    """
    numbers = frozenset(covers)
    newest = max(numbers, default=-1)
    covered = [each for each in state.pending if isinstance(each, PendingWrite) and each.number in numbers]
    pages = {page for each in covered for page in each.pages}
    base = bytearray(state.base)
    left: list[Pending] = []
    for each in state.pending:
        if not isinstance(each, PendingWrite):
            if each.number < newest or each.number in numbers:
                _resize(base, each.size)
            else:
                left.append(each)
            continue
        is_earlier = each.number <= newest
        gone = [is_earlier and page in pages for page in each.pages]
        for (offset, data), is_gone in zip(each.pieces, gone, strict=True):
            if is_gone:
                _put(base, offset, data)
        if not all(gone):
            kept = tuple(piece for piece, is_gone in zip(each.pieces, gone, strict=True) if not is_gone)
            left.append(replace(each, pieces=kept) if len(kept) < len(each.pieces) else each)
    return FileState(bytes(base), tuple(left))


def _flush_names(snapshot: Snapshot, flush: Flush) -> Snapshot:
    left: list[PendingName] = []
    durable = snapshot.directories
    for pending in snapshot.names:
        directories = pending.directories
        if pending.number in flush.covers:
            directories -= {flush.inode}
        if directories:
            left.append(replace(pending, directories=directories))
        else:
            durable = applied(durable, pending.operation)
    return replace(snapshot, directories=durable, names=tuple(left))


def applied(directories: Mapping[int, Mapping[str, int]], operation: NameOperation) -> Mapping[int, Mapping[str, int]]:
    """Return the entries after a change of names; unchanged when what it builds on was lost."""
    match operation:
        case Link(directory=directory, name=name, inode=inode):
            return {**directories, directory: {**directories[directory], name: inode}}
        case Unlink(directory=directory, name=name):
            left = {key: inode for key, inode in directories[directory].items() if key != name}
            return {**directories, directory: left}
        case Rename(source=source, old=old, target=target, new=new):
            if old not in directories[source]:
                return directories
            inode = directories[source][old]
            without = {key: value for key, value in directories[source].items() if key != old}
            moved = {**directories, source: without}
            return {**moved, target: {**moved[target], new: inode}}


# -- images ----------------------------------------------------------------------------------------------------


def build(snapshot: Snapshot, choice: Choice) -> Image:
    """Return what is left when a power cut at ``snapshot`` spares ``choice``."""
    entries = snapshot.directories
    for pending in snapshot.names:
        if choice.kept.get(pending.number):
            entries = applied(entries, pending.operation)
    directories: list[str] = []
    files: list[tuple[str, bytes]] = []
    whole = hashlib.blake2b(digest_size=16)
    places = [("", ROOT)]
    while places:
        path, inode = places.pop()
        if inode in entries:
            if path:
                directories.append(path)
                whole.update(f"{path}/\n".encode())
            names = sorted(entries[inode].items(), reverse=True)
            places += [(f"{path}/{name}" if path else name, child) for name, child in names]
            continue
        state = snapshot.files[inode]
        data = content(state, choice)
        files.append((path, data))
        digest = 0 if inode in snapshot.meaningless else _file_digest(state, data)
        size = 0 if inode in snapshot.meaningless else len(data)
        whole.update(f"{path} {size} {digest}\n".encode())
    return Image(tuple(directories), tuple(files), whole.digest())


def content(state: FileState, choice: Choice) -> bytes:
    """Return the bytes of a file when a power cut spares ``choice``."""
    if not state.pending:
        return state.base
    data = bytearray(state.base)
    for each in state.pending:
        mask = choice.kept.get(each.number, 0)
        if isinstance(each, PendingTruncate):
            if mask:
                _resize(data, each.size)
            continue
        if choice.is_extended and each.end > len(data):
            _resize(data, each.end)
        if mask == ALL and each.whole is not None:
            _put(data, *each.whole)
        elif mask:
            for bit, (offset, piece) in enumerate(each.pieces):
                if mask >> bit & 1:
                    _put(data, offset, piece)
    return bytes(data)


def _put(data: bytearray, offset: int, piece: bytes) -> None:
    if offset > len(data):
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(piece)] = piece


def _resize(data: bytearray, size: int) -> None:
    if size < len(data):
        del data[size:]
    else:
        data.extend(bytes(size - len(data)))


def _file_digest(state: FileState, data: bytes) -> int:
    """Return the digest of a file's bytes; only the pages that may have changed are looked at."""
    if any(isinstance(each, PendingTruncate) for each in state.pending):
        return _digest_of(data, range((len(data) + PAGE - 1) // PAGE))
    return state.rest_digest ^ _digest_of(data, state.touched)


def _digest_of(data: bytes, pages: Iterable[int]) -> int:
    """Return the sum (exclusive or) of the digests of pages; one of zeros, or beyond the end, counts nothing."""
    digest = 0
    for page in pages:
        if piece := data[page * PAGE : (page + 1) * PAGE].rstrip(b"\0"):
            key = page.to_bytes(8, "big")
            digest ^= int.from_bytes(hashlib.blake2b(piece, digest_size=16, key=key).digest(), "big")
    return digest
