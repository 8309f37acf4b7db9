"""Every mutable field of the algorithm, and the only place where role, term and vote change.

The rules (election.py, replication.py, reads.py) are functions over a ``RaftState``; ``core.Raft`` is the door.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import replace

from durable_raft.errors import InvariantViolation
from durable_raft.raft.configuration import Configurations, describe
from durable_raft.raft.log import LogView, RaftLog
from durable_raft.raft.messages import Envelope, Message
from durable_raft.raft.priority import Priorities
from durable_raft.raft.progress import Progress
from durable_raft.raft.quorum import majority_value, quorum_value
from durable_raft.raft.ready import Offer, ReadReady, Write
from durable_raft.raft.state_parts import (
    Doubts,
    HandOver,
    Observer,
    PendingRead,
    Reluctance,
    RoomLeft,
    Search,
    Transfer,
)
from durable_raft.raft.term_budget import TermBudget
from durable_raft.raft.timeouts import Timeouts, flush_patience_ms
from durable_raft.raft.types import (
    CANDIDATE,
    FOLLOWER,
    LEADER,
    PRE_CANDIDATE,
    Configuration,
    HardState,
    Index,
    LogPoint,
    NodeId,
    RaftConfig,
    Role,
    Standing,
    StoredLog,
    Term,
)


class RaftState:
    """The state of one node."""

    def __init__(
        self,
        config: RaftConfig,
        stored: StoredLog,
        view: LogView,
        rng: random.Random,
        observe: Observer,
        now: int,
        applied: LogPoint | None = None,
        *,
        has_state: bool = True,
    ) -> None:
        self.config, self.rng, self.observe = config, rng, observe
        self.snapshot: LogPoint = stored.base if applied is None else applied
        """The newest durable checkpoint of this node: what it offers to a follower that needs one."""
        configurations = Configurations(config.initial, stored.configurations)
        self.log = RaftLog(stored, view, config.log_cache_bytes_max, self.snapshot, configurations)
        self.is_whole = has_state
        """Whether the machine has a state to apply entries to: without one this node votes, but never leads."""
        self.offer: Offer | None = None
        self.timeouts, self.term_budget = Timeouts(config), TermBudget(now)
        self.priorities = Priorities(config.election_priority)
        self._adopt(configurations.newest)
        configurations.changed = self._change_configuration

        self.hard_state: HardState = stored.hard_state
        self.flushed_hard_state: HardState = stored.hard_state
        """What the disk certainly holds. While it differs from ``hard_state`` no message leaves before the write."""
        self._submitted_hard_state: HardState = stored.hard_state
        self.standing: Standing = stored.standing
        """What this disk may promise, and whom it knows (admission.py)."""
        self._submitted_standing: Standing | None = stored.standing
        self.introduced: dict[NodeId, bool] = {}
        """Peers that answered to an introduction in this life: whether they knew another disk under this node's id."""
        self.retry_due = now
        """When to ask peers again for what is not answered (election.py, admission.py, healing.py; ms)."""
        self.doubts = Doubts()
        self.search = Search(stored.hard_state.current_term)
        self._inflight_hard_states: deque[tuple[int, HardState]] = deque()
        self._write_number = 0

        self.role: Role = FOLLOWER
        self.leader_id: NodeId | None = None
        """The leader of ``current_term`` as far as this node knows."""
        self.leader_commit: Index | None = None
        """Followers: what the leader of this term last called committed, its log or not; None when it never spoke."""
        self.heard_from_leader_at: int | None = None
        """When the leader of this term last spoke (ms); None when it never did."""
        self.election_deadline = now
        """Followers and candidates: when to campaign unless something is heard first (ms); at once without peers."""
        self.room = RoomLeft()
        self.hand_over = HandOver()
        self.reluctance = Reluctance()
        self.votes: dict[NodeId, bool] = {}
        """Candidates and pre-candidates: answers of this campaign, own vote included once it may count."""

        self._begin_without_office(now)
        self.messages: list[Envelope] = []
        self.messages_after_write: list[Envelope] = []
        if self.voter_peers:
            self.reset_election_deadline(now)

    def _begin_without_office(self, now: int) -> None:
        """Make what only a candidate or a leader fills."""
        self.progress: dict[NodeId, Progress] = {}
        """Leader only: one per peer."""
        self.heartbeat_due = now
        """Leader only (ms)."""
        self.transfer: Transfer | None = None
        """Leader only: leadership that is being handed over; nothing is proposed meanwhile."""
        self.is_successor = False
        """Candidate only: whether the leader asked it to campaign."""
        self.told_from: int | None = None
        """Leader only: since when those who leave can know it (ms)."""
        self.term_start_index: Index = Index(0)
        """Leader only: index of the no-op that opened the term; reads are served from there on."""

        self.read_round = 0
        """Number of the newest ReadIndex round; every AppendEntries carries it. Never reset (etcd #20418)."""
        self.broadcast_round = 0
        """Leader only: newest round that every follower is to be asked about at once."""
        self.pending_reads: deque[PendingRead] = deque()
        self.confirmed_reads: list[ReadReady] = []
        self.lost_reads: list[int] = []

    def _change_configuration(self, configuration: Configuration) -> None:
        """Go by ``configuration``, which became the newest of the log."""
        if configuration.index < self.configuration.index:
            # What made this node a member may have been cut. Then who was told of its disk may have forgotten it since,
            # and is told again (admission.py).
            self.introduced.clear()
        self._adopt(configuration)
        self.observe("configuration", index=configuration.index, members=describe(configuration))

    def _adopt(self, configuration: Configuration) -> None:
        """Go by ``configuration`` from now on."""
        own = self.config.node_id
        self.configuration = configuration
        """The newest one in the log, committed or not (Raft §6)."""
        self.peers: tuple[NodeId, ...] = tuple(each for each in configuration.ids() if each != own)
        """All other members."""
        self.peer_set = frozenset(self.peers)
        self.voter_peers: tuple[NodeId, ...] = tuple(peer for peer in self.peers if configuration.has_voter(peer))
        """The other members that vote."""
        self.has_vote = configuration.has_voter(own)
        """Whether this node is one of the configuration's voters; what its disk may promise is another matter."""
        self.is_plain = self.has_vote and not configuration.outgoing and self.voter_peers == self.peers
        """Whether all members vote, this node too, in one set: then ``progress`` has the other voters, nobody else."""
        self.note_change()

    def note_change(self) -> None:
        """Note whether something is to be done when the configuration is committed (membership.py)."""
        configuration = self.configuration
        is_new = configuration.index > self.log.commit_index
        self.is_changing = is_new or not configuration.is_at_rest or not self.has_vote

    # -- shorthand ------------------------------------------------------------------------------------------------

    @property
    def current_term(self) -> Term:
        """Figure 2: latest term this node has seen."""
        return self.hard_state.current_term

    @property
    def voted_for(self) -> NodeId | None:
        """Figure 2: candidate that received this node's vote in the current term, or None."""
        return self.hard_state.voted_for

    @property
    def may_lead(self) -> bool:
        """Whether this node may stand for election: a voter with its whole log and a state, whom nobody contradicts."""
        return self.is_voter and self.is_whole and self.doubts.contradiction is None and not self.log.missing()

    @property
    def may_campaign(self) -> bool:
        """Whether this node has a vote in a configuration that may count: the newest, or one before it that may again.

        Its newest configuration, in which it has none, may be on this disk only. Then the others need its log, and its
        election: they cannot elect a node whose log is shorter. It does not count itself.
        """
        if self.has_vote:
            return True
        own = self.config.node_id
        return any(each.has_voter(own) for each in self.log.configurations.since(self.log.commit_index))

    @property
    def is_voter(self) -> bool:
        """Whether this node's promises count."""
        return self.standing.is_voter and self.doubts.is_resumed

    @property
    def has_life_to_tell(self) -> bool:
        """Whether a peer, or whoever leads, has not answered to this life of the directory (lives.py)."""
        answers, leader, lives = self.doubts.answers, self.leader_id, self.standing.lives
        is_leader_silent = leader not in answers and leader not in (None, self.config.node_id)
        has_silent = is_leader_silent or not answers.keys() >= self.peer_set
        # A life that was begun alone was not counted.
        return has_silent and self.standing.is_voter and bool(lives) and lives[-1].nonce == self.config.life

    @property
    def has_retries(self) -> bool:
        """Whether something is to be asked of peers again until they answer."""
        must_introduce = not self.standing.is_voter and (
            not self.introduced.keys() >= self.peer_set or not self.voter_peers
        )
        must_resume = self.has_life_to_tell or (self.standing.is_voter and not self.doubts.is_resumed)
        return must_introduce or bool(self.log.lost) or self.waits_for_votes or must_resume

    @property
    def is_hard_state_flushed(self) -> bool:
        """Whether the disk holds the term and the vote that this node speaks for."""
        return self.hard_state is self.flushed_hard_state or self.hard_state == self.flushed_hard_state

    def quorum_value(self, of_peers: list[int], own: int) -> int:
        """Return the highest value that a leader's quorum has reached.

        Args:
            of_peers: the value of each node in ``progress``, in its order; it is not the caller's any more.
            own: this node's; it counts if it is a voter.
        """
        if self.is_plain:
            of_peers.append(own)
            return majority_value(of_peers)
        values = dict(zip(self.progress, of_peers, strict=True))
        values[self.config.node_id] = own
        return quorum_value(self.configuration, values)

    @property
    def is_campaigning(self) -> bool:
        """Whether this node asks for votes or pre-votes."""
        return self.role in (PRE_CANDIDATE, CANDIDATE)

    @property
    def waits_for_votes(self) -> bool:
        """Whether a campaign waits for the answer of a peer that was asked: a candidate's own vote is flushed."""
        if not self.is_campaigning:
            return False
        is_asked = self.role is PRE_CANDIDATE or self.is_hard_state_flushed
        return is_asked and any(peer not in self.votes for peer in self.voter_peers)

    def reset_election_deadline(self, now: int, *, is_voting: bool = False) -> None:
        """Draw a new election timeout from now on (Raft §5.2), as long as this node has learned to wait."""
        low, high = self.timeouts.election_range(now, is_voting=is_voting)
        if not self.priorities.are_equal:
            low, high = self.priorities.share_of(low, high, self.rivals())
        self.election_deadline = now + self.rng.randint(low, high)

    def rivals(self) -> list[NodeId]:
        """Return the other voters that may lead next: all but the leader that is heard, or has just fallen silent."""
        return [peer for peer in self.voter_peers if peer != self.leader_id]

    def tell_timeouts(self, now: int) -> None:
        """Tell the observer when the timeouts became much longer, and when they are as configured again."""
        timeouts = self.timeouts
        if timeouts.were_always_as_configured:
            return
        if timeouts.became_longer(now):
            shortest, longest, late, *_ = timeouts.patience(now)
            self.observe("timeouts_raised", shortest_ms=shortest, longest_ms=longest, late_ms=late)
        elif timeouts.calmed_down(now):
            self.observe("timeouts_as_configured", shortest_ms=timeouts.shortest(now), longest_ms=timeouts.longest(now))

    def is_disk_stalled(self, now: int) -> bool:
        """Return whether the oldest unflushed write takes longer than flushes do here, its bytes granted their time.

        A node whose disk hangs must neither keep nor win leadership (hashicorp/raft #503, #614).
        """
        oldest = self.log.inflight.oldest()
        if oldest is None:
            return False
        submitted_at, unflushed_bytes = oldest
        return now - submitted_at > flush_patience_ms(self.timeouts.hung_after(now), unflushed_bytes)

    # -- messages -------------------------------------------------------------------------------------------------

    def send(self, target: NodeId, message: Message) -> None:
        """Let ``message`` leave: at once when the term and vote it speaks for are flushed, else after the write."""
        if self.is_hard_state_flushed:
            self.messages.append(Envelope(target, message))
        else:
            self.messages_after_write.append(Envelope(target, message))

    def send_after_write(self, target: NodeId, message: Message) -> None:
        """Let ``message`` leave once everything accepted so far is flushed: it promises that."""
        self.messages_after_write.append(Envelope(target, message))

    # -- the way to the disk --------------------------------------------------------------------------------------

    def has_write(self) -> bool:
        """Return whether anything is to be persisted that was not handed out for it yet."""
        return self.log.has_unsubmitted() or self._has_new_hard_state() or self._has_new_standing()

    def _has_new_hard_state(self) -> bool:
        return self.hard_state is not self._submitted_hard_state and self.hard_state != self._submitted_hard_state

    def _has_new_standing(self) -> bool:
        return self.standing is not self._submitted_standing and self.standing != self._submitted_standing

    def take_write(self, now: int) -> Write | None:
        """Hand out what is to be persisted next, hard state and entries in one piece; None when there is nothing."""
        if not self.has_write():
            return None
        hard_state = self.hard_state if self._has_new_hard_state() else None
        standing = self.standing if self._has_new_standing() else None
        self._submitted_standing = self.standing
        self._write_number += 1
        if hard_state is not None:
            self._submitted_hard_state = hard_state
            self._inflight_hard_states.append((self._write_number, hard_state))
        return self.log.take_write(now, self._write_number, hard_state, standing)

    def forget_submitted_standing(self) -> None:
        """Have the next write carry the standing again."""
        self._submitted_standing = None

    def acknowledge_write(self, now: int, number: int) -> None:
        """Note that write ``number``, the oldest in flight, is flushed.

        Who voted waits for the winner from now on: a slow disk does not count against the election.
        """
        oldest = self.log.inflight.oldest()
        self.log.acknowledge(number)
        if oldest is not None:
            submitted_at, unflushed_bytes = oldest
            self.timeouts.note_flush(now, now - submitted_at, unflushed_bytes)
        if self._inflight_hard_states and self._inflight_hard_states[0][0] == number:
            self.flushed_hard_state = self._inflight_hard_states.popleft()[1]
            has_voted = self.role in (FOLLOWER, CANDIDATE) and self.voted_for is not None
            if has_voted and self.leader_id is None and self.is_hard_state_flushed:
                self.reset_election_deadline(now, is_voting=True)
                self.retry_due = now + self.config.heartbeat_ms

    # -- changes of role ------------------------------------------------------------------------------------------

    def become_follower(self, now: int, term: Term, leader_id: NodeId | None) -> None:
        """Follow ``leader_id`` (None: not known yet) in ``term``; the vote is cleared only by a higher term."""
        if term < self.current_term:
            raise InvariantViolation(f"term would fall from {self.current_term} to {term}")
        was = self.role
        if was is LEADER:
            self.remember_owed()
        if term > self.current_term:
            self.hard_state = HardState(term, None)
        if was is not FOLLOWER or leader_id != self.leader_id:
            self.observe("became_follower", term=term, leader=leader_id, was=was.value)
        self.role = FOLLOWER
        self.leader_id = leader_id
        self.leader_commit = None
        self.heard_from_leader_at = None
        self.votes = {}
        self.is_successor = False
        if was is LEADER:
            self.progress, self.transfer = {}, None
            self._lose_reads()
        if was is not FOLLOWER:
            self.reset_election_deadline(now)

    def hear_leader(self, now: int, source: NodeId) -> None:
        """Follow ``source``, which spoke as the leader of the current term (Figure 2, Rules for Servers)."""
        if self.leader_id not in (None, source):
            raise InvariantViolation(f"two leaders in term {self.current_term}: {self.leader_id} and {source}")
        if self.role is not FOLLOWER or self.leader_id != source:
            self.become_follower(now, self.current_term, source)
        self.timeouts.leader_spoke(now, self.current_term, source)
        self.timeouts.failed_campaigns = 0
        self.tell_timeouts(now)
        self.heard_from_leader_at = now
        self.reluctance.let_pass = 0
        self.reset_election_deadline(now)

    def become_pre_candidate(self, now: int) -> None:
        """Ask whether an election could be won, changing neither term nor vote (Ongaro §9.6)."""
        self._leave_leader()
        self.role, self.is_successor = PRE_CANDIDATE, False
        self.votes = {self.config.node_id: True}
        self.reset_election_deadline(now)
        self.observe("became_pre_candidate", term=self.current_term)

    def become_candidate(self, now: int) -> None:
        """Begin an election: increment current_term, vote for self, reset the election timer (Figure 2)."""
        self._leave_leader()
        self.role = CANDIDATE
        self.hard_state = HardState(Term(self.current_term + 1), self.config.node_id)
        self.votes = {}
        self.reset_election_deadline(now, is_voting=True)
        self.observe("became_candidate", term=self.current_term)

    def become_leader(self, now: int) -> None:
        """Lead the current term; next_index and match_index start anew (Figure 2)."""
        if self.role is not CANDIDATE:
            raise InvariantViolation(f"a {self.role.value} of term {self.current_term} would become leader")
        self.role, self.is_successor = LEADER, False
        # Whatever stage its configuration is in, it goes on with it (membership.py).
        self.note_change()
        self.told_from = None
        self.leader_id = self.config.node_id
        self.timeouts.failed_campaigns = 0
        next_index = Index(self.log.last.index + 1)
        self.progress = {peer: Progress(next_index, now) for peer in self.peers}
        self.term_start_index = next_index
        self.heartbeat_due = now
        self.observe("became_leader", term=self.current_term, last_log_index=self.log.last.index)

    def grant_vote(self, now: int, candidate: NodeId) -> None:
        """Vote for ``candidate`` in the current term (Figure 2); granting a vote resets the election timer."""
        if self.voted_for not in (None, candidate):
            raise InvariantViolation(f"second vote in term {self.current_term}: {self.voted_for}, now {candidate}")
        self.hard_state = HardState(self.current_term, candidate)
        self.reset_election_deadline(now, is_voting=True)
        self.observe("granted_vote", term=self.current_term, candidate=candidate)

    def spend_vote(self, now: int, term: Term) -> None:
        """Be in ``term`` at least, and vote no more in it: such a vote may have been given and forgotten (lives.py)."""
        if term > self.current_term:
            self.term_budget.spend(now, term - self.current_term)
            self.become_follower(now, term, None)
        if term == self.current_term and self.voted_for is None:
            self.hard_state = HardState(term, self.config.node_id)

    def owed_by(self, peer: NodeId) -> tuple[Term, Term, Index]:
        """Return the last entry that ``peer`` acknowledged to this node: the term that this led in, term and index."""
        known = self.standing.peer(peer)
        owed = (Term(0), Term(0), Index(0)) if known is None else (known.owed_in, known.owed_term, known.owed_index)
        progress = self.progress.get(peer)
        if progress is None or progress.match_index <= self.log.base.index:
            return owed
        return max(owed, (self.current_term, self.log.term_at(progress.match_index), progress.match_index))

    def remember_owed(self) -> None:
        """Have the next write keep what each follower acknowledged."""
        for peer in self.progress:
            known = self.standing.peer(peer)
            if known is not None:
                led_in, term, index = self.owed_by(peer)
                owing = replace(known, owed_in=led_in, owed_term=term, owed_index=index)
                self.standing = self.standing.with_peer(owing) if owing != known else self.standing

    def note_cut(self) -> None:
        """Have the write that cuts this log say so: what was acknowledged to earlier leaders may be gone (lives.py)."""
        if self.config.life and self.standing.cut_in != self.current_term:
            self.standing = replace(self.standing, cut_in=self.current_term)

    def _leave_leader(self) -> None:
        if self.role is LEADER:
            raise InvariantViolation(f"a leader of term {self.current_term} would campaign")
        self.leader_id = None
        self.heard_from_leader_at = None

    def _lose_reads(self) -> None:
        """Give back every read that was not handed out: its answer would need a leadership that is gone."""
        self.lost_reads.extend(read.read_id for read in self.pending_reads)
        self.lost_reads.extend(read.read_id for read in self.confirmed_reads)
        self.pending_reads.clear()
        self.confirmed_reads.clear()
