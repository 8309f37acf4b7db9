"""Gathers what a node can tell about itself at this moment (server/status.py) from the parts that know it."""

from __future__ import annotations

import os
import resource
import time

from durable_raft import __version__
from durable_raft.checksum import implementation
from durable_raft.raft.types import Index, NodeId, Role
from durable_raft.server.clients import Clients
from durable_raft.server.config import SETTINGS, NodeConfig
from durable_raft.server.node import Node
from durable_raft.server.status import NodeStatus, PeerStatus
from durable_raft.storage.lmdb_store import LmdbLogStore


class Reporter:
    """Makes the status of one node."""

    def __init__(self, config: NodeConfig, store: LmdbLogStore, node: Node) -> None:
        self._store = store
        self._node = node
        self._settings = {
            setting.name.replace("_", "-"): str(getattr(config, setting.name))
            for setting in SETTINGS
            if hasattr(config, setting.name)
        }
        self._config = config
        self.clients: Clients | None = None
        """Set once the connections' owner exists; it needs this reporter to be made."""

    def status(self) -> NodeStatus:
        """Return the node's status now."""
        node, raft, log = self._node, self._node.raft, self._node.raft.log
        now = node.now_s()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return NodeStatus(
            node_id=self._config.node_id,
            cluster_id=self._store.identity.cluster_id,
            membership=self._config.membership,
            role=raft.role,
            leader_id=raft.leader_id,
            leaderless_ms=0 if node.leaderless_since is None else int((now - node.leaderless_since) * 1000),
            current_term=raft.current_term,
            voted_for=raft.voted_for,
            first_log_index=log.first_index,
            last_log_index=log.last.index,
            flushed_index=log.flushed,
            commit_index=log.commit_index,
            last_applied=log.last_applied,
            snapshot_index=log.base.index,
            keys=node.machine.summary.key_count,
            expires=node.machine.summary.expires_count,
            count_keys_in_slot=node.machine.count_keys_in_slot,
            peers=self._peers(),
            connected_clients=len(self.clients.connections) if self.clients is not None else 0,
            counters=self._counters(),
            latencies={
                "fsync": node.fsync_latency.quantiles_us(),
                "commit": node.dispatcher.commit_latency.quantiles_us(),
            },
            time_of_day_us=time.time_ns() // 1000,
            cluster_time_ms=node.machine.time_ms,
            uptime_s=int(now - node.started_at),
            pid=os.getpid(),
            version=__version__,
            checksum=implementation(),
            client_hold_ms=self._config.client_hold_ms,
            settings=self._settings,
            write_refusal=node.dispatcher.out_of_space,
            memory_bytes=usage.ru_maxrss * 1024,
            cpu_user_s=usage.ru_utime,
            cpu_system_s=usage.ru_stime,
        )

    def _peers(self) -> dict[NodeId, PeerStatus]:
        node = self._node
        leads = node.raft.role is Role.LEADER
        now_ms = int(node.now_s() * 1000)
        statuses: dict[NodeId, PeerStatus] = {}
        for peer, link in node.peers.links.items():
            heard_at = node.peers.heard_at.get(peer)
            statuses[peer] = PeerStatus(
                match_index=Index(node.raft.progress[peer].match_index) if leads else None,
                connected=link.is_up,
                last_contact_ms=None if heard_at is None else now_ms - heard_at,
            )
        return statuses

    def _counters(self) -> dict[str, int]:
        node, dispatched = self._node, self._node.dispatcher.counters
        return {
            "flushes": node.counters.flushes,
            "entries": dispatched.entries,
            "commands": dispatched.commands,
            "reads": dispatched.reads,
            "log_bytes": node.counters.log_bytes,
            "elections": node.counters.elections,
            "chain_mismatches": node.counters.chain_mismatches,
            "held": dispatched.held,
            "moved": dispatched.moved,
            "unknown": dispatched.unknown,
            "overloaded": dispatched.overloaded,
            "peer_messages_dropped": sum(link.dropped for link in node.peers.links.values()),
            "peer_refused": node.peers.refused,
            "connections": self.clients.connections_received if self.clients is not None else 0,
            "commands_processed": self.clients.commands_processed if self.clients is not None else 0,
        }
