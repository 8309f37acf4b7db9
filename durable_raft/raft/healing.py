"""Healing of the log: entries whose payload rotted are fetched from any node that holds them.

("Protocol-Aware Recovery for Consensus-Based Storage", FAST '18.) Who a lost entry is, is known: index, term, crc and
chain value. Another node's entry with the same four is the same entry, whatever the node's role, so no leader is needed
to heal; and after a restart with wounds on every node there is none. While anything is lost a node does not lead. It
votes as ever: its log's end is known. What nobody holds because it was never committed is cut by the next leader, whom
a majority without this node elects (Raft §5.3).

When there is no such majority (two logs end in entries that nobody else holds, and both rotted), the node cuts what it
lost itself, once it is proven that the entry was never committed and that no promise of this node's can commit it: so
many voters say that their log does not hold it that the others are no majority, and each says so in a term above
``lost_term``. For a commit in ``lost_term`` or before, a majority must have acknowledged the entry in those terms; of
these voters none has (who did, and cut it since, was told to by a later leader, which by Leader Completeness, Raft
§5.4.3, held all that was committed), and none can any more. For a commit in a later term this node's copy does not
count: it acknowledges nothing that is lost. To bring the cluster to such a term when it has no leader, a wounded node
campaigns (``needs_newer_term``), and does not lead when it wins.

Where the lost entries lie behind the sender's checkpoint, its snapshot is wanted instead. Lost entries that this node's
own durable checkpoint covers are not needed here: when nobody has them the log is compacted over them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from durable_raft.errors import EntryUnread
from durable_raft.raft.log import EntriesLost
from durable_raft.raft.messages import FETCH_ENTRIES_MAX, FetchEntries, FetchEntriesResponse
from durable_raft.raft.quorum import can_be_held
from durable_raft.raft.ready import Offer
from durable_raft.raft.state import RaftState
from durable_raft.raft.state_parts import Search
from durable_raft.raft.types import Entry, Index, LogPoint, LostEntry, NodeId, Role

if TYPE_CHECKING:
    from collections.abc import Sequence

PATIENCE: Final = 20
"""Rounds of asking every peer before lost entries are given up as far as they are not needed."""


def lose(state: RaftState, now: int, lost: Sequence[LostEntry]) -> None:
    """Note lost entries, and ask for them at once."""
    for each in lost:
        state.log.lose(each)
    notice(state, now)


def notice(state: RaftState, now: int) -> None:
    """Ask at once for what was newly found lost; give leadership up while anything is: others hold it whole."""
    newly_lost = state.log.take_newly_lost()
    missing = set(state.log.missing())
    if newly_lost:
        state.search = Search(state.current_term)
    for each in newly_lost:
        state.retry_due = now
        state.observe("entry_lost", index=each.index, term=each.term, crc=f"{each.crc:08x}")
        if each.index not in missing:
            state.observe("entry_healed", index=each.index, term=each.term, source="memory")
    if missing and state.role is Role.LEADER:
        state.become_follower(now, state.current_term, None)


def fetch(state: RaftState) -> None:
    """Ask the next peer in turn for what is lost."""
    if not state.log.lost:
        return
    state.search.rounds += 1
    if state.peers:
        _ask(state, state.peers[state.search.rounds % len(state.peers)])
    if state.search.rounds % _patience(state) == 0:
        missing = ",".join(
            f"{each.index}/t{each.term}/{each.crc:08x}" for each in state.log.wanted()[:FETCH_ENTRIES_MAX]
        )
        state.observe("entries_missing", entries=missing, count=len(state.log.lost))


def _ask(state: RaftState, peer: NodeId) -> None:
    wanted = state.log.wanted()[:FETCH_ENTRIES_MAX]
    if wanted:
        state.send(peer, FetchEntries(tuple(LogPoint(each.index, each.term, each.chain) for each in wanted)))


def handle_fetch_entries(state: RaftState, source: NodeId, message: FetchEntries) -> None:
    """Give what is held of what is asked for, bounded like an AppendEntries."""
    log, size = state.log, 0
    found: list[Entry] = []
    absent: list[LogPoint] = []
    for point in message.wanted:
        if point.index <= log.base.index:
            continue
        if not log.holds(point):
            absent.append(point)
            continue
        if point.index > log.flushed:
            continue
        try:
            (entry,) = log.entries(point.index, Index(point.index + 1), 0)
        except (EntriesLost, EntryUnread):
            continue
        size += len(entry.payload)
        if found and size > state.config.append_bytes_max:
            break
        found.append(entry)
    # A disk that is not admitted yet may have forgotten what it held (admission.py).
    testified = tuple(absent) if state.is_voter else ()
    state.send(source, FetchEntriesResponse(state.current_term, tuple(found), testified, state.snapshot, log.base))


def handle_fetch_entries_response(state: RaftState, now: int, source: NodeId, message: FetchEntriesResponse) -> None:
    """Mend what was found; else see whether the sender's snapshot would do; cut what was never committed."""
    # What was found lost since the last answer ends the search in which earlier answers counted.
    notice(state, now)
    if mend_from(state, source, message.entries):
        _ask(state, source)
    elif any(state.log.last_applied < index <= message.base.index for index in state.log.lost):
        state.offer = Offer(source, message.snapshot)
    _note_absences(state, source, message)
    _cut_uncommitted(state, now)


