"""Planted bugs of what is believed of a peer."""

from __future__ import annotations

from collections.abc import Sequence

from durable_raft.errors import PeerMisbehaved
from durable_raft.raft import validation
from durable_raft.raft.messages import AppendEntriesResponse
from durable_raft.raft.state import RaftState
from durable_raft.raft.term_budget import TermBudget
from durable_raft.raft.types import NodeId
from tests.simulation.planting import Patch, mutant


@mutant
def any_term_is_believed() -> Sequence[Patch]:
    """A message may raise the term as far as it likes: one of the last term there is ends all elections."""
    return [(TermBudget, "left", lambda _self, _now: 2**63)]


@mutant
def second_leader_believed() -> Sequence[Patch]:
    """Nobody looks whether a term has a leader already."""
    return [(validation, "_check_leader", lambda _state, _source, _term: None)]


@mutant
def acknowledgements_believed() -> Sequence[Patch]:
    """A leader does not compare what a follower acknowledges with what it was sent."""
    return [(validation, "_check_answer", lambda _state, _source, _message: None)]


@mutant
def another_history_believed() -> Sequence[Patch]:
    """A node that hears a leader believes that another was elected without what is committed."""
    return [(validation, "_check_committed", lambda *_: None)]


@mutant
def honest_followers_accused() -> Sequence[Patch]:
    """A leader takes an acknowledgement of what it has sent for a lie, if it is news."""

    def check(state: RaftState, source: NodeId, message: AppendEntriesResponse) -> None:
        if message.match_index > max(state.progress[source].match_index, state.log.commit_index):
            raise PeerMisbehaved(f"matches up to {message.match_index}")

    return [(validation, "_check_answer", check)]
