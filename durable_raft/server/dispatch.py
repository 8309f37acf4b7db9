"""Where a client's command goes: into the next batch, to ReadIndex, to the leader elsewhere, or on hold.

A command that was not proposed has certainly had no effect, so it may be held, moved or refused. A proposed write's
fate is open until its entry, or another in its place, is applied; when leadership is lost first, the client is told
the outcome if it becomes known within the hold time, and ``-UNKNOWN`` if not. Nothing is ever proposed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence

from durable_raft.addresses import parse_address
from durable_raft.kv.batch import decode_batch, drop_max_of
from durable_raft.kv.commands import CommandSpec
from durable_raft.kv.large_batch import LARGE_BYTES, BatchDecoder
from durable_raft.kv.machine import Machine
from durable_raft.kv.replies import CommandSteps, ErrorReply
from durable_raft.kv.runs import Run
from durable_raft.kv.slots import key_slot
from durable_raft.raft.core import Raft
from durable_raft.raft.types import COMMANDS, LEADER, TIME_RESET, Entry, Index, Member, NodeId
from durable_raft.server.answering import Answering
from durable_raft.server.backlog import NO_LEADER, Backlog
from durable_raft.server.claims import Claims
from durable_raft.server.dispatch_facts import DispatchCounters, DispatchLimits
from durable_raft.server.latency import LatencyRing
from durable_raft.server.pending import Batch, Forming, Part, Queued, Slot, Waiting, parts_of
from durable_raft.server.slices import Jobs, Steps

INFLIGHT_BATCHES_MAX = 2
"""Own batches in flight before the next one waits and grows: one on its way to the disks, one behind it."""

QUICK_COMMIT_S = 0.003
"""A batch in flight for longer is joined by the next: at the first event after that, a heartbeat at the latest."""

DROP_PAUSE_MS = 10
"""Between two entries that do nothing but drop keys which nobody sees: that takes a part of the processor, not all."""

ARG_MEMORY_BYTES = 64
"""What an argument takes in memory beside its bytes: an object's head, its places in a list and in its run."""

_READ_LOST = ErrorReply("TRYAGAIN leadership changed; the read was not executed")
_STATE_REPLACED = ErrorReply("TRYAGAIN the state was replaced; nothing was done")


