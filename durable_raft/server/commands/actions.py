"""What a node does for a client, beside telling about itself (status.py): asked by name, one moment or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from durable_raft.kv.records import Record
from durable_raft.kv.replies import ErrorReply, Reply
from durable_raft.raft.changes import Step
from durable_raft.raft.types import Configuration, Index, NodeId
from durable_raft.storage.state.meta import KvMeta


class NodeActions(Protocol):
    """A node, as far as the commands that ask it for something know it."""

    def count_keys_in_slot(self, slot: int) -> Reply:
        """Count the keys of a hash slot by looking at every key: later, as a rule."""

    def reset_time(self, time_ms: int | None) -> int | ErrorReply:
        """Propose to set the cluster time, ms since the Unix epoch; None: to the clock that a majority agrees on.

        Returns:
            The time proposed; an error when this node does not lead or no clock is agreed on.
        """

    def raise_version(self, version: int | None, *, is_dry: bool) -> int | ErrorReply:
        """Propose to raise the version of the cluster; None: as far as all members can.

        Args:
            version: wanted.
            is_dry: only look whether it may be raised.

        Returns:
            The version proposed; an error that says why it may not be raised now.
        """

    def change_members(self, steps: Sequence[Step], against: Index | None, *, is_dry: bool) -> Configuration:
        """Begin a change of members, this node leading; return its first stage.

        Args:
            steps: made together (raft/changes.py).
            against: index of the configuration that the change was made against; None: the present one.
            is_dry: only look whether it may be begun.

        Raises:
            ChangeRefused: nothing was begun; the classes in raft/changes.py say why.
        """

    def transfer(self, target: NodeId | None) -> NodeId:
        """Begin to hand leadership to ``target``, or to whoever is fit best; return to whom.

        Raises:
            ChangeRefused: nothing was begun.
        """

    def request_checkpoint(self) -> None:
        """Have a checkpoint written soon of all that is applied."""

    def read_state(self, index: Index, after: bytes | None) -> tuple[KvMeta, list[tuple[bytes, Record]]] | None:
        """Return which checkpoint it is, and its next records behind ``after``; None: there is no state.

        When the checkpoint at ``index`` is gone, it is the newest from its first key (server/state/backup_source.py).

        Raises:
            CorruptRecord: a record is damaged.
        """
