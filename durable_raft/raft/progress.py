"""What the leader knows of one follower, and how fast it may send to it.

PROBE: where the logs meet is not known; one AppendEntries with entries, repeated without them by each heartbeat.
REPLICATE: it is known; AppendEntries are pipelined, bounded in number and bytes, ``next_index`` runs ahead of the
answers. A rejection leads back to PROBE (etcd/raft tracker/progress.go has the same two states).
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Final

from durable_raft.raft.types import DiskRoom, Index


class Pace(enum.Enum):
    """How the leader speaks to a follower."""

    PROBE = "probe"
    REPLICATE = "replicate"


PROBE: Final = Pace.PROBE
REPLICATE: Final = Pace.REPLICATE


class Progress:
    """One follower as its leader sees it. Invariant: 0 <= match_index < next_index."""

    __slots__ = (
        "_inflight",
        "_watched",
        "acked_round",
        "admission_round",
        "admit_at",
        "heard_at",
        "heed_from",
        "inflight_bytes",
        "is_heard",
        "is_voter",
        "match_index",
        "next_index",
        "pace",
        "probe_sent",
        "promotion_index",
        "room",
        "sent_index",
        "sent_round",
    )

    def __init__(self, next_index: Index, now: int) -> None:
        self.match_index = Index(0)
        """Highest index known to be flushed on the follower and equal to the leader's (Figure 2)."""
        self.next_index = next_index
        """Index of the next entry to send (Figure 2)."""
        self.pace = PROBE
        self.probe_sent = False
        """PROBE only: ``next_index`` was asked about, mostly with entries; the follower has not said if they fit."""
        self._inflight: deque[tuple[Index, int]] = deque()
        """REPLICATE only: (last index, payload bytes) of each AppendEntries with entries that is unanswered."""
        self.inflight_bytes = 0
        self._watched: Index | None = None
        """The oldest of them at the last heartbeat."""
        self.heard_at = now
        """When the follower last answered in this term (ms); CheckQuorum counts it (Ongaro §6.2)."""
        self.is_heard = False
        """Whether it answered at all in this term."""
        self.promotion_index: Index | None = None
        """What a learner has to acknowledge before it is promoted; None until its promotion is asked for."""
        self.sent_index = Index(0)
        """Up to where the follower was sent this log or asked about it in this term: it acknowledges no more."""
        self.sent_round = 0
        """Newest ReadIndex round that any AppendEntries to this follower carried."""
        self.acked_round = 0
        """Newest ReadIndex round that the follower repeated."""
        self.is_voter = True
        """Whether its answers count: False once it says that its disk is not admitted yet (admission.py)."""
        self.room = DiskRoom.AMPLE
        """What it says that its disk can still take; without room it is sent no entries (room.py)."""
        self.admission_round = 0
        """ReadIndex round that proves this leadership to a disk that asks for admission; 0 when none does."""
        self.heed_from = 0
        """Answers of earlier ReadIndex rounds do not count: what gave them has forgotten them (admission.py)."""
        self.admit_at: Index | None = None
        """Where the follower's log must match before its disk is admitted; None until the round is confirmed."""

    def inflight_count(self) -> int:
        """Return how many AppendEntries with entries are unanswered."""
        return len(self._inflight)

    def became_sent(self, last_index: Index, payload_bytes: int) -> None:
        """Note that entries up to ``last_index`` left for the follower."""
        if self.pace is PROBE:
            self.probe_sent = True
            return
        self._inflight.append((last_index, payload_bytes))
        self.inflight_bytes += payload_bytes
        self.next_index = Index(last_index + 1)

    def is_overdue(self) -> bool:
        """Return whether the oldest entries in flight were the oldest at the last call, too; one call a heartbeat."""
        oldest = self._inflight[0][0] if self._inflight else None
        is_overdue = oldest is not None and oldest == self._watched
        self._watched = oldest
        return is_overdue

    def became_matched(self, match_index: Index) -> bool:
        """Note that the follower flushed up to ``match_index``; return whether that is news."""
        while self._inflight and self._inflight[0][0] <= match_index:
            self.inflight_bytes -= self._inflight.popleft()[1]
        if self.pace is PROBE:
            self.pace = REPLICATE
            self.probe_sent = False
        self.next_index = max(self.next_index, Index(match_index + 1))
        if match_index <= self.match_index:
            return False
        self.match_index = match_index
        return True

    def forget(self) -> None:
        """Know no more what the follower holds."""
        self.match_index = Index(0)

    def probe_from(self, next_index: Index) -> None:
        """Go back to probing, from ``next_index`` or just after what is known to match, whichever is higher."""
        self.pace = PROBE
        self.probe_sent = False
        self._inflight.clear()
        self.inflight_bytes = 0
        self.next_index = max(next_index, Index(self.match_index + 1))
