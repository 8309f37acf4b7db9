"""What happens in a cluster, in plain words: one line for each event or message.

``5/t2`` is the entry at index 5, of term 2.
"""

from __future__ import annotations

from collections.abc import Mapping

from durable_raft.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    InstallSnapshot,
    Message,
    RequestVote,
    RequestVoteResponse,
)
from durable_raft.raft.ready import Write
from durable_raft.raft.types import Entry

_EVENTS = {
    "became_follower": "becomes follower in term {term} (leader: {leader}), was {was}",
    "became_pre_candidate": "becomes pre-candidate, still in term {term}",
    "became_candidate": "becomes candidate of term {term} and votes for itself",
    "became_leader": "becomes leader of term {term}; its log ends at {last_log_index}",
    "granted_vote": "votes for {candidate} in term {term}",
    "truncated_suffix": "cuts {from_index}..{last_log_index}, which conflict with the leader's",
    "heartbeat_withheld": "withholds its heartbeats: its disk is stuck",
    "lost_quorum": "has not heard from a majority in term {term}",
    "chain_mismatch": "finds that its log and {leader}'s differ before {index}, though the terms agree",
    "needs_snapshot": "cannot send {next_index} to {peer}: its log starts at {first_index}",
}


def event_words(event: str, fields: Mapping[str, object]) -> str:
    """Say what a core observed."""
    template = _EVENTS.get(event)
    if template is None:
        return f"{event} {' '.join(f'{key}={value}' for key, value in fields.items())}"
    return template.format(**{key: "none" if value is None else value for key, value in fields.items()})


def message_words(message: Message) -> str:
    """Say what a message says."""
    if isinstance(message, RequestVote):
        asks = "PreVote" if message.pre_vote else "RequestVote"
        return f"{asks} for term {message.term}, my log ends at {message.last_log_index}/t{message.last_log_term}"
    if isinstance(message, RequestVoteResponse):
        kind = "pre-vote" if message.pre_vote else "vote"
        return f"{kind} {'granted' if message.vote_granted else 'refused'}, term {message.term}"
    if isinstance(message, AppendEntries):
        return _append_words(message)
    if isinstance(message, InstallSnapshot):
        return f"InstallSnapshot at {message.last_included_index}/t{message.last_included_term}, term {message.term}"
    if isinstance(message, AppendEntriesResponse):
        return _append_response_words(message)
    return repr(message)


def write_words(write: Write) -> str:
    """Say what a write changes on the disk."""
    parts = []
    if write.hard_state is not None:
        parts.append(f"term {write.hard_state.current_term}, vote for {write.hard_state.voted_for or 'none'}")
    if write.truncate_from is not None:
        parts.append(f"cut from {write.truncate_from}")
    if write.new_base is not None:
        parts.append(f"begin behind {write.new_base.point.index}/t{write.new_base.point.term}")
    if write.entries:
        parts.append(f"append {entries_words(write.entries)}")
    return "; ".join(parts)


def entries_words(entries: tuple[Entry, ...]) -> str:
    """Name the entries."""
    return " ".join(f"{entry.index}/t{entry.term}" for entry in entries)


def _append_words(message: AppendEntries) -> str:
    what = entries_words(message.entries) or "nothing new"
    read_round = f", read round {message.read_round}" if message.read_round else ""
    return (
        f"AppendEntries term {message.term}, after {message.prev_log_index}/t{message.prev_log_term}: {what}, "
        f"commit {message.leader_commit}{read_round}"
    )


def _append_response_words(message: AppendEntriesResponse) -> str:
    read_round = f", read round {message.read_round}" if message.read_round else ""
    if message.success:
        return f"accepted in term {message.term}, flushed up to {message.match_index}{read_round}"
    refused = f"refused in term {message.term}, no match at {message.rejected_index}"
    if message.conflict_term:
        return f"{refused}: I have t{message.conflict_term} there, from {message.conflict_index} on{read_round}"
    if message.conflict_index:
        return f"{refused}: my log ends before {message.conflict_index}{read_round}"
    return f"refused: the term is {message.term} now"
