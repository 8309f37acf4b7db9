"""The quick trial: a damaged directory is opened as a node does when it starts, and all that it would serve is read.

In a child process, because damage may kill the one that maps it: then the trial has failed, as a node never opens what
it has not looked at. Every entry and every value read must be right, or be told as lost; afterwards the log is written.
"""

from __future__ import annotations

import logging
import os
import signal
import traceback
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from durable_raft.errors import CorruptRecord, DirectoryRefused, UnknownFormatVersion
from durable_raft.raft.configuration import describe_stored, stored_at
from durable_raft.raft.ready import Write
from durable_raft.raft.types import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Index,
    LogPoint,
    StoredLog,
    make_entry,
)
from durable_raft.server.settings.config import NodeConfig
from durable_raft.server.start.opening import open_node
from durable_raft.server.start.recovery import NodeData
from durable_raft.storage.isolation import KilledBySignal, told_by_child
from durable_raft.storage.state.state_store import StateStore

SECONDS_MAX = 60
FAILURES = ("wrong", "went back", "killed", "traceback", "hangs", "lost")
"""Outcomes that no damage may have; all others are lawful."""


@dataclass(slots=True)
class Truth:
    """What the undamaged directory holds."""

    hard_state: HardState
    base: Index
    last: LogPoint
    configurations: tuple[Configuration, ...]
    """The one at the base, and those of the entries."""
    entries: dict[int, Entry]
    applied: int
    """Index at which the checkpoint was taken."""
    values: dict[bytes, bytes]
    """Of the checkpoint."""


def truth_of(config: NodeConfig) -> Truth:
    """Read an undamaged directory."""
    data = open_node(config)
    try:
        stored = data.stored
        entries = {index: _entry(data, index) for index in range(stored.base.index + 1, stored.last.index + 1)}
        assert data.kv is not None
        applied = data.kv.checkpoint.applied.point.index
        return Truth(
            stored.hard_state, stored.base.index, stored.last, stored.configurations, entries, applied, _values(data.kv)
        )
    finally:
        _close(data)


def outcome_of(config: NodeConfig, truth: Truth) -> str:
    """Return what became of a damaged directory: a word of the table, and for a failure what was seen."""
    try:
        return told_by_child(lambda: _child(config, truth))
    except KilledBySignal as killed:
        if killed.signal_number == signal.SIGALRM:
            return f"hangs for {SECONDS_MAX} s"
        return f"killed by {signal.Signals(killed.signal_number).name}"


def _child(config: NodeConfig, truth: Truth) -> str:
    logging.disable(logging.CRITICAL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signal.alarm(SECONDS_MAX)
    try:
        return _outcome(config, truth)
    except BaseException:
        return f"traceback: {traceback.format_exc()[-2500:]}"


def _outcome(config: NodeConfig, truth: Truth) -> str:
    try:
        data = open_node(config)
    except (CorruptRecord, DirectoryRefused, UnknownFormatVersion) as error:
        return f"refused: {error}" if str(error) else "wrong: refused without a reason"
    if any(path.name.startswith("wounded-") for path in config.directory.iterdir()):
        return "directory set aside" if not data.stored.standing.is_voter else "wrong: a new disk that is a voter"
    stored = data.stored
    if (stored.hard_state, stored.last) != (truth.hard_state, truth.last):
        return f"went back to {stored.hard_state} {stored.last} from {truth.hard_state} {truth.last}"
    if stored.configurations != truth.configurations:
        return f"wrong: goes by {_told(stored.configurations)} and not by {_told(truth.configurations)}"
    if (wrong := _wrong_entry(data, truth)) is not None:
        return f"wrong: entry {wrong}"
    if (named := _wrong_configuration(data, truth)) is not None:
        return f"wrong: {named}"
    is_aside = data.kv is None or any(path.name.startswith("kv.wounded-") for path in config.directory.iterdir())
    is_older = data.kv is not None and data.kv.checkpoint.applied.point.index < truth.applied
    if data.kv is not None and not is_aside and not is_older and _values(data.kv) != truth.values:
        return "wrong: values of the state"
    if (problem := _write(data)) is not None:
        return problem
    if is_aside:
        return "state set aside"
    if is_older:
        return "an older state, from which the log goes on"
    if stored.lost:
        return "entries to be healed"
    return "mended, or nothing that is in use"


def _wrong_entry(data: NodeData, truth: Truth) -> int | None:
    """Return an index at which something else is read than was written; None when there is none."""
    stored = data.stored
    lost = {each.index for each in stored.lost}
    for index in range(stored.base.index + 1, stored.last.index + 1):
        if index not in lost and index in truth.entries and _entry(data, index) != truth.entries[index]:
            return index
    return None


def _wrong_configuration(data: NodeData, truth: Truth) -> str | None:
    """Return which configuration the state names that the log does not have at its place; None when it has."""
    if data.kv is None:
        return None
    checkpoint = data.kv.checkpoint
    named, there = checkpoint.stored_configuration, stored_at(truth.configurations, checkpoint.applied.point.index)
    return None if named == there else f"the state names {describe_stored(named)} and not {describe_stored(there)}"


def _told(configurations: Sequence[Configuration]) -> str:
    return ", ".join(map(describe_stored, configurations)) or describe_stored(None)


def _entry(data: NodeData, index: int) -> Entry:
    (entry,) = data.log_store.entries(Index(index), Index(index + 1), 0)
    return entry


def _values(kv: StateStore) -> dict[bytes, bytes]:
    """Read every key, by walking and by asking for it."""
    found: dict[bytes, bytes] = {}
    with closing(kv.view()) as view:
        key = None
        while items := view.piece(key, 1 << 16):
            found.update((each, bytes(record.value)) for each, record in items)
            key = items[-1][0]
        for each, value in found.items():
            record = view.get(each)
            assert record is not None
            assert record.value == value
    return found


def _write(data: NodeData) -> str | None:
    """Go on writing as a node would; return what went wrong."""
    store, stored = data.log_store, data.stored
    previous = stored.last
    for number in range(1, 21):
        entries = _entries_after(previous, stored, 10)
        store.persist([Write(number, None, None, entries)], Index(stored.base.index + 400))
        last = entries[-1]
        previous = LogPoint(last.index, last.term, last.chain)
    again = store.load()
    _close(data)
    passed = [each for each in stored.configurations if each.index <= again.base.index]
    kept = [each for each in stored.configurations if each.index > again.base.index]
    if again.configurations != (*passed[-1:], *kept):
        return f"lost a configuration: with the base at {again.base.index} {_told(again.configurations)} are left"
    return None if again.last == previous else f"lost what was written afterwards: {again.last}, expected {previous}"


def _entries_after(previous: LogPoint, stored: StoredLog, count: int) -> tuple[Entry, ...]:
    entries = []
    for _ in range(count):
        entry = make_entry(
            previous=previous,
            term=stored.hard_state.current_term,
            kind=EntryKind.COMMANDS,
            timestamp_ms=stored.last_timestamp_ms,
            payload=bytes(500),
        )
        entries.append(entry)
        previous = LogPoint(entry.index, entry.term, entry.chain)
    return tuple(entries)


def _close(data: NodeData) -> None:
    if data.check is not None:
        data.check.close()
    if data.kv is not None:
        data.kv.close()
    data.log_store.close()
