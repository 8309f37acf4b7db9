"""Timeouts that learn: how long this node waits for others, from how late they were not long ago.

Raft §5.6 asks for broadcastTime << electionTimeout. Where processors, links or disks are slow for a while, the
configured timeouts do not keep that, and leaders that are well are deposed. So each node measures how *late* is what it
hears, and stretches its timeouts while that is much (Dynatune, arXiv:2507.15154, measures the same and also shortens
them; here the configured ones are the shortest):

- late by how much: a message of a leader, beyond a heartbeat's time, also one that was given up already (a false
  suspicion, as in Chandra and Toueg's detectors); the answers of a majority; the answer to a pre-vote;
- how long a write took from being handed out to being flushed, without what a large one is granted for its size;
- how often this node campaigned for nothing since it last heard a leader.

One factor stretches all that is waited for: the election timeout's range, the time in which a leader that was heard is
believed to be there (Ongaro §4.2.3), CheckQuorum's time (Ongaro §6.2). So they keep their proportion on each node. What
makes a follower patient makes its answers late as well, so its leader learns the same.

Safety depends on none of it: whatever a timeout is, votes and commits count what is flushed (Raft §5.2, §5.4). Times
are integer ms; nothing here draws or reads a clock.
"""

from __future__ import annotations

from typing import Final

from durable_raft.raft.types import NodeId, Patience, RaftConfig, Term

FACTOR: Final = 4
"""So many times the worst that was measured is waited for: what comes next may be worse."""

FLUSHES: Final = 2
"""A candidate waits for so many times its own slowest flush: others flush their vote, perhaps behind another write."""

HALF_LIFE_MS: Final = 30_000
"""After so long the worst counts half. A checkpoint is written as often, so a lateness that each brings is remembered
from one to the next, with twice its time to spare."""

SLOWEST_BYTES_PER_MS: Final = 16 << 10
"""What a disk is granted that must not count as hung: 16 MiB/s, records and their pages around the payload included."""


def size_ms(unflushed_bytes: int) -> int:
    """Return what of a write's time is put down to how much was written, and not to the disk (ms)."""
    return unflushed_bytes // SLOWEST_BYTES_PER_MS


def flush_patience_ms(base_ms: int, unflushed_bytes: int) -> int:
    """Return how long the oldest write in flight may take (ms): longer when much is written.

    A sound disk that is given 64 MiB is busy with them for longer than an election timeout. A node that took that for
    a hang would give its leadership up, and the next leader would do so with the same entry.

    Args:
        base_ms: what a small write may take.
        unflushed_bytes: payload bytes of the writes that share the disk with it, and often one transaction.
    """
    return base_ms + size_ms(unflushed_bytes)


class Worst:
    """The worst of late: the largest value noted, which counts half after ``HALF_LIFE_MS``, and so on."""

    __slots__ = ("_at", "_value")

    def __init__(self) -> None:
        self._value = 0
        self._at = 0

    @property
    def was_noted(self) -> bool:
        """Whether any value ever counted."""
        return self._value > 0

    def note(self, now: int, value: int) -> None:
        """Take ``value`` if nothing worse still counts (ms)."""
        if value >= self.at(now):
            self._value, self._at = value, now

    def at(self, now: int) -> int:
        """Return what counts at ``now`` (ms)."""
        return self._value >> max(0, now - self._at) // HALF_LIFE_MS if self._value else 0


