"""AppendEntries on both sides, log repair and commit (Raft §5.3, §5.4.2).

The leader sends lazily: ``send_due`` is called once when the step is over and sends each follower what it may have,
so that several proposals share one AppendEntries and a ReadIndex round rides on entries that leave anyway.

Entries may be large, and take longer to arrive and to be flushed than an election timeout. So what proves leadership
does not wait for them. While entries are in flight a heartbeat names the last entry that is known to match
(``prev_log_index`` is ``match_index``, which Figure 2 allows of any AppendEntries). It is accepted whether it comes
before them or behind them, and links let it pass (server/link_queue.py). It cannot find that the entries are lost. An
AppendEntries behind them does: its ``prev_log_index`` is the last of them, and no link lets it pass. Its rejection says
that they did not come. It is sent when a whole heartbeat interval has brought no answer to the oldest of them. So
entries are not sent again while their first copy is under way.
"""

from __future__ import annotations

from typing import Final

from durable_raft.errors import EntryUnread, InvariantViolation
from durable_raft.raft import admission, contradiction, healing, room
from durable_raft.raft.log import RaftLog
from durable_raft.raft.messages import APPEND_ENTRIES_MAX, AppendEntries, AppendEntriesResponse, InstallSnapshot
from durable_raft.raft.progress import PROBE, Progress
from durable_raft.raft.state import RaftState
from durable_raft.raft.types import (
    ORIGIN,
    TIME_RESET,
    Entry,
    EntryKind,
    Index,
    LogPoint,
    NodeId,
    Term,
    make_entry,
)

_NEVER: Final = -(1 << 62)
"""A time before any."""

PROMPT_BYTES: Final = 256 << 10
"""Payload bytes in flight behind which nothing waits for long; one piece of a link (wire/pieces.py)."""

# -- leader -----------------------------------------------------------------------------------------------------------


def begin_term(state: RaftState, now: int) -> None:
    """Take office: append a no-op, so that entries of earlier terms can be committed (Raft §5.4.2, §8)."""
    state.become_leader(now)
    append_as_leader(state, EntryKind.NOOP, b"", state.log.last_timestamp_ms)


def append_as_leader(state: RaftState, kind: EntryKind, payload: bytes, timestamp_ms: int) -> Entry:
    """Append one entry of the current term; only a TIME_RESET's timestamp may go back (ARCHITECTURE "Time")."""
    floor_ms = 0 if kind is TIME_RESET else state.log.last_timestamp_ms
    entry = make_entry(
        previous=state.log.last,
        term=state.current_term,
        kind=kind,
        timestamp_ms=max(timestamp_ms, floor_ms),
        payload=payload,
    )
    state.log.append(entry)
    room.took(state, entry)
    return entry


def heartbeat(state: RaftState, now: int) -> None:
    """Send every follower an AppendEntries (Figure 2, Leaders), unless this node's disk hangs."""
    state.heartbeat_due = now + state.config.heartbeat_ms
    if state.is_disk_stalled(now):
        state.observe("heartbeat_withheld", term=state.current_term)
        return
    for peer, progress in state.progress.items():
        is_overdue = progress.is_overdue()
        if progress.inflight_count():
            _prove(state, peer, progress)
        if is_overdue or not progress.inflight_count():
            _send_append(state, peer, progress)


def is_send_due(state: RaftState, now: int) -> bool:
    """Return whether a leader that may speak has entries or a ReadIndex round for a follower that may have it."""
    last_index, broadcast_round = state.log.last.index, state.broadcast_round
    for progress in state.progress.values():
        may_send = progress.next_index <= last_index and _may_send_entries(state, progress)
        if may_send or progress.sent_round < broadcast_round:
            return _may_speak(state, now)
    return False


def _may_speak(state: RaftState, now: int) -> bool:
    """Return whether this leader may send: one whose disk hangs is silent, unless whoever takes over lacks entries."""
    return state.transfer is not None or not state.is_disk_stalled(now)


def send_due(state: RaftState, now: int) -> None:
    """Send each follower the entries its window allows, and the ReadIndex round that waits to be asked."""
    if not _may_speak(state, now):
        return
    for peer, progress in state.progress.items():
        while _may_send_entries(state, progress):
            _send_entries(state, peer, progress)
        if progress.sent_round < state.broadcast_round:
            _prove(state, peer, progress)


