"""The words of the algorithm: terms, indexes, entries, and what must survive a crash.

An entry's checksums are computed once, where the entry is made, and checked wherever it is read, sent, received,
written or applied:

``crc``    CRC-32C over ``index u64 | term u64 | timestamp_ms u64 | kind u8`` (big-endian) followed by the payload.
``chain``  CRC-32C over the ``crc`` (u32, big-endian) of every entry from the first to this one. Two logs whose chains
           agree at an index agree up to it; AppendEntries checks it beside prev_log_term.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, NewType, TypeVar, dataclass_transform

from durable_raft.checksum import extend

Term = NewType("Term", int)
"""Logical epoch with at most one leader (Raft §5.1); 0 before the first election."""

Index = NewType("Index", int)
"""Position in the log, counted from 1; 0 is the position before the first entry (Raft §5.3)."""

NodeId = NewType("NodeId", str)
"""Name of one node for all time; never reused for another disk."""


class EntryKind(enum.IntEnum):
    """What an entry's payload is; the number is what is stored."""

    NOOP = 0
    """Opens a leader's term (Raft §8); empty payload."""

    COMMANDS = 1
    """A batch of commands, as kv/batch.py encodes them; an empty batch only moves the cluster time."""

    TIME_RESET = 2
    """Sets the cluster time, back or ahead, to the entry's timestamp; empty payload."""

    CONFIGURATION = 3
    """The members of the cluster, as configuration.py encodes them; counts from the moment it is appended (Raft §6)."""

    VERSION = 4
    """Raises the version of the cluster, as versions.py encodes it; counts from the moment it is applied."""


COMMANDS: Final = EntryKind.COMMANDS
TIME_RESET: Final = EntryKind.TIME_RESET
CONFIGURATION: Final = EntryKind.CONFIGURATION
VERSION: Final = EntryKind.VERSION
"""See LEADER."""


T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def value_class(cls: type[T]) -> type[T]:
    """Make ``cls`` a dataclass that nobody changes: mypy sees to it.

    What is made for each batch is of this kind: one that is frozen at run time takes four times as long to make.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


_CRC_HEADER: Final = struct.Struct(">QQQB")
_CRC_BYTES: Final = struct.Struct(">I")

ENTRY_BYTES: Final = 512
"""What the two records of an entry take on the disk without its payload, in pages that are not full."""


@value_class
class Entry:
    """One log entry in memory; its bytes on disk are a *record*, on the network part of a *frame*."""

    index: Index
    term: Term
    kind: EntryKind
    timestamp_ms: int
    """Cluster time stamped by the leader, ms since the Unix epoch. Invariant: never below the entry before, unless the
    entry is a TIME_RESET. That one is an operator's order, the same on every replica and at one place of the log."""
    payload: bytes
    crc: int
    chain: int


def goes_back_in_time(kind: int, timestamp_ms: int, earlier_ms: int) -> bool:
    """Return whether an entry may not follow one of ``earlier_ms``: only a TIME_RESET sets the cluster time back."""
    return timestamp_ms < earlier_ms and kind != TIME_RESET


def stored_bytes(payload_bytes: int, entries: int = 1) -> int:
    """Return a bound of what entries take on the disk: their records, in pages that are not all full.

    Args:
        payload_bytes: of all of them together.
        entries: how many; 0 leaves out what they take without their payload.
    """
    return payload_bytes * 5 // 4 + ENTRY_BYTES * entries


def entry_crc(index: int, term: int, kind: int, timestamp_ms: int, payload: bytes) -> int:
    """Return the checksum of an entry's identity and payload (layout in the module docstring)."""
    return extend(extend(0, _CRC_HEADER.pack(index, term, timestamp_ms, kind)), payload)


def chain_crc(previous_chain: int, crc: int) -> int:
    """Return the chain value of an entry from the chain value before it and its own crc."""
    return extend(previous_chain, _CRC_BYTES.pack(crc))


def make_entry(*, previous: LogPoint, term: Term, kind: EntryKind, timestamp_ms: int, payload: bytes) -> Entry:
    """Make the entry that follows ``previous``, computing both checksums."""
    index = Index(previous.index + 1)
    crc = entry_crc(index, term, kind, timestamp_ms, payload)
    return Entry(index, term, kind, timestamp_ms, payload, crc, chain_crc(previous.chain, crc))


@value_class
class LogPoint:
    """A position in the log with the term and the chain value found there; ``ORIGIN`` precedes every log."""

    index: Index
    term: Term
    chain: int


ORIGIN: Final = LogPoint(Index(0), Term(0), 0)


@dataclass(frozen=True, slots=True)
class Base:
    """The entry before the first one of a log, or the one at which a snapshot was taken."""

    point: LogPoint
    timestamp_ms: int
    """Its timestamp: the floor for the entries after it."""


@dataclass(frozen=True, slots=True)
class HardState:
    """What Figure 2 calls persistent state beside the log: flushed, together, before anything depends on it.

    Invariants: ``current_term`` never falls; ``voted_for`` changes only together with a higher term, or from None.
    """

    current_term: Term = Term(0)
    voted_for: NodeId | None = None
    """The candidate that received this node's vote in ``current_term``; None when it gave none."""


