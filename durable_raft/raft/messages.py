"""What nodes say to each other: the RPCs of Figure 2, as frozen values.

Sender and receiver are not part of a message: the link it came by is authenticated, and the core is told
(``Raft.step(now, source, message)``).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from durable_raft.raft.types import DiskRoom, Entry, Index, Life, LogPoint, NodeId, Term

APPEND_ENTRIES_MAX: Final = 1024
"""Entries in one AppendEntries: each costs the follower's loop some microseconds, however small it is."""

FETCH_ENTRIES_MAX: Final = 64
"""Entries asked for in one FetchEntries: so many are looked up without keeping others waiting."""


class RequestVote(NamedTuple):
    """Invoked by candidates to gather votes (Raft §5.2), or by pre-candidates to ask about them (Ongaro §9.6)."""

    term: Term
    """The candidate's term; for a pre-vote the term it *would* campaign in."""
    last_log_index: Index
    last_log_term: Term
    pre_vote: bool
    is_transfer: bool = False
    """Whether the leader asked the candidate to campaign: then a voter that hears it answers (Ongaro §4.2.3)."""


class TimeoutNow(NamedTuple):
    """Asks a voter to campaign at once: the leader hands leadership over (Ongaro §3.10)."""

    term: Term


class RequestVoteResponse(NamedTuple):
    """The answer to ``RequestVote``."""

    term: Term
    """The voter's current term; for a granted pre-vote the term asked about."""
    vote_granted: bool
    pre_vote: bool


class AppendEntries(NamedTuple):
    """Invoked by the leader to replicate entries; without entries it is the heartbeat (Raft §5.3)."""

    term: Term
    prev_log_index: Index
    prev_log_term: Term
    prev_log_chain: int
    """Chain value of the leader's entry at ``prev_log_index``: makes the Log Matching Property checkable."""
    entries: tuple[Entry, ...]
    """Contiguous, the first at ``prev_log_index + 1``."""
    leader_commit: Index
    read_round: int
    """Number of the newest ReadIndex round (Ongaro §6.4); the answer repeats it."""
    admits: bytes = b""
    """The name of the follower's disk and life when the leader admits it as a voter (admission.py); else empty."""


class AppendEntriesResponse(NamedTuple):
    """The answer to ``AppendEntries``."""

    term: Term
    success: bool
    match_index: Index
    """On success: the highest index known to match the leader's log *and* to be flushed here. Else 0."""
    conflict_index: Index
    """On rejection: first index of ``conflict_term``, or last index + 1 when the log is too short. Else 0."""
    conflict_term: Term
    """On rejection: term of the entry at the rejected prev_log_index; 0 when the log is too short. Else 0."""
    rejected_index: Index
    """On rejection: the prev_log_index refused, so that a stale rejection is recognised. Else 0."""
    read_round: int
    is_voter: bool = True
    """Whether the answer may be counted: False from a disk that is not admitted yet (admission.py)."""
    asks_admission: bool = False
    room: DiskRoom = DiskRoom.AMPLE
    """What this node's disk can still take (room.py)."""


class InstallSnapshot(NamedTuple):
    """In place of ``AppendEntries`` when the follower's next entry is compacted away: names a snapshot (Raft §7).

    The follower fetches it from the leader at its own pace (server/state/snapshot_fetch.py), so no chunk travels here.
    It answers with an ``AppendEntriesResponse``, which is a success once it holds the snapshot.
    """

    term: Term
    last_included_index: Index
    last_included_term: Term
    last_included_chain: int
    read_round: int


class Introduce(NamedTuple):
    """Tells a peer which disk speaks under this node id (admission.py). No term goes with it: nothing is promised."""

    node_uuid: bytes
    life_number: int = 0
    life_nonce: bytes = b""
    """Its life (lives.py); 0 and empty where lives are not counted."""


class IntroduceResponse(NamedTuple):
    """The answer to ``Introduce``, sent once what is known of the new disk is flushed."""

    introduced_uuid: bytes
    """The disk that introduced itself."""
    knew_another: bool
    """Whether another disk was known under that node id before."""
    node_uuid: bytes
    """The disk that answers."""
    life_nonce: bytes = b""
    """The life that introduced itself."""
    life_number: int = 0
    """The highest number of a life that the answering node knows of that disk."""


class Resume(NamedTuple):
    """Tells a peer which life of a voter's directory begins, and asks what it promised before (lives.py)."""

    node_uuid: bytes
    lives: tuple[Life, ...]
    """Those that the directory can prove, ascending; the last one begins."""
    is_in_place: bool
    """Whether the directory is where it last promised something; else it may be a copy."""
    is_accepted: bool
    """Whether an operator takes the risk of what it may have forgotten."""


class ResumeResponse(NamedTuple):
    """The answer to ``Resume``, sent once the life is known and that is flushed."""

    nonce: bytes
    """Of the life that asked."""
    went_back: bool
    """Whether the answering node knows of a later life of this directory."""
    is_in_place: bool
    """Whether the answering node is a voter whose directory is in its place."""
    term: Term
    """The answering node's current term, flushed."""
    owed_term: Term
    owed_index: Index
    """The last entry that the asking node acknowledged to the answering one, as far as that knows; 0 and 0: none."""
    owed_in: Term
    """The term in which the answering node led then."""


class FetchEntries(NamedTuple):
    """Asks for entries whose payload rotted (healing.py)."""

    wanted: tuple[LogPoint, ...]


class FetchEntriesResponse(NamedTuple):
    """The answer to ``FetchEntries``: what is held of it, and what could be had instead."""

    term: Term
    """The answering node's current term, flushed."""
    entries: tuple[Entry, ...]
    """Ascending, not contiguous."""
    absent: tuple[LogPoint, ...]
    """What this voter's log does not hold, rotten or not, and what is no older than its log's begin."""
    snapshot: LogPoint
    """The answering node's newest durable checkpoint."""
    base: LogPoint
    """What its log begins behind: for entries up to there only a snapshot helps."""


TermMessage = AppendEntries | AppendEntriesResponse | RequestVote | RequestVoteResponse | InstallSnapshot | TimeoutNow
"""What is said in a term. Which one a message is, is asked in this order: what is said most comes first."""

TermlessMessage = Introduce | IntroduceResponse | Resume | ResumeResponse | FetchEntries | FetchEntriesResponse
"""What is said beside the algorithm: of disks and wounds, in no term."""

Message = TermMessage | TermlessMessage


def stands_on(message: object, earlier: object) -> bool:
    """Return whether ``message`` is refused unless ``earlier`` was taken: its previous entry is one of ``earlier``'s.

    So no link lets such a message overtake. All others may: they say whole what they say, and a network may reorder
    them anyway (Raft §2). Answers, votes and offers name no entry that is under way. An AppendEntries of another term
    than the earlier one's is refused or not, whether that has come or not.
    """
    return (
        isinstance(message, AppendEntries)
        and isinstance(earlier, AppendEntries)
        and message.term == earlier.term
        and message.prev_log_index > earlier.prev_log_index
    )


class Envelope(NamedTuple):
    """A message and the node it goes to."""

    target: NodeId
    message: Message
