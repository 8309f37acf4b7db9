"""From a verified walk of the log to what the core starts from, or to the list of everything that is wrong."""

from __future__ import annotations

from collections.abc import Iterable

from durable_raft.raft.types import Base, Index, LogPoint, StoredLog, Term
from durable_raft.storage.meta import Meta
from durable_raft.storage.records import IDENT, LOG
from durable_raft.storage.walk import LogWalk, Walked
from durable_raft.storage.wounds import Wound, WoundKind, raise_wounds


class StoredLogBuilder:
    """Collects one pass over the log."""

    def __init__(self, meta: Meta) -> None:
        self._meta = meta
        self._last = meta.base
        self._term_starts: list[tuple[Index, Term]] = []
        self.wounds: list[Wound] = []

    def take(self, walked: Iterable[Walked]) -> None:
        """Take every entry of the walk."""
        term = None
        last = None
        for last in walked:
            if last.wounds:
                self.wounds += last.wounds
            if last.ident is not None and last.ident.term != term:
                term = last.ident.term
                self._term_starts.append((Index(last.index), Term(term)))
        if last is not None and (ident := last.ident) is not None:
            self._last = Base(LogPoint(Index(last.index), Term(ident.term), ident.chain), ident.timestamp_ms)

    def check_counts(self, walk: LogWalk, *, idents: int, pieces: int) -> None:
        """Compare what was walked with the counts that the tree keeps: a whole page may have gone missing."""
        for table, expected, found in ((IDENT, idents, walk.idents), (LOG, pieces, walk.pieces)):
            if expected != found:
                self.wounds.append(Wound(table, None, None, f"{expected} records", f"{found}", WoundKind.TREE))

    def finish(self) -> tuple[StoredLog, Base]:
        """Return what is stored, and the last entry with its timestamp.

        Raises:
            WoundedLog: with every wound.
            NewerFormat: a record is of a newer format.
        """
        if self.wounds:
            raise_wounds(self.wounds)
        point = self._last.point
        stored = StoredLog(
            self._meta.hard_state,
            self._meta.base.point,
            point,
            self._last.timestamp_ms,
            tuple(self._term_starts),
            self._meta.base.timestamp_ms,
        )
        return stored, self._last