class Life(NamedTuple):
    """One life of a directory: from one start of its node to the next (lives.py)."""

    number: int
    """1 for the first that was counted; a later life has a higher one. 0: a node that joins has begun none yet."""
    nonce: bytes
    """8 random bytes: tells it from a life that a copy of the directory began with the same number."""


@dataclass(frozen=True, slots=True)
class KnownDisk:
    """Another voter's disk, as this node knows it."""

    node_id: NodeId
    node_uuid: bytes
    """16 bytes: the disk that introduced itself last under this id."""
    former: tuple[bytes, ...]
    """Disks that were known under this id before, oldest first: they are not heard any more."""
    life: Life | None = None
    """The newest life of this disk that this node was told of; None when it never was."""
    owed_term: Term = Term(0)
    owed_index: Index = Index(0)
    """Term and index of the last entry that it acknowledged to this node as its leader, as far as that was stored."""
    owed_in: Term = Term(0)
    """The term in which this node led then."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a node's disk may promise, and which disks of others it knows; flushed as the hard state is (admission.py).

    Invariant: ``peers`` is sorted by node id.
    """

    is_voter: bool = True
    """Whether this disk holds all that may have been promised under its node id: only then it votes and counts."""
    peers: tuple[KnownDisk, ...] = ()
    committed: LogPoint = ORIGIN
    """An entry of this log that is known to be committed, the newest that was stored (contradiction.py)."""
    is_copy: bool = False
    """Whether this disk went back to an older state, and was not admitted since (lives.py). Then it is no voter."""
    lives: tuple[Life, ...] = ()
    """The lives that this directory can prove, the present one last."""
    cut_in: Term = Term(0)
    """The newest term in which this log was cut for another leader's; what was acknowledged before may be gone."""
    place: bytes = b""
    """Names the file that the log was in when this node last became a voter; empty: not known."""

    def peer(self, node_id: NodeId) -> KnownDisk | None:
        """Return what is known of ``node_id``'s disk."""
        for known in self.peers:
            if known.node_id == node_id:
                return known
        return None

    def with_peer(self, known: KnownDisk) -> Standing:
        """Return the standing that knows ``known`` in place of what it knew of that node."""
        others = [peer for peer in self.peers if peer.node_id != known.node_id]
        return replace(self, peers=tuple(sorted([*others, known], key=lambda peer: peer.node_id)))


@dataclass(frozen=True, slots=True)
class LostEntry:
    """An entry whose payload rotted here; who it is, is still known, so that another node's copy can be recognised."""

    index: Index
    term: Term
    crc: int
    chain: int


@dataclass(frozen=True, slots=True)
class Member:
    """One voting node and where it is reached."""

    node_id: NodeId
    client_address: str
    """HOST:PORT on which clients reach the node (the advertised one, never a wildcard)."""
    peer_address: str
    """HOST:PORT on which other nodes reach it."""


@dataclass(frozen=True, slots=True)
class Membership:
    """The voters of a cluster, in the order of their node ids (Raft §6 "configuration")."""

    voters: tuple[Member, ...]

    def ids(self) -> tuple[NodeId, ...]:
        """Return the voters' ids, sorted."""
        return tuple(member.node_id for member in self.voters)


