"""Changes of the configuration, at the leader: asked for, carried on stage by stage, complete (Raft §6, Ongaro §4.3).

A configuration counts from the moment its entry is appended, here and on every other node, and until that is cut
(configuration.py: ``Configurations``). So at any time some nodes go by one and some by the next. Two that follow each
other differ in no voter, or one of them is joint and asks for a majority of the other as well. So there are never two
majorities that share nobody.

- A change is begun when an entry of the leader's own term is committed. That the term's no-op is needed first is the
  flaw of 2015 in single-server changes (Ongaro, raft-dev 2015-07-10). Joint configurations do not have it. The rule is
  kept all the same: it says that what was before is committed, or gone for good.
- One change at a time, from one configuration that is at rest to the next. A request names the one it was made against.
  So of two operators one is told that the other was first.
- The stages follow from the newest configuration alone, so whoever leads goes on with them (``advance``).
- A learner is promoted when its disk is admitted (admission.py) and it has acknowledged what was committed when its
  promotion was first asked for.
- Who leaves loses its vote first, and is a learner until it was told that. Then it knows that it has no vote, and
  campaigns no more. It is waited for, for an election timeout. One that is down is let go without.
- A leader that loses its vote leads until that is committed. It does not count itself. Then it hands leadership to the
  voter that has most of the log (transfer.py), and follows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from durable_raft.raft import contradiction, reads, replication, transfer
from durable_raft.raft.changes import (
    ChangeInProgress,
    NotCaughtUp,
    NotLeading,
    NotReady,
    Promote,
    StaleConfiguration,
    Step,
    next_configuration,
    require_working_majority,
)
from durable_raft.raft.configuration import describe, encode, next_stage
from durable_raft.raft.progress import Progress
from durable_raft.raft.types import CONFIGURATION, LEADER, Configuration, Entry, Index, NodeId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durable_raft.raft.state import RaftState


# -- asked for --------------------------------------------------------------------------------------------------------


def change(state: RaftState, now: int, against: Index, steps: Sequence[Step]) -> Entry:
    """Begin a change; see ``Raft.change``."""
    return _append(state, now, plan(state, now, against, steps))


def plan(state: RaftState, now: int, against: Index, steps: Sequence[Step]) -> Configuration:
    """Return the first stage of a change that may be begun; raises as ``Raft.change``."""
    before = state.configuration
    if state.role is not LEADER or state.transfer is not None:
        raise NotLeading("this node does not lead, or is handing leadership over")
    if against != before.index:
        raise StaleConfiguration(against, before.index)
    if not before.is_at_rest or before.index > state.log.commit_index:
        raise ChangeInProgress(f"a change is under way: {describe(before)}")
    if state.log.commit_index < state.term_start_index:
        raise NotReady("the leader has not committed an entry of its term yet")
    after = next_configuration(before, steps)
    for step in steps:
        if isinstance(step, Promote):
            _require_caught_up(state, step.node_id)
    require_working_majority(after, _answering(state, now))
    return after


def _require_caught_up(state: RaftState, node_id: NodeId) -> None:
    progress = state.progress[node_id]
    if progress.promotion_index is None:
        progress.promotion_index = state.log.commit_index
    if not progress.is_voter:
        raise NotReady(f"the disk of {node_id} is not admitted yet")
    if progress.match_index < progress.promotion_index:
        raise NotCaughtUp(node_id, progress.match_index, progress.promotion_index)


def _answering(state: RaftState, now: int) -> list[NodeId]:
    """Return who answered within an election timeout, and may promise; this node included."""
    since = now - state.timeouts.longest(now)
    answering = [state.config.node_id]
    for peer, progress in state.progress.items():
        if progress.is_heard and progress.is_voter and progress.heard_at >= since:
            answering.append(peer)
    return answering


# -- carried on -------------------------------------------------------------------------------------------------------


def advance(state: RaftState, now: int) -> None:
    """Do what follows when the newest configuration is committed: the next stage, or this leader's step down."""
    configuration = state.configuration
    if configuration.index > state.log.commit_index:
        return
    _forget_strangers(state)
    if state.role is not LEADER:
        # A leader that is elected with it goes on (``RaftState.become_leader``).
        state.is_changing = False
        return
    if state.log.commit_index < state.term_start_index:
        return
    if configuration.outgoing:
        _go_on(state, now, configuration)
    elif not state.has_vote:
        _leave_office(state, now)
    elif configuration.leaving:
        if _are_told(state, now):
            _go_on(state, now, configuration)
    else:
        state.is_changing = False
        state.observe("configuration_complete", index=configuration.index, members=describe(configuration))


def _forget_strangers(state: RaftState) -> None:
    """Keep nothing of the disks of those who are no members any more: their ids are not used again."""
    known = state.standing.peers
    kept = tuple(peer for peer in known if peer.node_id in state.peer_set)
    if kept != known:
        state.standing = replace(state.standing, peers=kept)


def _go_on(state: RaftState, now: int, configuration: Configuration) -> None:
    following = next_stage(configuration)
    if following is not None:
        _append(state, now, following)


def _append(state: RaftState, now: int, configuration: Configuration) -> Entry:
    """Append a configuration, which counts from now on, and send the log to whom it names."""
    entry = replication.append_as_leader(state, CONFIGURATION, encode(configuration), state.log.last_timestamp_ms)
    for gone in state.progress.keys() - state.peer_set:
        del state.progress[gone]
    next_index = Index(state.log.last.index + 1)
    for peer in state.peers:
        if peer not in state.progress:
            state.progress[peer] = Progress(next_index, now)
    # Fewer may have to agree now than before: what waits for them need not wait for the next answer.
    replication.advance_commit_index(state)
    reads.confirm(state)
    state.told_from = None
    return entry


def _are_told(state: RaftState, now: int) -> bool:
    """Return whether those who leave know that they have no vote any more, or were waited for long enough."""
    if state.told_from is None:
        state.told_from = now
    if now - state.told_from >= state.timeouts.longest(now):
        return True
    index, heard_from = state.configuration.index, state.told_from + state.config.heartbeat_ms
    leaving = [state.progress[node_id] for node_id in state.configuration.leaving if node_id in state.progress]
    return all(each.match_index >= index and each.heard_at >= heard_from for each in leaving)


def _leave_office(state: RaftState, now: int) -> None:
    """Hand leadership over: this leader's vote is gone, and that is committed."""
    # A later life must know it as well: it is not to stand for election.
    contradiction.remember_committed(state)
    if state.transfer is None:
        successor = transfer.successor(state)
        if successor is None:
            state.become_follower(now, state.current_term, None)
            return
        transfer.start(state, now, successor)
    transfer.advance(state, now)
