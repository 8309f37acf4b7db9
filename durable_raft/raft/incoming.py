"""A message comes in: what its term means, and which rule it is for (Figure 2, Rules for Servers).

Who may speak is the server's business. The core hears a node that is not in its own configuration, too: a server
accepts a leader's entries and a candidate's question whoever they are (Raft §6), because its own log may be the older
one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable_raft.raft import (
    admission,
    election,
    healing,
    lives,
    reads,
    replication,
    snapshots,
    transfer,
    validation,
)
from durable_raft.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    FetchEntries,
    InstallSnapshot,
    Introduce,
    IntroduceResponse,
    Message,
    RequestVote,
    RequestVoteResponse,
    Resume,
    ResumeResponse,
    TermlessMessage,
    TermMessage,
    TimeoutNow,
)
from durable_raft.raft.types import LEADER, NodeId

if TYPE_CHECKING:
    from durable_raft.raft.state import RaftState


def take(state: RaftState, now: int, source: NodeId, message: Message) -> None:
    """Take a message from ``source``.

    Raises:
        PeerMisbehaved: no correct node sends it; nothing has changed (validation.py).
    """
    validation.validate(state, now, source, message)
    if not isinstance(message, TermMessage):
        _step_aside(state, now, source, message)
        return
    step = message.term - state.current_term
    if step > 0 and not _enter_newer_term(state, now, source, message):
        return
    if step < 0:
        _answer_older_term(state, now, source, message)
        return
    _dispatch(state, now, source, message)


def _enter_newer_term(state: RaftState, now: int, source: NodeId, message: TermMessage) -> bool:
    """Adopt a newer term where the message proves one; return whether the message is to be looked at further."""
    if isinstance(message, RequestVote):
        if message.pre_vote:
            return True
        if election.hears_a_leader(state, now) and not message.is_transfer:
            # A leader is alive: a candidate that cannot hear it must not depose it (Ongaro §4.2.3).
            return False
    if isinstance(message, RequestVoteResponse) and message.pre_vote and message.vote_granted:
        return True
    leader = source if isinstance(message, (AppendEntries, InstallSnapshot)) else None
    state.term_budget.spend(now, message.term - state.current_term)
    state.become_follower(now, message.term, leader)
    return True


def _answer_older_term(state: RaftState, now: int, source: NodeId, message: TermMessage) -> None:
    """Tell an old leader or candidate the newer term (Figure 2, receiver 1); ignore late answers."""
    if isinstance(message, (AppendEntries, InstallSnapshot)):
        state.timeouts.leader_spoke(now, message.term, source)
        replication.reject_old_leader(state, source, message)
    elif isinstance(message, RequestVote):
        election.handle_request_vote(state, now, source, message)


def _step_aside(state: RaftState, now: int, source: NodeId, message: TermlessMessage) -> None:
    """Take a message that belongs to no term."""
    if isinstance(message, Introduce):
        admission.handle_introduce(state, now, source, message)
    elif isinstance(message, IntroduceResponse):
        admission.handle_introduce_response(state, now, source, message)
    elif isinstance(message, Resume):
        lives.handle_resume(state, now, source, message)
    elif isinstance(message, ResumeResponse):
        lives.handle_resume_response(state, now, source, message)
    elif isinstance(message, FetchEntries):
        healing.handle_fetch_entries(state, source, message)
    else:
        healing.handle_fetch_entries_response(state, now, source, message)
    healing.notice(state, now)


def _dispatch(state: RaftState, now: int, source: NodeId, message: TermMessage) -> None:
    if isinstance(message, (AppendEntries, InstallSnapshot, TimeoutNow)) and lives.is_unheard(state, source):
        lives.wait_for(state, now, source)
    elif isinstance(message, AppendEntries):
        replication.handle_append_entries(state, now, source, message)
    elif isinstance(message, InstallSnapshot):
        snapshots.handle_install_snapshot(state, now, source, message)
    elif isinstance(message, AppendEntriesResponse):
        if state.role is LEADER:
            replication.handle_append_response(state, now, source, message)
            reads.confirm(state)
            admission.confirm(state, reads.confirmed_round)
        else:
            state.timeouts.late_answer(now, message.term)
    elif isinstance(message, RequestVote):
        election.handle_request_vote(state, now, source, message)
    elif isinstance(message, TimeoutNow):
        transfer.handle_timeout_now(state, now, source)
    elif election.handle_request_vote_response(state, now, source, message):
        replication.begin_term(state, now)
