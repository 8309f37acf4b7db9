"""Planted bugs of lives (raft/lives.py): old copies of whole directories that are not known for what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from durable_raft.raft import admission, lives
from durable_raft.raft.state import RaftState
from tests.simulation.planting import Patch, mutant


@mutant
def place_not_checked() -> Sequence[Patch]:
    """A directory that was copied to other files is taken for the one that made the promises."""
    return [(lives, "is_in_place", lambda _state: True)]


@mutant
def lives_not_compared() -> Sequence[Patch]:
    """A peer that knows a later life of a directory says nothing."""
    return [(lives, "_went_back", lambda _known, _lives: False)]


@mutant
def life_not_awaited() -> Sequence[Patch]:
    """A voter votes and counts before its peers have looked at its life."""
    begin = lives.begin

    def at_once(state: RaftState) -> None:
        begin(state)
        state.doubts.is_resumed = True

    return [(lives, "begin", at_once)]


@mutant
def leader_heard_before_it_answers() -> Sequence[Patch]:
    """What a life acknowledges before its leader was asked what it is owed is taken for an earlier life's."""
    return [(lives, "is_unheard", lambda _state, _leader: False)]


@mutant
def copy_admitted_by_peers() -> Sequence[Patch]:
    """An old copy is a voter again as soon as all have answered, as the first disk of a node is."""

    def admit(state: RaftState, now: int) -> None:
        if admission.asks(state) and (state.standing.is_copy or not any(state.introduced.values())):
            admission._become_voter(state, now, "nobody knew another disk")

    return [(admission, "_admit_newcomer", admit)]


@mutant
def copy_forgets_what_it_is() -> Sequence[Patch]:
    """That a directory went back is not stored: after the next start it is a disk that nobody promised anything on."""
    become = lives._become_copy

    def forget(state: RaftState, now: int, reason: str) -> None:
        become(state, now, reason)
        state.standing = replace(state.standing, is_copy=False)

    return [(lives, "_become_copy", forget)]


@mutant
def moved_cluster_is_all_copies() -> Sequence[Patch]:
    """A node that is not in its place is a copy, though all were moved: no leader is left to admit it."""
    consider = lives.consider

    def doubt(state: RaftState, now: int) -> None:
        is_heard = len(state.doubts.answers) == len(state.peers)
        if is_heard and state.standing.is_voter and not state.doubts.is_resumed and not lives.is_in_place(state):
            lives._become_copy(state, now, "it is not in its place")
        consider(state, now)

    return [(lives, "consider", doubt)]
