"""INFO and ROLE: one node's view of itself as Redis clients and monitoring read it, and everything Raft under ``raft``.

Field names are Redis 7.0's where Redis has the field; a field that would have to be invented is left out. Offsets of
replication are log indexes: a leader's is its last, a replica's is what it has flushed. Times carry their unit in
their name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from durable_raft.kv.replies import Reply, Verbatim
from durable_raft.raft.types import Member
from durable_raft.server.commands.arguments import Args
from durable_raft.server.commands.cluster import client_address, replicas
from durable_raft.server.commands.status import NodeStatus

REDIS_VERSION: Final = "7.0.15"
"""The Redis whose replies and errors are imitated; clients choose what to send by it."""

Field = tuple[str, object]

_REDIS_COUNTERS: Final = {
    "connections": "total_connections_received",
    "commands_processed": "total_commands_processed",
    "slow_turns": "eventloop_slow_turns",
    "slowest_turn_us": "eventloop_slowest_turn_usec",
}
"""Counters shown under Redis's own names, in the section ``stats``; all others are shown under ``raft``."""


def info(status: NodeStatus, args: Args) -> Reply:
    """Answer INFO [section ...]: the sections asked for, in a fixed order; a section nobody knows is empty."""
    asked = {section.lower().decode("ascii", "replace") for section in args[1:]}
    if not asked or asked & {"default", "all", "everything"}:
        asked = set(_SECTIONS)
    texts = [_section(name, fields(status)) for name, fields in _SECTIONS.items() if name in asked]
    return Verbatim("\r\n".join(texts).encode())


def role(status: NodeStatus) -> Reply:
    """Answer ROLE: ``master offset replicas``, or ``slave host port link offset`` (no leader: empty host, port 0)."""
    if status.is_leader:
        followers: list[Reply] = [_role_replica(status, member) for member in _live_replicas(status)]
        return [b"master", status.last_log_index, followers]
    leader = _leader_elsewhere(status)
    if leader is None:
        return [b"slave", b"", 0, b"connect", status.flushed_index]
    address = client_address(leader)
    link = b"connected" if status.is_reachable(leader.node_id) else b"connect"
    return [b"slave", address.host.encode(), address.port, link, status.flushed_index]


def replicas_caught_up(status: NodeStatus) -> int:
    """Return how many other voters have flushed all that this leader's log holds, as far as it has heard; see WAIT."""
    voters = [peer for node_id, peer in status.peers.items() if status.configuration.has_voter(node_id)]
    known = (peer.match_index for peer in voters)
    return sum(1 for match_index in known if match_index is not None and match_index >= status.last_log_index)


def _role_replica(status: NodeStatus, member: Member) -> Reply:
    address = client_address(member)
    offset = status.peers[member.node_id].match_index or 0
    return [address.host.encode(), str(address.port).encode(), str(offset).encode()]


def _section(name: str, fields: Iterable[Field]) -> str:
    title = {"cpu": "CPU"}.get(name, name.capitalize())
    return f"# {title}\r\n" + "".join(f"{key}:{_text(value)}\r\n" for key, value in fields)


def _text(value: object) -> str:
    """Return a field's value: nothing for None, 1 and 0 for truth, and never a line break."""
    if value is None:
        return ""
    text = str(int(value)) if isinstance(value, bool) else str(value)
    return text.replace("\r", " ").replace("\n", " ")


def _leader_elsewhere(status: NodeStatus) -> Member | None:
    """Return the leader this node follows, reachable or not."""
    if status.leader_id is None or status.leader_id == status.node_id:
        return None
    return status.member(status.leader_id)


def _live_replicas(status: NodeStatus) -> list[Member]:
    return [member for member in replicas(status) if status.is_reachable(member.node_id)]


# -- Redis's sections -------------------------------------------------------------------------------------------------


def _server(status: NodeStatus) -> Iterable[Field]:
    yield "redis_version", REDIS_VERSION
    yield "durable_raft_version", status.version
    yield "redis_mode", "cluster"
    yield "multiplexing_api", "asyncio"
    yield "process_id", status.pid
    yield "tcp_port", client_address(status.myself).port
    yield "server_time_usec", status.time_of_day_us
    yield "uptime_in_seconds", status.uptime_s
    yield "uptime_in_days", status.uptime_s // 86_400


