"""What is seen of a soak's nodes from the outside: terms, leaders, memory, ends, and what their logs say."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.cluster.harness import Cluster

TELLING: Final = ("became_", "lost_quorum", "heartbeat_withheld", "timeouts_", "peer_disconnected")
LOOK_ANSWER_S: Final = 2.0
_ANONYMOUS: Final = re.compile(r"^RssAnon:\s+(\d+) kB", re.MULTILINE)
_COMPLAINT: Final = re.compile(r" (?:WARNING|ERROR) .*?\bevent=(\w+)")
_TURN: Final = re.compile(r"event=slow_turn .*processor_ms=(\S+)")


@dataclass(slots=True)
class Seen:
    """What was seen so far."""

    first_term: int = 0
    last_term: int = 0
    longest_timeout_ms: int = 0
    """Longest election timeout that any node had learned."""
    leaders: list[str] = field(default_factory=list)
    """Who led, each time it changed."""
    most_memory: dict[str, int] = field(default_factory=dict)
    """By node: the most bytes it had of its own (RssAnon: without the pages of files, which LMDB's maps are)."""
    ends: list[str] = field(default_factory=list)
    """Nodes that ended though nobody had killed them: which, with what code, and how their logs end."""

    def look(self, cluster: Cluster) -> None:
        """Ask every node."""
        infos = {node_id: cluster.info(node_id, timeout_s=LOOK_ANSWER_S) for node_id in cluster.running()}
        for node_id, info in infos.items():
            self._look_at_memory(cluster, node_id)
            if info is None:
                continue
            term = int(info["raft_current_term"])
            self.first_term = self.first_term or term
            self.last_term = max(self.last_term, term)
            self.longest_timeout_ms = max(
                self.longest_timeout_ms, int(info["raft_election_timeout_ms"].rpartition("-")[2])
            )
            if info["raft_role"] == "leader" and self.leaders[-1:] != [node_id]:
                self.leaders.append(node_id)

    def _look_at_memory(self, cluster: Cluster, node_id: str) -> None:
        try:
            found = _ANONYMOUS.search(Path(f"/proc/{cluster.pid(node_id)}/status").read_text())
        except OSError:
            return
        if found is not None:
            self.most_memory[node_id] = max(self.most_memory.get(node_id, 0), int(found[1]) << 10)

    def look_for_ends(self, cluster: Cluster, down: Collection[str]) -> None:
        """Note the nodes that ended by themselves, and start them again; those that are ``down`` were killed."""
        for node_id in cluster.node_ids:
            if not cluster.is_running(node_id) and node_id not in down:
                code = cluster.wait_exit(node_id)
                self.ends.append(cluster.explain(f"{node_id} ended by itself with {code}"))
                cluster.start(node_id)


def elections(cluster: Cluster) -> str:
    """Return what the nodes logged of elections and of how long they wait, in the order of time."""
    lines = [line for node_id in cluster.node_ids for line in cluster.log(node_id).splitlines()]
    return "\n".join(sorted(line for line in lines if any(f"event={name}" in line for name in TELLING)))


def complaints(cluster: Cluster) -> dict[str, int]:
    """Return how many warnings and errors the nodes logged, by event, the most frequent first."""
    logs = "\n".join(cluster.log(node_id) for node_id in cluster.node_ids)
    return dict(Counter(_COMPLAINT.findall(logs)).most_common())


def slow_turns(cluster: Cluster) -> dict[str, Any]:
    """Return how often a turn of a node's loop took long, and the processor time of the longest, in milliseconds."""
    turns = [float(each) for node_id in cluster.node_ids for each in _TURN.findall(cluster.log(node_id))]
    return {"count": len(turns), "longest_ms": max(turns, default=0.0)}