class Timeouts:
    """What one node has measured, and how long it waits because of that."""

    def __init__(self, config: RaftConfig) -> None:
        """Begin as configured."""
        self._min, self._max = config.election_timeout_min_ms, config.election_timeout_max_ms
        self._heartbeat = config.heartbeat_ms
        self.bound = max(config.election_timeout_bound_ms, self._max)
        """No timeout ever becomes longer (ms)."""
        self._shortest_max = max(self._min, self._min * self.bound // self._max)
        self._late = Worst()
        self._flush = Worst()
        self.failed_campaigns = 0
        self._spoke: dict[NodeId, tuple[Term, int]] = {}
        """By leader: in which term it spoke last, and when."""
        self._lost_quorum: tuple[Term, int] | None = None
        """The term in which this node led until a majority was silent for too long, and since when it was."""
        self._asked_at = 0
        """When pre-votes were asked for (ms)."""
        self._told = self._min
        """The shortest timeout that was last told to the log."""

    # -- what is measured -----------------------------------------------------------------------------------------

    def leader_spoke(self, now: int, term: Term, leader: NodeId) -> None:
        """Note a message of the leader of ``term``, be it the present term or one that was given up."""
        last_term, last_at = self._spoke.get(leader, (term, now))
        if last_term == term:
            self.note_late(now, now - last_at - self._heartbeat)
        if last_term <= term:
            self._spoke[leader] = (term, now)

    def lost_quorum(self, term: Term, heard_at: int) -> None:
        """Note that this leader of ``term`` steps down, because no majority was heard since ``heard_at``."""
        self._lost_quorum = (term, heard_at)

    def majority_answered(self, now: int, heard_at: int) -> None:
        """Note an answer that ended, at a leader, a majority's silence since ``heard_at``."""
        self.note_late(now, now - heard_at - self._heartbeat)

    def late_answer(self, now: int, term: Term) -> None:
        """Note an answer in ``term`` to a node that does not lead: perhaps it should not have stepped down."""
        if self._lost_quorum is not None and self._lost_quorum[0] == term:
            self.majority_answered(now, self._lost_quorum[1])
            self._lost_quorum = None

    def pre_vote_asked(self, now: int) -> None:
        """Note that pre-votes are asked for."""
        self._asked_at = now

    def pre_vote_granted(self, now: int) -> None:
        """Note an answer, which waits for no flush."""
        self.note_late(now, now - self._asked_at)

    def note_late(self, now: int, late: int) -> None:
        """Note that something came ``late`` ms after it could be expected.

        What is later than ``bound`` teaches nothing: no patience that is allowed would have waited for it.
        """
        if self._min < FACTOR * late and late <= self.bound:
            self._late.note(now, min(late, self._shortest_max // FACTOR + 1))

    def note_flush(self, now: int, took: int, unflushed_bytes: int = 0) -> None:
        """Note that a write was flushed; beyond ``bound`` the disk hung.

        Args:
            now: ms.
            took: since it was handed out (ms).
            unflushed_bytes: as ``flush_patience_ms`` grants them: their time says nothing of the next write.
        """
        took -= size_ms(unflushed_bytes)
        if self._max < FACTOR * took and took <= self.bound:
            self._flush.note(now, took)

    # -- how long is waited ---------------------------------------------------------------------------------------

    def shortest(self, now: int) -> int:
        """Return the shortest election timeout at present; a leader heard within it is believed to be there."""
        return min(max(self._min, FACTOR * self._late.at(now)), self._shortest_max)

    def longest(self, now: int) -> int:
        """Return the longest election timeout at present; a leader leads for as long without a majority's answer."""
        return self.shortest(now) * self._max // self._min

    def election_range(self, now: int, *, is_voting: bool) -> tuple[int, int]:
        """Return the shortest and longest timeout to draw from; twice as long after each campaign for nothing.

        Args:
            now: ms.
            is_voting: whether an election is under way, and others' votes have to be flushed first.
        """
        low = self.shortest(now)
        if self.failed_campaigns:
            low <<= min(self.failed_campaigns, self._shortest_max.bit_length())
        if is_voting:
            low = max(low, FLUSHES * self._flush.at(now))
        low = min(low, self._shortest_max)
        return low, low * self._max // self._min

    def hung_after(self, now: int) -> int:
        """Return after how long a write that is not flushed means that the disk hangs."""
        return max(self._max, min(FACTOR * self._flush.at(now), self.bound))

    # -- what is told ---------------------------------------------------------------------------------------------

    def patience(self, now: int) -> Patience:
        """Return how long this node waits now, and why."""
        low, high = self.election_range(now, is_voting=False)
        return Patience(low, high, self._late.at(now), self._flush.at(now), self.failed_campaigns)

    @property
    def were_always_as_configured(self) -> bool:
        """Whether nothing was ever late in this life, so that there is nothing to tell."""
        return not self._late.was_noted

    def became_longer(self, now: int) -> bool:
        """Return, once, whether timeouts became twice as long as when this or ``calmed_down`` was true before."""
        is_news = self.shortest(now) >= 2 * self._told
        if is_news:
            self._told = self.shortest(now)
        return is_news

    def calmed_down(self, now: int) -> bool:
        """Return, once, whether timeouts that became longer are as configured again."""
        is_news = self._told > self._min == self.shortest(now)
        if is_news:
            self._told = self._min
        return is_news
