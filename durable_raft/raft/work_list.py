"""The one list of work: what a ``Ready`` can hold, how each kind of it is known to be there, and how it is handed out.

``is_there`` and ``hand_out`` ask the same questions, one for each kind; tests hold them to each other after every event
(``tests/support/raft_checks.py``). The order of handing out counts: a leader that finds its own copy rotten while it
sends steps down, which is then part of the same write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from durable_raft.errors import EntryUnread
from durable_raft.raft import healing, reads, replication
from durable_raft.raft.log import EntriesLost
from durable_raft.raft.ready import Ready
from durable_raft.raft.types import LEADER, Index

if TYPE_CHECKING:
    from durable_raft.raft.state import RaftState

APPLY_BYTES_MAX: Final = 1 << 20
"""Payload bytes of committed entries in one Ready: bounds how long a replaying node keeps its loop busy."""


def is_there(state: RaftState, now: int, *, may_apply: bool) -> bool:
    """Return whether ``hand_out`` has anything to hand out, or to do; changes nothing.

    Args:
        state: of the node.
        now: ms.
        may_apply: whether the machine takes entries at present.
    """
    return (
        bool(state.messages or state.messages_after_write or state.lost_reads)
        or (may_apply and (has_committed(state) or _has_answerable(state)))
        or _has_sendable(state, now)
        or state.has_write()
        or _has_unnoticed_losses(state)
        or state.offer is not None
    )


def hand_out(state: RaftState, now: int, *, may_apply: bool) -> Ready:
    """Return all work that is there; it is not there any more. The arguments are those of ``is_there``."""
    if _has_unnoticed_losses(state):
        healing.notice(state, now)
    if _has_sendable(state, now):
        sending(replication.send_due, state, now)
    ready = Ready()
    if may_apply and has_committed(state):
        _take_committed(state, now, ready)
    if may_apply and _has_answerable(state):
        ready.reads = reads.take_answerable(state)
    if state.has_write():
        ready.write = state.take_write(now)
    if state.messages:
        ready.messages, state.messages = state.messages, []
    if state.messages_after_write:
        ready.messages_after_write, state.messages_after_write = state.messages_after_write, []
    if state.offer is not None:
        ready.offer, state.offer = state.offer, None
    if state.lost_reads:
        ready.lost_reads, state.lost_reads = state.lost_reads, []
    return ready


def sending(send: Callable[[RaftState, int], None], state: RaftState, now: int) -> None:
    """Have a leader send entries; one that finds its own copy rotten leads no longer."""
    try:  # noqa: SIM105 - one for each write, and contextlib.suppress takes as long as an AppendEntries
        send(state, now)
    except EntriesLost:
        pass  # The log has noted it.
    if state.log.lost:
        healing.notice(state, now)


def has_committed(state: RaftState) -> bool:
    """Return whether there are committed entries to be applied, and the first is neither missing nor being read.

    One whose record rotted while its copy is still in memory is there.
    """
    log = state.log
    if log.last_applied >= log.commit_index or not state.is_whole:
        return False
    if not log.is_readable(Index(log.last_applied + 1)):
        return False
    return not log.lost or log.last_applied + 1 not in log.missing()


def _take_committed(state: RaftState, now: int, ready: Ready) -> None:
    try:  # noqa: SIM105 - as above
        ready.committed = state.log.take_committed(APPLY_BYTES_MAX)
    except (EntriesLost, EntryUnread):
        pass  # The log has noted it.
    if state.log.lost:
        healing.notice(state, now)


def _has_unnoticed_losses(state: RaftState) -> bool:
    log = state.log
    if not log.lost:
        return log.has_newly_lost()
    return log.has_newly_lost() or (state.role is LEADER and bool(log.missing()))


def _has_sendable(state: RaftState, now: int) -> bool:
    return state.role is LEADER and replication.is_send_due(state, now)


def _has_answerable(state: RaftState) -> bool:
    return bool(state.confirmed_reads) and state.is_whole and reads.has_answerable(state)
