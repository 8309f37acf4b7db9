"""What is fuzzed: each target takes one input and raises nothing but what it may.

``frames``     the parser of what peers send
``requests``   the parser of what clients send
``handshake``  the hearing end of a link, before and after it is proven (handshake.py)
``core``       the algorithm, fed with well-formed messages that say anything
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Final

from durable_raft.errors import PeerError, PeerMisbehaved, ProtocolError
from durable_raft.raft import invariants
from durable_raft.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    FetchEntries,
    FetchEntriesResponse,
    InstallSnapshot,
    Introduce,
    IntroduceResponse,
    Message,
    RequestVote,
    RequestVoteResponse,
)
from durable_raft.raft.types import ORIGIN, Entry, Index, LogPoint, NodeId, Term
from durable_raft.wire.peer import FrameParser
from durable_raft.wire.resp import ParserLimits, RequestParser
from tests.fuzz import inputs
from tests.support.raft_cluster import Cluster
from tests.support.raft_disk import entries_of
from tests.support.raft_solo import lead, solo
from tests.wire.peer_messages import CLUSTER

Target = Callable[[], None]


def frames(rng: random.Random) -> Target:
    """Feed a frame to a parser that takes no large messages, or to one that does."""

    def run() -> None:
        parser = FrameParser(CLUSTER, 64 << 10, rng.choice((0, 1 << 20)))
        with contextlib.suppress(PeerError):
            for piece in inputs.pieces(rng, inputs.frame(rng)):
                parser.feed(piece)

    return run


def requests(rng: random.Random) -> Target:
    """Feed requests to a client's parser."""
    limits = ParserLimits()

    def run() -> None:
        parser = RequestParser(limits)
        with contextlib.suppress(ProtocolError):
            for piece in inputs.pieces(rng, inputs.request(rng)):
                parser.feed(piece)

    return run


class _Liar:
    """A node and whoever tells it anything; begun again now and then, as it may be led anywhere."""

    LIES: Final = 100

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._cluster: Cluster | None = None
        self._left = 0

    def run(self) -> None:
        """Tell one message."""
        if self._cluster is None or not self._left:
            self._cluster, self._left = self._begin(), self.LIES
        self._left -= 1
        cluster, rng = self._cluster, self._rng
        source = rng.choice(("n2", "n3"))
        raft, before = cluster["n1"], invariants.observe(cluster["n1"].state)
        cluster.now += rng.choice((0, 0, 0, 10, 400))
        with contextlib.suppress(PeerMisbehaved):
            raft.step(cluster.now, NodeId(source), self._message(cluster))
        if rng.random() < 0.1:
            raft.timeout(cluster.now)
        while raft.has_ready(cluster.now):
            ready = raft.ready(cluster.now)
            if ready.write is not None:
                cluster.node("n1").disk.persist(ready.write)
                raft.persisted(cluster.now, ready.write.number)
        invariants.check_state(raft.state)
        invariants.check_transition(before, invariants.observe(raft.state))

    def _begin(self) -> Cluster:
        cluster = solo("1 1 2 2 3", term=3)
        if self._rng.random() < 0.5:
            lead(cluster)
        return cluster

    def _term(self, cluster: Cluster) -> Term:
        now = cluster["n1"].current_term
        return Term(max(0, self._rng.choice((now, now, now, now - 1, now + 1, now + 2, 2**40, 2**63 - 1, 0))))

    def _index(self, cluster: Cluster) -> Index:
        log = cluster["n1"].log
        near = (0, 1, 2, log.commit_index, log.last.index, log.last.index + 1, log.last.index - 1, 2**56)
        return Index(max(0, self._rng.choice(near)))

    def _point(self, cluster: Cluster) -> LogPoint:
        log, rng = cluster["n1"].log, self._rng
        index = self._index(cluster)
        if log.base.index <= index <= log.last.index and rng.random() < 0.7:
            return LogPoint(index, log.term_at(index), log.chain_at(index))
        return LogPoint(index, Term(rng.randrange(5)), rng.randrange(2**32))

    def _append(self, cluster: Cluster) -> Message:
        rng, term = self._rng, self._term(cluster)
        terms = sorted(rng.randint(1, 4) for _ in range(rng.randint(0, 7)))
        log = entries_of(" ".join(map(str, terms)))
        after = rng.randrange(len(log) + 1)
        point = self._point(cluster)
        entries: tuple[Entry, ...] = ()
        if rng.random() < 0.7:
            point = LogPoint(log[after - 1].index, log[after - 1].term, log[after - 1].chain) if after else ORIGIN
            entries = tuple(each for each in log[after:] if each.term <= term)
        index, commit = self._index(cluster), rng.randrange(9)
        return AppendEntries(term, point.index, point.term, point.chain, entries, index, commit)

    def _message(self, cluster: Cluster) -> Message:
        rng, flag = self._rng, self._rng.random() < 0.5
        term, index = self._term(cluster), self._index(cluster)
        point = self._point(cluster)
        match rng.randrange(10):
            case 0 | 1 | 2:
                return self._append(cluster)
            case 3:
                return RequestVote(term, index, Term(rng.randrange(6)), flag)
            case 4:
                return RequestVoteResponse(term, flag, rng.random() < 0.5)
            case 5 | 6:
                numbers = [self._index(cluster) if rng.random() < 0.5 else Index(0) for _ in range(3)]
                conflict = Term(rng.choice((0, 1, 2, 9)))
                return AppendEntriesResponse(
                    term,
                    flag,
                    numbers[0],
                    numbers[1],
                    conflict,
                    numbers[2],
                    rng.randrange(3),
                    rng.random() < 0.9,
                    False,
                )
            case 7:
                return InstallSnapshot(term, point.index, point.term, point.chain, rng.randrange(3))
            case 8:
                return FetchEntries((point,) * rng.choice((0, 1, 64, 65)))
            case _:
                uuid = rng.choice((b"a" * 16, b"b" * 16, bytes(16)))
                return rng.choice(
                    (
                        Introduce(uuid),
                        IntroduceResponse(uuid, flag, uuid),
                        FetchEntriesResponse(term, (), (point,), point, self._point(cluster)),
                    )
                )


def core(rng: random.Random) -> Target:
    """Tell the core anything."""
    return _Liar(rng).run


TARGETS: Final[dict[str, Callable[[random.Random], Target]]] = {"frames": frames, "requests": requests, "core": core}
