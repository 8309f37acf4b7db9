"""What nodes say to each other: the messages of the core and, here, those of the handshake and of the state."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple, TypeAlias

from durable_raft.raft.messages import Message
from durable_raft.raft.types import DEFAULT_PRIORITY, Configuration, Index, NodeId, Term
from durable_raft.raft.versions import FIRST

SNAPSHOT_RECORDS_MAX: Final = 4096
"""Records in one piece of a snapshot."""


class FrameKind(enum.IntEnum):
    """What a frame's body is; the number is what is sent."""

    HELLO = 1
    HELLO_REPLY = 2
    REQUEST_VOTE = 3
    REQUEST_VOTE_RESPONSE = 4
    APPEND_ENTRIES = 5
    APPEND_ENTRIES_RESPONSE = 6
    INSTALL_SNAPSHOT = 7
    FETCH_SNAPSHOT = 8
    SNAPSHOT_CHUNK = 9
    STATE_HASH = 10
    INTRODUCE = 11
    INTRODUCE_RESPONSE = 12
    FETCH_ENTRIES = 13
    FETCH_ENTRIES_RESPONSE = 14
    BULK = 15
    """Announces a message that follows in pieces."""
    PIECE = 16
    RESUME = 17
    RESUME_RESPONSE = 18
    ASK_TIME = 19
    TELL_TIME = 20
    CONFIRM = 21
    CONFIRMED = 22
    TIMEOUT_NOW = 23
    TELL_MEMBERS = 24
    CHALLENGE = 25
    """This and the next are said only between nodes that have a cluster secret (proof.py)."""
    PROOF = 26


class Hello(NamedTuple):
    """The first frame of the node that dialled: who it is, and whom it wants."""

    node_id: NodeId
    node_uuid: bytes
    """16 bytes, minted with the data directory: a wiped disk under an old id is another node."""
    target_id: NodeId
    version: str
    """Of the software, for people; behind it which versions of a cluster it can (raft/versions.py)."""
    challenge: bytes
    """16 random bytes of this link: whoever listens at the address of ``node_id`` confirms them (server/callers.py)."""


class Confirm(NamedTuple):
    """Asks the node that was dialled whether it has dialled the link that carries ``challenge``."""

    challenge: bytes


class Confirmed(NamedTuple):
    """The answer to ``Confirm`` on the same link, if it has; else there is none."""

    challenge: bytes


class HelloReply(NamedTuple):
    """The first frame back: whether the link is accepted, and if not, why."""

    accepted: bool
    reason: str
    """Empty when accepted."""
    node_id: NodeId
    node_uuid: bytes
    is_replaced: bool = False
    """When refused: whether because the disk that dials was replaced by another under its node id."""
    is_removed: bool = False
    """When refused: whether because the node that dials was removed from the cluster. Sent only when it was."""
    priority: int = DEFAULT_PRIORITY
    """Election priority of the node that answers (raft/priority.py). Sent only when it is not the default."""


class Challenge(NamedTuple):
    """The first answer to a Hello where the cluster has a secret: prove it, on this link (proof.py)."""

    nonce: bytes
    """16 random bytes of this link."""


class Proof(NamedTuple):
    """Shows that its sender knows the secret; each end sends one, the dialler first. Tagged frames follow it."""

    proof: bytes
    """32 bytes."""


class FetchSnapshot(NamedTuple):
    """Asks for the next piece of a snapshot."""

    last_included_index: Index
    """Which one: where it was taken; 0: the newest."""
    has_key: bool
    after_key: bytes
    """With ``has_key``: the last key that was received; else the snapshot is wanted from its first key."""
    floor: Index
    """Only a snapshot taken behind this index is of use."""


class SnapshotChunk(NamedTuple):
    """A piece of a snapshot: records in the order of keys, behind ``after_key``.

    Each record carries its own checksum, and the sum of all is ``state_hash``, so that the whole is checked too.
    """

    last_included_index: Index
    """Where the snapshot was taken; the next three say what the log holds there."""
    last_included_term: Term
    last_included_chain: int
    timestamp_ms: int
    key_count: int
    """Of the whole snapshot, as the two that follow."""
    expires_count: int
    state_hash: int
    has_key: bool
    after_key: bytes
    """As in the question."""
    keys: list[bytes]
    values: list[bytes]
    deadlines_ms: list[int]
    checksums: list[int]
    is_last: bool
    configuration: Configuration | None = None
    """The one that counts where the snapshot was taken (Raft §7); None: the fixed one of the first start."""
    version: int = FIRST
    """Of the cluster there."""


class StateHash(NamedTuple):
    """What a node's state is at an index, for the others to compare with theirs."""

    applied_index: Index
    chain: int
    """Of the log there: only states made by the same entries can be compared."""
    key_count: int
    state_hash: int


class AskTime(NamedTuple):
    """Asks what time it is (server/timekeeper.py)."""

    asked_ms: int
    """When, by the asking node's monotonic clock."""


class TellTime(NamedTuple):
    """The answer to ``AskTime``; times in ms since the Unix epoch."""

    asked_ms: int
    """As in the question."""
    time_of_day_ms: int
    """What the answering node's own clock shows."""
    cluster_time_ms: int
    """The cluster time as it knows it; 0: it does not."""
    applied_index: Index
    """Up to where it has applied the log, and with it every reset of the time."""


class TellMembers(NamedTuple):
    """Tells who the members are, once they have changed: whose log is behind must still know whom to hear."""

    configuration_index: Index
    """Of the teller's newest configuration, committed or not."""
    payload: bytes
    """The configuration (raft/configuration.py)."""


NodeMessage: TypeAlias = Message | FetchSnapshot | SnapshotChunk | StateHash | AskTime | TellTime | TellMembers
"""What nodes say to each other once a link is up."""

PeerMessage: TypeAlias = NodeMessage | Hello | HelloReply | Confirm | Confirmed | Challenge | Proof
