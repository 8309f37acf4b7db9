"""Bugs planted in a recorded workload, by which the explorer itself is tested: each must be found.

Nothing of the program knows of them: they change, in the recorded process only, what it calls.
"""

from __future__ import annotations

import os
import stat
from typing import Any, Final

import lmdb

from durable_raft.storage.log import journal

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

JOURNAL_NO_FLUSH: Final = "journal-no-flush"
SPACE_REUSED: Final = "space-reused"
MARK_FIRST: Final = "mark-first"

JOURNAL_BUGS: Final = {
    JOURNAL_NO_FLUSH: "a group is written to the journal and not flushed",
    SPACE_REUSED: "the journal's space is used again before LMDB has what was there",
    MARK_FIRST: "LMDB names the next generation before the journal's header does",
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
        case "journal-no-flush":
            _never_flush_journal()
        case "space-reused":
            _reuse_space()
        case "mark-first":
            _name_generation_first()


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


def _never_flush_journal() -> None:
    def broken(self: journal.DiskJournalFile) -> None:
        del self

    journal.DiskJournalFile.flush = broken  # type: ignore[method-assign]


def _reuse_space() -> None:
    real = journal.Journal.append

    def broken(self: journal.Journal, number: int, body: bytes) -> int:
        self._live.clear()
        return real(self, number, body)

    journal.Journal.append = broken  # type: ignore[method-assign]


def _name_generation_first() -> None:
    """The header is written, but a group goes before its flush, together with LMDB's mark."""
    real = journal.FoundJournal.begin

    def broken(self: journal.FoundJournal) -> journal.Journal:
        self._file.flush = lambda: None  # type: ignore[method-assign]
        begun = real(self)
        del self._file.flush
        return begun

    journal.FoundJournal.begin = broken  # type: ignore[method-assign]


def _create_in_place() -> None:
    from durable_raft.storage import directory

    directory._CREATING = ""  # type: ignore[misc]
