"""n1 with rotten payloads among played peers, what it asks them for, and what they answer."""

from __future__ import annotations

from durable_raft.raft.messages import FetchEntries, FetchEntriesResponse
from durable_raft.raft.types import ORIGIN, Entry, LogPoint, Term
from tests.support.raft_cluster import Cluster
from tests.support.raft_disk import Disk, entries_of
from tests.support.raft_solo import point_of

LOG = "1 1 1 2 2"
FIFTH = point_of(entries_of(LOG), 5)
"""The last entry of ``LOG``."""


def wounded(*indexes: int, terms: str = LOG) -> Cluster:
    """Return n1 among played peers; the payloads at ``indexes`` of its log are rotten."""
    disk = Disk(terms)
    disk.rotten = set(indexes)
    return Cluster("n1 n2 n3", real="n1", disks={"n1": disk})


def asked(cluster: Cluster) -> dict[str, list[int]]:
    """Take the indexes that n1 has asked each peer for."""
    found: dict[str, list[int]] = {}
    for peer in ("n2", "n3"):
        for message in cluster.sent("n1", peer):
            if isinstance(message, FetchEntries):
                found.setdefault(peer, []).extend(point.index for point in message.wanted)
    return found


def given(*entries: Entry, snapshot: LogPoint = ORIGIN, base: LogPoint = ORIGIN) -> FetchEntriesResponse:
    """Return a peer's answer that has something."""
    return FetchEntriesResponse(Term(2), tuple(entries), (), snapshot, base)


def absent(term: int, *points: LogPoint) -> FetchEntriesResponse:
    """Return the answer of a peer in ``term`` whose log does not hold ``points``."""
    return FetchEntriesResponse(Term(term), (), points, ORIGIN, ORIGIN)
