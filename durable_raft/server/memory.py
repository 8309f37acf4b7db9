"""The budget of one node: its shares, and what keeps each within its bound.

| share | what it counts | what happens when it is full |
|---|---|---|
| ``requests`` | what connections have sent of commands that are not complete | the greediest is closed |
| ``replies`` | replies that clients have not taken | the greediest is closed |
| ``queues`` | commands taken in and not answered | more are refused: OVERLOADED (dispatch.py) |
| ``peers`` | what other nodes have sent of messages that are not complete | the greediest link is closed |
| ``log`` | entries in memory (raft/log.py) | the oldest are read from the disk when they are needed |
| ``overlay`` | changes that no checkpoint holds | applying waits (state/checkpoints.py) |

How large they are: settings/memory_plan.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from durable_raft.server.budget import Share
from durable_raft.server.eviction import Evictor, Holder
from durable_raft.server.half_sent import HalfSent, Sender
from durable_raft.server.settings.config import NodeConfig
from durable_raft.server.settings.memory_plan import share_bytes

UNBOUNDED: Final = 1 << 62


class Reader(Holder, Protocol):
    """A connection that replies are written to."""

    @property
    def unread_bytes(self) -> int:
        """Bytes of replies that wait for it."""


class NodeMemory:
    """What is counted as it comes and goes; belongs to the event loop."""

    def __init__(self, config: NodeConfig, monotonic: Callable[[], float]) -> None:
        """Cut ``config.memory_max`` into shares; nothing is bounded when it is 0."""
        timeout_s = config.request_timeout_ms / 1000
        self.requests = HalfSent(Share[Sender]("requests", _bytes_of("requests", config)), timeout_s, monotonic)
        self.messages = HalfSent(Share[Sender]("peers", _bytes_of("peers", config)), timeout_s, monotonic)
        self.replies = Evictor(
            Share[Reader]("replies", _bytes_of("replies", config)), monotonic, count=lambda reader: reader.unread_bytes
        )

    def expire(self) -> None:
        """End what was half sent and does not go on."""
        self.requests.expire()
        self.messages.expire()


def _bytes_of(share: str, config: NodeConfig) -> int:
    return share_bytes(share, config.memory_max) if config.memory_max else UNBOUNDED