def check_quorum(state: RaftState, now: int) -> None:
    """Step down when no majority answered within an election timeout (Ongaro §6.2).

    While this process did not run, answers may have come that it has not read: that time does not count.
    """
    heard_at = _majority_heard_at(state, now)
    overslept = max(0, now - state.heartbeat_due)
    state.tell_timeouts(now)
    if now - heard_at - overslept > state.timeouts.longest(now):
        state.timeouts.lost_quorum(state.current_term, heard_at)
        state.observe("lost_quorum", term=state.current_term)
        state.become_follower(now, state.current_term, None)


def _majority_heard_at(state: RaftState, now: int) -> int:
    """Return since when, at the latest, no majority is known to have answered (ms)."""
    heard = [progress.heard_at if progress.is_voter else _NEVER for progress in state.progress.values()]
    return state.quorum_value(heard, now)


def handle_append_response(state: RaftState, now: int, source: NodeId, message: AppendEntriesResponse) -> None:
    """Note how far a follower's log matches (Figure 2: success) or step back to where it may (rejection)."""
    progress = state.progress.get(source)
    if progress is None:
        # It is no member any more.
        return
    if message.read_round < progress.heed_from:
        return
    if now - progress.heard_at > state.config.heartbeat_ms:
        state.timeouts.majority_answered(now, _majority_heard_at(state, now))
    progress.heard_at, progress.is_heard = now, True
    progress.acked_round = max(progress.acked_round, message.read_round)
    progress.room = message.room
    if admission.note_standing(state, progress, message):
        advance_commit_index(state)
    if not message.success:
        if not message.is_voter and message.rejected_index <= progress.match_index:
            # What an earlier disk of that name acknowledged is gone, and was not counted since (admission.py). Or this
            # one went back: then it is owed none the less (lives.py).
            state.remember_owed()
            progress.forget()
        _handle_rejection(state, progress, message)
    elif progress.became_matched(message.match_index) and message.match_index > state.log.commit_index:
        advance_commit_index(state)


def advance_commit_index(state: RaftState) -> None:
    """Commit what a majority has flushed, if it is an entry of the current term (Raft §5.3, §5.4.2, Figure 8)."""
    matched = [progress.match_index if progress.is_voter else 0 for progress in state.progress.values()]
    index = Index(state.quorum_value(matched, state.log.flushed))
    if index > state.log.commit_index and state.log.term_at(index) == state.current_term:
        state.log.commit_to(index)


def _handle_rejection(state: RaftState, progress: Progress, message: AppendEntriesResponse) -> None:
    """Find the next place where the logs may meet, skipping whole terms (Raft §5.3, end)."""
    rejected = message.rejected_index
    stale = rejected <= progress.match_index or (progress.pace is PROBE and rejected != progress.next_index - 1)
    if stale:
        return
    next_index = message.conflict_index
    if message.conflict_term:
        # Beyond its last entry of a term up to the conflicting one, the leader has nothing that could match; and when
        # it has no entry of that very term, the follower's whole run of it is in conflict.
        meeting = state.log.last_index_not_after_term(message.conflict_term)
        has_term = state.log.term_at(meeting) == message.conflict_term
        next_index = Index(meeting + 1) if has_term else min(Index(meeting + 1), next_index)
    next_index = Index(max(1, min(next_index, rejected)))
    if next_index < state.log.first_index <= rejected:
        # What follows the base is still here: only when the logs do not meet there either is a snapshot needed.
        next_index = state.log.first_index
    progress.probe_from(next_index)


def _may_send_entries(state: RaftState, progress: Progress) -> bool:
    if progress.next_index > state.log.last.index or progress.next_index < state.log.first_index:
        return False
    if progress.room is room.NONE or not state.log.is_readable(progress.next_index):
        return False
    if progress.pace is PROBE:
        return not progress.probe_sent
    config = state.config
    return (
        progress.inflight_count() < config.append_inflight_max
        and progress.inflight_bytes < config.append_inflight_bytes_max
    )