def _clients(status: NodeStatus) -> Iterable[Field]:
    yield "connected_clients", status.connected_clients
    if "clients-max" in status.settings:
        yield "maxclients", status.settings["clients-max"]
    yield "blocked_clients", 0
    if status.tls is not None:
        yield "tls_connected_clients", status.tls.connected
        yield "tls_undecided_clients", status.tls.undecided


def _memory(status: NodeStatus) -> Iterable[Field]:
    yield "used_memory", status.memory_bytes
    yield "used_memory_human", _human(status.memory_bytes)
    yield "used_memory_rss", status.resident_bytes
    yield "used_memory_rss_human", _human(status.resident_bytes)
    most = int(status.settings.get("memory-max", 0))
    yield "maxmemory", most
    yield "maxmemory_human", _human(most)
    yield "maxmemory_policy", "noeviction"
    shares = status.memory_shares
    yield "mem_clients_normal", sum(shares[name].held for name in ("requests", "replies") if name in shares)
    for name, share in shares.items():
        facts = {"held": share.held, "max": share.most, "refused": share.refused, "closed": share.closed}
        yield f"raft_memory_{name}", ",".join(f"{fact}={number}" for fact, number in facts.items())


def _human(size_bytes: int) -> str:
    """Return a size as Redis writes it for people: ``12B``, ``1.50K``, ``2.25G``."""
    if size_bytes < 1024:
        return f"{size_bytes}B"
    size = size_bytes / 1024
    for unit in "KMG":
        if size < 1024:
            return f"{size:.2f}{unit}"
        size /= 1024
    return f"{size:.2f}T"


def _persistence(status: NodeStatus) -> Iterable[Field]:
    yield "loading", 0
    yield "async_loading", 0
    yield "rdb_bgsave_in_progress", 0
    yield "aof_enabled", 1
    yield "aof_rewrite_in_progress", 0
    yield "aof_last_write_status", "ok" if status.write_refusal is None else "err"


def _stats(status: NodeStatus) -> Iterable[Field]:
    for counter, name in _REDIS_COUNTERS.items():
        yield name, status.counters.get(counter, 0)
    if status.tls is not None:
        yield "tls_handshakes", status.tls.handshakes
        yield "tls_refused_clients", status.tls.refused
        yield "tls_timed_out_handshakes", status.tls.timed_out
    yield "evicted_clients", sum(share.closed for name, share in status.memory_shares.items() if name != "peers")


def _replication(status: NodeStatus) -> Iterable[Field]:
    yield "role", "master" if status.is_leader else "slave"
    if status.is_leader:
        yield from _replication_of_leader(status)
    else:
        yield from _replication_of_follower(status)
    yield "master_failover_state", "no-failover"
    yield "master_replid", hashlib.sha1(status.cluster_id, usedforsecurity=False).hexdigest()
    yield "master_repl_offset", status.last_log_index


def _replication_of_leader(status: NodeStatus) -> Iterable[Field]:
    live = _live_replicas(status)
    yield "connected_slaves", len(live)
    for number, member in enumerate(live):
        address, peer = client_address(member), status.peers[member.node_id]
        lag_s = (peer.last_contact_ms or 0) // 1000
        offset = peer.match_index or 0
        yield f"slave{number}", f"ip={address.host},port={address.port},state=online,offset={offset},lag={lag_s}"


def _replication_of_follower(status: NodeStatus) -> Iterable[Field]:
    leader = _leader_elsewhere(status)
    address = client_address(leader) if leader else None
    is_up = status.live_leader() is not None
    heard_ms = status.peers[leader.node_id].last_contact_ms if leader else None
    yield "master_host", address.host if address else None
    yield "master_port", address.port if address else 0
    yield "master_link_status", "up" if is_up else "down"
    yield "master_last_io_seconds_ago", -1 if heard_ms is None else heard_ms // 1000
    yield "master_sync_in_progress", 0
    yield "slave_read_repl_offset", status.last_log_index
    yield "slave_repl_offset", status.flushed_index
    if not is_up:
        yield "master_link_down_since_seconds", status.leaderless_ms // 1000
    yield "slave_priority", 100
    yield "slave_read_only", 1
    yield "replica_announced", 1
    yield "connected_slaves", 0


def _cpu(status: NodeStatus) -> Iterable[Field]:
    yield "used_cpu_sys", f"{status.cpu_system_s:.6f}"
    yield "used_cpu_user", f"{status.cpu_user_s:.6f}"


