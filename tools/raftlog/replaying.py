"""The KV state as it was at a log index: where it can be made from, and the entries applied to it as a node does.

A state is made from the checkpoint in ``DIR/kv`` when that lies at or before the index, else from the empty state when
the log goes back to its beginning. The entries are verified while they are applied: checksum, order, and that the chain
continues what the state covers.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple, NoReturn

from durable_raft.errors import CorruptRecord, DirectoryRefused, EntryUnavailable, StorageError, UnknownFormatVersion
from durable_raft.kv.batch import decode_commands, drop_max_of
from durable_raft.kv.commands import COMMANDS, check_arity
from durable_raft.kv.machine import Machine
from durable_raft.kv.records import EMPTY_STATE, StateView, order_key
from durable_raft.raft.types import ORIGIN, Base, Entry, EntryKind, Index, LogPoint, Term, chain_crc
from durable_raft.raft.versions import FIRST, OURS, decode_version, require
from durable_raft.storage.log.reader import LogReader
from durable_raft.storage.log.records import IDENT, IdentRecord
from durable_raft.storage.log.walk import Walked
from durable_raft.storage.state.view import LmdbStateView
from durable_raft.storage.wounds import Wound, WoundKind, raise_wounds
from raftlog.running import complain

_PAGE_KEYS: Final = b"1000"
"""Keys that one SCAN looks at."""


class NotReplayable(EntryUnavailable):
    """The state at an index cannot be made from this directory; the text says why, and at which indexes it can."""


class Value(NamedTuple):
    """What a key holds."""

    value: bytes
    deadline_ms: int | None
    """When it expires, ms since the Unix epoch; None: never."""


@dataclass(frozen=True, slots=True)
class State:
    """The state at one index."""

    machine: Machine
    point: LogPoint
    """The last entry that is in it."""
    start: int
    """Index of the state it was made from; 0: the empty one."""

    def matching(self, pattern: bytes = b"*") -> Iterator[bytes]:
        """Yield the keys that match a glob pattern of at most ``kv.glob.PATTERN_BYTES_MAX`` bytes, in order."""
        cursor: object = b"0"
        while isinstance(cursor, bytes):
            reply = self.machine.execute([b"scan", cursor, b"match", pattern, b"count", _PAGE_KEYS])
            if not isinstance(reply, list) or not isinstance(reply[1], list):
                raise ValueError(f"SCAN answers {reply!r}")
            yield from (key for key in reply[1] if isinstance(key, bytes))
            cursor = reply[0] if reply[0] != b"0" else None

    def value(self, key: bytes) -> Value | None:
        """Return what ``key`` holds; None when it is absent or expired.

        Raises:
            WoundedState: its record in the checkpoint is damaged.
        """
        found = self.machine.execute([b"get", key])
        if not isinstance(found, bytes):
            return None
        left_ms = self.machine.execute([b"pttl", key]) if self.machine.counts[1] else -1
        return Value(found, self.machine.time_ms + left_ms if isinstance(left_ms, int) and left_ms >= 0 else None)


def changes(old: State, new: State) -> Iterator[tuple[bytes, Value | None, Value | None]]:
    """Yield each key that the two states do not hold alike, in the order of keys, with what each holds."""
    keys = heapq.merge(_ordered(old), _ordered(new))
    for _, group in groupby(keys, key=itemgetter(0)):
        key = next(group)[1]
        before, after = old.value(key), new.value(key)
        if before != after:
            yield key, before, after


def _ordered(state: State) -> Iterator[tuple[bytes, bytes]]:
    return ((order_key(key), key) for key in state.matching())


class Source:
    """A log and, if there is one, the state at a checkpoint beside it; both stay open for as long as it is used."""

    def __init__(self, reader: LogReader, view: LmdbStateView | None, value_bytes_max: int) -> None:
        """Find out which indexes can be replayed.

        Args:
            reader: of the log.
            view: of the checkpoint; taken before anything of the log is read, which a node that runs compacts only
                behind a newer one.
            value_bytes_max: the nodes' setting: longest value that a command may make.

        Raises:
            CorruptRecord: meta or the pages of the log are damaged.
            DirectoryRefused: the state is another node's than the log.
            UnknownFormatVersion: the state is of a version of the cluster that this program cannot.
        """
        self._reader = reader
        self._value_bytes_max = value_bytes_max
        overview = reader.overview()
        if overview.meta is None:
            raise_wounds(overview.wounds)
        self._base = overview.meta.base.point.index
        self._last = max(overview.last_index, self._base)
        self._view: StateView = EMPTY_STATE
        self._checkpoint: Base | None = None
        self._version = FIRST
        if view is not None:
            if view.meta.identity != overview.meta.identity:
                raise DirectoryRefused(
                    f"the state belongs to node {view.meta.identity.node_id}, the log to"
                    f" {overview.meta.identity.node_id}, or to another disk or cluster of that name"
                )
            self._view, self._checkpoint, self._version = view, view.meta.applied, view.meta.version
            require(OURS, self._version, f"the state at index {self._checkpoint.point.index}")

    def committed(self) -> int:
        """Return the index up to which what this directory holds is committed for certain.

        Nothing in a log says what is committed; but only committed entries are applied, and compacted.
        """
        if self._checkpoint is None:
            return self._base
        point = self._checkpoint.point
        try:
            found = self._reader.point_at(point.index)
        except CorruptRecord:
            found = None
        return max(self._base, point.index) if found is not None and found.point == point else self._base

    def ranges(self) -> str:
        """Return in words which indexes can be replayed."""
        found = [(0, self._last)] if self._base == 0 else []
        if self._checkpoint is not None:
            at = self._checkpoint.point.index
            if not found or at > self._last:
                found.append((at, self._last if self._base <= at <= self._last else at))
        return "indexes " + " and ".join(f"[{lo}, {hi}]" for lo, hi in found) if found else "no index"

    def state_at(self, index: int) -> State:
        """Return the state behind the entry at ``index``.

        Raises:
            NotReplayable: it cannot be made from what is here.
            WoundedLog: an entry on the way is wounded.
            WoundedState: a record of the checkpoint is damaged.
            CorruptRecord: the log does not continue the checkpoint, or a batch cannot be decoded.
            UnknownFormatVersion: an entry, batch or command is of a newer version.
        """
        start, view = self._start(index)
        # SCAN's cursors are no part of the state: any seed does.
        machine = Machine(random.Random(0), self._value_bytes_max, view, start.timestamp_ms)  # noqa: S311
        machine.raise_version(self._version if start is self._checkpoint else FIRST)
        point = start.point
        if index > point.index:
            for walked in self._reader.walk(point.index + 1, index + 1):
                ident, payload = self._verified(walked, point, is_first=point == start.point)
                apply_entry(machine, walked.index, ident, payload)
                point = LogPoint(Index(walked.index), Term(ident.term), ident.chain)
        if point.index != index:
            self._raise_gone(point.index + 1)
        return State(machine, point, start.point.index)

    def _start(self, index: int) -> tuple[Base, StateView]:
        """Return the last state at or before ``index`` from which the log leads there."""
        if self._checkpoint is not None:
            at = self._checkpoint.point.index
            if index == at or self._base <= at < index <= self._last:
                return self._checkpoint, self._view
        if self._base == 0 and index <= self._last:
            return Base(ORIGIN, 0), EMPTY_STATE
        log = f"the log holds [{self._base + 1}, {self._last}]" if self._last > self._base else "the log is empty"
        state = "there is no checkpoint"
        if self._checkpoint is not None:
            state = f"the checkpoint lies at {self._checkpoint.point.index}"
        raise NotReplayable(f"index {index} cannot be replayed; {self.ranges()} can: {log}, {state}")

    def _verified(self, walked: Walked, point: LogPoint, *, is_first: bool) -> tuple[IdentRecord, bytes]:
        """Return ident and payload of the entry that follows ``point``."""
        if walked.wounds:
            complain(f"stopped at index {walked.index}: --until {point.index} is the last state before the wound")
            raise_wounds(walked.wounds)
        if walked.index != point.index + 1 or walked.ident is None or walked.payload is None:
            self._raise_gone(point.index + 1)
        if chain_crc(point.chain, walked.ident.crc) != walked.ident.chain:
            if is_first and point != ORIGIN:
                raise CorruptRecord(
                    f"entry {walked.index} with chain {walked.ident.chain:#010x} does not continue the checkpoint at"
                    f" index {point.index} with chain {point.chain:#010x}: one of the two is another history's"
                )
            raise NotReplayable(f"the log was cut at or before index {walked.index} while it was read: try again")
        return walked.ident, walked.payload

    def _raise_gone(self, index: int) -> NoReturn:
        """Raise the error for an entry that was there at first, or that must be there.

        Raises:
            NotReplayable: a node took it away meanwhile.
            WoundedLog: it is missing.
        """
        overview = self._reader.overview()
        base = self._base if overview.meta is None else overview.meta.base.point.index
        if index <= base or index > overview.last_index:
            raise NotReplayable(f"entry {index} was compacted or cut while the log was read: try again")
        raise_wounds([Wound(IDENT, index, None, "a record", "none", WoundKind.MISSING)])


def apply_entry(machine: Machine, index: int, ident: IdentRecord | Entry, payload: bytes) -> None:
    """Apply an entry as the nodes do (server/dispatch.py).

    Raises:
        CorruptRecord: its batch cannot be decoded, or has commands that no node stores.
        MalformedVersion: it should raise the version of the cluster, and does not say to which.
        UnknownFormatVersion: entry, batch or command are of a newer version.
    """
    if ident.kind == EntryKind.TIME_RESET:
        machine.reset_time(ident.timestamp_ms)
    else:
        machine.advance_time(ident.timestamp_ms, drop_max_of(payload))
    if ident.kind == EntryKind.VERSION:
        version = decode_version(Index(index), payload)
        require(OURS, version, f"entry {index}")
        machine.raise_version(version)
    if ident.kind != EntryKind.COMMANDS:
        return
    try:
        commands = decode_commands(payload)
    except StorageError as error:
        raise type(error)(f"entry {index}: {error}") from error
    for command in commands:
        spec = COMMANDS.get(command[0])
        # A node stores commands of its table only, their names in lower case and their arity right.
        if spec is None:
            raise UnknownFormatVersion(f"entry {index}: command {command[0]!r} is none that this build knows")
        if check_arity(spec, command) is not None:
            raise CorruptRecord(f"entry {index}: {len(command)} arguments of {command[0]!r}, expected {spec.arity}")
        machine.execute(command)
