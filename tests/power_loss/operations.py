"""What a recorded process did to its files, one operation after the other, and the file such a recording is kept in.

Files and directories are numbered (``ROOT`` is the directory that was watched), so that a name may come and go while
the contents stay. An operation's ``number`` is its place in the recording; *cut* c is the moment after operations
[0, c).

A flush names the operations that it makes durable: those of its file that had ended before it began.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

ROOT: Final = 0
"""Inode of the directory under which everything was recorded; it was there, empty and durable, before."""

ABSENT: Final = "absent"
"""The state of a data directory without a log."""


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes into a file."""

    number: int
    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A new size, smaller or larger."""

    number: int
    inode: int
    size: int


@dataclass(frozen=True, slots=True)
class Link:
    """A new file, or a new directory, under a name."""

    number: int
    directory: int
    name: str
    inode: int
    is_directory: bool


@dataclass(frozen=True, slots=True)
class Unlink:
    """A name is gone; of a file or of an empty directory."""

    number: int
    directory: int
    name: str


@dataclass(frozen=True, slots=True)
class Rename:
    """A name for another, in place of what was there, in one step."""

    number: int
    source: int
    old: str
    target: int
    new: str


@dataclass(frozen=True, slots=True)
class Flush:
    """fsync, fdatasync, or the end of a write on a descriptor that syncs by itself; of a file or a directory."""

    number: int
    inode: int
    covers: tuple[int, ...]
    """Numbers of the operations that are durable from here on."""


@dataclass(frozen=True, slots=True)
class Marker:
    """What the process said at this place, with the time of its saying it: the beginning of the system call."""

    number: int
    kind: str
    """``submit``: a transaction is about to begin; ``promise``: it has been promised; ``reply``: OK to a client."""
    fields: Mapping[str, Any]


NameOperation: TypeAlias = Link | Unlink | Rename
Operation: TypeAlias = Write | Truncate | NameOperation | Flush | Marker

_KINDS: Final[Mapping[str, type[Operation]]] = {
    kind.__name__: kind for kind in (Write, Truncate, Link, Unlink, Rename, Flush, Marker)
}


@dataclass(frozen=True, slots=True)
class Recording:
    """One run, or several of the same directory, of a process."""

    source: str
    """``store`` or ``node``."""
    seed: int
    directory: str
    """The data directory, relative to the root."""
    operations: Sequence[Operation]
    reference: Mapping[str, Any] = field(default_factory=dict)
    """What the judge of the source needs beside the markers."""

    @property
    def is_node(self) -> bool:
        """Whether a KV state lies beside the log."""
        return self.source == "node"

    @property
    def flushes(self) -> int:
        """Number of flushes."""
        return sum(isinstance(operation, Flush) for operation in self.operations)


def save(path: Path, recording: Recording, images: Sequence[Mapping[str, Any]]) -> None:
    """Write a recording, with the choices that make some of its images, to one compressed file."""
    value = {
        "source": recording.source,
        "seed": recording.seed,
        "directory": recording.directory,
        "reference": recording.reference,
        "operations": [[type(each).__name__, *map(_packed, astuple(each))] for each in recording.operations],
        "images": images,
    }
    path.write_bytes(gzip.compress(json.dumps(value).encode(), mtime=0))


def load(path: Path) -> tuple[Recording, list[dict[str, Any]]]:
    """Read what ``save`` wrote."""
    value = json.loads(gzip.decompress(path.read_bytes()))
    operations = [_unpacked(*fields) for fields in value["operations"]]
    recording = Recording(value["source"], value["seed"], value["directory"], operations, value["reference"])
    return recording, value["images"]


def _packed(value: object) -> object:
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def _unpacked(kind: str, *fields: Any) -> Operation:
    if kind == "Write":
        number, inode, offset, data = fields
        return Write(number, inode, offset, bytes.fromhex(data["hex"]))
    if kind == "Flush":
        return Flush(fields[0], fields[1], tuple(fields[2]))
    return _KINDS[kind](*fields)


def described(operation: Operation) -> str:
    """Return one line about an operation."""
    match operation:
        case Write(number, inode, offset, data):
            return f"{number}: write file {inode} [{offset}, {offset + len(data)})"
        case Flush(number, inode, covers):
            return f"{number}: flush {inode}, covering {', '.join(map(str, covers)) or 'nothing'}"
        case Marker(number, kind, fields):
            return f"{number}: {kind} {json.dumps(fields)[:160]}"
    return f"{operation.number}: {operation}"
