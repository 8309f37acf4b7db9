"""The version of the cluster at one node: who can which, when it may be raised, and what raising does here.

It is raised when an operator asks, not by itself: no downgrade is possible then, and whoever upgrades wants to see the
new program work before that. The leader refuses while a member, with a vote or without, cannot the version, or
is not heard: what it runs by now nobody knows. What every member can is learned from the Hello of the link on which it
is heard at present, so a node that came back with an older program is known by that.

A member may come back with an older program at the very moment. Then it is not heard any more (hearing.py), and its
directory is refused once it holds the entry or a checkpoint behind it. It has lost nothing, and goes on with a newer
program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from durable_raft.errors import PeerTooOld
from durable_raft.kv.machine import Machine
from durable_raft.kv.replies import ErrorReply
from durable_raft.raft.core import Raft
from durable_raft.raft.state_parts import Observer
from durable_raft.raft.types import LEADER, VERSION, Entry, NodeId
from durable_raft.raft.versions import Versions, decode_version, encode_version, require
from durable_raft.wire.messages import NodeMessage, SnapshotChunk

NOT_LEADING: Final = ErrorReply("ERR this node does not lead, or is handing leadership over; ask the leader (ROLE)")
CHANGING: Final = ErrorReply("ERR members are being changed; ask again when that is complete")


class ClusterVersion:
    """One node's."""

    def __init__(
        self,
        raft: Raft,
        machine: Callable[[], Machine],
        ours: Versions,
        heard: Callable[[], Mapping[NodeId, Versions]],
        observe: Observer,
    ) -> None:
        """Bind the parts.

        Args:
            raft: the core.
            machine: returns the machine that there is at present; it holds the version.
            ours: what this program can.
            heard: returns what each peer that is heard at present can.
            observe: logs an event, and keeps it in the flight recorder.
        """
        self._raft = raft
        self._machine = machine
        self._ours = ours
        self._heard = heard
        self.observe = observe

    @property
    def present(self) -> int:
        """The version of the cluster, as far as this node has applied the log."""
        return self._machine().version

    def known(self) -> dict[NodeId, Versions | None]:
        """Return what each member of the newest configuration can; None: it is not heard."""
        own, heard = self._raft.state.config.node_id, self._heard()
        return {member: self._ours if member == own else heard.get(member) for member in self._raft.configuration.ids()}

    def propose(self, version: int | None, *, is_dry: bool = False) -> int | ErrorReply:
        """Propose to raise the version, as far as all members can when none is given; return it, or why not.

        Args:
            version: wanted; None: the highest.
            is_dry: propose nothing.
        """
        configuration, raft = self._raft.configuration, self._raft
        if raft.role is not LEADER or raft.is_transferring:
            return NOT_LEADING
        if not configuration.is_at_rest or not raft.is_configuration_committed:
            return CHANGING
        wanted = self.present + 1 if version is None else version
        if wanted <= self.present:
            return ErrorReply(f"ERR the cluster has version {self.present}, and it never falls")
        known = self.known()
        if unable := _unable(known, wanted):
            return ErrorReply(f"ERR the cluster keeps version {self.present}, for version {wanted}: {unable}")
        if version is None:
            wanted = min(versions.newest for versions in known.values() if versions is not None)
        if not is_dry and raft.propose(encode_version(wanted), raft.log.last_timestamp_ms, VERSION) is None:
            return NOT_LEADING
        return wanted

    def check(self, source: NodeId, message: NodeMessage) -> None:
        """Take no snapshot of a version that this program cannot: the next start would refuse it.

        Raises:
            PeerTooOld: ``message`` is a piece of one; what is too old is this node.
        """
        if isinstance(message, SnapshotChunk) and not self._ours.has(message.version):
            raise PeerTooOld(
                f"a snapshot from {source} has version {message.version}, and this node can {self._ours}: install a"
                " newer program here"
            )

    def applied(self, entry: Entry) -> None:
        """Take note of an entry that is applied.

        Raises:
            UnknownFormatVersion: it raises the version beyond what this program can. Nothing is lost.
        """
        if entry.kind is not VERSION:
            return
        version, machine = decode_version(entry.index, entry.payload), self._machine()
        require(self._ours, version, f"entry {entry.index}")
        if version > machine.version:
            self.observe("cluster_version", version=version, was=machine.version, index=entry.index)
            machine.raise_version(version)


def _unable(known: Mapping[NodeId, Versions | None], version: int) -> str:
    """Return in words which members keep the cluster from ``version``; empty: none does."""
    return "; ".join(
        f"{member} is not heard" if versions is None else f"{member} can {versions}"
        for member, versions in known.items()
        if versions is None or not versions.has(version)
    )
