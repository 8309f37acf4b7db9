"""The words of the algorithm that do something: who is known, who votes."""

from __future__ import annotations

from durable_raft.raft.log import EMPTY_LOG
from durable_raft.raft.messages import AppendEntries, AppendEntriesResponse
from durable_raft.raft.types import (
    ORIGIN,
    EntryKind,
    HardState,
    Index,
    KnownDisk,
    LogPoint,
    Member,
    Membership,
    NodeId,
    RaftConfig,
    Standing,
    StoredLog,
    Term,
    make_entry,
)
from tests.support.raft_nodes import configuration_of

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")


def test_voters_are_named_in_their_order() -> None:
    """As they stand in the membership."""
    members = tuple(Member(node_id, f"{node_id}:1", f"{node_id}:2") for node_id in (N1, N2))
    assert Membership(members).ids() == (N1, N2)


def test_one_disk_is_known_of_each_peer() -> None:
    """The one that was noted last; sorted by node id, and the voter stays one."""
    first, second, other = KnownDisk(N3, b"a", ()), KnownDisk(N3, b"b", (b"a",)), KnownDisk(N2, b"c", ())
    standing = Standing(is_voter=False).with_peer(first).with_peer(other).with_peer(second)
    assert standing == Standing(is_voter=False, peers=(other, second))
    assert standing.peer(N3) == second
    assert standing.peer(N1) is None
    assert Standing().with_peer(other).is_voter


# -- what other nodes and later versions rely on -----------------------------------------------------------------------


def test_entries_are_what_they_were_when_they_were_written() -> None:
    """Kind, checksum and chain of the first two entries of a log, in numbers: they are stored, and sent."""
    kinds = [("NOOP", 0), ("COMMANDS", 1), ("TIME_RESET", 2), ("CONFIGURATION", 3), ("VERSION", 4)]
    assert [(kind.name, kind.value) for kind in EntryKind] == kinds
    assert LogPoint(Index(0), Term(0), 0) == ORIGIN
    first = make_entry(previous=ORIGIN, term=Term(3), kind=EntryKind.NOOP, timestamp_ms=77, payload=b"")
    previous = LogPoint(first.index, first.term, first.chain)
    second = make_entry(previous=previous, term=Term(4), kind=EntryKind.COMMANDS, timestamp_ms=78, payload=b"x")
    assert (first.index, first.crc, first.chain) == (1, 0x75E5BBA2, 0xBC70563D)
    assert (second.index, second.crc, second.chain) == (2, 0x3775D8F1, 0xED21BBEB)


def test_an_empty_disk_holds_an_empty_log() -> None:
    """At term 0, without a vote, at the origin and at time 0."""
    assert StoredLog(HardState(Term(0), None), ORIGIN, ORIGIN, 0, (), 0, Standing(True, ()), (), ()) == EMPTY_LOG


def test_settings_that_are_not_given() -> None:
    """A number that is changed here changes every cluster that does not set it: it is changed on purpose."""
    assert RaftConfig(N1, configuration_of([N1])) == RaftConfig(
        node_id=N1,
        initial=configuration_of([N1]),
        election_timeout_min_ms=150,
        election_timeout_max_ms=300,
        heartbeat_ms=50,
        append_bytes_max=1_048_576,
        append_inflight_max=64,
        append_inflight_bytes_max=16_777_216,
        node_uuid=bytes(16),
        log_cache_bytes_max=33_554_432,
    )


def test_messages_that_say_nothing_of_disks() -> None:
    """Nobody is admitted, and whoever answers is a voter that asks for nothing."""
    zero, term = Index(0), Term(0)
    assert AppendEntries(term, zero, term, 0, (), zero, 0).admits == b""
    answer = AppendEntriesResponse(term, True, zero, zero, term, zero, 0)
    assert (answer.is_voter, answer.asks_admission) == (True, False)