def _cluster(status: NodeStatus) -> Iterable[Field]:
    del status
    yield "cluster_enabled", 1


def _keyspace(status: NodeStatus) -> Iterable[Field]:
    if status.keys:
        yield "db0", f"keys={status.keys},expires={status.expires},avg_ttl=0"


# -- the section raft -------------------------------------------------------------------------------------------------


def _raft(status: NodeStatus) -> Iterable[Field]:
    yield "raft_node_id", status.node_id
    yield "raft_cluster_id", status.cluster_id.hex()
    yield "raft_role", status.role.value
    yield "raft_leader_id", status.leader_id
    yield "raft_leaderless_ms", status.leaderless_ms
    yield "raft_current_term", status.current_term
    yield "raft_voted_for", status.voted_for
    yield from _patience(status)
    yield "raft_first_log_index", status.first_log_index
    yield "raft_last_log_index", status.last_log_index
    yield "raft_flushed_index", status.flushed_index
    yield "raft_commit_index", status.commit_index
    yield "raft_last_applied", status.last_applied
    yield "raft_snapshot_index", status.snapshot_index
    yield "raft_state_hash", f"{status.state_hash:016x}"
    yield "raft_cluster_time_ms", status.cluster_time_ms
    yield "raft_cluster_time_offset_ms", status.cluster_time_offset_ms
    yield "raft_clock_offset_ms", status.clock_offset_ms
    yield "raft_clock_differs", status.clock_differs
    yield "raft_checksum", status.checksum
    yield "raft_cluster_version", status.cluster_version
    yield "raft_versions", status.versions.short()
    yield "raft_cluster_secrets", status.cluster_secrets
    yield "raft_cluster_secret_problem", status.cluster_secret_problem
    yield "raft_ready", status.is_ready()
    alarms = {**status.alarms, **status.notices}
    yield "raft_alarms", ",".join(alarms)
    for name, text in alarms.items():
        yield f"raft_alarm_{name}", text
    yield "raft_writes_refused", status.write_refusal
    for name, count in status.counters.items():
        if name not in _REDIS_COUNTERS:
            yield f"raft_{name}", count
    for name, (p50_us, p99_us, max_us) in status.latencies.items():
        yield f"raft_{name}_latency_us", f"p50={p50_us},p99={p99_us},max={max_us}"
    yield from _raft_members(status)


def _patience(status: NodeStatus) -> Iterable[Field]:
    """Say how long the node waits for a leader at present, and what stretches that; 0: nothing does."""
    patience = status.patience
    yield "raft_election_timeout_ms", f"{patience.shortest_ms}-{patience.longest_ms}"
    yield "raft_late_ms", patience.late_ms
    yield "raft_slow_flush_ms", patience.flush_ms
    yield "raft_failed_campaigns", patience.failed_campaigns


def _raft_members(status: NodeStatus) -> Iterable[Field]:
    configuration = status.configuration
    yield "raft_member", status.part_of(status.node_id)
    yield "raft_configuration_index", configuration.index
    yield "raft_configuration_state", status.configuration_state()
    yield "raft_configuration_committed", status.is_configuration_committed
    yield "raft_voters", len(configuration.voters)
    yield "raft_learners", len(configuration.learners)
    for member in status.members:
        peer = status.peers.get(member.node_id)
        if peer is not None:
            facts = {
                "match_index": peer.match_index,
                "connected": peer.connected,
                "replaced": peer.is_replaced,
                "last_contact_ms": peer.last_contact_ms,
                "address": member.client_address,
                "member": status.part_of(member.node_id),
                "versions": None if peer.versions is None else peer.versions.short(),
            }
            if status.cluster_secrets:
                facts["proven"] = peer.is_proven
            yield f"raft_peer_{member.node_id}", ",".join(f"{name}={_text(fact)}" for name, fact in facts.items())


_SECTIONS: Final[Mapping[str, Callable[[NodeStatus], Iterable[Field]]]] = {
    "server": _server,
    "clients": _clients,
    "memory": _memory,
    "persistence": _persistence,
    "stats": _stats,
    "replication": _replication,
    "cpu": _cpu,
    "cluster": _cluster,
    "raft": _raft,
    "keyspace": _keyspace,
}
