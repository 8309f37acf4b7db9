"""What no correct node says, made for whoever is to hear it: frames of a liar behind a proven link.

Each is a lie by what its hearer knows (raft/validation.py), so it must be refused, and nothing may have changed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from durable_raft.raft import election
from durable_raft.raft.messages import (
    FETCH_ENTRIES_MAX,
    AppendEntries,
    AppendEntriesResponse,
    FetchEntries,
    FetchEntriesResponse,
    InstallSnapshot,
    Message,
    RequestVote,
    RequestVoteResponse,
)
from durable_raft.raft.state import RaftState
from durable_raft.raft.types import ORIGIN, Index, NodeId, Role, Term

Lie = Callable[[RaftState, NodeId, int, random.Random], Message | None]

FAR: Final = Term(2**63 - 1)


def _answer(term: Term, *, match: int = 0, conflict: int = 0, rejected: int = 0, rounds: int = 0) -> Message:
    is_success = not conflict
    return AppendEntriesResponse(
        term, is_success, Index(match), Index(conflict), Term(0), Index(rejected), rounds, True, False
    )


def far_term(state: RaftState, source: NodeId, now: int, rng: random.Random) -> Message | None:
    """The last term there is, in any kind of message."""
    del source, now
    last = state.log.last
    return rng.choice(
        (
            RequestVote(FAR, last.index, last.term, False),
            RequestVote(FAR, last.index, last.term, True),
            RequestVoteResponse(FAR, True, False),
            AppendEntries(FAR, Index(0), Term(0), 0, (), Index(0), 0),
            _answer(FAR),
            InstallSnapshot(FAR, Index(1), Term(1), 0, 0),
            FetchEntriesResponse(FAR, (), (), ORIGIN, ORIGIN),
        )
    )


def second_leader(state: RaftState, source: NodeId, now: int, rng: random.Random) -> Message | None:
    """A leader of a term that has one."""
    del now
    if state.leader_id in (None, source):
        return None
    snapshot = InstallSnapshot(state.current_term, Index(1), Term(1), 0, 0)
    return rng.choice((AppendEntries(state.current_term, Index(0), Term(0), 0, (), Index(0), 0), snapshot))


def impossible_candidate(state: RaftState, source: NodeId, now: int, rng: random.Random) -> Message | None:
    """A candidate whose log ends in its own term."""
    del source, now
    term = Term(state.current_term + 1)
    return RequestVote(term, Index(state.log.last.index + 9), term, rng.random() < 0.5)


def false_match(state: RaftState, source: NodeId, now: int, rng: random.Random) -> Message | None:
    """More than the follower was sent, in a success or a rejection; a ReadIndex round that was not begun."""
    del now
    if state.role is not Role.LEADER:
        return None
    beyond = max(state.progress[source].sent_index, state.log.commit_index) + rng.choice((1, 1000))
    term = state.current_term
    return rng.choice(
        (
            _answer(term, match=beyond),
            _answer(term, conflict=beyond, rejected=beyond),
            _answer(term, rounds=state.read_round + 1),
        )
    )


def another_history(state: RaftState, source: NodeId, now: int, rng: random.Random) -> Message | None:
    """A leader that holds another entry where one is committed, while a leader is heard."""
    del rng
    log = state.log
    is_led = state.leader_id != source and election.hears_a_leader(state, now)
    if not is_led or state.doubts.contradiction is not None or log.commit_index == 0:
        return None
    place = log.commit_index
    other = Term(log.term_at(place) + 1)
    return AppendEntries(Term(max(state.current_term + 1, other)), place, other, 0, (), Index(0), 0)


def too_many(state: RaftState, source: NodeId, now: int, rng: random.Random) -> Message | None:
    """More entries than are ever asked for."""
    del source, now, rng
    return FetchEntries((state.log.last,) * (FETCH_ENTRIES_MAX + 1))


LIES: Final[tuple[Lie, ...]] = (far_term, second_leader, impossible_candidate, false_match, another_history, too_many)
