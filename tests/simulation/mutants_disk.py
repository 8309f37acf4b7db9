"""Planted bugs of durability: what is promised before it is flushed, and what the disk loses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from durable_raft.errors import CorruptRecord, StoragePoisoned
from durable_raft.raft import replication
from durable_raft.raft.inflight import WritesInFlight
from durable_raft.raft.log import RaftLog
from durable_raft.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Envelope,
    RequestVote,
)
from durable_raft.raft.quorum import majority_value
from durable_raft.raft.ready import Write
from durable_raft.raft.state import RaftState
from durable_raft.raft.types import HardState, Index, Term
from durable_raft.server.node import Node
from durable_raft.server.persister import Persister
from durable_raft.storage.log.meta import Meta
from durable_raft.storage.log.plan import Plan
from durable_raft.storage.log.records import IDENT, LOG
from durable_raft.storage.proven import META
from durable_raft.storage.wounds import WoundedLog
from tests.simulation.disk import Change, Disk
from tests.simulation.planting import Patch, mutant
from tests.simulation.sim_store import SimStore

# -- durability -------------------------------------------------------------------------------------------------------


def _send_at_once(self: RaftState, target: Any, message: Any) -> None:
    self.messages.append(Envelope(target, message))


@mutant
def vote_before_durable() -> Sequence[Patch]:
    """A vote, or anything said in a new term, leaves before term and vote are flushed."""
    return [(RaftState, "send", _send_at_once)]


@mutant
def append_acknowledged_unflushed() -> Sequence[Patch]:
    """A follower acknowledges entries before they are flushed."""
    return [(RaftState, "send_after_write", _send_at_once)]


@mutant
def after_write_sent_at_once() -> Sequence[Patch]:
    """The runtime sends what should wait for the write."""
    return [(Persister, "hold", lambda _self, messages: messages)]


@mutant
def after_write_not_awaiting_earlier() -> Sequence[Patch]:
    """Messages after a write wait for the first write under way instead of the last."""

    def hold(self: Persister, messages: list[Envelope]) -> list[Envelope]:
        if self._flushed == self._submitted:
            return messages
        self._held.append((self._flushed + 1, messages))
        return []

    return [(Persister, "hold", hold)]


@mutant
def own_vote_unflushed() -> Sequence[Patch]:
    """A candidate counts its own vote and asks for others' before it is durable (etcd/raft, campaign)."""
    become_candidate, send = RaftState.become_candidate, RaftState.send

    def become(self: RaftState, now: int) -> None:
        become_candidate(self, now)
        self.votes[self.config.node_id] = True

    def hasty(self: RaftState, target: Any, message: Any) -> None:
        (_send_at_once if isinstance(message, RequestVote) else send)(self, target, message)

    return [(RaftState, "become_candidate", become), (RaftState, "send", hasty)]


@mutant
def own_entry_unflushed() -> Sequence[Patch]:
    """A leader counts its own entries before they are flushed (etcd #14370)."""

    def advance(state: RaftState) -> None:
        matched = [progress.match_index for progress in state.progress.values()]
        index = Index(majority_value([*matched, state.log.last.index]))
        if index > state.log.commit_index and state.log.term_at(index) == state.current_term:
            state.log.commit_to(index)

    return [(replication, "advance_commit_index", advance)]


@mutant
def heartbeat_acknowledges_unflushed() -> Sequence[Patch]:
    """The answer to a heartbeat names the last accepted index, flushed or not."""

    def accept(
        state: RaftState, now: int, source: Any, message: AppendEntries, *, verified: Index, is_new: bool
    ) -> None:
        del now
        state.log.commit_to(min(message.leader_commit, verified))
        answer = AppendEntriesResponse(
            state.current_term, True, verified, Index(0), Term(0), Index(0), message.read_round
        )
        (state.send_after_write if is_new else state.send)(source, answer)

    return [(replication, "_accept", accept)]


@mutant
def stale_acknowledgement() -> Sequence[Patch]:
    """A late acknowledgement of an overwritten entry makes its successor durable (etcd, async storage writes ABA)."""

    def cut(self: WritesInFlight, last_index: Index) -> None:
        del self, last_index

    def acknowledge(self: RaftLog, number: int) -> None:
        self.flushed = max(self.flushed, min(self.inflight.acknowledge(number).last_index, self.submitted))
        self._trim_cache()

    return [(WritesInFlight, "cut", cut), (RaftLog, "acknowledge", acknowledge)]


