"""Bugs planted in a recorded workload, by which the explorer itself is tested: each must be found.

Nothing of the program knows of them: they change, in the recorded process only, what it calls.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import lmdb

from durable_raft.raft.types import CONFIGURATION, Base, Configuration, Entry, Index
from durable_raft.raft.versions import FIRST
from durable_raft.storage.log import journal
from durable_raft.storage.log import plan as plans
from durable_raft.storage.log.journal_body import unpack_write
from durable_raft.storage.log.meta import Meta
from durable_raft.storage.log.plan import Plan

NO_FLUSH: Final = "no-flush"
NO_METASYNC: Final = "no-metasync"
NO_DIRECTORY_SYNC: Final = "no-directory-sync"
ACKNOWLEDGES_EARLY: Final = "acknowledges-early"
TWO_TRANSACTIONS: Final = "two-transactions"
IN_PLACE: Final = "in-place"
CONFIGURATION_LATER: Final = "configuration-later"
CONFIGURATION_KEPT: Final = "configuration-kept"
BASE_FORGETS: Final = "base-forgets"

BUGS: Final = {
    NO_FLUSH: "LMDB is opened with sync=False",
    NO_METASYNC: "LMDB is opened with metasync=False: the last transaction is not durable when it returns",
    NO_DIRECTORY_SYNC: "directories are not flushed",
    ACKNOWLEDGES_EARLY: "a transaction is promised before it is persisted",
    TWO_TRANSACTIONS: "term and vote are written in two transactions",
    IN_PLACE: "a log is created under its final name and not renamed to it",
    CONFIGURATION_LATER: "a configuration is noted one transaction after its entry",
    CONFIGURATION_KEPT: "a configuration counts on when its entry is cut",
    BASE_FORGETS: "compaction forgets the configuration that counts at the base",
}

JOURNAL_NO_FLUSH: Final = "journal-no-flush"
SPACE_REUSED: Final = "space-reused"
MARK_FIRST: Final = "mark-first"
CONFIGURATION_NOT_FLUSHED: Final = "configuration-not-flushed"
CHECKPOINT_NAMES_FORMER: Final = "checkpoint-names-former"
CHECKPOINT_FORGETS_VERSION: Final = "checkpoint-forgets-version"

JOURNAL_BUGS: Final = {
    JOURNAL_NO_FLUSH: "a group is written to the journal and not flushed",
    SPACE_REUSED: "the journal's space is used again before LMDB has what was there",
    MARK_FIRST: "LMDB names the next generation before the journal's header does",
    CONFIGURATION_NOT_FLUSHED: "a group with a configuration is written to the journal and not flushed",
}

NODE_BUGS: Final = {
    CHECKPOINT_NAMES_FORMER: "a checkpoint names the configuration before the one that counts at its place",
    CHECKPOINT_FORGETS_VERSION: "a checkpoint has the first version of the cluster, whatever it was raised to",
}
"""Of a node; the others are of the scripted workload."""


def plant(bug: str | None) -> None:
    """Break this process; those bugs that are in the order of calls are the workload's own to do."""
    if bug in _PLANTED:
        _PLANTED[bug]()


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


def _note_configurations_later() -> None:
    real = plans._configurations_after
    owed: list[Configuration] = []

    def broken(meta: Meta, plan: Plan) -> tuple[Configuration, ...]:
        found = real(replace(meta, configurations=(*meta.configurations, *owed)), plan)
        now = {entry.index for entry in plan.entries if entry.kind is CONFIGURATION}
        owed[:] = [each for each in found if each.index in now]
        return tuple(each for each in found if each.index not in now)

    plans._configurations_after = broken


def _keep_cut_configurations() -> None:
    real = plans.configurations_with

    def broken(
        stored: tuple[Configuration, ...], cut_from: Index | None, entries: Sequence[Entry]
    ) -> tuple[Configuration, ...]:
        del cut_from
        return real(stored, None, entries)

    plans.configurations_with = broken


def _forget_at_the_base() -> None:
    def broken(self: Meta, base: Base) -> Meta:
        kept = tuple(each for each in self.configurations if each.index > base.point.index)
        return replace(self, base=base, configurations=kept)

    Meta.behind = broken  # type: ignore[method-assign]


def _never_flush_configurations() -> None:
    real = journal.Journal.append

    def broken(self: journal.Journal, number: int, body: bytes) -> int:
        if all(entry.kind is not CONFIGURATION for entry in unpack_write(number, body).entries):
            return real(self, number, body)
        self._file.flush = lambda: None  # type: ignore[method-assign]
        total = real(self, number, body)
        del self._file.flush
        return total

    journal.Journal.append = broken  # type: ignore[method-assign]


def _name_former_in_checkpoints() -> None:
    from durable_raft.raft.core import Raft

    real = Raft.stored_configuration_at

    def broken(self: Raft, index: Index) -> Configuration | None:
        named = real(self, index)
        return None if named is None else real(self, Index(named.index - 1))

    Raft.stored_configuration_at = broken  # type: ignore[method-assign]


def _forget_version_in_checkpoints() -> None:
    from durable_raft.storage.state.store import LmdbKvStore

    real = LmdbKvStore.write_checkpoint

    def broken(self: LmdbKvStore, *args: Any, **kwargs: Any) -> Any:
        return real(self, *args, **(kwargs | {"version": FIRST}))

    LmdbKvStore.write_checkpoint = broken  # type: ignore[method-assign]


_PLANTED: Final[Mapping[str | None, Callable[[], None]]] = {
    NO_FLUSH: lambda: _open_lmdb_with(sync=False),
    NO_METASYNC: lambda: _open_lmdb_with(metasync=False),
    NO_DIRECTORY_SYNC: _skip_directories,
    IN_PLACE: _create_in_place,
    CONFIGURATION_LATER: _note_configurations_later,
    CONFIGURATION_KEPT: _keep_cut_configurations,
    BASE_FORGETS: _forget_at_the_base,
    JOURNAL_NO_FLUSH: _never_flush_journal,
    SPACE_REUSED: _reuse_space,
    MARK_FIRST: _name_generation_first,
    CONFIGURATION_NOT_FLUSHED: _never_flush_configurations,
    CHECKPOINT_NAMES_FORMER: _name_former_in_checkpoints,
    CHECKPOINT_FORGETS_VERSION: _forget_version_in_checkpoints,
}
