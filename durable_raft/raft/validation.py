"""What no correct node says: every message is held against this before a rule may change anything.

A message that is refused here broke a rule of the protocol, so its sender is buggy, of another version, or a liar. The
link is dropped and this node goes on (server/node.py). What is merely late or useless is not refused: the rules ignore
it, as they always did. The wire has checked each field by itself (wire/peer.py); this is about what a message says
together with what is known here:

- a term is within a bounded step (term_budget.py);
- a term has one leader (Raft §5.2, Election Safety);
- while one leader is heard, another's log holds what is committed here (Raft §5.4.3, Leader Completeness);
- a follower acknowledges entries that it was sent, and ReadIndex rounds that were begun;
- time in the log goes back by a reset only.

Who tells a lie within what it was sent, or in the place of a leader, is not found out: Raft is made for nodes that
fail, not for nodes that lie. docs/guarantees.md says what such a node can do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable_raft.errors import MalformedConfiguration, MalformedVersion, PeerMisbehaved
from durable_raft.raft import contradiction, election
from durable_raft.raft.configuration import decode
from durable_raft.raft.messages import (
    FETCH_ENTRIES_MAX,
    AppendEntries,
    AppendEntriesResponse,
    FetchEntries,
    FetchEntriesResponse,
    InstallSnapshot,
    Message,
    RequestVote,
    ResumeResponse,
    TermlessMessage,
    TermMessage,
    TimeoutNow,
)
from durable_raft.raft.types import (
    CONFIGURATION,
    LEADER,
    VERSION,
    Entry,
    Index,
    LogPoint,
    NodeId,
    Term,
    goes_back_in_time,
)
from durable_raft.raft.versions import decode_version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durable_raft.raft.state import RaftState


def validate(state: RaftState, now: int, source: NodeId, message: Message) -> None:
    """Check that a correct ``source`` may have sent ``message``; changes nothing.

    Raises:
        PeerMisbehaved: naming the rule and the values.
    """
    if isinstance(message, TermMessage):
        _validate_term(state, now, source, message)
    else:
        _validate_termless(state, now, message)


# -- what is said in a term -------------------------------------------------------------------------------------------


def _validate_term(state: RaftState, now: int, source: NodeId, message: TermMessage) -> None:
    _check_step(state, now, message.term)
    if isinstance(message, AppendEntries):
        _check_end("prev_log", message.prev_log_index, message.prev_log_term)
        if message.prev_log_term > message.term:
            raise PeerMisbehaved(f"a leader of term {message.term} with a log of term {message.prev_log_term}")
        if message.term >= state.current_term:
            _check_leader(state, source, message.term)
            _check_entries(state, now, source, message)
    elif isinstance(message, AppendEntriesResponse):
        _check_answer_shape(message)
        if message.term == state.current_term and state.role is LEADER:
            _check_answer(state, source, message)
    elif isinstance(message, RequestVote):
        _check_end("last_log", message.last_log_index, message.last_log_term)
        if message.last_log_term >= message.term:
            raise PeerMisbehaved(f"a candidate of term {message.term} whose log ends in term {message.last_log_term}")
    elif isinstance(message, InstallSnapshot):
        _validate_snapshot(state, now, source, message)
    elif isinstance(message, TimeoutNow):
        _check_leader(state, source, message.term)


def _check_step(state: RaftState, now: int, term: Term) -> None:
    step = term - state.current_term
    if step > 0 and step > state.term_budget.left(now):
        raise PeerMisbehaved(f"term {term} is {step} ahead of {state.current_term}")


def _check_end(name: str, index: Index, term: Term) -> None:
    """The position before the first entry has term 0, and no entry has (types.py)."""
    if (index == 0) != (term == 0):
        raise PeerMisbehaved(f"{name}_index {index} with {name}_term {term}")


def _check_leader(state: RaftState, source: NodeId, term: Term) -> None:
    if term == state.current_term and state.leader_id not in (None, source):
        raise PeerMisbehaved(f"two leaders in term {term}: {state.leader_id} and {source}")


def _check_entries(state: RaftState, now: int, source: NodeId, message: AppendEntries) -> None:
    log = state.log
    if state.leader_id != source:
        previous = LogPoint(message.prev_log_index, message.prev_log_term, message.prev_log_chain)
        _check_committed(state, now, source, previous, message.entries)
    follows = message.prev_log_index == log.last.index and message.prev_log_term == log.last.term
    earlier = log.last_timestamp_ms if follows else 0
    for entry in message.entries:
        if goes_back_in_time(entry.kind, entry.timestamp_ms, earlier):
            raise PeerMisbehaved(f"entry {entry.index}: time goes back from {earlier} to {entry.timestamp_ms}")
        earlier = entry.timestamp_ms
        if entry.kind is CONFIGURATION or entry.kind is VERSION:
            _check_payload(entry)


def _check_payload(entry: Entry) -> None:
    """A configuration counts from the moment it is appended, so it is read before; a version is what nodes obey."""
    try:
        if entry.kind is VERSION:
            decode_version(entry.index, entry.payload)
        else:
            decode(entry.index, entry.payload)
    except (MalformedConfiguration, MalformedVersion) as error:
        raise PeerMisbehaved(str(error)) from error


def _check_committed(state: RaftState, now: int, source: NodeId, previous: LogPoint, entries: Sequence[Entry]) -> None:
    """While another leader is heard, what contradicts the committed log is nobody's but a liar's.

    Without one it is not refused: disks that went back may have elected such a leader, and then this node takes no part
    (contradiction.py). It must not be brought to that by one message while the cluster works.
    """
    is_led = state.leader_id != source and election.hears_a_leader(state, now)
    if is_led and state.doubts.contradiction is None:
        found = contradiction.conflict(state.log, previous, entries)
        if found is not None:
            raise PeerMisbehaved(f"entry {found[0]} of term {found[1]}, but another is committed there")


def _validate_snapshot(state: RaftState, now: int, source: NodeId, message: InstallSnapshot) -> None:
    index, term = message.last_included_index, message.last_included_term
    if not (index and 0 < term <= message.term):
        raise PeerMisbehaved(f"a snapshot at {index} of term {term} from a leader of term {message.term}")
    if message.term >= state.current_term:
        _check_leader(state, source, message.term)
        _check_committed(state, now, source, LogPoint(index, term, message.last_included_chain), ())


def _check_answer_shape(message: AppendEntriesResponse) -> None:
    if message.success and (message.conflict_index or message.conflict_term or message.rejected_index):
        raise PeerMisbehaved(f"a success that names a conflict at {message.conflict_index}")
    if not message.success and message.match_index:
        raise PeerMisbehaved(f"a rejection that matches up to {message.match_index}")
    if message.is_voter and message.asks_admission:
        raise PeerMisbehaved("a voter that asks for admission")


def _check_answer(state: RaftState, source: NodeId, message: AppendEntriesResponse) -> None:
    progress = state.progress.get(source)
    if progress is None:
        return
    # What is committed may have come to the follower in a snapshot, from anybody.
    sent = max(progress.sent_index, state.log.commit_index)
    if message.match_index > sent:
        raise PeerMisbehaved(f"matches up to {message.match_index}, but was sent no more than {sent}")
    if message.read_round > state.read_round:
        raise PeerMisbehaved(f"repeats round {message.read_round}, but the newest is {state.read_round}")
    if not message.success and message.conflict_index:
        if not message.conflict_index <= message.rejected_index <= progress.sent_index:
            raise PeerMisbehaved(
                f"rejects {message.rejected_index} with a conflict at {message.conflict_index}, but was sent no more"
                f" than {progress.sent_index}"
            )
        if message.conflict_term > message.term:
            raise PeerMisbehaved(f"a conflict with term {message.conflict_term}, in term {message.term}")


# -- what is said beside the algorithm --------------------------------------------------------------------------------


def _validate_termless(state: RaftState, now: int, message: TermlessMessage) -> None:
    if isinstance(message, FetchEntries):
        _check_count("wanted", message.wanted)
    elif isinstance(message, FetchEntriesResponse):
        _check_step(state, now, message.term)
        _check_count("entries", message.entries)
        _check_count("absent", message.absent)
        for entry in message.entries:
            if entry.kind is CONFIGURATION or entry.kind is VERSION:
                _check_payload(entry)
        if message.base.index > message.snapshot.index:
            raise PeerMisbehaved(f"a log that begins behind {message.base} with a snapshot at {message.snapshot}")
    elif isinstance(message, ResumeResponse):
        _check_step(state, now, message.term)


def _check_count(name: str, points: Sequence[object]) -> None:
    """Entries are asked for a few at a time (healing.py)."""
    if len(points) > FETCH_ENTRIES_MAX:
        raise PeerMisbehaved(f"{len(points)} {name}, at most {FETCH_ENTRIES_MAX} are asked for at once")
