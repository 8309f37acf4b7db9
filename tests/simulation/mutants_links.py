"""Planted bugs of large entries and what passes them on their way."""

from __future__ import annotations

from collections.abc import Sequence

from durable_raft.raft import replication
from durable_raft.raft.progress import Progress
from durable_raft.raft.state import RaftState
from durable_raft.raft.types import Entry, Index, NodeId
from tests.simulation.planting import Patch, mutant


@mutant
def passed_entries_taken_for_acknowledged() -> Sequence[Patch]:
    """The answer to a heartbeat that passed entries is taken for the answer to them."""
    became_matched = Progress.became_matched

    def match(self: Progress, match_index: Index) -> bool:
        return became_matched(self, self._inflight[-1][0] if self._inflight else match_index)

    return [(Progress, "became_matched", match)]


@mutant
def lost_entries_never_found() -> Sequence[Patch]:
    """While entries are in flight only heartbeats are sent that say nothing of them: what was lost stays so."""
    return [(Progress, "is_overdue", lambda _self: False)]


@mutant
def heartbeat_without_round() -> Sequence[Patch]:
    """A heartbeat that passes entries counts as having asked the newest round, and asks an older one."""
    send = replication._send

    def stale(state: RaftState, peer: NodeId, progress: Progress, place: Index, entries: list[Entry]) -> None:
        newest, state.read_round = state.read_round, state.read_round if entries else max(0, state.read_round - 1)
        try:
            send(state, peer, progress, place, entries)
        finally:
            state.read_round = newest

    return [(replication, "_send", stale)]
