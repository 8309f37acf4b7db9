"""What is left in a data directory, whatever became of it: read in a child process, which damage may kill."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from durable_raft.kv.records import Record
from durable_raft.raft.configuration import describe_stored, stored_at
from durable_raft.raft.types import Entry, LogPoint
from durable_raft.storage.directory import KV, holds_environment
from durable_raft.storage.log.journal_format import JOURNAL
from durable_raft.storage.log.meta import Meta
from durable_raft.storage.log.reader import LogReader
from durable_raft.storage.log.records import entry_of
from durable_raft.storage.log.stored_log import kept_payload
from durable_raft.storage.state.meta import KvMeta
from durable_raft.storage.state.verify import verify_state
from durable_raft.storage.state.view import open_view
from durable_raft.storage.wounds import Wound, WoundedLog, WoundKind
from raftlog.gather import Unreadable, in_child

Piece = list[tuple[bytes, Record]]


@dataclass(slots=True)
class Survivor:
    """One directory of a cluster."""

    directory: Path
    meta: Meta
    points: dict[int, LogPoint] = field(default_factory=dict)
    """Who the entry at each index is, as far as a record tells."""
    entries: dict[int, Entry] = field(default_factory=dict)
    """The entries whose payload is intact."""
    wounds: int = 0
    is_end_lost: bool = False
    """Whether entries may have stood behind the last one that is known: pages, or groups of the journal, are lost, or
    what lies beside the log knows of more."""
    state: KvMeta | None = None
    """Which state lies beside the log, if all of it is sound."""
    notes: list[str] = field(default_factory=list)

    @property
    def node_id(self) -> str:
        """Whose it is."""
        return self.meta.identity.node_id

    @property
    def last(self) -> LogPoint:
        """The last entry that is known, or the base."""
        return self.points[max(self.points)] if self.points else self.meta.base.point


def read_survivor(directory: Path) -> Survivor:
    """Read all that can be read of ``directory``.

    Raises:
        Unreadable: its log cannot be read at all; the text says why.
    """
    survivor = in_child(partial(_read_log, directory))
    if not holds_environment(directory, KV):
        survivor.notes.append("no KV state")
        return survivor
    try:
        found = in_child(partial(verify_state, directory))
    except Unreadable as error:
        survivor.notes.append(f"the KV state cannot be read: {error}")
        return survivor
    if not found.is_sound:
        survivor.notes.append(f"the KV state is damaged: {len(found.wounds)} wounds, the first {found.wounds[0]}")
    elif found.meta is not None:
        survivor.state = found.meta
        _finish_installation(survivor, found.meta)
    return survivor


def _finish_installation(survivor: Survivor, state: KvMeta) -> None:
    """Take the log for what a start would make of it, where the state lies beyond it (server/start/recovery.py)."""
    point = state.applied.point
    if not _is_beyond(survivor, point):
        return
    if state.sequence > 1:
        survivor.is_end_lost = True
        survivor.notes.append(f"the state is the node's own at index {point.index}: the log is an older one")
        return
    committed = stored_at(survivor.meta.configurations, survivor.meta.standing.committed.index)
    if state.configuration.index < (0 if committed is None else committed.index):
        survivor.state = None
        survivor.notes.append(f"the state names {describe_stored(state.stored_configuration)}, which is too old")
        return
    survivor.notes.append(f"the state came as a snapshot at index {point.index}: the log counts as replaced by it")
    configurations = () if state.stored_configuration is None else (state.stored_configuration,)
    survivor.meta = replace(survivor.meta, base=state.applied, configurations=configurations)
    survivor.points.clear()


def _is_beyond(survivor: Survivor, point: LogPoint) -> bool:
    """Return whether the log ends before ``point``, or certainly has another entry there."""
    base = survivor.meta.base.point
    held = base if point.index == base.index else survivor.points.get(point.index)
    return point.index > survivor.last.index or (held is not None and held.term != point.term)


def _read_log(directory: Path) -> Survivor:
    with LogReader.open(directory) as reader:
        overview = reader.overview()
        if overview.meta is None:
            raise WoundedLog(overview.wounds)
        survivor = Survivor(directory, overview.meta)
        for walked in reader.walk():
            survivor.wounds += len(walked.wounds)
            survivor.is_end_lost |= any(_hides_the_end(wound) for wound in walked.wounds)
            ident = walked.ident
            if ident is None or walked.index <= overview.meta.base.point.index:
                continue
            payload = walked.payload
            if payload is None:
                payload = kept_payload(overview.meta.configurations, walked.index, ident)
            entry = entry_of(walked.index, ident, payload or b"")
            survivor.points[walked.index] = LogPoint(entry.index, entry.term, entry.chain)
            if payload is not None:
                survivor.entries[walked.index] = entry
    newest = overview.meta.configuration
    if newest.index > survivor.last.index:
        survivor.is_end_lost = True
        survivor.notes.append(f"the log ends at {survivor.last.index}, and had {describe_stored(newest)}")
    return survivor


def _hides_the_end(wound: Wound) -> bool:
    return wound.table == JOURNAL or wound.what is WoundKind.TREE


def pieces_of(directory: Path, piece_bytes: int = 4 << 20) -> Iterator[Piece]:
    """Yield the records of the state in ``directory``, in the order of keys; it was verified before."""
    with open_view(directory) as view:
        key = None
        while items := view.piece(key, piece_bytes):
            yield items
            key = items[-1][0]