def _send_append(state: RaftState, peer: NodeId, progress: Progress) -> None:
    """Send what the window allows of the entries from ``next_index`` on; without any it is a probe of that place."""
    if progress.next_index < state.log.first_index:
        _offer_snapshot(state, peer, progress)
    elif not _may_send_entries(state, progress) or not _send_entries(state, peer, progress):
        _send(state, peer, progress, Index(progress.next_index - 1), [])
        _note_asked(state, progress)


def _send_entries(state: RaftState, peer: NodeId, progress: Progress) -> bool:
    """Send the next entries to a follower that may have some; a probe without them when they are too large for one.

    Returns:
        Whether something was sent; nothing is while the first of them is being read on another thread.
    """
    place = Index(progress.next_index - 1)
    end = min(state.log.last.index, place + APPEND_ENTRIES_MAX) + 1
    try:
        entries = state.log.entries(progress.next_index, Index(end), state.config.append_bytes_max)
    except EntryUnread:
        return False
    size = sum([len(entry.payload) for entry in entries])
    if progress.pace is PROBE and size > PROMPT_BYTES:
        # Where the logs meet is not known: they might be refused, and sent again.
        _send(state, peer, progress, place, [])
        progress.probe_sent = True
    else:
        _send(state, peer, progress, place, entries)
        progress.became_sent(entries[-1].index, size)
    _note_asked(state, progress)
    return True


def _note_asked(state: RaftState, progress: Progress) -> None:
    """Note that the newest ReadIndex round is asked, unless what is in flight before it takes its time."""
    if progress.inflight_bytes <= min(PROMPT_BYTES, state.config.append_bytes_max):
        progress.sent_round = state.read_round


def _prove(state: RaftState, peer: NodeId, progress: Progress) -> None:
    """Send an AppendEntries that the follower accepts whatever is in flight: it proves leadership, and asks a round."""
    if progress.next_index < state.log.first_index:
        _offer_snapshot(state, peer, progress)
        return
    place = Index(progress.next_index - 1)
    if progress.inflight_count():
        # What the base covers is known here no more, and needs no proof: every log matches at its beginning.
        place = progress.match_index if progress.match_index >= state.log.base.index else Index(0)
    _send(state, peer, progress, place, [])
    progress.sent_round = state.read_round


def _send(state: RaftState, peer: NodeId, progress: Progress, place: Index, entries: list[Entry]) -> None:
    log = state.log
    is_origin = not place and log.base.index
    message = AppendEntries(
        state.current_term,
        prev_log_index=place,
        prev_log_term=ORIGIN.term if is_origin else log.term_at(place),
        prev_log_chain=ORIGIN.chain if is_origin else log.chain_at(place),
        entries=tuple(entries),
        leader_commit=log.commit_index,
        read_round=state.read_round,
        admits=admission.admitted_disk(state, peer, progress),
    )
    progress.sent_index = max(progress.sent_index, Index(place + len(entries)))
    state.send(peer, message)


def _offer_snapshot(state: RaftState, peer: NodeId, progress: Progress) -> None:
    """Name the snapshot to fetch, instead of entries that are compacted away (Raft §7)."""
    point = state.snapshot
    if point.index < state.log.base.index:
        raise InvariantViolation(f"the log begins behind {state.log.base}, but the durable checkpoint is {point}")
    state.observe("needs_snapshot", peer=peer, next_index=progress.next_index, first_index=state.log.first_index)
    progress.sent_round = state.read_round
    state.send(peer, InstallSnapshot(state.current_term, point.index, point.term, point.chain, state.read_round))


# -- follower ---------------------------------------------------------------------------------------------------------


