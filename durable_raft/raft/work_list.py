"""The one list of work: what a ``Ready`` can hold, how each kind of it is known to be there, and how it is handed out.

``Raft.has_ready`` and ``Raft.ready`` both go through this list, so neither can forget what the other knows. The order
counts: a leader that finds its own copy rotten while it sends steps down, which is then part of the same write.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final, NamedTuple

from durable_raft.errors import EntryUnread
from durable_raft.raft import healing, reads, replication
from durable_raft.raft.log import EntriesLost
from durable_raft.raft.ready import Ready
from durable_raft.raft.state import RaftState
from durable_raft.raft.types import Index, Role

APPLY_BYTES_MAX: Final = 1 << 20
"""Payload bytes of committed entries in one Ready: bounds how long a replaying node keeps its loop busy."""


class Work(NamedTuple):
    """One kind of work."""

    is_there: Callable[[RaftState, int], bool]
    """Given the state and the time (ms): whether ``hand_out`` has anything to add. It changes nothing."""
    hand_out: Callable[[RaftState, int, Ready], None]
    is_applying: bool = False
    """Whether it is for the machine, which does not always take entries."""


def sending(send: Callable[[RaftState, int], None], state: RaftState, now: int) -> None:
    """Have a leader send entries; one that finds its own copy rotten leads no longer."""
    with contextlib.suppress(EntriesLost):
        send(state, now)
    if state.log.lost:
        healing.notice(state, now)


def _has_unnoticed_losses(state: RaftState, now: int) -> bool:
    del now
    log = state.log
    leads_though_missing = bool(log.lost) and state.role is Role.LEADER and bool(log.missing())
    return log.has_newly_lost() or leads_though_missing


def _notice_losses(state: RaftState, now: int, ready: Ready) -> None:
    del ready  # a wound changes what the node is and asks; nothing is handed out for it
    healing.notice(state, now)


def _has_sendable(state: RaftState, now: int) -> bool:
    return state.role is Role.LEADER and replication.is_send_due(state, now)


def _send(state: RaftState, now: int, ready: Ready) -> None:
    del ready  # what is sent is among the messages, which are handed out behind this
    sending(replication.send_due, state, now)


def _has_write(state: RaftState, now: int) -> bool:
    del now
    return state.has_write()


def _take_write(state: RaftState, now: int, ready: Ready) -> None:
    ready.write = state.take_write(now)


def _has_messages(state: RaftState, now: int) -> bool:
    del now
    return bool(state.messages or state.messages_after_write)


def _take_messages(state: RaftState, now: int, ready: Ready) -> None:
    del now
    ready.messages, state.messages = state.messages, []
    ready.messages_after_write, state.messages_after_write = state.messages_after_write, []


def _has_offer(state: RaftState, now: int) -> bool:
    del now
    return state.offer is not None


def _take_offer(state: RaftState, now: int, ready: Ready) -> None:
    del now
    ready.offer, state.offer = state.offer, None


def _has_lost_reads(state: RaftState, now: int) -> bool:
    del now
    return bool(state.lost_reads)


def _take_lost_reads(state: RaftState, now: int, ready: Ready) -> None:
    del now
    ready.lost_reads, state.lost_reads = state.lost_reads, []


def has_committed(state: RaftState, now: int = 0) -> bool:
    """Return whether there are committed entries to be applied, and the first is neither missing nor being read.

    One whose record rotted while its copy is still in memory is there.
    """
    del now
    log = state.log
    if not state.is_whole or log.last_applied >= log.commit_index:
        return False
    if not log.is_readable(Index(log.last_applied + 1)):
        return False
    return not log.lost or log.last_applied + 1 not in log.missing()


def _take_committed(state: RaftState, now: int, ready: Ready) -> None:
    with contextlib.suppress(EntriesLost, EntryUnread):
        ready.committed = state.log.take_committed(APPLY_BYTES_MAX)
    if state.log.lost:
        healing.notice(state, now)


def _has_answerable(state: RaftState, now: int) -> bool:
    del now
    return state.is_whole and reads.has_answerable(state)


def _take_answerable(state: RaftState, now: int, ready: Ready) -> None:
    del now
    ready.reads = reads.take_answerable(state)


WORK: Final = (
    Work(_has_unnoticed_losses, _notice_losses),
    Work(_has_sendable, _send),
    Work(has_committed, _take_committed, is_applying=True),
    Work(_has_answerable, _take_answerable, is_applying=True),
    Work(_has_write, _take_write),
    Work(_has_messages, _take_messages),
    Work(_has_offer, _take_offer),
    Work(_has_lost_reads, _take_lost_reads),
)
