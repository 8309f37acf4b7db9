"""Planted bugs of reads, of what clients are told, and of the machine."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from durable_raft.kv.batch import decode_commands
from durable_raft.kv.keyspace import DROP_MAX, Keyspace
from durable_raft.kv.replies import OK
from durable_raft.raft import reads, replication
from durable_raft.raft.ready import ReadReady
from durable_raft.raft.state import RaftState
from durable_raft.raft.state_parts import PendingRead
from durable_raft.raft.types import Entry, EntryKind, Index, Role
from durable_raft.server.dispatch import Dispatcher
from durable_raft.server.pending import Batch, Slot, Waiting
from durable_raft.server.slices import Steps
from tests.simulation.planting import Patch, mutant

# -- reads and clients ------------------------------------------------------------------------------------------------


@mutant
def read_without_round() -> Sequence[Patch]:
    """A leader answers reads without asking whether it still leads."""

    def read(state: RaftState, read_id: int, after: Index) -> None:
        if state.role is not Role.LEADER:
            state.lost_reads.append(read_id)
            return
        index = Index(max(state.log.commit_index, state.term_start_index, after))
        state.confirmed_reads.append(ReadReady(read_id, index))

    return [(reads, "read", read)]


@mutant
def read_before_term_start() -> Sequence[Patch]:
    """A new leader serves reads at its commit index before it has committed an entry of its term (Raft §8)."""

    def read(state: RaftState, read_id: int, after: Index) -> None:
        if state.role is not Role.LEADER:
            state.lost_reads.append(read_id)
            return
        state.read_round += 1
        index = Index(max(state.log.commit_index, after))
        state.pending_reads.append(PendingRead(read_id, index, state.read_round))
        reads.confirm(state)

    return [(reads, "read", read)]


@mutant
def read_round_reused() -> Sequence[Patch]:
    """A read joins the round that is under way, though that was sent before it came (etcd #20418)."""

    def read(state: RaftState, read_id: int, after: Index) -> None:
        if state.role is not Role.LEADER:
            state.lost_reads.append(read_id)
            return
        index = Index(max(state.log.commit_index, state.term_start_index, after))
        if not state.read_round:
            state.read_round = 1
        state.pending_reads.append(PendingRead(read_id, index, state.read_round))
        reads.confirm(state)

    return [(reads, "read", read)]


@mutant
def read_before_applied() -> Sequence[Patch]:
    """A confirmed read is answered before the machine has applied its index."""

    def take(state: RaftState) -> list[ReadReady]:
        taken, state.confirmed_reads = state.confirmed_reads, []
        return sorted(taken, key=lambda ready: ready.read_index)

    return [(reads, "take_answerable", take)]


@mutant
def follower_answers_reads() -> Sequence[Patch]:
    """Any node answers reads from its own state."""
    route = Dispatcher._route

    def stale(self: Dispatcher, waiting: Waiting) -> None:
        if not waiting.spec.is_write and not waiting.slot.owner.writes_outstanding:
            self._answer_stale(waiting)
        else:
            route(self, waiting)

    return [(Dispatcher, "_route", stale)]


@mutant
def answered_before_commit() -> Sequence[Patch]:
    """A write is answered when it is proposed."""
    propose = Dispatcher._propose

    def early(self: Dispatcher, batch: Batch, now_ms: int) -> None:
        propose(self, batch, now_ms)
        if batch.term is not None:
            for waiting in batch.items():
                if waiting.spec.name == b"set":
                    waiting.slot.fill(OK)

    def fill(self: Slot, encoded: Any) -> None:
        if self.reply is None:
            original(self, encoded)

    original = Slot._fill
    return [(Dispatcher, "_propose", early), (Slot, "_fill", fill)]


@mutant
def unknown_called_failed() -> Sequence[Patch]:
    """A write whose fate is unknown is reported as one that had no effect."""

    def give_up(self: Dispatcher, batch: Batch) -> None:
        self._refuse_overwritten(batch)

    return [(Dispatcher, "_give_up", give_up)]


@mutant
def batch_matched_by_index() -> Sequence[Patch]:
    """The answer goes to whoever proposed at this index, in whatever term."""

    def take(self: Dispatcher, entry: Entry) -> Batch | None:
        return self._inflight.pop(entry.index, None) or self._orphans.pop(entry.index, None)

    return [(Dispatcher, "_take_batch", take)]


@mutant
def proposed_twice() -> Sequence[Patch]:
    """The server repeats writes of a lost leadership by itself (redisraft #13)."""

    def give_up(self: Dispatcher, batch: Batch) -> None:
        for waiting in batch.items():
            self._route(waiting)

    return [(Dispatcher, "_give_up", give_up)]


@mutant
def pipelined_read_overtakes() -> Sequence[Patch]:
    """A read of a connection with writes under way does not wait for them."""
    accept = Dispatcher._accept

    def overtake(self: Dispatcher, waiting: Waiting) -> None:
        if waiting.spec.is_write:
            accept(self, waiting)
        else:
            self._free_reads.append(waiting)
            self._wake()

    return [(Dispatcher, "_accept", overtake)]


# -- the machine ------------------------------------------------------------------------------------------------------


@mutant
def applied_twice() -> Sequence[Patch]:
    """Entries of others are applied twice at times: the applied index is not kept with the state (etcd #13766)."""
    apply = Dispatcher.apply

    def again(self: Dispatcher, entry: Entry) -> Steps:
        yield from apply(self, entry)
        if entry.kind is EntryKind.COMMANDS and entry.index % 7 == 0 and self._raft.role is not Role.LEADER:
            for args in decode_commands(entry.payload):
                self._machine.execute(args)

    return [(Dispatcher, "apply", again)]


@mutant
def expiry_by_own_clock() -> Sequence[Patch]:
    """A node expires keys by its own time of day instead of the entries'."""
    apply = Dispatcher.apply

    def local(self: Dispatcher, entry: Entry) -> Steps:
        timekeeper: Any = self._stamp_ms.__self__  # type: ignore[attr-defined]
        self._machine.advance_time(max(entry.timestamp_ms, timekeeper._own_ms()))
        return apply(self, entry)

    return [(Dispatcher, "apply", local)]


@mutant
def expired_keys_kept() -> Sequence[Patch]:
    """Keys are dropped when somebody looks: one replica has them still when another has not."""
    machines = itertools.count()
    init, advance = Keyspace.__init__, Keyspace.advance_time_in_steps
    lazy: set[int] = set()

    def begin(self: Keyspace, *args: object) -> None:
        init(self, *args)  # type: ignore[arg-type]
        if next(machines) % 3 == 0:
            lazy.add(id(self))

    def look(self: Keyspace, time_ms: int, drop_max: int = DROP_MAX) -> Steps:
        if id(self) in lazy:
            self.time_ms = max(self.time_ms, time_ms)
        else:
            yield from advance(self, time_ms, drop_max)

    return [(Keyspace, "__init__", begin), (Keyspace, "advance_time_in_steps", look)]


@mutant
def time_goes_back() -> Sequence[Patch]:
    """A new leader stamps its first entry below the entries before."""
    append = replication.append_as_leader

    def backwards(state: RaftState, kind: EntryKind, payload: bytes, timestamp_ms: int) -> Entry:
        if kind is EntryKind.NOOP and timestamp_ms:
            state.log.last_timestamp_ms = timestamp_ms = timestamp_ms - 1
        return append(state, kind, payload, timestamp_ms)

    return [(replication, "append_as_leader", backwards)]