@dataclass(frozen=True, slots=True)
class Configuration:
    """Who votes and who only listens (Raft §6), from the entry at ``index`` on until the next configuration.

    It is *joint* while ``outgoing`` is not empty: then whatever needs a majority needs one of ``voters`` and one of
    ``outgoing`` (quorum.py). A *learner* is sent the log like a voter, and counts nowhere.

    Invariants: the tuples of ids ascend; ``members`` has every id that is in one of them, once, ascending.
    """

    index: Index
    """Of its entry; 0: the fixed one that the cluster was first started with, which has none."""
    members: tuple[Member, ...]
    """All of them with their addresses, which mean nothing to the algorithm."""
    voters: tuple[NodeId, ...]
    """Those who vote; while it is joint, those of the configuration that comes."""
    outgoing: tuple[NodeId, ...] = ()
    """While it is joint, the voters of the configuration that goes; else empty."""
    learners: tuple[NodeId, ...] = ()
    """Members without a vote in either."""
    leaving: tuple[NodeId, ...] = ()
    """Members that go: their vote first, if they have one, then the rest. None of them is one of ``voters``."""
    former: tuple[NodeId, ...] = ()
    """Those who went last, oldest first: a node id is used once."""
    former_filter: bytes = b""
    """Those who went before them, as a Bloom filter (configuration.py); empty: nobody did."""

    @classmethod
    def initial(cls, membership: Membership) -> Configuration:
        """Return the configuration that a cluster is first started with, at index 0."""
        return cls(Index(0), membership.voters, membership.ids())

    def ids(self) -> tuple[NodeId, ...]:
        """Return the ids of all members, sorted."""
        return tuple(member.node_id for member in self.members)

    @property
    def is_at_rest(self) -> bool:
        """Whether it stays as it is until somebody asks for a change."""
        return not self.outgoing and not self.leaving

    def has_voter(self, node_id: NodeId) -> bool:
        """Return whether ``node_id`` has a vote, be it in one half of a joint configuration only."""
        return node_id in self.voters or node_id in self.outgoing

    def is_alone(self, node_id: NodeId) -> bool:
        """Return whether ``node_id`` is the only voter: what it loses, nobody can give back."""
        return {*self.voters, *self.outgoing} == {node_id}


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose data a directory holds; stamped in every environment, peer frame and snapshot."""

    cluster_id: bytes
    """16 bytes, minted when the cluster was first started."""
    node_id: NodeId
    node_uuid: bytes
    """16 random bytes minted with the directory: tells a wiped disk under an old id from the node that was there."""


@dataclass(frozen=True, slots=True)
class StoredLog:
    """What a log store holds when it is opened: all that the core needs to start from."""

    hard_state: HardState
    base: LogPoint
    """The point before the first stored entry; ``ORIGIN`` until a prefix was compacted."""
    last: LogPoint
    """The last stored entry's point; equals ``base`` when the log is empty."""
    last_timestamp_ms: int
    """Timestamp of the last stored entry; 0 when there never was one."""
    term_starts: tuple[tuple[Index, Term], ...]
    """(first index, term) of each run of entries with one term, after ``base``, ascending."""
    base_timestamp_ms: int = 0
    """Timestamp of the entry at ``base``; 0 at the origin."""
    standing: Standing = Standing()
    lost: tuple[LostEntry, ...] = ()
    """Entries whose payload is rotten, ascending."""
    rebuilt: tuple[Entry, ...] = ()
    """Entries of which one record is rotten and the other tells all, ascending: to be written again."""
    configurations: tuple[Configuration, ...] = ()
    """The one that counts at ``base`` and those of the stored entries, ascending. The fixed one of the first start is
    not among them."""

    def newest_configuration(self, first: Membership) -> Configuration:
        """Return the one that counts; ``first``: the voters of the first start, who count until members change."""
        return self.configurations[-1] if self.configurations else Configuration.initial(first)


class Role(enum.Enum):
    """What a node is in its current term (Raft §5.1; pre-candidate: Ongaro §9.6)."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


FOLLOWER: Final = Role.FOLLOWER
PRE_CANDIDATE: Final = Role.PRE_CANDIDATE
CANDIDATE: Final = Role.CANDIDATE
LEADER: Final = Role.LEADER
"""What is asked many times for each write has a name of its own: to look up the member of an enum takes Python 3.11 as
long as a small function (0.1 us, and a lone write asked a hundred times)."""


class Patience(NamedTuple):
    """How long a node waits at one moment, and why (ms)."""

    shortest_ms: int
    """Election timeouts are drawn from [shortest, longest] at present."""
    longest_ms: int
    late_ms: int
    """How late leaders, majorities and pre-votes were at worst; 0 when too little to stretch anything."""
    flush_ms: int
    """How long a flush took at worst; 0 when too little to be counted."""
    failed_campaigns: int
    """Elections this node stood for in vain since it last heard a leader or led."""


class DiskRoom(enum.IntEnum):
    """What a node's disk can still take (room.py); the number is what is sent."""

    AMPLE = 0
    LOW = 1
    """Less than the reserve: nothing should be written that needs memory."""
    NONE = 2
    """No more entries: what is left is for terms and votes."""


DEFAULT_PRIORITY: Final = 1
"""The election priority of a node for which none is set (priority.py)."""

PRIORITY_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class RaftConfig:
    """What one node of one cluster runs with; checked for sense by server/settings/config.py."""

    node_id: NodeId
    initial: Configuration
    """The one at index 0, which counts until the log holds another."""
    election_timeout_min_ms: int = 150
    election_timeout_max_ms: int = 300
    """Election timeouts are drawn anew from [min, max] each time the timer starts (Raft §5.2, §9.3)."""
    election_timeout_bound_ms: int = 2000
    """No longer than this does a learned timeout become (timeouts.py); below ``election_timeout_max_ms`` none is."""
    heartbeat_ms: int = 50
    election_priority: int = DEFAULT_PRIORITY
    """0 to PRIORITY_MAX; who has the highest leads, if it can (priority.py)."""
    append_bytes_max: int = 1 << 20
    """Payload bytes in one AppendEntries; a single larger entry still travels, alone."""
    append_inflight_max: int = 64
    """AppendEntries with entries that may be unanswered per follower."""
    append_inflight_bytes_max: int = 16 << 20
    """Payload bytes that may be unanswered per follower."""
    node_uuid: bytes = bytes(16)
    """Of this node's disk."""
    life: bytes = b""
    """8 random bytes that name this life of the directory (lives.py); empty: lives are not counted."""
    place: bytes = b""
    """Names the file that the log is in; empty: not known."""
    accept_old_copy: bool = False
    """Whether a directory that went back may vote all the same: what it promised and forgot may be lost."""
    log_cache_bytes_max: int = 32 << 20
    """Payload bytes of flushed, applied entries kept in memory for followers that are slightly behind."""
