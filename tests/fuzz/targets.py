"""What is fuzzed: each target takes one input and raises nothing but what it may.

``frames``     the parser of what peers send
``requests``   the parser of what clients send
``payloads``   the decoders of what entries hold, either version
``handshake``  both ends of a link, before and after it is proven, with a cluster secret and without (handshake.py)
``core``       the algorithm, fed with well-formed messages that say anything (lies.py)
``node``       a whole node, fed with the same and with all else that nodes say (node.py)
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final, cast

from durable_raft.errors import CorruptRecord, PeerError, PeerMisbehaved, ProtocolError, UnknownFormatVersion
from durable_raft.kv.batch import decode_batch
from durable_raft.kv.large_batch import BatchDecoder
from durable_raft.kv.runs import commands_of
from durable_raft.raft import invariants
from durable_raft.raft.messages import Message
from durable_raft.raft.types import Entry, Life, NodeId
from durable_raft.wire.peer import FrameParser
from durable_raft.wire.resp import ParserLimits, RequestParser
from tests.fuzz import inputs
from tests.fuzz.lies import CORE_KINDS, Liar
from tests.support.raft_cluster import Cluster
from tests.support.raft_disk import Disk, entries_of
from tests.support.raft_solo import lead
from tests.wire.peer_messages import CLUSTER

Target = Callable[[], None]

PEERS: Final = (NodeId("n2"), NodeId("n3"))


@lru_cache(maxsize=1000)
def log_of(terms: Sequence[int]) -> tuple[Entry, ...]:
    """Return the log whose entries have these terms."""
    return entries_of(terms)


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


def payloads(rng: random.Random) -> Target:
    """Decode the payload of an entry: at once and in slices alike, into runs that can be told command by command."""

    def run() -> None:
        payload = inputs.payload(rng)
        at_once = in_slices = None
        with contextlib.suppress(CorruptRecord, UnknownFormatVersion):
            at_once = decode_batch(payload)
        with contextlib.suppress(CorruptRecord, UnknownFormatVersion):
            in_slices = BatchDecoder(payload).runs()
        if at_once != in_slices:
            raise AssertionError(f"{payload.hex()}: {at_once} at once, {in_slices} in slices")
        if at_once is not None and sum(run.length for run in at_once) != len(commands_of(at_once)):
            raise AssertionError(f"{payload.hex()}: {at_once} has other commands than it says")

    return run


class _Misled:
    """A core and whoever tells it anything; begun again now and then, as it may be led anywhere."""

    LIES: Final = 100

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._left = 0
        self._cluster: Cluster
        self._liar: Liar

    def run(self) -> None:
        """Tell one message."""
        if not self._left:
            self._cluster, self._left = self._begin(), self.LIES
            self._liar = Liar(self._rng, self._cluster["n1"], log_of)
        self._left -= 1
        cluster, rng = self._cluster, self._rng
        raft = cluster["n1"]
        before = invariants.observe(raft.state)
        cluster.now += rng.choice((0, 0, 0, 10, 400))
        with contextlib.suppress(PeerMisbehaved):
            raft.step(cluster.now, rng.choice(PEERS), cast("Message", self._liar.message(rng.choice(CORE_KINDS))))
        if rng.random() < 0.1:
            raft.timeout(cluster.now)
            raft.propose(b"", cluster.now)
        while raft.has_ready(cluster.now):
            ready = raft.ready(cluster.now)
            if ready.write is not None:
                cluster.node("n1").disk.persist(ready.write)
                raft.persisted(cluster.now, ready.write.number)
        invariants.check_state(raft.state)
        invariants.check_transition(before, invariants.observe(raft.state))

    def _begin(self) -> Cluster:
        """Return a voter that follows or leads, or one that is asked about its life (raft/lives.py) or has wounds."""
        disk = Disk("1 1 2 2 3", term=3, place=self._rng.choice((b"", b"here")))
        if self._rng.random() < 0.2:
            disk.rotten = {4, 5}
        if self._rng.random() < 0.3:
            disk.standing = replace(disk.standing, place=b"away", lives=(Life(1, b"before.."),))
        cluster = Cluster("n1 n2 n3", real="n1", disks={"n1": disk}, keeps_trace=False)
        if not disk.place and not disk.rotten and self._rng.random() < 0.5:
            lead(cluster)
        return cluster


def core(rng: random.Random) -> Target:
    """Tell the core anything."""
    return _Misled(rng).run


TARGETS: Final[dict[str, Callable[[random.Random], Target]]] = {
    "frames": frames,
    "requests": requests,
    "payloads": payloads,
    "core": core,
}
