"""One node of a cluster in a test's hands: its core while it is up, its disk, and what waits for that disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypedDict

from durable_raft.raft.core import Raft
from durable_raft.raft.messages import Envelope, Message
from durable_raft.raft.ready import Offer, ReadReady, Write
from durable_raft.raft.types import Configuration, Entry, Member, Membership, NodeId, RaftConfig
from tests.support.raft_disk import Disk


def disk_uuid(name: str, number: int) -> bytes:
    """Return the uuid of a node's disk, which says which one it is."""
    return f"{name}'s disk {number}".encode().ljust(16, b"\0")


def configuration_of(names: Iterable[str]) -> Configuration:
    """Return the configuration at index 0 of voters with these names, each reached under its name."""
    return Configuration.initial(Membership(tuple(Member(NodeId(name), f"{name}:1", f"{name}:2") for name in names)))


class Limits(TypedDict, total=False):
    """The fields of ``RaftConfig`` that a test may set."""

    election_timeout_min_ms: int
    election_timeout_max_ms: int
    election_timeout_bound_ms: int
    heartbeat_ms: int
    append_bytes_max: int
    append_inflight_max: int
    append_inflight_bytes_max: int
    log_cache_bytes_max: int


@dataclass(slots=True)
class Packet:
    """A message on its way."""

    source: NodeId
    target: NodeId
    message: Message


@dataclass(slots=True)
class Pending:
    """Work that waits for the disk: a write in flight, and the messages that may leave once it is flushed."""

    write: Write | None
    messages: list[Envelope]


@dataclass(slots=True)
class OpenRead:
    """A read that was asked and not yet answered."""

    floor: int
    """What any node had committed when the read was asked: the least it must see to be linearizable."""
    ceiling: int
    """The leader's last index at that moment: what is proposed later must not be seen."""


@dataclass(slots=True)
class Node:
    """One node: a core while it is up, and a disk."""

    name: NodeId
    config: RaftConfig
    disk: Disk
    raft: Raft | None = None
    is_slow: bool = False
    """Whether writes stay in flight until ``Cluster.flush``."""
    dies_before_send: bool = False
    """Whether the node dies at its next write: when that is flushed, and before anything is sent."""
    offer: Offer | None = None
    """The snapshot that was offered last and is wanted."""
    pending: deque[Pending] = field(default_factory=deque)
    applied: list[Entry] = field(default_factory=list)
    answered: list[ReadReady] = field(default_factory=list)
    lost_reads: list[int] = field(default_factory=list)
    open_reads: dict[int, OpenRead] = field(default_factory=dict)

    @property
    def core(self) -> Raft:
        """The core of a node that is up."""
        if self.raft is None:
            raise LookupError(f"{self.name} is down")
        return self.raft
