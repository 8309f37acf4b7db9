"""What happens in a cluster, in plain words: one line for each event or message.

``5/t2`` is the entry at index 5, of term 2.
"""

from __future__ import annotations

from collections.abc import Mapping

from durable_raft.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    FetchEntries,
    FetchEntriesResponse,
    InstallSnapshot,
    Introduce,
    IntroduceResponse,
    Message,
    RequestVote,
    RequestVoteResponse,
    Resume,
    ResumeResponse,
    TimeoutNow,
)
from durable_raft.raft.ready import Write
from durable_raft.raft.types import Entry, LogPoint, Standing

_EVENTS = {
    "became_follower": "becomes follower in term {term} (leader: {leader}), was {was}",
    "became_pre_candidate": "becomes pre-candidate, still in term {term}",
    "became_candidate": "becomes candidate of term {term} and votes for itself",
    "became_leader": "becomes leader of term {term}; its log ends at {last_log_index}",
    "granted_vote": "votes for {candidate} in term {term}",
    "truncated_suffix": "cuts {from_index}..{last_log_index}, which conflict with the leader's",
    "heartbeat_withheld": "withholds its heartbeats: its disk is stuck",
    "lost_quorum": "has not heard from a majority in term {term}",
    "timeouts_raised": "waits {shortest_ms} to {longest_ms} ms from now on: others were {late_ms} ms late or more",
    "timeouts_as_configured": "waits {shortest_ms} to {longest_ms} ms again, as configured",
    "chain_mismatch": "finds that its log and {leader}'s differ before {index}, though the terms agree",
    "needs_snapshot": "cannot send {next_index} to {peer}: its log starts at {first_index}",
    "installed_snapshot": "goes on from the snapshot at {index}/t{term}; the log it had is {log}",
    "entry_lost": "finds {index}/t{term} rotten on its disk",
    "entry_healed": "takes {index}/t{term} from {source} to write it again",
    "entries_missing": "has asked everybody many times and still lacks {count}",
    "lost_entries_cut": "cuts {from_index}..{last_log_index}: rotten here, and proven never to have been committed",
    "configuration": "goes by the configuration at {index}: {members}",
    "configuration_complete": "has completed the change: the configuration at {index} is committed",
    "leader_with_hung_disk": "has a disk that is stuck: {target}, whose disk works, is to lead",
    "leader_without_room": "has too little room on its disk: {target}, which has enough, is to lead",
    "makes_way": "makes way: {target} has kept up, and has priority {priority}; its own is {own}",
    "transfer_begun": "holds what is proposed, and hands the leadership of term {term} to {target}",
    "transfer_given_up": "gives up to hand the leadership of term {term} to {target}",
    "disk_replaced": "knows another disk of {peer} from now on",
    "replaced_disk_speaks": "does not listen to the replaced disk of {peer}",
    "admitted": "is a voter from now on: {by}",
}
_ADMITTED_BY = {"leader": "the leader admits its disk", "nobody knew another disk": "nobody ever knew another disk"}


def event_words(event: str, fields: Mapping[str, object]) -> str:
    """Say what a core observed."""
    template = _EVENTS.get(event)
    if template is None:
        return f"{event} {' '.join(f'{key}={value}' for key, value in fields.items())}"
    if event == "admitted":
        fields = {"by": _ADMITTED_BY[str(fields["by"])]}
    return template.format(**{key: "none" if value is None else value for key, value in fields.items()})


def disk_words(node_uuid: bytes) -> str:
    """Name a disk; those of scripts have uuids that are their names."""
    return node_uuid.rstrip(b"\0").decode(errors="replace") or "a disk without a name"


