"""``Raft``: the only door of the algorithm. Driven by events; time is an argument, the next deadline an output.

Times are integer milliseconds of a monotonic clock. After each event the runtime calls ``ready()`` and does what it
says, in the order that raft/ready.py gives. Nothing here blocks, and nothing is promised that is not flushed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from durable_raft.errors import InvariantViolation
from durable_raft.raft import (
    contradiction,
    election,
    hand_over,
    healing,
    incoming,
    lives,
    membership,
    reads,
    replication,
    retries,
    room,
    snapshots,
    transfer,
    work_list,
)
from durable_raft.raft.changes import Step
from durable_raft.raft.log import LogView, RaftLog
from durable_raft.raft.messages import Envelope, Message
from durable_raft.raft.progress import Progress
from durable_raft.raft.ready import Ready
from durable_raft.raft.state import RaftState
from durable_raft.raft.state_parts import Contradiction, Observer
from durable_raft.raft.types import (
    COMMANDS,
    LEADER,
    TIME_RESET,
    Base,
    Configuration,
    Entry,
    EntryKind,
    Index,
    LogPoint,
    LostEntry,
    NodeId,
    Patience,
    RaftConfig,
    Role,
    StoredLog,
    Term,
    stored_bytes,
)


def _observe_nothing(_event: str, /, **_fields: object) -> None:
    pass


class Raft:
    """One node's part in the algorithm."""

    def __init__(
        self,
        config: RaftConfig,
        stored: StoredLog,
        view: LogView,
        rng: random.Random,
        now: int,
        observe: Observer = _observe_nothing,
        applied: LogPoint | None = None,
        *,
        has_state: bool = True,
    ) -> None:
        """Start as a follower with what the disk holds.

        Args:
            stored: what the log store loaded.
            view: reads flushed entries; the log store.
            rng: draws election timeouts and nothing else.
            now: ms.
            applied: where the durable checkpoint was taken that the machine begins with; None: at the log's base.
            has_state: whether the machine has that state; without it this node needs a snapshot before it can lead.

        Raises:
            InvariantViolation: a term below the last entry's, or a gap between state and log.
        """
        if stored.hard_state.current_term < stored.last.term:
            raise InvariantViolation(
                f"current_term {stored.hard_state.current_term} is below the last entry's term {stored.last.term}"
            )
        self._state = RaftState(config, stored, view, rng, observe, now, applied, has_state=has_state)
        lives.begin(self._state)

    # -- what is known --------------------------------------------------------------------------------------------

    @property
    def state(self) -> RaftState:
        """The whole state, for invariant checks and traces; not to be changed."""
        return self._state

    @property
    def role(self) -> Role:
        """This node's role in the current term."""
        return self._state.role

    @property
    def leader_id(self) -> NodeId | None:
        """The leader of the current term, as far as known."""
        return self._state.leader_id

    @property
    def current_term(self) -> Term:
        """Figure 2: latest term seen."""
        return self._state.current_term

    @property
    def voted_for(self) -> NodeId | None:
        """Figure 2: who got this node's vote in the current term."""
        return self._state.voted_for

    @property
    def configuration(self) -> Configuration:
        """The newest configuration in this node's log, committed or not (Raft §6)."""
        return self._state.configuration

    @property
    def log(self) -> RaftLog:
        """The log and its cursors; not to be changed."""
        return self._state.log

    @property
    def progress(self) -> dict[NodeId, Progress]:
        """What a leader knows of each follower; empty on others. Not to be changed."""
        return self._state.progress

    @property
    def last_time_reset(self) -> Index:
        """Where in the log the newest TIME_RESET is that was appended in this life, or where it may have been."""
        return self._state.log.last_time_reset

    @property
    def is_reluctant(self) -> bool:
        """Whether others are to lead rather than this node (reluctance.py)."""
        return self._state.reluctance.holds

    def be_reluctant(self, is_reluctant: bool) -> None:
        """Let others lead rather than this node, from now on, or no longer."""
        self._state.reluctance.holds = is_reluctant

    def deadline(self) -> int | None:
        """Return when ``timeout`` must be called (ms), or None when only events can change anything."""
        state = self._state
        due: int | None = state.election_deadline
        if state.role is LEADER:
            due = state.heartbeat_due if state.peers else None
        if state.has_retries:
            due = state.retry_due if due is None else min(due, state.retry_due)
        return due

    # -- events ---------------------------------------------------------------------------------------------------

    def timeout(self, now: int) -> None:
        """Do what is due at ``now``: campaign, or check the quorum and send heartbeats."""
        state = self._state
        if state.has_retries and now >= state.retry_due:
            retries.retry(state, now)
        if state.role is LEADER:
            if now >= state.heartbeat_due and state.peers:
                replication.check_quorum(state, now)
                if state.role is LEADER:
                    work_list.sending(replication.heartbeat, state, now)
                    self._go_on(now)
        elif now >= state.election_deadline:
            election.election_timeout(state, now)

    def step(self, now: int, source: NodeId, message: Message) -> None:
        """Take a message from ``source`` (Figure 2, Rules for Servers).

        Raises:
            PeerMisbehaved: no correct node sends it; nothing has changed (validation.py).
        """
        state = self._state
        if source == state.config.node_id:
            raise InvariantViolation(f"{source} hears itself")
        incoming.take(state, now, source, message)
        if state.is_changing or state.transfer is not None:
            self._go_on(now)

    def _go_on(self, now: int) -> None:
        """Carry on what goes on over several events: a change of the configuration, a transfer of leadership."""
        state = self._state
        if state.is_changing:
            membership.advance(state, now)
        hand_over.consider(state, now)
        transfer.advance(state, now)

    def propose(self, payload: bytes, timestamp_ms: int, kind: EntryKind = COMMANDS) -> Entry | None:
        """Append an entry to the leader's log: a batch of commands, or what raises the cluster's version (versions.py).

        Args:
            payload: as ``kind`` has it.
            timestamp_ms: the cluster time; the entry's is never below the entry before.
            kind: never CONFIGURATION (``change``).

        Returns:
            The entry, whose (index, term) names its fate; None when this node does not lead, or is handing leadership
            over (``is_transferring``): then the batch is to be held.
        """
        if self._state.role is not LEADER or self._state.transfer is not None:
            return None
        return replication.append_as_leader(self._state, kind, payload, timestamp_ms)

    def propose_time_reset(self, timestamp_ms: int) -> Entry | None:
        """Append an entry that sets the cluster time to ``timestamp_ms``; returns as ``propose``."""
        return self.propose(b"", timestamp_ms, TIME_RESET)

    # -- members (membership.py) and leadership (transfer.py) -------------------------------------------------------

    def change(self, now: int, against: Index, steps: Sequence[Step]) -> Entry:
        """Begin a change of the configuration (Raft §6, Ongaro §4.3).

        Args:
            now: ms.
            against: index of the configuration that the change was made against.
            steps: made together (changes.py).

        Returns:
            The entry of its first stage. The change is complete when ``configuration`` is at rest and committed; when
            that entry is lost, nothing has changed.

        Raises:
            ChangeRefused: nothing was begun; the classes in changes.py say why.
        """
        return membership.change(self._state, now, against, steps)

    def plan_change(self, now: int, against: Index, steps: Sequence[Step]) -> Configuration:
        """Return the first stage of a change as ``change`` would begin it, and begin nothing; raises as that."""
        return membership.plan(self._state, now, against, steps)

    def stored_configuration_at(self, index: Index) -> Configuration | None:
        """Return the configuration that counts where the log ends at ``index``: what a checkpoint there has to name.

        Args:
            index: not before the log's base.

        Returns:
            None for the fixed one of the first start, which no disk keeps.
        """
        return self._state.log.configurations.stored_at(index)

    def possible_configurations(self) -> list[Configuration]:
        """Return all that may count here, oldest first: the newest, and those that count again if it is cut."""
        return self._state.log.configurations.since(self._state.log.commit_index)

    @property
    def is_configuration_committed(self) -> bool:
        """Whether the newest configuration is known to be committed."""
        return self._state.configuration.index <= self._state.log.commit_index

    def transfer(self, now: int, target: NodeId | None) -> NodeId:
        """Hand leadership to ``target``, or to the voter that has most of the log (Ongaro §3.10), and return to whom.

        It is given up after an election timeout.

        Raises:
            ChangeRefused: this node does not lead, or ``target`` is no voter that answers.
        """
        return transfer.transfer(self._state, now, target)

    @property
    def is_transferring(self) -> bool:
        """Whether this leader is handing leadership over: what is to be proposed is held until that is over."""
        return self._state.transfer is not None

    def last_word(self, now: int) -> list[Envelope]:
        """Return what is to be said when this node's disk failed, and nothing else any more (hand_over.py)."""
        return hand_over.last_word(self._state, now)

    def read(self, read_id: int, after: Index) -> None:
        """Register a linearizable read; it comes back in ``Ready.reads`` or ``Ready.lost_reads`` (Ongaro §6.4).

        Args:
            read_id: chosen by the caller, never used twice (etcd #20418).
            after: the read must see this entry, which this node proposed; 0 for none.
        """
        reads.read(self._state, read_id, after)

    def persisted(self, now: int, number: int) -> None:
        """Note that write ``number`` is flushed; numbers come back in the order they were handed out."""
        state = self._state
        state.acknowledge_write(now, number)
        if election.own_vote_flushed(state, now):
            replication.begin_term(state, now)
        if state.role is LEADER and state.log.flushed > state.log.commit_index:
            replication.advance_commit_index(state)
        if state.is_changing or state.transfer is not None:
            self._go_on(now)

    def patience(self, now: int) -> Patience:
        """Return how long this node waits for others at present, and why."""
        return self._state.timeouts.patience(now)

    # -- wounds (healing.py) and disks (admission.py) ---------------------------------------------------------------

    @property
    def lost(self) -> dict[Index, LostEntry]:
        """Entries whose payload is rotten here and not healed yet; not to be changed."""
        return self._state.log.lost

    @property
    def is_voter(self) -> bool:
        """Whether this node's disk may promise."""
        return self._state.is_voter

    @property
    def contradiction(self) -> Contradiction | None:
        """Who contradicts what is known here to be committed; None: nobody."""
        return self._state.doubts.contradiction

    def remember(self) -> bool:
        """Have the next write keep what a later life of this node must not forget; return whether there is news.

        Raises:
            CorruptRecord: the log cannot be read there.
        """
        before = self._state.standing
        contradiction.remember_committed(self._state)
        self._state.remember_owed()
        return self._state.standing != before

    def waits_for(self) -> tuple[NodeId, ...]:
        """Return who has not answered yet to this node's new disk, or to this life of it; nobody once it is a voter."""
        state = self._state
        if state.is_voter:
            return ()
        answered = state.doubts.answers if state.standing.is_voter else state.introduced
        return tuple(peer for peer in state.peers if peer not in answered)

    @property
    def is_old_copy(self) -> bool:
        """Whether this directory went back, or may be a copy of one that did, and was not cleared of that yet."""
        state = self._state
        return bool(state.voter_peers) and (state.standing.is_copy or not lives.is_in_place(state))

    def lose(self, now: int, lost: Sequence[LostEntry]) -> None:
        """Note that the payloads of entries were found rotten on the disk, and have them healed."""
        healing.lose(self._state, now, lost)

    def needless_prefix(self) -> Index | None:
        """Return up to where the log is to be compacted because of wounds that need no healing; None: nowhere."""
        return healing.needless_prefix(self._state)

    def peers_changed(self, now: int, priorities: Mapping[NodeId, int] | None = None) -> None:
        """Note that a link came up or went down: what waits for a peer, a vote for example, need not wait longer.

        Args:
            now: ms.
            priorities: the election priority of each node to which there is a link now; None: as before.
        """
        self._state.retry_due = now
        if priorities is not None:
            self._state.priorities.note(priorities)

    def hear_members(self, now: int, source: NodeId, told: Configuration | None) -> None:
        """Note what ``source`` goes by (None: nothing newer): this log may be behind, and who it knows gone."""
        lives.hear_members(self._state, now, source, told)

    def rewrite_standing(self) -> None:
        """Have the next write repeat the standing, and with it both copies of what is stored beside the log."""
        self._state.forget_submitted_standing()

    def was_replaced(self, peer: NodeId, node_uuid: bytes) -> bool:
        """Return whether this disk of ``peer`` is not to be heard any more, because another took its place."""
        known = self._state.standing.peer(peer)
        return known is not None and node_uuid in known.former

    # -- room on the disk (room.py) -----------------------------------------------------------------------------------

    def note_room(self, free_bytes: int, *, is_low: bool) -> None:
        """Note how much room the disk has.

        Args:
            free_bytes: for entries; what terms and votes need is taken off already.
            is_low: whether it is less than the reserve.
        """
        room.note(self._state, free_bytes, is_low=is_low)

    def has_room_for(self, payload_bytes: int) -> bool:
        """Return whether the disk can take an entry of that size."""
        return self._state.room.free_bytes >= stored_bytes(payload_bytes)

    @property
    def is_room_ample(self) -> bool:
        """Whether a majority has room for what needs memory, as far as this leader knows."""
        return room.is_ample_on_majority(self._state)

    def entries_read(self) -> None:
        """Note that a large entry can be had now that was being read on another thread (``LogView.entries``)."""
        self._state.log.entries_read()

    # -- snapshots (Raft §7) --------------------------------------------------------------------------------------

    @property
    def is_whole(self) -> bool:
        """Whether the machine has a state; False until the first snapshot is installed on a node that lost it."""
        return self._state.is_whole

    @property
    def snapshot(self) -> LogPoint:
        """Where this node's newest durable checkpoint was taken."""
        return self._state.snapshot

    def lose_state(self, now: int) -> None:
        """Note that the machine's state cannot be believed: lead no longer, apply nothing, and wait for a snapshot."""
        snapshots.lose_state(self._state, now)

    @property
    def is_caught_up(self) -> bool:
        """Whether all is applied that was committed when the leader last spoke, or when this node began to lead."""
        state = self._state
        if not state.is_whole:
            return False
        if state.role is LEADER:
            return state.log.last_applied >= state.term_start_index
        return state.leader_commit is not None and state.log.last_applied >= state.leader_commit

    def checkpointed(self, point: LogPoint) -> None:
        """Note that a durable checkpoint of the machine at ``point`` can be offered to followers."""
        self._state.snapshot = point

    def compact(self, upto: Index) -> None:
        """Let the log begin behind ``upto``: never beyond what a durable checkpoint covers.

        Raises:
            InvariantViolation: no checkpoint covers it, or it is not applied and flushed.
            CorruptRecord: the entry there cannot be read.
        """
        snapshot = self._state.snapshot
        if upto > snapshot.index:
            raise InvariantViolation(f"compact up to {upto}, but the durable checkpoint is {snapshot}")
        self._state.log.compact(upto)

    def wants_snapshot(self, point: LogPoint) -> bool:
        """Return whether a snapshot taken at ``point`` would bring this node forward."""
        return snapshots.wants(self._state, point)

    def may_count_at(self, point: LogPoint, configuration: Configuration | None) -> bool:
        """Return whether a snapshot taken at ``point`` may name ``configuration``, by all that is known here.

        One that names an older configuration than is committed, or another than this log has there, is not to be
        installed: this node would count other majorities than the rest (openraft, issue 1808).

        Args:
            point: where it was taken; not before the log's base.
            configuration: None: the fixed one of the first start.
        """
        return snapshots.may_count_at(self._state, point, configuration)

    def snapshot_floor(self) -> Index:
        """Return the index behind which a snapshot must have been taken to be of use here."""
        return snapshots.floor(self._state)

    def install_snapshot(self, base: Base, configuration: Configuration | None = None) -> None:
        """Go on from a snapshot taken at ``base``, which the machine and its disk hold already.

        Args:
            base: where it was taken.
            configuration: the one that counts there, as the snapshot says; None: the fixed one of the first start.

        Raises:
            InvariantViolation: it is not wanted, see ``wants_snapshot``, or its configuration cannot be, see
                ``may_count_at``.
        """
        snapshots.install(self._state, base, configuration)

    # -- output ---------------------------------------------------------------------------------------------------

    def ready(self, now: int, *, may_apply: bool = True) -> Ready:
        """Hand out all work that the events so far produced; each piece once.

        Args:
            now: ms.
            may_apply: whether the machine takes entries at present; reads, which may wait for them, wait with them.
        """
        return work_list.hand_out(self._state, now, may_apply=may_apply)

    def has_ready(self, now: int, *, may_apply: bool = True) -> bool:
        """Return whether ``ready`` has anything to hand out; without, it returns an empty ``Ready``.

        Args:
            now: ms.
            may_apply: as ``ready`` is going to be told.
        """
        return work_list.is_there(self._state, now, may_apply=may_apply)

    def has_more(self) -> bool:
        """Return whether ``ready`` would hand out more committed entries at once."""
        return work_list.has_committed(self._state)
