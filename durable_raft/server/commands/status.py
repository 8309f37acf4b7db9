"""What one node can tell about itself at one moment: the value that INFO, ROLE, HELLO and CLUSTER are answered from.

The node gathers it (the only side with clocks, sockets and counters); everything that answers clients' questions is a
function of it, so that every answer of one command is of one moment and can be tested without a node. What the node
does when it is asked is in actions.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from durable_raft.raft.types import Configuration, Index, Member, NodeId, Patience, Role, Term
from durable_raft.raft.versions import FIRST, OURS, Versions

Quantiles = tuple[int, int, int]
"""(p50, p99, max) in microseconds."""


@dataclass(slots=True)
class TlsCounts:
    """What is counted of clients that speak TLS, or should; since the start where nothing else is said."""

    connected: int = 0
    """Connections that speak it, at present."""
    undecided: int = 0
    """Sockets at present that are no connection yet: they have said nothing, or are in their handshake."""
    handshakes: int = 0
    """Handshakes that were completed."""
    refused: int = 0
    """Clients that were turned away, for whatever reason."""
    timed_out: int = 0
    """Those of them whose handshake took too long, or stood still while others waited."""


class ClientCounts(NamedTuple):
    """What the owner of the connections counts."""

    connected: int
    """Connections at present."""
    received: int
    """Connections since the start."""
    commands: int
    """Commands executed since the start."""
    tls: TlsCounts | None = None
    """The same of TLS; None: it is not counted."""


class MemoryShare(NamedTuple):
    """One share of the node's memory; bytes."""

    held: int
    most: int
    """What may be held; 0: it is not bounded."""
    refused: int
    """What was turned away for want of room, since the start."""
    closed: int
    """Connections that were closed to make room, since the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """What a node knows of another one."""

    match_index: Index | None
    """Highest index known to be flushed there; None when this node does not lead, for only a leader knows."""
    connected: bool
    """The link to it is up."""
    refuses: bool = False
    """It refuses this node, which was removed: so it is there for clients."""
    is_replaced: bool = False
    """What answers there runs on a disk that another took the place of."""
    last_contact_ms: int | None
    """How long ago it last said anything, ms; None when it never did."""
    versions: Versions | None = None
    """Which versions of a cluster it can; None when it is not heard at present."""
    is_proven: bool = False
    """Both ends of the link to it have proven the cluster secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """One node at one moment. Invariant: ``peers`` has every member of ``configuration`` but this node."""

    node_id: NodeId
    cluster_id: bytes
    """16 bytes."""
    configuration: Configuration
    """The newest in this node's log; this node may be none of its members, before it joins and after it was removed."""
    myself: Member
    """This node, and where others reach it."""
    role: Role
    leader_id: NodeId | None
    """The leader of ``current_term`` as far as this node knows; None when it knows none."""
    leaderless_ms: int
    """How long no leader has been known; 0 while one is."""
    current_term: Term
    voted_for: NodeId | None

    first_log_index: Index
    """First index that is in the log; one after the last when the log is empty."""
    last_log_index: Index
    flushed_index: Index
    commit_index: Index
    last_applied: Index
    snapshot_index: Index
    """Last index that a checkpoint covers; 0 before the first."""
    state_hash: int
    """Of the state at ``snapshot_index``, under 2**64: the same on every node that has a checkpoint there."""

    keys: int
    """At ``last_applied``; while many are being set, what it was at some moment since the last checkpoint."""
    expires: int
    """Keys with a time to live."""

    peers: Mapping[NodeId, PeerStatus]
    """Every other member."""
    connected_clients: int
    counters: Mapping[str, int]
    """Counted since the start: flushes, entries, commands, log_bytes, elections, ... in the order INFO shows them;
    ``connections`` and ``commands_processed`` are shown under Redis's names in the section ``stats``."""
    latencies: Mapping[str, Quantiles]
    """Quantiles of recent durations by name: ``fsync``, ``commit``."""

    time_of_day_us: int
    """This node's wall clock, microseconds since the Unix epoch."""
    cluster_time_ms: int
    """The cluster time as this node knows it, ms since the Unix epoch (ARCHITECTURE "Time")."""
    uptime_s: int
    pid: int
    version: str
    checksum: str
    """Which implementation computes checksums (checksum.implementation)."""
    client_hold_ms: int
    """How long a command is held for want of a leader."""
    patience: Patience
    """How long the node waits for others at present, and why."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What the node was started with, for CONFIG GET; a Redis name given here wins over the fixed answer."""
    cluster_secrets: int = 0
    """How many cluster secrets this node accepts; 0: it has none."""
    cluster_secret_problem: str = ""
    """Why the file of the secret cannot be used at present; then what it said before counts."""
    alarms: Mapping[str, str] = field(default_factory=dict)
    """What is wrong with this node so that somebody has to act: name -> what it is, and the way out."""
    notices: Mapping[str, str] = field(default_factory=dict)
    """What becomes wrong if nobody acts, or is wrong with a part: the node serves whom it can meanwhile."""
    tls: TlsCounts | None = None
    """What is counted of TLS; None where the node speaks none."""
    monotonic_us: int = 0
    """This node's monotonic clock: only differences mean something."""
    clock_offset_ms: int | None = None
    """By how much this node's wall clock is ahead of the one a majority agrees on; None when there is none."""
    cluster_time_offset_ms: int | None = None
    """By how much the cluster time is ahead of that."""
    clock_differs: bool = False
    """Whether this node's clock is so far off that it lets others lead."""
    write_refusal: str | None = None
    """Why writes are refused, such as a full disk; None while they are taken."""
    memory_shares: Mapping[str, MemoryShare] = field(default_factory=dict)
    """What each part of the node holds in memory, by its name."""
    memory_bytes: int = 0
    """Memory of the process's own; 0 when not measured."""
    resident_bytes: int = 0
    """The same with the pages of the files that are mapped, which the system takes back when it needs them."""
    is_configuration_committed: bool = True
    cluster_version: int = FIRST
    """Of the cluster, as far as this node has applied the log (raft/versions.py)."""
    versions: Versions = OURS
    """Which versions of a cluster this node can."""
    cpu_user_s: float = 0.0
    cpu_system_s: float = 0.0

    @property
    def is_leader(self) -> bool:
        """Whether this node leads, as far as it knows."""
        return self.role is Role.LEADER

    @property
    def members(self) -> tuple[Member, ...]:
        """All members, by id."""
        return self.configuration.members

    def member(self, node_id: NodeId) -> Member | None:
        """Return the member called ``node_id``; None when there is none."""
        return next((member for member in self.members if member.node_id == node_id), None)

    def part_of(self, node_id: NodeId) -> str:
        """Return what ``node_id`` is in the configuration: ``voter``, ``outgoing``, ``learner``, ``leaving``, ``none``.

        *Outgoing* votes until the joint configuration is left; *leaving* has no vote any more.
        """
        configuration = self.configuration
        if node_id in configuration.voters:
            return "voter"
        if node_id in configuration.outgoing:
            return "outgoing"
        if node_id in configuration.leaving:
            return "leaving"
        return "learner" if node_id in configuration.learners else "none"

    def configuration_state(self) -> str:
        """Return what the configuration is: ``stable``; ``joint`` or ``leaving`` while members change; ``none``."""
        configuration = self.configuration
        if not configuration.members:
            return "none"
        return "joint" if configuration.outgoing else "leaving" if configuration.leaving else "stable"

    def is_reachable(self, node_id: NodeId) -> bool:
        """Return whether ``node_id`` is this node, or one that is there for clients, as commands are moved to it."""
        peer = self.peers.get(node_id)
        return node_id == self.node_id or (peer is not None and (peer.connected or peer.refuses))

    def live_leader(self) -> Member | None:
        """Return the leader, unless none is known or the link to it is down: clients are not sent to a dead node."""
        if self.leader_id is None or not self.is_reachable(self.leader_id):
            return None
        return self.member(self.leader_id)

    def is_serving(self) -> bool:
        """Return whether commands find a leader, or are held in the expectation of one (CLUSTER INFO's state)."""
        return self.leaderless_ms <= self.client_hold_ms and not self.alarms

    def is_ready(self) -> bool:
        """Return whether this node is a part of the cluster that works: its promises count, and it serves."""
        return self.is_serving() and self.counters.get("is_voter", 1) == 1
