"""Elections: randomized timeouts, PreVote, RequestVote (Raft §5.2, §5.4.1; Ongaro §4.2.3, §9.6).

A vote promises something only once it is durable: requests and answers leave after the write that carries the term and
the vote (``RaftState.send``), and a candidate counts its own vote when that write is flushed.
"""

from __future__ import annotations

from durable_raft.raft import healing, reluctance
from durable_raft.raft.messages import RequestVote, RequestVoteResponse
from durable_raft.raft.quorum import has_quorum, is_refused
from durable_raft.raft.state import RaftState
from durable_raft.raft.types import CANDIDATE, LEADER, PRE_CANDIDATE, NodeId, Term


def election_timeout(state: RaftState, now: int) -> None:
    """Start a campaign: the election timeout elapsed without hearing from a leader (Figure 2, Followers).

    Who has no vote does not campaign, unless the configuration without it may still be cut (``may_campaign``). A node
    whose own disk hangs waits: it could not make its vote durable (hashicorp/raft #614). So does one
    that has no state to serve, whose log is wounded, or that is no voter yet, unless only a newer term can heal it.
    One that had better not lead waits for a while.
    """
    may_campaign = state.may_campaign and (state.may_lead or healing.needs_newer_term(state))
    is_unfit = state.is_disk_stalled(now) or not state.is_hard_state_flushed or not may_campaign
    if is_unfit or reluctance.holds_back(state):
        state.reset_election_deadline(now)
        return
    if state.role is CANDIDATE:
        state.timeouts.failed_campaigns += 1
    state.become_pre_candidate(now)
    state.timeouts.pre_vote_asked(now)
    ask_for_votes(state, now)
    # A cluster of one has its majority already, for the pre-vote: its own vote counts when it is flushed.
    _count_votes(state, now)


def own_vote_flushed(state: RaftState, now: int) -> bool:
    """Count a candidate's vote for itself, now that it is durable; return whether that wins the election."""
    if state.role is not CANDIDATE or not state.is_hard_state_flushed:
        return False
    state.votes[state.config.node_id] = True
    return _count_votes(state, now)


def handle_request_vote(state: RaftState, now: int, source: NodeId, message: RequestVote) -> None:
    """Answer a RequestVote or a pre-vote of the current term or, for a pre-vote, of a coming one (Figure 2).

    A disk that is not admitted yet grants nothing: it may have forgotten what was promised (admission.py). Nor does a
    node whose committed entries a leader contradicts (contradiction.py).
    """
    may_vote = state.is_voter and state.doubts.contradiction is None
    up_to_date = may_vote and state.log.is_up_to_date(message.last_log_index, message.last_log_term)
    if may_vote and not up_to_date and not hears_a_leader(state, now):
        reluctance.is_needed(state)
    if message.pre_vote:
        granted = up_to_date and message.term > state.current_term and not hears_a_leader(state, now)
        answer_term = message.term if granted else state.current_term
        state.send(source, RequestVoteResponse(answer_term, granted, pre_vote=True))
        return
    granted = up_to_date and message.term == state.current_term and state.voted_for in (None, source)
    if granted and state.voted_for == source:
        # It asks again (ask_for_votes). The first answer leaves with the flush of the vote; later ones at once.
        if state.is_hard_state_flushed:
            state.send(source, RequestVoteResponse(state.current_term, granted, pre_vote=False))
        return
    if granted:
        if state.role is PRE_CANDIDATE:
            # It has helped another to this term: late answers to its own pre-vote must not start the next one.
            state.become_follower(now, state.current_term, None)
        state.grant_vote(now, source)
    state.send(source, RequestVoteResponse(state.current_term, granted, pre_vote=False))


def handle_request_vote_response(state: RaftState, now: int, source: NodeId, message: RequestVoteResponse) -> bool:
    """Count an answer to this campaign; return whether it wins the election."""
    if message.vote_granted and message.term <= state.doubts.void_votes.get(source, -1):
        return False
    if message.pre_vote:
        expected_term = state.current_term + 1 if message.vote_granted else state.current_term
        counts = state.role is PRE_CANDIDATE and message.term == expected_term
        if counts and message.vote_granted:
            # No flush is waited for in between, so this is how far away the others are.
            state.timeouts.pre_vote_granted(now)
    else:
        counts = state.role is CANDIDATE and message.term == state.current_term
    if not counts:
        return False
    state.votes[source] = message.vote_granted
    return _count_votes(state, now)


def hears_a_leader(state: RaftState, now: int) -> bool:
    """Return whether a leader spoke within the shortest election timeout, so that no vote is due (Ongaro §4.2.3)."""
    if state.role is LEADER:
        return True
    heard_at = state.heard_from_leader_at
    return heard_at is not None and now - heard_at < state.timeouts.shortest(now)


def ask_for_votes(state: RaftState, now: int) -> None:
    """Ask every voter that has not answered in this campaign: questions and answers may be lost (Raft §5.1)."""
    last = state.log.last
    is_pre_vote = state.role is PRE_CANDIDATE
    term = Term(state.current_term + 1) if is_pre_vote else state.current_term
    for peer in state.voter_peers:
        if peer not in state.votes:
            state.send(peer, RequestVote(term, last.index, last.term, is_pre_vote, state.is_successor))
    state.retry_due = now + state.config.heartbeat_ms


def _count_votes(state: RaftState, now: int) -> bool:
    """Act on the votes so far: go on from pre-vote to election, give up a lost one; return whether it is won."""
    granted = [voter for voter, is_granted in state.votes.items() if is_granted]
    if not has_quorum(state.configuration, granted):
        if is_refused(state.configuration, state.votes.keys() - granted):
            if state.role is CANDIDATE:
                state.timeouts.failed_campaigns += 1
            state.become_follower(now, state.current_term, None)
        return False
    if state.role is PRE_CANDIDATE:
        state.become_candidate(now)
        ask_for_votes(state, now)
        return False
    if not state.may_lead:
        # Its log is wounded: the term was all it needed (healing.py).
        state.become_follower(now, state.current_term, None)
        return False
    return True