def _note_absences(state: RaftState, source: NodeId, message: FetchEntriesResponse) -> None:
    if message.term <= state.search.lost_term:
        state.search.behind.add(source)
        return
    state.search.behind.discard(source)
    for point in message.absent:
        lost = state.log.lost.get(point.index)
        if lost is not None and (lost.term, lost.chain) == (point.term, point.chain):
            state.search.absences.setdefault(point.index, set()).add(source)


def _cut_uncommitted(state: RaftState, now: int) -> None:
    """Cut the log from the first lost entry on that was never committed and cannot be by what this node promised."""
    log = state.log
    unheld = [i for i in log.missing() if i > log.commit_index and _is_unheld(state, i)]
    if not unheld or state.role is Role.LEADER:
        return
    first = min(unheld)
    state.observe("lost_entries_cut", from_index=first, term=log.term_at(first), last_log_index=log.last.index)
    log.truncate_from(first)
    state.note_cut()
    if state.role is not Role.FOLLOWER:
        # Its campaign claimed the longer log.
        state.become_follower(now, state.current_term, None)


def _is_unheld(state: RaftState, index: Index) -> bool:
    """Return whether no majority ever held the lost entry at ``index``.

    Which majority: that of the voters in force before it. A joint configuration may have been left by the time the
    entry is committed, and not the other way round. So it is the voters that come of whom no majority may hold it.
    """
    voters = state.log.configurations.at(Index(index - 1)).voters
    return not can_be_held(voters, state.search.absences.get(index, ()))


def needs_newer_term(state: RaftState) -> bool:
    """Return whether this node is to campaign, though it must not lead: answers of ``lost_term`` prove nothing."""
    waited = state.search.rounds >= _patience(state)
    return state.is_voter and waited and bool(state.log.missing()) and bool(state.search.behind)


def _patience(state: RaftState) -> int:
    """Return in how many rounds every peer is asked ``PATIENCE`` times."""
    return PATIENCE * max(1, len(state.peers))


def mend_from(state: RaftState, source: NodeId, entries: Sequence[Entry]) -> bool:
    """Take those of ``entries`` that are lost here; return whether any was."""
    found = False
    for entry in entries:
        if state.log.mend(entry):
            found = True
            state.search.rounds = 0
            state.observe("entry_healed", index=entry.index, term=entry.term, source=source)
    return found


def needless_prefix(state: RaftState) -> Index | None:
    """Return up to where the log may be compacted because what is lost there is not needed, and nobody gave it."""
    if state.search.rounds < _patience(state):
        return None
    covered = min(state.snapshot.index, state.log.last_applied, state.log.flushed)
    return max((index for index in state.log.lost if index <= covered), default=None)
