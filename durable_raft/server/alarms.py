"""What is wrong with a node so that somebody has to act: named once here, said by INFO, ``status`` and the log.

An alarm is a state, not an event: it stands as long as its cause does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from durable_raft.raft.core import Raft
from durable_raft.raft.types import NodeId
from durable_raft.server.peers import Link


class Alarm(NamedTuple):
    """One alarm of one node."""

    name: str
    """For machines: one word of ``ALARMS``."""
    text: str
    """For people: what is wrong, and the way out."""


ALARMS: Final[Mapping[str, str]] = {
    "disk_was_replaced": (
        "this directory was replaced by another under the same node id, and the others do not hear it any more: stop"
        " this node; start it with the directory that took its place, or move this one away and start with an empty one"
    ),
    "old_copy": (
        "this directory is an old copy, or may be one: it has forgotten what was promised, so it does not vote."
        " Start all nodes: it votes again when a leader that was elected without it has brought it up. If too few are"
        " left for that, --accept-old-copy lets it vote, and what it has forgotten may be lost"
    ),
    "contradicts_committed": (
        "the leader's log lacks entries that this node knows to be committed: several nodes came back with old"
        " directories. Nothing is cut here. Stop the other nodes; take a backup of this one and restore it into a new"
        " cluster, or start this node with an empty directory to accept the loss"
    ),
}
"""The text of each alarm by its name."""


def alarms_of(raft: Raft, links: Mapping[NodeId, Link]) -> tuple[Alarm, ...]:
    """Return what is wrong with the node that runs ``raft`` and dials ``links``."""
    found = []
    if any(link.is_refused_as_replaced for link in links.values()):
        found.append("disk_was_replaced")
    if raft.is_old_copy:
        found.append("old_copy")
    if raft.contradiction is not None:
        found.append("contradicts_committed")
    return tuple(Alarm(name, ALARMS[name]) for name in found)