def message_words(message: Message) -> str:
    """Say what a message says."""
    if isinstance(message, RequestVote):
        asks = "PreVote" if message.pre_vote else "RequestVote"
        asked = "; the leader asked me to" if message.is_transfer else ""
        return (
            f"{asks} for term {message.term}, my log ends at {message.last_log_index}/t{message.last_log_term}{asked}"
        )
    if isinstance(message, RequestVoteResponse):
        kind = "pre-vote" if message.pre_vote else "vote"
        return f"{kind} {'granted' if message.vote_granted else 'refused'}, term {message.term}"
    if isinstance(message, AppendEntries):
        return _append_words(message)
    if isinstance(message, InstallSnapshot):
        return f"InstallSnapshot at {message.last_included_index}/t{message.last_included_term}, term {message.term}"
    if isinstance(message, AppendEntriesResponse):
        return _append_response_words(message)
    if isinstance(message, Introduce):
        return f"I speak from {disk_words(message.node_uuid)}"
    if isinstance(message, IntroduceResponse):
        before = "another disk" if message.knew_another else "no other disk"
        return f"I know {disk_words(message.introduced_uuid)} now, and knew {before} of yours before"
    if isinstance(message, Resume):
        return f"I begin life {message.lives[-1].number}{'' if message.is_in_place else ', not in my place'}"
    if isinstance(message, ResumeResponse):
        known = "I know a later life of yours" if message.went_back else "I know that life of yours now"
        return f"{known}, you acknowledged {message.owed_index}/t{message.owed_term}, term {message.term}"
    if isinstance(message, TimeoutNow):
        return f"campaign now: I hand over the leadership of term {message.term}"
    if isinstance(message, FetchEntries):
        return f"please give me {points_words(message.wanted)}"
    return _fetch_response_words(message)


def write_words(write: Write) -> str:
    """Say what a write changes on the disk."""
    parts = []
    if write.hard_state is not None:
        parts.append(f"term {write.hard_state.current_term}, vote for {write.hard_state.voted_for or 'none'}")
    if write.truncate_from is not None:
        parts.append(f"cut from {write.truncate_from}")
    if write.new_base is not None:
        parts.append(f"begin behind {write.new_base.point.index}/t{write.new_base.point.term}")
    if write.mended:
        parts.append(f"write again {entries_words(write.mended)}")
    if write.entries:
        parts.append(f"append {entries_words(write.entries)}")
    if write.standing is not None:
        parts.append(_standing_words(write.standing))
    return "; ".join(parts)


def entries_words(entries: tuple[Entry, ...]) -> str:
    """Name the entries."""
    return " ".join(f"{entry.index}/t{entry.term}" for entry in entries)


def points_words(points: tuple[LogPoint, ...]) -> str:
    """Name the entries at these points."""
    return " ".join(f"{point.index}/t{point.term}" for point in points)


def _standing_words(standing: Standing) -> str:
    known = ", ".join(disk_words(peer.node_uuid) for peer in standing.peers)
    return f"{'a voter' if standing.is_voter else 'not a voter yet'}, knows {known or 'no other disk'}"


def _append_words(message: AppendEntries) -> str:
    what = entries_words(message.entries) or "nothing new"
    read_round = f", read round {message.read_round}" if message.read_round else ""
    admits = f", admits {disk_words(message.admits)}" if message.admits else ""
    return (
        f"AppendEntries term {message.term}, after {message.prev_log_index}/t{message.prev_log_term}: {what}, "
        f"commit {message.leader_commit}{read_round}{admits}"
    )


def _append_response_words(message: AppendEntriesResponse) -> str:
    read_round = f", read round {message.read_round}" if message.read_round else ""
    return f"{_verdict_words(message)}{read_round}{_not_a_voter_words(message)}"


def _verdict_words(message: AppendEntriesResponse) -> str:
    if message.success:
        return f"accepted in term {message.term}, flushed up to {message.match_index}"
    refused = f"refused in term {message.term}, no match at {message.rejected_index}"
    if message.conflict_term:
        return f"{refused}: I have t{message.conflict_term} there, from {message.conflict_index} on"
    if message.conflict_index:
        return f"{refused}: my log ends before {message.conflict_index}"
    return f"refused: the term is {message.term} now"


def _not_a_voter_words(message: AppendEntriesResponse) -> str:
    if message.is_voter:
        return ""
    return "; I am not a voter yet, and ask to be admitted" if message.asks_admission else "; I am not a voter yet"


def _fetch_response_words(message: FetchEntriesResponse) -> str:
    given = f"here is {entries_words(message.entries)}" if message.entries else "I have nothing to give"
    absent = f"; my log does not hold {points_words(message.absent)}" if message.absent else ""
    return f"{given}{absent} (term {message.term})"
