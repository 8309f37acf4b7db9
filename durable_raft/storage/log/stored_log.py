"""From a verified walk of the log to what the core starts from, or to the list of everything that is wrong.

Two kinds of wounds do not stop a log: a rotten payload whose ident is valid (the entry is *lost*, and other nodes may
have it), and a rotten ident whose log record is valid and fits the chain on both sides (it is *rebuilt* from that). The
payload of a configuration is in meta as well: its entry is never lost by itself, but rebuilt.
"""

from __future__ import annotations

from collections.abc import Iterable

from durable_raft.raft.configuration import encode
from durable_raft.raft.types import (
    CONFIGURATION,
    Base,
    Configuration,
    Index,
    LogPoint,
    LostEntry,
    StoredLog,
    Term,
    entry_crc,
)
from durable_raft.storage.log.meta import Meta
from durable_raft.storage.log.records import IDENT, LOG, IdentRecord, entry_of
from durable_raft.storage.log.walk import LogWalk, Walked
from durable_raft.storage.wounds import Wound, WoundKind, raise_wounds

_OF_ONE_RECORD = frozenset({WoundKind.CHECKSUM, WoundKind.SHAPE, WoundKind.MISSING, WoundKind.DISAGREES})
"""Wounds that say nothing against the entries around."""


class StoredLogBuilder:
    """Collects one pass over the log."""

    def __init__(self, meta: Meta) -> None:
        self._meta = meta
        self._last = meta.base
        self._term_starts: list[tuple[Index, Term]] = []
        self.wounds: list[Wound] = []
        """Those that stop a log."""
        self.healable: list[Wound] = []
        """Those that do not."""
        self._lost: list[Walked] = []
        self._rebuilt: list[Walked] = []

    def take_walked(self, walked: Iterable[Walked]) -> None:
        """Take every entry of the walk."""
        term = None
        last = None
        for last in walked:
            if last.wounds:
                self._take_wounded(last)
            if last.ident is not None and last.ident.term != term:
                term = last.ident.term
                self._term_starts.append((Index(last.index), Term(term)))
        if last is not None and (ident := last.ident) is not None:
            self._last = Base(LogPoint(Index(last.index), Term(ident.term), ident.chain), ident.timestamp_ms)

    def _take_wounded(self, walked: Walked) -> None:
        tables = {wound.table for wound in walked.wounds}
        in_place = all(wound.index == walked.index and wound.what in _OF_ONE_RECORD for wound in walked.wounds)
        if in_place and walked.ident is not None and len(tables) == 1:
            self.healable += walked.wounds
            if walked.payload is None:
                walked.payload = kept_payload(self._meta.configurations, walked.index, walked.ident)
            (self._lost if walked.payload is None else self._rebuilt).append(walked)
        else:
            self.wounds += walked.wounds

    def check_counts(self, walk: LogWalk, *, idents: int, pieces: int) -> None:
        """Compare what was walked with the counts that the tree keeps: a whole page may have gone missing."""
        for table, expected, found in ((IDENT, idents, walk.idents), (LOG, pieces, walk.pieces)):
            if expected != found:
                self.wounds.append(Wound(table, None, None, f"{expected} records", f"{found}", WoundKind.TREE))

    def build(self) -> tuple[StoredLog, Base]:
        """Return what is stored, and the last entry with its timestamp.

        Raises:
            WoundedLog: with every wound, when one of them stops the log.
            NewerFormat: a record is of a newer format.
        """
        if self.wounds:
            raise_wounds([*self.wounds, *self.healable])
        point = self._last.point
        lost = [(Index(each.index), each.ident) for each in self._lost]
        stored = StoredLog(
            self._meta.hard_state,
            self._meta.base.point,
            point,
            self._last.timestamp_ms,
            tuple(self._term_starts),
            self._meta.base.timestamp_ms,
            self._meta.standing,
            tuple(LostEntry(index, Term(ident.term), ident.crc, ident.chain) for index, ident in lost if ident),
            tuple(entry_of(each.index, each.ident, each.payload or b"") for each in self._rebuilt if each.ident),
            self._meta.configurations,
        )
        return stored, self._last


def kept_payload(configurations: Iterable[Configuration], index: int, ident: IdentRecord) -> bytes | None:
    """Return the payload of the entry that ``ident`` tells of, if it is one of ``configurations`` that meta keeps.

    None unless it gives the entry's checksum.
    """
    for each in configurations:
        if each.index == index and ident.kind == CONFIGURATION:
            payload = encode(each)
            crc = entry_crc(index, ident.term, ident.kind, ident.timestamp_ms, payload)
            return payload if crc == ident.crc else None
    return None
