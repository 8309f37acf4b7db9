"""CLUSTER: the group as Redis Cluster clients want to see it.

One shard: the leader owns all 16384 slots, every other member is its replica. A learner may hold little yet, so it is
no place to read from: SLOTS leaves it out, SHARDS calls it ``loading``, and NODES says ``nofailover``. While no
leader is known the answering node names itself as the owner: it is alive, and it holds commands until there is a
leader. An error, an empty list or a dead owner each make some client library give up (measured with redis-py, ioredis
and node-redis). The epoch is the Raft term. A node's id is 40 hex digits made from the cluster id and the node id, so
that it survives a change of address. Shapes: a real Redis 7.0 cluster and https://redis.io/commands/cluster-shards/ and
its siblings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final, NamedTuple

from durable_raft.addresses import Address, parse_address
from durable_raft.kv.errors import NOT_AN_INTEGER
from durable_raft.kv.numbers import parse_int64
from durable_raft.kv.replies import ErrorReply, MapReply, Reply, Verbatim
from durable_raft.kv.slots import SLOTS, key_slot
from durable_raft.raft.types import Member, NodeId
from durable_raft.server.commands.actions import NodeActions
from durable_raft.server.commands.arguments import Args, echo
from durable_raft.server.commands.status import NodeStatus
from durable_raft.server.commands.subcommands import Subcommand, execute_subcommand, table


def cluster_node_id(cluster_id: bytes, node_id: NodeId) -> str:
    """Return a node's id in Redis Cluster's form: 40 hex digits, the same for all time."""
    return hashlib.sha1(cluster_id + node_id.encode(), usedforsecurity=False).hexdigest()


def client_address(member: Member) -> Address:
    """Return where clients reach a member."""
    return parse_address("client_address", member.client_address)


def slot_owner(status: NodeStatus) -> Member:
    """Return the member that clients are told owns the slots: a leader not known to be dead, else this node."""
    return status.live_leader() or status.myself


def replicas(status: NodeStatus) -> list[Member]:
    """Return every member but the owner of the slots."""
    owner = slot_owner(status)
    return [member for member in status.members if member.node_id != owner.node_id]


class _Call(NamedTuple):
    """What a CLUSTER command is answered from."""

    status: NodeStatus
    node: NodeActions


def execute_cluster_command(status: NodeStatus, node: NodeActions, args: Args) -> Reply:
    """Execute CLUSTER with at least one argument."""
    return execute_subcommand(CLUSTER_SUBCOMMANDS, _Call(status, node), args)


def _hex_id(status: NodeStatus, member: Member) -> str:
    return cluster_node_id(status.cluster_id, member.node_id)


def _replication_offset(status: NodeStatus, member: Member) -> int:
    """Return the last index known to be flushed at ``member``, 0 when that is not known here."""
    if member.node_id == status.node_id:
        return status.flushed_index
    return status.peers[member.node_id].match_index or 0


def _has_vote(status: NodeStatus, member: Member) -> bool:
    return status.configuration.has_voter(member.node_id)


# -- SLOTS and SHARDS -------------------------------------------------------------------------------------------------


def _slots(status: NodeStatus, args: Args) -> Reply:
    del args
    voters = [member for member in replicas(status) if _has_vote(status, member)]
    live = [member for member in voters if status.is_reachable(member.node_id)]
    nodes: list[Reply] = [_slots_node(status, member) for member in [slot_owner(status), *live]]
    return [[0, SLOTS - 1, *nodes]]


def _slots_node(status: NodeStatus, member: Member) -> list[Reply]:
    address = client_address(member)
    return [address.host.encode(), address.port, _hex_id(status, member).encode(), MapReply([])]


def _shards(status: NodeStatus, args: Args) -> Reply:
    del args
    nodes: list[Reply] = [_shards_node(status, member) for member in [slot_owner(status), *replicas(status)]]
    return [MapReply([(b"slots", [0, SLOTS - 1]), (b"nodes", nodes)])]


def _shards_node(status: NodeStatus, member: Member) -> Reply:
    address = client_address(member)
    host = address.host.encode()
    return MapReply(
        [
            (b"id", _hex_id(status, member).encode()),
            (b"port", address.port),
            (b"ip", host),
            (b"endpoint", host),
            (b"role", b"master" if member == slot_owner(status) else b"replica"),
            (b"replication-offset", _replication_offset(status, member)),
            (b"health", _health(status, member)),
        ]
    )


def _health(status: NodeStatus, member: Member) -> bytes:
    if not status.is_reachable(member.node_id):
        return b"fail"
    return b"online" if _has_vote(status, member) or member == slot_owner(status) else b"loading"


# -- NODES and REPLICAS -----------------------------------------------------------------------------------------------


def _nodes(status: NodeStatus, args: Args) -> Reply:
    del args
    members = [slot_owner(status), *replicas(status)]
    return Verbatim("".join(f"{_node_line(status, member)}\n" for member in members).encode())


def _node_line(status: NodeStatus, member: Member) -> str:
    """Return ``id host:port@bus flags master ping pong epoch link [slots]``."""
    address = client_address(member)
    bus_port = parse_address("peer_address", member.peer_address).port
    owner = slot_owner(status)
    is_up = status.is_reachable(member.node_id)
    flags = ["myself"] if member.node_id == status.node_id else []
    flags.append("master" if member == owner else "slave")
    if not _has_vote(status, member):
        flags.append("nofailover")
    if not is_up:
        flags.append("fail")
    fields = [
        _hex_id(status, member),
        f"{address.in_redis_form()}@{bus_port}",
        ",".join(flags),
        "-" if member == owner else _hex_id(status, owner),
        "0",
        str(_heard_at_ms(status, member)),
        str(status.current_term),
        "connected" if is_up else "disconnected",
    ]
    if member == owner:
        fields.append(f"0-{SLOTS - 1}")
    return " ".join(fields)


def _heard_at_ms(status: NodeStatus, member: Member) -> int:
    """Return when ``member`` last said anything, ms since the Unix epoch; 0 for this node and for never."""
    peer = status.peers.get(member.node_id)
    if peer is None or peer.last_contact_ms is None:
        return 0
    return status.time_of_day_us // 1000 - peer.last_contact_ms


def _replicas(status: NodeStatus, args: Args) -> Reply:
    wanted = args[2].decode("ascii", "backslashreplace").lower()
    if wanted == _hex_id(status, slot_owner(status)):
        return [_node_line(status, member).encode() for member in replicas(status)]
    if any(wanted == _hex_id(status, member) for member in replicas(status)):
        return ErrorReply("ERR The specified node is not a master")
    return ErrorReply(f"ERR Unknown node {echo(args[2])}")


# -- INFO, MYID and slots of keys -------------------------------------------------------------------------------------


def _info(status: NodeStatus, args: Args) -> Reply:
    del args
    lines = [
        "cluster_enabled:1",
        f"cluster_state:{'ok' if status.is_serving() else 'fail'}",
        f"cluster_slots_assigned:{SLOTS}",
        f"cluster_slots_ok:{SLOTS}",
        "cluster_slots_pfail:0",
        "cluster_slots_fail:0",
        f"cluster_known_nodes:{len(status.members)}",
        "cluster_size:1",
        f"cluster_current_epoch:{status.current_term}",
        f"cluster_my_epoch:{status.current_term}",
    ]
    return Verbatim("".join(f"{line}\r\n" for line in lines).encode())


def _my_id(status: NodeStatus, args: Args) -> Reply:
    del args
    return _hex_id(status, status.myself).encode()


def _key_slot(status: NodeStatus, args: Args) -> Reply:
    del status
    return key_slot(args[2])


def _count_keys_in_slot(call: _Call, args: Args) -> Reply:
    slot = parse_int64(args[2])
    if slot is None:
        return NOT_AN_INTEGER
    if not 0 <= slot < SLOTS:
        return ErrorReply("ERR Invalid slot")
    return call.node.count_keys_in_slot(slot)


def _told(
    name: bytes, arity: int, tell: Callable[[NodeStatus, Args], Reply], usage: str, help_line: str
) -> Subcommand[_Call]:
    """Return a subcommand that is answered from the status alone."""
    return Subcommand(name, arity, lambda call, args: tell(call.status, args), usage, help_line)


def _replicas_subcommand(name: bytes) -> Subcommand[_Call]:
    return _told(name, 3, _replicas, "node-id", "Return the node lines of a node's replicas")


CLUSTER_SUBCOMMANDS: Final = table(
    Subcommand(b"countkeysinslot", 3, _count_keys_in_slot, "slot", "Count the keys in a slot, looking at every key"),
    _told(b"info", 2, _info, "", "Return information about the cluster"),
    _told(b"keyslot", 3, _key_slot, "key", "Return the hash slot of a key"),
    _told(b"myid", 2, _my_id, "", "Return the node id"),
    _told(b"nodes", 2, _nodes, "", "Return one line per node: id, address, flags, owner, contact, epoch, slots"),
    _replicas_subcommand(b"replicas"),
    _told(b"shards", 2, _shards, "", "Return the shard, its slots and its nodes"),
    _replicas_subcommand(b"slaves"),
    _told(b"slots", 2, _slots, "", "Return the slot range, its owner and the owner's replicas"),
)