@mutant
def disk_never_flushes() -> Sequence[Patch]:
    """Transactions are written and not flushed; a later one carries them along."""
    flush = Disk.flush

    def lazily(self: Disk) -> None:
        if self.rng.random() < 0.3 or not self.durable[META]:
            flush(self)

    return [(Disk, "flush", lazily)]


@mutant
def term_and_vote_apart() -> Sequence[Patch]:
    """Term and vote reach the disk in two writes (hashicorp/raft #661): a power cut finds the term alone."""

    def take_write(self: RaftState, now: int) -> Write | None:
        wanted = self.hard_state
        if wanted != self._submitted_hard_state and wanted.current_term != self._submitted_hard_state.current_term:
            self.hard_state = HardState(wanted.current_term, None)
            write = original(self, now)
            self.hard_state = wanted
            if self._inflight_hard_states:
                number, _ = self._inflight_hard_states.pop()
                self._inflight_hard_states.append((number, wanted))
            return write
        return original(self, now)

    original = RaftState.take_write
    return [(RaftState, "take_write", take_write)]


@mutant
def entries_before_term() -> Sequence[Patch]:
    """Entries become durable without the term they belong to (openraft, I/O ordering)."""
    changes = SimStore.changes

    def torn(self: SimStore, plan: Plan, meta: Meta) -> list[Change]:
        found = changes(self, plan, meta)
        return [change for change in found if change.table not in ("meta", "meta_copy")] if plan.entries else found

    return [(SimStore, "changes", torn)]


@mutant
def group_not_atomic() -> Sequence[Patch]:
    """A crash finds the front part of a transaction on the disk."""
    from tests.simulation.process import Process

    end = Process.end

    def tear(self: Process, *, loses_power: bool = False) -> None:
        writes = [write for write in self.platform.writer.drain() if write.entries]
        is_next = writes and writes[0].entries[0].index == self.site.disk.promised.last_index + 1
        if is_next and isinstance(self.store, SimStore):
            plan = Plan(entries=list(writes[0].entries))
            changes = self.store.changes(plan, self.store._meta)
            self.site.disk.write(changes[: len(changes) // 2])
            self.site.disk.flush()
        end(self, loses_power=loses_power)

    return [(Process, "end", tear)]


@mutant
def disk_error_ignored() -> Sequence[Patch]:
    """A failed flush is reported as a success (rostam #94)."""

    def fail(self: SimStore, plan: Plan, meta: Meta) -> None:
        del plan, meta
        self.disk.fails = None
        self.disk.loses_next = True  # type: ignore[attr-defined]

    write = Disk.write

    def lose(self: Disk, changes: Sequence[Change]) -> None:
        if getattr(self, "loses_next", False):
            self.loses_next = False  # type: ignore[attr-defined]
        else:
            write(self, changes)

    return [(SimStore, "_fail", fail), (Disk, "write", lose)]


@mutant
def disk_error_not_final() -> Sequence[Patch]:
    """A node goes on after a failed flush: the next write is taken and acknowledges the lost one too."""

    def fail(self: SimStore, plan: Plan, meta: Meta) -> None:
        del plan, meta
        self.disk.fails = None
        raise StoragePoisoned("simulated EIO")

    def failed(self: Node, error: BaseException) -> None:
        del error
        persister = self.persister
        for number in range(persister._flushed + 1, persister._submitted + 1):
            self.raft.persisted(self._now_ms(), number)
        persister._flushed = persister._submitted

    return [(SimStore, "_fail", fail), (Node, "_failed_on_thread", failed)]


@mutant
def suffix_not_cut_on_disk() -> Sequence[Patch]:
    """A conflicting suffix is overwritten but what lies beyond the new entries stays on the disk."""
    changes = SimStore.changes

    def keep(self: SimStore, plan: Plan, meta: Meta) -> list[Change]:
        return [change for change in changes(self, plan, meta) if change.value is not None]

    return [(SimStore, "changes", keep)]


@mutant
def damage_skipped() -> Sequence[Patch]:
    """The log is cut at the first bad checksum, as if it were a torn tail."""
    load = SimStore.load

    def cut(self: SimStore) -> Any:
        while True:
            try:
                stored = load(self)
                if not self.healable:
                    return stored
                raise WoundedLog(self.healable)
            except CorruptRecord as error:
                first = min((w.index for w in getattr(error, "wounds", ()) if w.index), default=1)
                for table in (IDENT, LOG):
                    records = self.disk.cached[table]
                    for key in [key for key in records if int.from_bytes(key[:8], "big") >= first]:
                        del records[key]
                self.disk.record_counts = (
                    len(self.disk.cached[IDENT]),
                    len(self.disk.cached[LOG]),
                )

    return [(SimStore, "load", cut)]