def handle_append_entries(state: RaftState, now: int, source: NodeId, message: AppendEntries) -> None:
    """Check, append, commit, answer (Figure 2, AppendEntries RPC, receiver 2-5); the term is the current one."""
    state.hear_leader(now, source)
    state.leader_commit = message.leader_commit
    log = state.log
    previous = LogPoint(message.prev_log_index, message.prev_log_term, message.prev_log_chain)
    entries = message.entries
    if (other := contradiction.conflict(log, previous, entries)) is not None:
        return contradiction.note(state, source, *other)
    if previous.index < log.base.index:
        # What the base covers is committed, so it matches; begin behind it.
        skip = log.base.index - previous.index
        if len(entries) < skip:
            return _accept(state, now, source, message, verified=Index(previous.index + len(entries)), is_new=False)
        previous = LogPoint(log.base.index, entries[skip - 1].term, entries[skip - 1].chain)
        entries = entries[skip:]
    if previous.index > log.last.index:
        return _reject(state, source, message, Index(log.last.index + 1), Term(0), message.read_round)
    term_here = log.term_at(previous.index)
    if term_here != previous.term:
        conflict = log.first_index_of_term_at(previous.index)
        return _reject(state, source, message, conflict, term_here, message.read_round)
    known = _count_known(log, entries)
    for point in (previous, entries[known - 1]) if known else (previous,):
        if log.chain_at(point.index) != point.chain:
            # Log Matching says this cannot be: one of the two logs is wounded. Believe neither, answer nothing.
            state.observe("chain_mismatch", leader=source, index=point.index, term=point.term)
            return None
    if log.lost:
        healing.mend_from(state, source, entries[:known])
    entries = entries[: known + room.takeable(state, entries[known:])]
    _append_new(state, entries[known:])
    verified = Index(previous.index + len(entries))
    return _accept(state, now, source, message, verified=verified, is_new=known < len(entries))


def _count_known(log: RaftLog, entries: tuple[Entry, ...]) -> int:
    """Return how many of ``entries``, from the first on, the log holds already: same index, same term."""
    for position, entry in enumerate(entries):
        if entry.index > log.last.index or log.term_at(entry.index) != entry.term:
            return position
    return len(entries)


def _append_new(state: RaftState, entries: tuple[Entry, ...]) -> None:
    """Append entries the log does not hold, cutting what conflicts with the first of them (Figure 2, receiver 3, 4)."""
    log = state.log
    if entries and entries[0].index <= log.last.index:
        state.observe("truncated_suffix", from_index=entries[0].index, last_log_index=log.last.index)
        log.truncate_from(entries[0].index)
        state.note_cut()
    for entry in entries:
        log.append(entry)
        room.took(state, entry)


def _accept(
    state: RaftState, now: int, source: NodeId, message: AppendEntries, *, verified: Index, is_new: bool
) -> None:
    """Commit what this message verified, and answer: flushed matches at once, new entries after the write.

    The commit index never passes ``verified``: beyond it this log may hold another leader's leftovers.
    """
    contradiction.is_over(state, verified)
    state.log.commit_to(min(message.leader_commit, verified))
    admission.admit(state, now, source, message)
    if is_new or (verified > state.log.flushed and message.entries):
        state.send_after_write(source, matching(state, state.log.acknowledgeable(verified), message.read_round))
    else:
        match = state.log.acknowledgeable(min(verified, state.log.flushed))
        state.send(source, matching(state, match, message.read_round))


def matching(state: RaftState, match_index: Index, read_round: int) -> AppendEntriesResponse:
    """Return a success that says up to where this log matches the leader's and is flushed."""
    is_voter, asks = state.is_voter, admission.asks(state)
    return AppendEntriesResponse(
        state.current_term, True, match_index, Index(0), Term(0), Index(0), read_round, is_voter, asks, room.own(state)
    )


def _reject(
    state: RaftState,
    source: NodeId,
    message: AppendEntries | InstallSnapshot,
    index: Index,
    term: Term,
    read_round: int,
) -> None:
    answer = AppendEntriesResponse(
        term=state.current_term,
        success=False,
        match_index=Index(0),
        conflict_index=index,
        conflict_term=term,
        rejected_index=message.prev_log_index if isinstance(message, AppendEntries) else Index(0),
        read_round=read_round,
        is_voter=state.is_voter,
        asks_admission=admission.asks(state),
        room=room.own(state),
    )
    state.send(source, answer)


def reject_old_leader(state: RaftState, source: NodeId, message: AppendEntries | InstallSnapshot) -> None:
    """Refuse an AppendEntries or InstallSnapshot of an older term, telling the newer one (Figure 2, receiver 1).

    It confirms no ReadIndex round: a leader may hear this late, when it leads the newer term itself.
    """
    _reject(state, source, message, Index(0), Term(0), 0)
