"""What RAFT.MEMBER LIST says of a cluster, for the commands; and what a node that is to join learns from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from durable_raft.addresses import parse_address, refuse
from durable_raft.cli.asking import context_of
from durable_raft.cli.resp_client import ClusterClient, RespClient, Value
from durable_raft.errors import ConfigError, NodeUnreachable, RequestError
from durable_raft.raft.types import Index, Member, NodeId
from durable_raft.server.settings.config import CLUSTER_ID_BYTES, NodeConfig, Seeds
from durable_raft.storage.directory import RAFT, holds_environment

ASK_S = 5.0
"""How long a node that is asked by a joiner may take to answer."""


@dataclass(frozen=True, slots=True)
class MemberRow:
    """One member, as the node that was asked knows it."""

    id: str
    member: str
    """voter, outgoing, learner, leaving."""
    client: str
    peer: str
    match_index: int | None
    """Up to where it holds the log; only a leader knows it of others."""
    connected: bool
    last_contact_ms: int | None


@dataclass(frozen=True, slots=True)
class Listing:
    """The members of a cluster at one moment."""

    cluster_id: str
    """32 hex digits."""
    index: int
    state: str
    """stable, joint, leaving; none where the node that was asked has not joined yet."""
    committed: bool
    leader: str | None
    majority: int
    members: tuple[MemberRow, ...]
    former: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether no change is under way."""
        return self.state == "stable" and self.committed

    def find(self, node_id: str) -> MemberRow | None:
        """Return the member called ``node_id``; None when there is none."""
        return next((row for row in self.members if row.id == node_id), None)


def pairs_of(reply: Value) -> dict[str, Value]:
    """Return a map that came as a flat array."""
    flat = cast("list[Value]", reply)
    names = (cast("bytes", name).decode() for name in flat[::2])
    return dict(zip(names, flat[1::2], strict=True))


def _text(value: Value) -> str:
    return cast("bytes", value).decode()


def _number(value: Value) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r:.40} is no number")
    return value


def listing(client: RespClient | ClusterClient) -> Listing:
    """Return what the node at the other end says.

    Raises:
        RequestError: nobody answers, or with something else.
    """
    reply = client.call("RAFT.MEMBER", "LIST")
    try:
        return _listing(pairs_of(reply))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # Anything may listen there.
        raise RequestError(f"what answers RAFT.MEMBER LIST is no node of a cluster: {error!r:.200}") from error


def _listing(facts: dict[str, Value]) -> Listing:
    leader, cluster_id = facts["leader"], _text(facts["cluster-id"])
    if len(bytes.fromhex(cluster_id)) != CLUSTER_ID_BYTES:
        raise ValueError(f"cluster id {cluster_id:.40}")
    return Listing(
        cluster_id,
        _number(facts["index"]),
        _text(facts["state"]),
        bool(facts["committed"]),
        None if leader is None else _text(leader),
        _number(facts["majority"]),
        tuple(_row(pairs_of(row)) for row in cast("list[Value]", facts["members"])),
        tuple(map(_text, cast("Sequence[Value]", facts["former"]))),
    )


def _row(facts: dict[str, Value]) -> MemberRow:
    return MemberRow(
        _text(facts["id"]),
        _text(facts["member"]),
        _text(facts["client"]),
        _text(facts["peer"]),
        cast("int | None", facts["match-index"]),
        bool(facts["connected"]),
        cast("int | None", facts["last-contact-ms"]),
    )


def joined(config: NodeConfig) -> NodeConfig:
    """Return ``config`` with what the cluster says that its node is to join.

    A node that has a directory starts without an answer, too: it may know the others from its log. So it does with that
    of another cluster, which has the address by now; nothing of it is believed then (server/members.py).

    Raises:
        ConfigError: the id is or was another node's, or the cluster is not the one that was named.
        NodeUnreachable: nobody answers there, and the directory is new.
    """
    if config.join is None:
        return config
    is_new, context = not holds_environment(config.directory, RAFT), context_of(config)
    try:
        with RespClient(parse_address("join", config.join), ASK_S, tls=context) as client:
            found = listing(client)
    except RequestError as error:
        if not is_new:
            return config
        raise NodeUnreachable(f"join={config.join}: a new node has to ask the cluster: {error}") from error
    if is_new:
        _check_new(config, found)
    members = tuple(Member(NodeId(row.id), row.client, row.peer) for row in found.members if row.id != config.node_id)
    if not members:
        if not is_new:
            return config
        raise ConfigError(f"join={config.join}: expected a node of a running cluster, which knows its members")
    return replace(config, seeds=Seeds(Index(found.index), members, bytes.fromhex(found.cluster_id)))


def _check_new(config: NodeConfig, found: Listing) -> None:
    """An id is used once: nobody may take a voter's with an empty directory."""
    if config.cluster_id is not None and config.cluster_id.hex() != found.cluster_id:
        refuse("cluster_id", config.cluster_id.hex(), f"that of the cluster at {config.join}, {found.cluster_id}")
    row = found.find(config.node_id)
    if config.node_id in found.former or (row is not None and row.member != "learner"):
        raise ConfigError(
            f"id={config.node_id}: expected an id that no node of the cluster ever had, for {config.directory} is new;"
            " a node whose disk is gone is replaced by one with a new id (durable-raft member replace)"
        )
