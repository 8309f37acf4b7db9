"""What is asked of peers again until they answer: questions and answers may be lost (Raft §5.5)."""

from __future__ import annotations

from typing import Final

from durable_raft.raft import admission, election, healing, lives
from durable_raft.raft.state import RaftState

LATE_PAUSE: Final = 20
"""Heartbeats after which a node that is a voter tells its life again to a peer that has not answered."""


def retry(state: RaftState, now: int) -> None:
    """Tell this life, introduce this disk, ask for lost entries and votes; again until that is done."""
    is_urgent = not state.is_voter or state.log.lost or state.waits_for_votes
    # A peer that is down is told of this life when its link comes up.
    state.retry_due = now + state.config.heartbeat_ms * (1 if is_urgent else LATE_PAUSE)
    lives.resume(state, now)
    admission.introduce(state, now)
    healing.fetch(state)
    if state.waits_for_votes and now < state.election_deadline:
        election.ask_for_votes(state, now)
