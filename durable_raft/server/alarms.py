"""What is wrong with a node so that somebody has to act: named once here, said by INFO, ``status`` and the log.

An alarm is a state, not an event: it stands as long as its cause does.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final, NamedTuple

from durable_raft.raft.core import Raft
from durable_raft.raft.types import NodeId
from durable_raft.server.logs import event
from durable_raft.server.peers import Link

_logger = logging.getLogger(__name__)

NOT_A_VOTER_TICKS: Final = 40
"""Looks after which a node that is no voter says so again: ten seconds."""

ALARM_TICKS: Final = 40
"""Looks after which an alarm that stands is said again: ten seconds."""


class Alarm(NamedTuple):
    """One alarm of one node."""

    name: str
    """For machines: one word of ``ALARMS``."""
    text: str
    """For people: what is wrong, and the way out."""


REMOVED: Final = (
    "this node was removed from its cluster, and has no part in it any more. Its id is not used again: to bring this"
    " machine back, start it with a new id, an empty directory and --join"
)

ALARMS: Final[Mapping[str, str]] = {
    "removed": f"other nodes say: {REMOVED}",
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
    "tls_files_refused": "the node goes on with the files of before; mend this one, and it is read again by itself",
    "certificate_ends": "put a new certificate and its key in place; they are read without a restart",
    "certificate_ended": (
        "clients refuse it, so none of them gets in by TLS; put a new certificate and its key in place, which are read"
        " without a restart"
    ),
    "revocations_ended": "every client with a certificate is refused; put the CA's newest list in place",
}
"""The text of each alarm by its name. Those of TLS follow what they are about; with them a node serves whom it can."""


def alarms_of(raft: Raft, links: Mapping[NodeId, Link]) -> tuple[Alarm, ...]:
    """Return what is wrong with the node that runs ``raft`` and dials ``links``."""
    found = []
    if any(link.is_refused_as_removed for link in links.values()):
        found.append("removed")
    if any(link.is_refused_as_replaced for link in links.values()):
        found.append("disk_was_replaced")
    if raft.is_old_copy:
        found.append("old_copy")
    if raft.contradiction is not None:
        found.append("contradicts_committed")
    return tuple(Alarm(name, ALARMS[name]) for name in found)


class Announcer:
    """Says from time to time what is wrong with a node, and whom it waits for."""

    def __init__(self, raft: Raft, links: Mapping[NodeId, Link]) -> None:
        self._raft = raft
        self._links = links
        self._unvoted_ticks = self._alarm_ticks = 0

    def alarms(self) -> tuple[Alarm, ...]:
        """Return what is wrong with the node so that somebody has to act."""
        return alarms_of(self._raft, self._links)

    def tick(self) -> None:
        """Say what is due, at each of the node's looks."""
        self._say_not_a_voter()
        self._say_alarms()

    def _say_not_a_voter(self) -> None:
        """Say from time to time whom a new disk waits for: a first start needs every node once."""
        self._unvoted_ticks = 0 if self._raft.is_voter else self._unvoted_ticks + 1
        if self._unvoted_ticks % NOT_A_VOTER_TICKS == NOT_A_VOTER_TICKS // 2:
            waits_for = ",".join(self._raft.waits_for()) or "a leader that was elected without it"
            event(_logger, logging.WARNING, "not_a_voter_yet", waits_for=waits_for)

    def _say_alarms(self) -> None:
        """Say what somebody has to act on when it begins, and from time to time while it lasts."""
        alarms = self.alarms()
        self._alarm_ticks = self._alarm_ticks + 1 if alarms else 0
        if self._alarm_ticks % ALARM_TICKS == 1:
            for alarm in alarms:
                event(_logger, logging.ERROR, "alarm", name=alarm.name, reason=alarm.text)
