"""Gathers what a node can tell about itself at this moment (server/commands/status.py) from the parts that know it."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from durable_raft import __version__
from durable_raft.checksum import implementation
from durable_raft.raft.types import NodeId
from durable_raft.server.alarms import Alarm
from durable_raft.server.commands.status import ClientCounts, MemoryShare, NodeStatus, PeerStatus
from durable_raft.server.memory import UNBOUNDED
from durable_raft.server.node import Node
from durable_raft.server.settings.config import SETTINGS, NodeConfig
from durable_raft.server.settings.tls import OFF
from durable_raft.server.watchdog import Watchdog
from durable_raft.storage.log.log_store import DirectoryLogStore


class Reporter:
    """Makes the status of one node."""

    def __init__(
        self,
        config: NodeConfig,
        store: DirectoryLogStore,
        node: Node,
        watchdog: Watchdog,
        notices: Callable[[], Iterable[Alarm]] = tuple,
    ) -> None:
        """Bind the parts; ``notices`` are those that no part of the node knows."""
        self._store = store
        self._notices = notices
        self._watchdog = watchdog
        self._node = node
        self._settings = {
            setting.name.replace("_", "-"): str(getattr(config, setting.name))
            for setting in SETTINGS
            if hasattr(config, setting.name)
        }
        self._config = config

    def status(self, clients: ClientCounts) -> NodeStatus:
        """Return the node's status now, with what the owner of the connections counts."""
        node, raft, log = self._node, self._node.raft, self._node.raft.log
        keys, expires = node.keeper.counts()
        memory_bytes, resident_bytes = _memory()
        now, leaderless_since = node.now_s(), node.leadership.leaderless_since
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return NodeStatus(
            node_id=self._config.node_id,
            cluster_id=self._store.identity.cluster_id,
            configuration=node.members.configuration,
            is_configuration_committed=raft.is_configuration_committed,
            cluster_version=node.version.present,
            myself=node.members.myself,
            role=raft.role,
            leader_id=raft.leader_id,
            leaderless_ms=0 if leaderless_since is None else int((now - leaderless_since) * 1000),
            current_term=raft.current_term,
            voted_for=raft.voted_for,
            first_log_index=log.first_index,
            last_log_index=log.last.index,
            flushed_index=log.flushed,
            commit_index=log.commit_index,
            last_applied=node.keeper.applied_index,
            snapshot_index=raft.snapshot.index,
            state_hash=node.keeper.checkpointer.settled.summary.state_hash,
            keys=keys,
            expires=expires,
            peers=self._peers(),
            connected_clients=clients.connected,
            counters=self._counters(clients),
            latencies={
                "fsync": node.persister.latency.quantiles_us(),
                "commit": node.dispatcher.commit_latency.quantiles_us(),
                "checkpoint": node.keeper.checkpointer.durations.quantiles_us(),
            },
            time_of_day_us=time.time_ns() // 1000,
            cluster_time_ms=max(node.timekeeper.present_ms(), node.keeper.machine.time_ms),
            monotonic_us=int(now * 1_000_000),
            clock_offset_ms=node.timekeeper.agreement.own_offset_ms,
            cluster_time_offset_ms=node.timekeeper.cluster_offset_ms,
            clock_differs=raft.is_reluctant,
            uptime_s=int(now - node.started_at),
            pid=os.getpid(),
            version=__version__,
            checksum=implementation(),
            client_hold_ms=self._config.client_hold_ms,
            patience=raft.patience(int(now * 1000)),
            settings=self._settings,
            cluster_secrets=node.peers.secret.accepted,
            cluster_secret_problem=node.peers.secret.problem,
            alarms={alarm.name: alarm.text for alarm in node.alarms()},
            notices={alarm.name: alarm.text for alarm in self._notices()},
            tls=None if self._config.tls_clients == OFF else clients.tls,
            write_refusal=node.dispatcher.claims.out_of_space,
            memory_shares=self._memory_shares(),
            memory_bytes=memory_bytes,
            resident_bytes=resident_bytes,
            cpu_user_s=usage.ru_utime,
            cpu_system_s=usage.ru_stime,
        )

    def _memory_shares(self) -> dict[str, MemoryShare]:
        """Return what each share holds: those that close their greediest, then those that let others wait."""
        node, config, memory = self._node, self._config, self._node.memory
        kept = (memory.requests.share, memory.replies.share, memory.messages.share)
        shares = {share.name: MemoryShare(share.held, share.bytes_max % UNBOUNDED, 0, share.closed) for share in kept}
        dispatcher = node.dispatcher
        refused = dispatcher.counters.overloaded
        shares["queues"] = MemoryShare(dispatcher.queued.size_bytes, config.pending_bytes_max, refused, 0)
        shares["log"] = MemoryShare(node.raft.log.cache_bytes, config.log_cache_bytes_max, 0, 0)
        shares["overlay"] = MemoryShare(node.keeper.machine.overlay_bytes, config.overlay_bytes_max, 0, 0)
        return shares

    def _peers(self) -> dict[NodeId, PeerStatus]:
        node, raft = self._node, self._node.raft
        now_ms, heard = int(node.now_s() * 1000), node.peers.versions
        statuses: dict[NodeId, PeerStatus] = {}
        for peer in raft.state.peers:
            link = node.peers.links.get(peer)
            heard_at = node.heard_at.get(peer)
            progress = raft.progress.get(peer)
            statuses[peer] = PeerStatus(
                match_index=None if progress is None else progress.match_index,
                connected=link is not None and link.is_up,
                refuses=link is not None and link.is_refused_as_removed,
                is_replaced=link is not None and link.is_replaced,
                last_contact_ms=None if heard_at is None else now_ms - heard_at,
                versions=heard.get(peer),
                is_proven=link is not None and link.is_proven,
            )
        return statuses

    def _counters(self, clients: ClientCounts) -> dict[str, int]:
        node, dispatched, keeper = self._node, self._node.dispatcher.counters, self._node.keeper
        return {
            "flushes": node.persister.flushes,
            "entries": dispatched.entries,
            "commands": dispatched.commands,
            "reads": dispatched.reads,
            "log_bytes": node.persister.log_bytes,
            "elections": node.counters.elections,
            "is_voter": int(node.raft.is_voter),
            "wounds": len(node.raft.lost),
            "healed": node.raft.log.healed,
            "scrub_passes": keeper.scrubber.passes,
            "chain_mismatches": node.counters.chain_mismatches,
            "checkpoints": keeper.checkpointer.count,
            "snapshots_installed": keeper.fetcher.installed,
            "snapshot_pieces_sent": keeper.source.pieces,
            "snapshot_pieces_received": keeper.fetcher.pieces,
            "states_compared": keeper.hashes.compared,
            "states_differed": keeper.differs,
            "time_resets": node.timekeeper.resets,
            "held": dispatched.held,
            "moved": dispatched.moved,
            "unknown": dispatched.unknown,
            "overloaded": dispatched.overloaded,
            "requests_timed_out": node.memory.requests.timed_out,
            "peer_messages_timed_out": node.memory.messages.timed_out,
            "peer_messages_dropped": sum(link.dropped for link in node.peers.links.values()),
            "peer_refused": node.peers.refusals,
            "peer_misbehaved": node.peers.misbehaviours,
            "connections": clients.received,
            "commands_processed": clients.commands,
            "slow_turns": self._watchdog.slow_turns,
            "slowest_turn_us": int(self._watchdog.slowest_s * 1e6),
        }


def _memory() -> tuple[int, int]:
    """Return (own, resident) bytes of this process; mapped files count in the second only."""
    try:
        resident, shared = (int(pages) for pages in Path("/proc/self/statm").read_text().split()[1:3])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return peak, peak
    page = resource.getpagesize()
    return (resident - shared) * page, resident * page
