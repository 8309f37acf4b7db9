"""Bugs planted in a recorded workload, by which the explorer itself is tested: each must be found.

Nothing of the program knows of them: they change, in the recorded process only, what it calls.
"""

from __future__ import annotations

import os
import stat
from typing import Any, Final

import lmdb

NO_FLUSH: Final = "no-flush"
NO_METASYNC: Final = "no-metasync"
NO_DIRECTORY_SYNC: Final = "no-directory-sync"
ACKNOWLEDGES_EARLY: Final = "acknowledges-early"
TWO_TRANSACTIONS: Final = "two-transactions"
IN_PLACE: Final = "in-place"

BUGS: Final = {
    NO_FLUSH: "LMDB is opened with sync=False",
    NO_METASYNC: "LMDB is opened with metasync=False: the last transaction is not durable when it returns",
    NO_DIRECTORY_SYNC: "directories are not flushed",
    ACKNOWLEDGES_EARLY: "a transaction is promised before it is persisted",
    TWO_TRANSACTIONS: "term and vote are written in two transactions",
    IN_PLACE: "a log is created under its final name and not renamed to it",
}


def plant(bug: str | None) -> None:
    """Break this process; those bugs that are in the order of calls are the workload's own to do."""
    match bug:
        case "no-flush":
            _open_lmdb_with(sync=False)
        case "no-metasync":
            _open_lmdb_with(metasync=False)
        case "no-directory-sync":
            _skip_directories()
        case "in-place":
            _create_in_place()


def _open_lmdb_with(**options: bool) -> None:
    real = lmdb.open

    def broken(*args: Any, **kwargs: Any) -> Any:
        return real(*args, **(kwargs | options))

    lmdb.open = broken  # type: ignore[assignment]


def _skip_directories() -> None:
    real = os.fsync

    def broken(fd: int) -> None:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            real(fd)

    os.fsync = broken  # type: ignore[assignment]


def _create_in_place() -> None:
    from durable_raft.storage import directory

    directory._CREATING = ""  # type: ignore[misc]
