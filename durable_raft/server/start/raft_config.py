"""What the core is told of a node: its settings, and what was found on its disk (raft/types.py)."""

from __future__ import annotations

from durable_raft.raft.types import Configuration, RaftConfig
from durable_raft.server.settings.config import NodeConfig
from durable_raft.server.start.recovery import NodeData


def _first(config: NodeConfig, data: NodeData) -> Configuration:
    """Return the configuration at index 0; once members have changed, --cluster says nothing of it any more."""
    stored = data.log_store.membership
    return Configuration.initial(stored if data.stored.configurations else config.first_members)


def raft_config(config: NodeConfig, data: NodeData, life: bytes) -> RaftConfig:
    """Return what the core of this life of a node is told."""
    return RaftConfig(
        node_id=config.node_id,
        node_uuid=data.log_store.identity.node_uuid,
        life=life,
        place=data.place,
        accept_old_copy=config.accept_old_copy,
        initial=_first(config, data),
        election_timeout_min_ms=config.election_timeout_min_ms,
        election_timeout_max_ms=config.election_timeout_max_ms,
        election_timeout_bound_ms=config.election_timeout_bound_ms,
        heartbeat_ms=config.heartbeat_ms,
        election_priority=config.election_priority,
        append_bytes_max=config.append_bytes_max,
        append_inflight_max=config.append_inflight_max,
        append_inflight_bytes_max=config.append_inflight_bytes_max,
        log_cache_bytes_max=config.log_cache_bytes_max,
    )
