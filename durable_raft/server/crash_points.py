"""Named points at which a test may kill the process, as ``kill -9`` would, between two effects of the node.

Armed by the environment: ``DURABLE_RAFT_CRASH_AT=name:count`` kills the process when the point is reached for the
count-th time. Unarmed, reaching a point costs one comparison.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Final

from durable_raft.errors import ConfigError

WRITE_POINTS: Final = (
    "before_submit",
    "before_persist",
    "after_persist",
    "before_send",
    "before_send_after_write",
    "before_apply",
    "after_apply",
    "before_reply",
    "after_reply",
)
"""As a write meets them that is queued for the log writer. Its thread passes the points of persisting while the loop
goes on: which of them comes first is a race. server/node.py and log_writer.py say where they stand.

A small write that is alone is persisted on the event loop. A follower does that before it answers and applies. A leader
does it last, when its messages have left. So it passes the points of persisting after the others of that turn, and
those of applying and replying in the next turn."""

MOVE_POINTS: Final = ("before_move", "after_move")
"""Of what is pending in the journal and goes to LMDB, on a thread of its own (log_mover.py)."""

STATE_POINTS: Final = (
    "before_checkpoint",
    "after_checkpoint_persist",
    "before_checkpoint_swap",
    "before_compaction",
    "before_prefix_dropped",
    "after_prefix_dropped",
    "before_snapshot_piece_sent",
    "after_snapshot_piece",
    "before_snapshot_finish",
    "after_snapshot_finish",
    "before_snapshot_swap",
    "after_snapshot_swap",
)
"""Of checkpoints, compaction and snapshots; in checkpoints.py, log_writer.py or log_mover.py, snapshot_fetch.py and
keeper.py."""

CRASH_POINTS: Final = (*WRITE_POINTS, *MOVE_POINTS, *STATE_POINTS)


class CrashPoints:
    """Counts how often points are reached and kills the process at the armed one."""

    def __init__(self, armed: str | None = None, count: int = 1) -> None:
        self._armed = armed
        self._left = count

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> CrashPoints:
        """Read ``DURABLE_RAFT_CRASH_AT``.

        Raises:
            ConfigError: the value names no crash point, or its count is not a positive number.
        """
        setting = environment.get("DURABLE_RAFT_CRASH_AT")
        if not setting:
            return cls()
        name, _, count = setting.partition(":")
        if name not in CRASH_POINTS or not (count or "1").isdigit() or int(count or "1") < 1:
            raise ConfigError(f"DURABLE_RAFT_CRASH_AT={setting!r}: expected NAME[:COUNT], NAME of {CRASH_POINTS}")
        return cls(name, int(count or "1"))

    def reach(self, name: str) -> None:
        """Die here when this point is armed and its count is used up."""
        if self._armed is None or name != self._armed:
            return
        self._left -= 1
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
