"""Planted bugs of checkpoints, compaction and snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from durable_raft.kv.keyspace import Keyspace
from durable_raft.kv.layer import Layer
from durable_raft.kv.records import Record, StateSummary, deadline_of
from durable_raft.raft import snapshots
from durable_raft.raft.log import RaftLog
from durable_raft.raft.state import RaftState
from durable_raft.raft.types import Base, Configuration, Index, LogPoint
from durable_raft.server.dispatch import Dispatcher
from durable_raft.server.state.checkpoints import Checkpointer, Settled
from durable_raft.server.state.keeper import StateKeeper
from durable_raft.storage.state.change import Head, Settlement
from tests.simulation.planting import Patch, mutant
from tests.simulation.state_disk import SimKv


@mutant
def compacted_before_checkpoint() -> Sequence[Patch]:
    """The log is compacted when a checkpoint is begun, not when it is durable."""
    write = Checkpointer._write

    def hasty(self: Checkpointer, frozen: Any, kv: Any) -> None:
        write(self, frozen, kv)
        index = frozen.base.point.index
        self._raft.checkpointed(frozen.base.point)
        self._raft.compact(index)
        self._compact(index)

    return [(Checkpointer, "_write", hasty)]


@mutant
def applied_index_apart() -> Sequence[Patch]:
    """The applied index is written one checkpoint later than the data: a crash applies entries twice."""
    write = SimKv.write_checkpoint
    late: dict[int, Base] = {}

    def apart(self: SimKv, changes: Any, **named: Any) -> StateSummary:
        summary = write(self, changes, **named)
        disk = self._disk
        before, late[id(disk)] = late.get(id(disk)), named["applied"]
        if before is not None and disk.kv.meta is not None and disk.kv.meta.applied.point.index > before.point.index:
            disk.kv.meta = replace(disk.kv.meta, applied=before)
        return summary

    return [(SimKv, "write_checkpoint", apart)]


@mutant
def checkpoint_claims_less() -> Sequence[Patch]:
    """A checkpoint says that it was taken one entry before it was."""
    freeze = Checkpointer._freeze

    def modest(self: Checkpointer, *place: Any) -> None:
        freeze(self, *place)
        frozen, log = self._frozen[-1], self._raft.log
        if frozen.base.point.index > log.base.index:
            index = Index(frozen.base.point.index - 1)
            if index > self._raft.snapshot.index:
                point = LogPoint(index, log.term_at(index), log.chain_at(index))
                self._frozen[-1] = replace(frozen, base=Base(point, frozen.base.timestamp_ms))

    return [(Checkpointer, "_freeze", modest)]


@mutant
def snapshot_over_newer_state() -> Sequence[Patch]:
    """A snapshot is installed over a state that is newer."""

    def install(self: RaftLog, base: Base, configuration: Configuration | None = None) -> bool:
        del configuration
        is_held = self.holds(base.point)
        self.commit_index = self.last_applied = base.point.index
        return is_held

    def wants(state: RaftState, point: LogPoint) -> bool:
        return point.term <= state.flushed_hard_state.current_term and state.log.holds(point)

    return [(snapshots, "wants", wants), (RaftLog, "install", install)]


@mutant
def conflicting_suffix_kept() -> Sequence[Patch]:
    """A log that is long enough keeps its entries behind a snapshot, though they conflict with it (Raft §7, 7)."""
    install = RaftLog.install

    def keep(self: RaftLog, base: Base, configuration: Configuration | None = None) -> bool:
        if base.point.index > self.last.index:
            return install(self, base, configuration)
        self.commit_index = max(self.commit_index, base.point.index)
        self.last_applied = base.point.index
        return True

    return [(RaftLog, "install", keep)]


@mutant
def matching_suffix_dropped() -> Sequence[Patch]:
    """Entries behind a snapshot are dropped even when they match it: they were acknowledged (Raft §7, 6)."""
    install = RaftLog.install

    holds = RaftLog.holds
    installing: list[RaftLog] = []

    def never(self: RaftLog, point: LogPoint) -> bool:
        return self not in installing and holds(self, point)

    def drop(self: RaftLog, base: Base, configuration: Configuration | None = None) -> bool:
        installing.append(self)
        try:
            return install(self, base, configuration)
        finally:
            installing.pop()

    return [(RaftLog, "install", drop), (RaftLog, "holds", never)]


@mutant
def old_machine_after_snapshot() -> Sequence[Patch]:
    """Clients are answered by the machine from before the snapshot."""

    def stay(self: Dispatcher, machine: Any, last_applied: Index) -> None:
        del self, machine, last_applied

    return [(Dispatcher, "use_machine", stay)]


@mutant
def settled_count_off() -> Sequence[Patch]:
    """A key that is gone is not taken out of the count when a checkpoint is settled."""
    settle = Settlement.settle

    def off(self: Settlement, old: Sequence[Head | None], new: Sequence[Record | None]) -> bool:
        kept = [(head, record) for head, record in zip(old, new, strict=True) if record is not None]
        return settle(self, [head for head, _ in kept], [record for _, record in kept])

    return [(Settlement, "settle", off)]


@mutant
def old_record_not_read() -> Sequence[Patch]:
    """Whoever settles a checkpoint takes every key for a new one."""
    settle = Settlement.settle

    def unread(self: Settlement, old: Sequence[Head | None], new: Sequence[Record | None]) -> bool:
        return settle(self, [None] * len(old), new)

    return [(Settlement, "settle", unread)]


@mutant
def counted_without_the_base() -> Sequence[Patch]:
    """Keys that were set are counted without a look into the base: those that lie there count twice."""

    def unseen(self: Keyspace, below: Sequence[Layer], key: bytes) -> int | None:
        del self
        kept = next((layer.changes[key] for layer in below if key in layer.changes), None)
        return None if kept is None else deadline_of(kept)

    return [(Keyspace, "_deadline_below", unseen)]


@mutant
def state_told_of_another_place() -> Sequence[Patch]:
    """A node says what its state was at a checkpoint of the place where it is now."""

    def misplaced(self: StateKeeper, settled: Settled) -> None:
        index = self.applied_index
        point = LogPoint(index, settled.point.term, self._applied_chain)
        said = self.hashes.settled(point, settled.summary)
        self._broadcast(said)
        self._judge(said.applied_index)
        self._events.checkpoint_written()

    return [(StateKeeper, "_checkpointed", misplaced)]