class Dispatcher:
    """Takes commands of the machine's from connections and sees each one through to its reply."""

    def __init__(
        self,
        raft: Raft,
        machine: Machine,
        limits: DispatchLimits,
        clocks: tuple[Callable[[], float], Callable[[], int | None], Callable[[], int]],
        wake: Callable[[], None],
        is_reachable: Callable[[NodeId], bool],
        jobs: Jobs,
        slice_steps: int,
    ) -> None:
        """Bind the parts.

        Args:
            clocks: monotonic seconds; the cluster time, ms since the Unix epoch, to stamp entries with, None while a
                leader does not know it, when it proposes nothing; and the time to show, known or not.
            wake: has ``propose_due`` called soon.
            is_reachable: whether the link to a node is up; a client is not sent to a leader that has just died.
            jobs: of the machine; takes the reads that this replica answers by itself.
            slice_steps: how many runs are routed or given up in one turn of the loop at most.
        """
        self._raft = raft
        self._machine = machine
        self._addresses: dict[NodeId, str] = {}
        """Where a client is sent when that node leads."""
        self._limits = limits
        self._monotonic, self._stamp_ms, self._shown_ms = clocks
        self._answering = Answering(machine, self._shown_ms)
        self._wake = wake
        self._is_reachable = is_reachable
        self._jobs = jobs
        self._forming = Forming(limits.batch_bytes_max)
        self._free_reads: list[Waiting] = []
        """Reads to be registered with ReadIndex at the next ``propose_due``."""
        self._registered_reads: dict[int, list[Waiting]] = {}
        self._read_ids = 0
        self._inflight: dict[Index, Batch] = {}
        """Proposed in the present term of leadership, not yet applied."""
        self._orphans: dict[Index, Batch] = {}
        """Proposed in a leadership that was lost since; their fate is open."""
        self._backlog = Backlog(self._monotonic, slice_steps, self._route)
        self.queued = Queued()
        """What was taken in and is not answered, wherever it waits."""
        self._last_proposed = Index(0)
        self._last_proposed_ms = 0
        self.claims = Claims(raft)
        self.is_caught_up = False
        """Whether the machine has been brought up to what a leader called committed; before, it holds too little even
        for a stale read."""
        self.counters = DispatchCounters()
        self.commit_latency = LatencyRing()

    # -- taking commands in ---------------------------------------------------------------------------------------

    def route_run(self, slot: Slot, spec: CommandSpec, run: Run) -> None:
        """Take in a run: commands of ``spec`` whose arity is right; the slot is filled now or later, exactly once."""
        count = run.length + len(run.args)
        size = run.length * len(run.name) + sum(map(len, run.args))
        slot.enter_queue(self.queued, size + ARG_MEMORY_BYTES * count)
        size += 16 * count
        if spec.is_write:
            slot.expect_write()
        waiting = Waiting(slot, spec, run, size)
        if self._backlog.is_routing:
            self._route_later(waiting)
        else:
            self._route(waiting)

    def _route_later(self, waiting: Waiting) -> None:
        self._backlog.route_later(waiting)
        self._wake()

    def _route(self, waiting: Waiting) -> None:
        waiting.slot.leave_batch()
        if waiting.refusal is not None:
            waiting.slot.fill(waiting.refusal)
        elif self._raft.role is LEADER:
            self._accept(waiting)
        elif not waiting.spec.is_write and waiting.slot.owner.is_readonly and self.is_caught_up:
            self._answer_stale(waiting)
        elif (address := self._leader_address()) is not None:
            self._move(waiting, address)
        else:
            self._hold(waiting)

    def _leader_address(self) -> str | None:
        """Return where another node leads, in Redis's form; None while nobody does who can be reached."""
        leader_id = self._raft.leader_id
        if leader_id is None or not self._is_reachable(leader_id):
            return None
        return self._addresses.get(leader_id)

    def _accept(self, waiting: Waiting) -> None:
        """Queue a command on the leader, refusing what there is no room for."""
        if waiting.spec.is_write and (refusal := self.claims.refusal(waiting)) is not None:
            waiting.slot.fill(ErrorReply(f"NOSPACE {refusal}"))
        elif self._is_full_for(waiting):
            self._refuse_overload(waiting)
        else:
            if waiting.spec.is_write or waiting.slot.owner.batched:
                self._forming.append_run(waiting)
                waiting.slot.enter_batch()
                if waiting.spec.is_write:
                    self.claims.take_in(waiting)
            else:
                self._free_reads.append(waiting)
            self._wake()

    def note_space(self, free_bytes: int, reserve_bytes: int) -> None:
        """Note how much can be written."""
        claimed = self._forming.size_bytes + sum(batch.size_bytes for batch in self._inflight.values())
        self.claims.note_space(free_bytes, reserve_bytes, claimed)

    def _hold(self, waiting: Waiting) -> None:
        if self._is_full_for(waiting):
            self._refuse_overload(waiting)
            return
        if not waiting.deadline:
            waiting.deadline = self._monotonic() + self._limits.hold_s
            self.counters.held += waiting.run.length
        self._backlog.hold(waiting)

    def _is_full_for(self, waiting: Waiting) -> bool:
        """Return whether more waits than may; what would be alone is always taken, or it never could be."""
        return self.queued.size_bytes > max(self._limits.pending_bytes_max, waiting.slot.queued_bytes)

    def _refuse_overload(self, waiting: Waiting) -> None:
        self.counters.overloaded += waiting.run.length
        limit = self._limits.pending_bytes_max
        waiting.slot.fill(ErrorReply(f"OVERLOADED more than {limit} bytes of commands wait; nothing was done"))

    def _move(self, waiting: Waiting, address: str) -> None:
        self.counters.moved += waiting.run.length
        run, position = waiting.run, waiting.spec.first_key
        slots = map(key_slot, run.columns()[position - 1]) if position else [0] * run.length
        waiting.slot.fill_all([ErrorReply(f"MOVED {slot} {address}") for slot in slots])

    # -- proposing ------------------------------------------------------------------------------------------------

    def propose_due(self) -> None:
        """Work off what is to be routed; register the reads that wait, then propose batches while the window has room.

        Only a leader registers and proposes.
        """
        self._backlog.work_off()
        if self._raft.role is not LEADER:
            return
        has_commands = self._forming or self._free_reads
        if not has_commands and self._last_proposed and self._machine.next_deadline_ms() is None:
            # Before its first proposal a leader looks for the time to stamp with, commands or not.
            return
        now_ms = self._stamp_ms()
        if now_ms is not None and not self._raft.is_transferring and self._is_expiry_due(now_ms):
            self._propose_with_reads(now_ms)
        if self._free_reads:
            # A key whose time is up may wait for an entry in flight to expire it; the read must come after that.
            deadline_ms = self._machine.next_deadline_ms()
            expiring = deadline_ms is not None and deadline_ms <= self._last_proposed_ms
            self._register(self._free_reads, self._last_proposed if expiring else Index(0))
            self._free_reads = []
        while now_ms is not None and self._forming and self._may_propose():
            if not self._forming.encode_slice():
                self._wake()
                break
            batch = self._forming.take_oldest()
            if batch.writes:
                self._propose(batch, now_ms)
            else:
                self._register(batch.items(), self._last_proposed)

    def has_due(self) -> bool:
        """Return whether ``propose_due`` has anything that waits for it."""
        may_propose = bool(self._forming) and self._may_propose() and self._stamp_ms() is not None
        return bool(self._free_reads) or may_propose or self._backlog.has_due()

    def _may_propose(self) -> bool:
        """Return whether a batch may leave: none is in flight, or one that takes its time.

        Where commits are quick the next batch had better wait: it grows meanwhile, and costs less. While leadership is
        handed over all wait: whoever leads next takes them, or this node again.
        """
        if self._raft.is_transferring:
            return False
        if not self._inflight:
            return True
        if len(self._inflight) >= INFLIGHT_BATCHES_MAX:
            return False
        newest = self._inflight.get(self._last_proposed)
        return newest is None or self._monotonic() - newest.proposed_at >= QUICK_COMMIT_S

    def next_expiry_ms(self) -> int | None:
        """Return when an entry is wanted though nobody writes, or None (cluster time).

        It is wanted when a key's time is up. While keys are dropped it is wanted now and then: nobody sees them.
        """
        if self._raft.is_transferring:
            return None
        deadline_ms = self._machine.next_deadline_ms()
        # While keys are dropped it is the next millisecond; asking for them looks for the first deadline once more.
        if deadline_ms is None or deadline_ms > self._machine.time_ms + 1 or not self._machine.is_dropping:
            return deadline_ms
        return max(deadline_ms, self._last_proposed_ms + DROP_PAUSE_MS)

    def _is_expiry_due(self, now_ms: int) -> bool:
        """Return whether a key's time is up and no proposed entry says so yet; to the millisecond, when reads wait."""
        deadline_ms = self._machine.next_deadline_ms() if self._free_reads else self.next_expiry_ms()
        return deadline_ms is not None and self._last_proposed_ms < deadline_ms <= now_ms

    def _propose_with_reads(self, now_ms: int) -> None:
        """Propose an entry now, commands or not, for the cluster time it carries; the reads that wait go along."""
        batch = self._forming.take_oldest() if self._forming else Batch()
        batch.parts[:0] = parts_of(self._free_reads)
        self._free_reads = []
        self._propose(batch, now_ms)

    def _propose(self, batch: Batch, now_ms: int) -> None:
        entry = self._raft.propose(batch.payload(), now_ms)
        if entry is None:
            for waiting in batch.items():
                self._route(waiting)
            return
        batch.term = entry.term
        batch.proposed_at = self._monotonic()
        self._inflight[entry.index] = batch
        self._last_proposed = entry.index
        self._last_proposed_ms = entry.timestamp_ms
        self.counters.entries += 1

    def reset_time(self, time_ms: int) -> Entry | None:
        """Propose that the cluster time be ``time_ms``; return the entry, None when this node does not lead."""
        entry = self._raft.propose_time_reset(time_ms)
        if entry is not None:
            self._last_proposed, self._last_proposed_ms = entry.index, entry.timestamp_ms
        return entry

    def _register(self, reads: list[Waiting], after: Index) -> None:
        self._read_ids += 1
        self._registered_reads[self._read_ids] = reads
        self._raft.read(self._read_ids, after)

    # -- outcomes -------------------------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> Steps:
        """Apply a committed entry to the machine and answer who waits for it."""
        if entry.kind is TIME_RESET:
            self._machine.reset_time(entry.timestamp_ms)
        else:
            yield from self._machine.advance_time_in_steps(entry.timestamp_ms, drop_max_of(entry.payload))
        batch = self._take_batch(entry)
        if batch is not None:
            self.commit_latency.add_sample(self._monotonic() - batch.proposed_at)
            self.counters.commands += batch.writes
            yield from self._answer_all(batch.parts)
        elif entry.kind is COMMANDS:
            runs = yield from self._decoded(entry)
            self.counters.commands += sum([run.length for run in runs])
            for run in runs:
                yield from self._machine.execute_run(run)

    def _decoded(self, entry: Entry) -> Generator[None, None, list[Run]]:
        """Return the runs of an entry, a large one's in steps.

        Raises:
            UnknownFormatVersion: another version than this build knows.
            CorruptRecord: the payload is no batch.
        """
        if len(entry.payload) < LARGE_BYTES:
            return decode_batch(entry.payload)
        decoder = BatchDecoder(entry.payload)
        while not decoder.step():
            yield
        return decoder.runs()

    def _take_batch(self, entry: Entry) -> Batch | None:
        """Return this node's batch behind ``entry``, if it is the one; route those whose place another entry took."""
        found: Batch | None = None
        for proposed in (self._orphans, self._inflight):
            batch = proposed.pop(entry.index, None)
            if batch is None:
                continue
            if batch.term == entry.term:
                found = batch
            else:
                self._refuse_overwritten(batch)
        return found

    def _refuse_overwritten(self, batch: Batch) -> None:
        """Answer for a batch whose place in the log another leader's entry took: it certainly had no effect.

        Its writes are not proposed again: the connection may have newer ones under way, which they would overtake.
        """
        for waiting in batch.items():
            if waiting.spec.is_write:
                waiting.slot.fill(ErrorReply("TRYAGAIN leadership changed; the write had no effect"))
            else:
                self._route_again(waiting)

    def answer_reads(self, read_id: int) -> Steps:
        """Answer the reads of one confirmed ReadIndex round from the machine as it is now."""
        reads = self._registered_reads.pop(read_id)
        self.counters.reads += sum(waiting.run.length for waiting in reads)
        yield from self._answer_all(parts_of(reads))

    def give_back_reads(self, read_ids: Sequence[int]) -> None:
        """Route reads again that could not be confirmed."""
        for read_id in read_ids:
            for waiting in self._registered_reads.pop(read_id):
                self._route_again(waiting)

    def _route_again(self, waiting: Waiting) -> None:
        """Route a read anew that was not executed, unless writes that its connection sent after it may overtake it.

        That is decided now: these writes may be applied before it is routed.
        """
        if waiting.slot.owner.writes_outstanding:
            waiting.refusal = _READ_LOST
        self._route_later(waiting)

    def _answer_stale(self, waiting: Waiting) -> None:
        """Answer a read from this replica's own state, once the machine is done with what it is at."""
        self.counters.reads += waiting.run.length
        is_short = waiting.run.length == 1 and self._answering.is_short(waiting.spec.name)
        if self._jobs.are_under_way or not is_short:
            self._jobs.add(lambda: self._answer_all([Part(waiting)]), lambda: self._route_later(waiting))
            self._wake()
        else:
            self._answering.answer_now(Part(waiting))

    def _answer_all(self, parts: Sequence[Part]) -> Steps:
        """Answer runs in order; those that are left when the state is another's are given up or routed again."""
        try:
            for part in parts:
                yield from self._answering.answer(part)
                yield
        except GeneratorExit:
            for part in parts:
                for waiting in part.items:
                    if not waiting.slot.is_filled:
                        self._give_up_run(waiting)

    def answer_later(self, slot: Slot, steps: CommandSteps) -> None:
        """Answer a command of the connection's that looks at the machine, when the machine is done with the rest."""
        self._jobs.add(lambda: self._finish_later(slot, steps), lambda: slot.fill(_STATE_REPLACED))
        self._wake()

    def _finish_later(self, slot: Slot, steps: CommandSteps) -> Steps:
        try:
            slot.fill((yield from steps))
        except GeneratorExit:
            slot.fill(_STATE_REPLACED)

    def use_machine(self, machine: Machine, last_applied: Index) -> None:
        """Go on with another machine, whose state was taken elsewhere at ``last_applied``.

        Batches of this node's at or before it were not applied here, so nobody can say what became of them.
        """
        self._machine = machine
        self._answering = Answering(machine, self._shown_ms)
        for index in [index for index in self._orphans if index <= last_applied]:
            self._give_up(self._orphans.pop(index))

    # -- changes of leadership and the passing of time ------------------------------------------------------------

    def leadership_changed(self) -> None:
        """Have what waits routed anew: the role, the leader that this node knows or the link to it has changed."""
        self._last_proposed, self._last_proposed_ms = Index(0), 0
        self._orphan_batches()
        if self._raft.role is not LEADER:
            unproposed = [*self._free_reads, *self._forming.take_all_runs()]
            self._free_reads = []
            self._backlog.take_back(unproposed)
        self._route_held()

    def use_members(self, members: Iterable[Member]) -> None:
        """Send clients to these members from now on, when one of them leads."""
        self._addresses = {
            member.node_id: parse_address("client_address", member.client_address).in_redis_form() for member in members
        }
        self._route_held()

    def _route_held(self) -> None:
        if self._raft.leader_id is not None:
            self._backlog.route_held()

    def _orphan_batches(self) -> None:
        """Set aside the batches of a leadership that was lost, even if it was won again since."""
        is_leader, term = self._raft.role is LEADER, self._raft.current_term
        lost = [index for index, batch in self._inflight.items() if not is_leader or batch.term != term]
        for index in lost:
            batch = self._inflight.pop(index)
            batch.give_up_at = self._monotonic() + self._limits.hold_s
            older = self._orphans.pop(index, None)
            self._orphans[index] = batch
            if older is not None:
                # Two lost leaderships had a batch in the same place; only the newer's fate can still be seen there.
                self._give_up(older)

    def expire(self) -> None:
        """Answer what has been held, or has been of unknown fate, for too long."""
        now = self._monotonic()
        self._backlog.give_up(now)
        for index in [i for i, batch in self._orphans.items() if (batch.give_up_at or 0.0) <= now]:
            self._give_up(self._orphans.pop(index))
        self._backlog.work_off()

    def _give_up(self, batch: Batch) -> None:
        """Tell that a batch's fate is unknown; its reads had no effect and are routed again."""
        for waiting in batch.items():
            self._give_up_run(waiting)

    def _give_up_run(self, waiting: Waiting) -> None:
        if waiting.spec.is_write:
            self.counters.unknown += waiting.run.length
            waiting.slot.fill(ErrorReply("UNKNOWN leadership was lost before the write's fate was known"))
        else:
            self._route_again(waiting)

    def answer_finally(self) -> None:
        """Answer what waits, for this node is no member any more: its clients are sent to the leader that it knew."""
        for index in list(self._orphans):
            self._give_up(self._orphans.pop(index))
        address = self._addresses.get(self._raft.leader_id or NodeId(""))
        for waiting in self._backlog.take_all():
            if address is None or waiting.refusal is not None:
                waiting.slot.fill(waiting.refusal or NO_LEADER)
            else:
                self._move(waiting, address)

    def has_deadlines(self) -> bool:
        """Return whether ``expire`` may have something to do later."""
        return bool(self._backlog.has_held or self._orphans)

    def is_idle(self) -> bool:
        """Return whether no client waits for anything."""
        waiting = self._forming or self._free_reads or self._registered_reads or self._inflight
        return not (waiting or self._orphans or self._backlog or self._jobs.are_under_way)
