"""A status to change one thing about: three nodes, of which ``n1`` leads in term 7 and ``n2`` is asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import hiredis

from durable_raft.errors import ChangeRefused
from durable_raft.kv.replies import Reply
from durable_raft.kv.runs import Run
from durable_raft.raft.changes import StaleConfiguration, Step, next_configuration
from durable_raft.raft.types import Configuration, Index, Member, Membership, NodeId, Patience, Role, Term
from durable_raft.server.commands.classify import classify, refusal
from durable_raft.server.commands.connection import execute_connection_command
from durable_raft.server.commands.session import Session
from durable_raft.server.commands.status import NodeStatus, PeerStatus
from durable_raft.wire.resp import encode_reply

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
MEMBERSHIP = Membership(
    (
        Member(N1, "10.0.0.1:7001", "10.0.0.1:17001"),
        Member(N2, "10.0.0.2:7002", "10.0.0.2:17002"),
        Member(N3, "10.0.0.3:7003", "10.0.0.3:17103"),
    )
)
CLUSTER_ID = bytes(range(16))


def connected_peer(match_index: int | None = None) -> PeerStatus:
    """Return a peer whose link is up and that spoke 12 ms ago."""
    return PeerStatus(
        match_index=None if match_index is None else Index(match_index), connected=True, last_contact_ms=12
    )


def lost_peer(match_index: int | None = None) -> PeerStatus:
    """Return a peer whose link is down since 5 s."""
    return PeerStatus(
        match_index=None if match_index is None else Index(match_index), connected=False, last_contact_ms=5000
    )


class Actions:
    """What a node without a state does when it is asked; it remembers the checkpoints that were asked for."""

    def __init__(self, configuration: Configuration | None = None) -> None:
        self.checkpoints = 0
        self.configuration = configuration or Configuration.initial(MEMBERSHIP)
        self.refusal: ChangeRefused | None = None
        """What the core answers to any change."""
        self.transfers: list[NodeId | None] = []
        self.versions: list[int] = []
        """Those that the cluster was raised to."""

    def change_members(self, steps: Sequence[Step], against: Index | None, *, is_dry: bool) -> Configuration:
        """Return the first stage, of index 21, and go by it unless it is dry."""
        if self.refusal is not None:
            raise self.refusal
        if against not in (None, self.configuration.index):
            raise StaleConfiguration(against or Index(0), self.configuration.index)
        begun = dataclasses.replace(next_configuration(self.configuration, steps), index=Index(21))
        if not is_dry:
            self.configuration = begun
        return begun

    def transfer(self, target: NodeId | None) -> NodeId:
        """Remember it, and choose n3."""
        if self.refusal is not None:
            raise self.refusal
        self.transfers.append(target)
        return target or N3

    def count_keys_in_slot(self, slot: int) -> int:
        """Count one key for every thousand that the slot's number has."""
        return slot // 1000

    def request_checkpoint(self) -> None:
        """Remember it."""
        self.checkpoints += 1

    def read_state(self, index: Index, after: bytes | None) -> None:
        """Have none."""

    def raise_version(self, version: int | None, *, is_dry: bool) -> int:
        """Take the given version, or 2; remember it, unless it is dry."""
        version = version or 2
        if not is_dry:
            self.versions.append(version)
        return version

    def reset_time(self, time_ms: int | None) -> int:
        """Take the given time, or 77."""
        return 77 if time_ms is None else time_ms


class Connections:
    """All connections of a node; one that is ended is marked as closing."""

    def __init__(self, *sessions: Session) -> None:
        self.sessions = {session.id: session for session in sessions}

    def abort_session(self, session: Session) -> None:
        """Mark it."""
        session.closing = True


def answered(
    session: Session, request: list[bytes], status: NodeStatus, connections: Connections | None = None
) -> Reply:
    """Return what a connection is answered to one request that is not the machine's."""
    spec = classify(Run(request[0], 1, request[1:]))
    if spec is None:
        return refusal(request)
    named = [spec.name, *request[1:]]
    return execute_connection_command(session, named, lambda: status, Actions(), connections or Connections(session))


FOLLOWER = NodeStatus(
    node_id=N2,
    cluster_id=CLUSTER_ID,
    configuration=Configuration.initial(MEMBERSHIP),
    myself=MEMBERSHIP.voters[1],
    role=Role.FOLLOWER,
    leader_id=N1,
    leaderless_ms=0,
    current_term=Term(7),
    voted_for=N1,
    first_log_index=Index(3),
    last_log_index=Index(20),
    flushed_index=Index(19),
    commit_index=Index(18),
    last_applied=Index(17),
    snapshot_index=Index(2),
    state_hash=0xABCDEF,
    keys=5,
    expires=1,
    peers={N1: connected_peer(), N3: connected_peer()},
    connected_clients=4,
    counters={"connections": 9, "commands_processed": 100, "flushes": 11, "entries": 12, "log_bytes": 13},
    latencies={"fsync": (100, 200, 300), "commit": (400, 500, 600)},
    time_of_day_us=1_700_000_000_000_123,
    cluster_time_ms=1_700_000_001_007,
    monotonic_us=61_500_000,
    clock_offset_ms=-7,
    uptime_s=90_000,
    pid=4242,
    version="0.1.0",
    checksum="google-crc32c",
    client_hold_ms=2000,
    patience=Patience(600, 1200, 150, 0, 1),
    settings={"clients-max": "10000", "request-bytes-max": "67108864", "heartbeat-ms": "50"},
)
"""What ``n2`` knows while ``n1`` leads."""

LEADER = dataclasses.replace(
    FOLLOWER,
    node_id=N1,
    myself=MEMBERSHIP.voters[0],
    role=Role.LEADER,
    peers={N2: connected_peer(19), N3: connected_peer(20)},
)
"""What ``n1`` knows while it leads."""

LEADERLESS = dataclasses.replace(
    FOLLOWER,
    role=Role.PRE_CANDIDATE,
    leader_id=None,
    leaderless_ms=150,
    peers={N1: lost_peer(), N3: connected_peer()},
)
"""What ``n2`` knows after ``n1`` died."""


def seen_by_client(reply: Reply, protocol: int) -> object:
    """Return a reply as a client that speaks ``protocol`` reads it from the wire."""
    reader = hiredis.Reader()
    reader.feed(encode_reply(reply, protocol))
    return reader.gets()
