"""LMDB environments: with which options they are opened, and how much room is left.

Options, each with what would be lost without it: ``sync`` and ``metasync`` (a commit that returned survives a power
cut), no ``writemap`` (a full disk is an error and not SIGBUS), ``lib_version=0`` (LMDB 0.9 whatever the process
environment says; the formats of 0.9 and 1.0 do not read each other). ``readahead`` only where a file is walked from
its beginning: single records of a large file would each pull in their surroundings.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import lmdb

from durable_raft.errors import CorruptRecord, DirectoryRefused, StoragePoisoned
from durable_raft.storage.directory import DATA_FILE, RAFT, require_environment
from durable_raft.storage.preflight import check_data_file
from durable_raft.storage.wounds import Wound, WoundKind

if TYPE_CHECKING:
    from lmdb import Environment, Transaction, _Database

MAP_BYTES: Final = 64 << 30
"""Default size of the map: address space and a sparse bound of the file, not memory. Never changed while open."""

PINNED_BYTES_MAX: Final = 256 << 20
"""How much a file may grow under one reader in any case."""

READERS_MAX: Final = 512
"""Reader slots: the node's own, and one for each tool that looks at a running node."""

_TABLES_MAX: Final = 8
"""Named tables that one environment may have; the log and the KV state have four each."""

_READER_WORDS: Final = 3
"""Of a line in LMDB's list of readers: process id, thread, transaction, or "-" for one that reads nothing."""

_FREE_PER_PAGE: Final = 500
"""Page numbers that one page of LMDB's own list of free pages holds, a little under 4096 / 8."""


class NamedTables(Protocol):
    """Handles of the tables of some environment."""

    def named(self) -> Mapping[str, _Database]:
        """Return the handles by the names of the tables."""


@dataclass(frozen=True, slots=True)
class Room:
    """Room in the map and on the disk."""

    used_bytes: int
    """Pages of the map in use; the rest of the file is free for reuse."""
    file_bytes: int
    """Pages of the map ever used: the size of the file, which never shrinks."""
    map_bytes: int
    disk_free_bytes: int
    """Free on the file system for this user."""
    owned_bytes: int = field(default=0, kw_only=True)
    """Allocated behind the end of the file, so that nobody else can take it (headroom.py)."""

    def has_grown(self, since_bytes: int) -> bool:
        """Return whether the file has grown so much since a reader began that it must not read on.

        The pages that it sees cannot be used again. It may cost as much again as what is in use, and a quarter of a
        gigabyte where that is little.
        """
        return self.file_bytes - since_bytes > max(PINNED_BYTES_MAX, self.used_bytes)

    @property
    def writable_bytes(self) -> int:
        """Bytes that can still be written: bounded by the map, and by the disk plus what the file owns or can reuse."""
        on_disk = self.disk_free_bytes + self.owned_bytes
        return min(self.map_bytes - self.used_bytes, on_disk + self.file_bytes - self.used_bytes)


def open_environment(
    path: Path, *, map_bytes: int, create: bool = False, readonly: bool = False, readahead: bool = True
) -> Environment:
    """Open the environment with the options of the module docstring.

    Raises:
        CorruptRecord: LMDB refuses what is in the file.
        DirectoryRefused: the file cannot be opened: permissions, no memory for the map, open in this process already.
    """
    try:
        environment = lmdb.open(
            str(path),
            map_size=map_bytes,
            subdir=True,
            readonly=readonly,
            metasync=True,
            sync=True,
            mode=0o644,
            create=create,
            readahead=readahead,
            writemap=False,
            max_readers=READERS_MAX,
            max_dbs=_TABLES_MAX,
            max_spare_txns=2,
            lock=True,
            lib_version=0,
        )
    except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.VersionMismatchError) as error:
        raise CorruptRecord(f"{path}: {error}") from error
    except lmdb.Error as error:
        raise DirectoryRefused(f"{path}: {error}") from error
    if environment.lib_version()[:2] != (0, 9):
        environment.close()
        raise CorruptRecord(f"{path}: opened by LMDB {environment.lib_version()}, expected 0.9")
    return environment


def open_read_only(directory: Path, name: str = RAFT) -> Environment:
    """Open an environment of a data directory without its lock, also while a node runs on it.

    Raises:
        DirectoryRefused: there is none.
        CorruptRecord: its meta pages are damaged.
        UnknownFormatVersion: a data file of another LMDB format.
    """
    path = require_environment(directory, name)
    check_data_file(path, is_live=True)
    return open_environment(path, map_bytes=readable_map_bytes(path), readonly=True)


def readable_map_bytes(path: Path) -> int:
    """Return how large a map to read a file with: room for what a node adds meanwhile, if the address space has it."""
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space == resource.RLIM_INFINITY:
        return MAP_BYTES
    return (path / DATA_FILE).stat().st_size


def open_handles(environment: Environment, names: Sequence[str], *, create: bool = False) -> list[_Database]:
    """Open tables by their names.

    Raises:
        CorruptRecord: one is missing, or LMDB cannot walk to it.
        StoragePoisoned: one that was to be created could not be written.
    """
    handles = []
    for name in names:
        try:
            handles.append(environment.open_db(name.encode(), create=create))
        except lmdb.Error as error:
            kind = StoragePoisoned if create else CorruptRecord
            raise kind(f"{environment.path()}: table {name}: {error}") from error
    return handles


def tree_wound(table: str, error: lmdb.Error) -> Wound:
    """Return the wound for an error with which LMDB gave up a walk."""
    return Wound(table, None, None, "pages that LMDB can walk", str(error), WoundKind.TREE)


def measure(environment: Environment, transaction: Transaction[bytes], tables: NamedTables) -> tuple[int, int, int]:
    """Return (used_bytes, file_bytes, map_bytes) as in ``Room``."""
    info = environment.info()
    main = transaction.stat()
    pages = 2
    for stat in (main, *(transaction.stat(table) for table in tables.named().values())):
        pages += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
    ever_used = info["last_pgno"] + 1
    pages += (ever_used - pages) // _FREE_PER_PAGE + 1
    page_bytes = main["psize"]
    return pages * page_bytes, ever_used * page_bytes, info["map_size"]


def readers_of(environment: Environment) -> dict[int, int]:
    """Free the places of readers whose process has died; return how many transactions each other process is behind."""
    environment.reader_check()
    newest = int(environment.info()["last_txnid"])
    found: dict[int, int] = {}
    for line in environment.readers().splitlines()[1:]:
        words = line.split()
        if len(words) == _READER_WORDS and words[2].isdigit():
            pid, behind = int(words[0]), newest - int(words[2])
            found[pid] = max(behind, found.get(pid, 0))
    return found


def disk_free_bytes(path: Path) -> int:
    """Return what is free on the file system of ``path`` for this user."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
