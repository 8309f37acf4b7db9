"""Messages between nodes: one example of each kind, and strategies for any."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from durable_raft.kv.records import Record, make_record
from durable_raft.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    FetchEntries,
    FetchEntriesResponse,
    InstallSnapshot,
    Introduce,
    IntroduceResponse,
    RequestVote,
    RequestVoteResponse,
    Resume,
    ResumeResponse,
    TimeoutNow,
)
from durable_raft.raft.types import PRIORITY_MAX, Entry, EntryKind, Index, Life, LogPoint, NodeId, Term, make_entry
from durable_raft.wire.fields import INDEX_MAX, NUMBER_MAX, TIME_MAX
from durable_raft.wire.messages import (
    AskTime,
    Challenge,
    Confirm,
    Confirmed,
    Hello,
    HelloReply,
    Proof,
    TellMembers,
    TellTime,
)
from durable_raft.wire.peer import FetchSnapshot, PeerMessage, SnapshotChunk, StateHash
from tests.support.raft_nodes import configuration_of

CLUSTER = bytes(range(16))
OTHER_CLUSTER = bytes(range(16, 32))
BODY_BYTES_MAX = 1 << 20


def make_entries(
    previous: LogPoint, payloads: list[tuple[int, bytes]], kind: EntryKind = EntryKind.COMMANDS
) -> tuple[Entry, ...]:
    """Return the entries after ``previous`` from (term, payload) of each."""
    entries: list[Entry] = []
    for term, payload in payloads:
        entry = make_entry(
            previous=previous, term=Term(term), kind=kind, timestamp_ms=1_700_000_000_000, payload=payload
        )
        entries.append(entry)
        previous = LogPoint(entry.index, entry.term, entry.chain)
    return tuple(entries)


def append_entries(term: int, previous: LogPoint, entries: tuple[Entry, ...]) -> AppendEntries:
    """Return an AppendEntries of ``entries`` after ``previous``."""
    return AppendEntries(Term(term), previous.index, previous.term, previous.chain, entries, Index(4), 9)


def append_body(
    *rows: Mapping[str, Any], term: int = 7, prev_index: int = 6, prev_chain: int = 77, admits: bytes = b"", **head: int
) -> bytes:
    """Return the body of an AppendEntries with ``rows``, built from the drawing in the docstring of fixed.py.

    Args:
        rows: of entries, by field; ``size`` is said instead of the payload's.
        head: other values of the numbers before them.
    """
    named = {"prev_term": 3, "commit": 4, "read_round": 9, "count": len(rows), "admits_bytes": len(admits), **head}
    body = struct.pack(">QQQQQ", term, prev_index, named["prev_term"], named["commit"], named["read_round"])
    body += struct.pack(">IHB", prev_chain, named["count"], named["admits_bytes"]) + admits
    for row in rows:
        size = row.get("size", len(row["payload"]))
        body += struct.pack(">QQ", row["term"], row["timestamp_ms"])
        body += struct.pack(">IIIB", row["crc"], row["chain"], size, row["kind"]) + row["payload"]
    return body


def chunk_of(records: list[Record], keys: list[bytes]) -> SnapshotChunk:
    """Return a piece of a snapshot."""
    values, deadlines, checksums = ([record[field] for record in records] for field in range(3))
    point = (Index(300), Term(6), 0x01020304, 1_700_000_000_000)
    return SnapshotChunk(*point, 5, 1, 2**33, True, b"a", keys, values, deadlines, checksums, False)  # type: ignore[arg-type]


PREVIOUS = LogPoint(Index(6), Term(3), 0x01020304)

EXAMPLES: dict[str, PeerMessage] = {
    "hello": Hello(NodeId("n1"), b"u" * 16, NodeId("n2"), "0.1.0", b"c" * 16),
    "hello_reply": HelloReply(False, "n1 is not a member", NodeId("n2"), b"v" * 16, True),
    "hello_reply_to_a_removed_node": HelloReply(False, "n1 was removed", NodeId("n2"), b"v" * 16, False, True),
    "hello_reply_with_a_priority": HelloReply(True, "", NodeId("n2"), b"v" * 16, priority=300),
    "request_vote": RequestVote(Term(7), Index(300), Term(6), True),
    "request_vote_of_a_successor": RequestVote(Term(7), Index(300), Term(6), False, True),
    "timeout_now": TimeoutNow(Term(7)),
    "tell_members": TellMembers(Index(300), b"\x01a configuration"),
    "request_vote_response": RequestVoteResponse(Term(7), True, False),
    "heartbeat": append_entries(7, PREVIOUS, ()),
    "append_entries": append_entries(7, PREVIOUS, make_entries(PREVIOUS, [(3, b"one"), (7, b"\x00two")])),
    "append_entries_response": AppendEntriesResponse(
        Term(NUMBER_MAX), False, Index(0), Index(5), Term(2), Index(300), INDEX_MAX
    ),
    "install_snapshot": InstallSnapshot(Term(7), Index(300), Term(6), 0x01020304, 9),
    "fetch_snapshot": FetchSnapshot(Index(300), True, b"key\x00", Index(7)),
    "snapshot_chunk": chunk_of([make_record(b"", b"v"), make_record(b"k", b"\x00", 1_700_000_000_000)], [b"", b"k"]),
    "snapshot_chunk_of_changed_members": chunk_of([], [])._replace(
        is_last=True, configuration=replace(configuration_of(["a"]), index=Index(256))
    ),
    "snapshot_chunk_of_a_raised_version": chunk_of([], [])._replace(is_last=True, version=2),
    "state_hash": StateHash(Index(4096), 0x01020304, 5, 2**64 - 1),
    "introduce": Introduce(b"u" * 16, 3, b"nonce 3!"),
    "introduce_response": IntroduceResponse(b"u" * 16, True, b"v" * 16, b"nonce 3!", 4),
    "resume": Resume(b"u" * 16, (Life(2, b"nonce 2!"), Life(3, b"nonce 3!")), True, False),
    "resume_response": ResumeResponse(b"nonce 3!", True, False, Term(7), Term(6), Index(300), Term(7)),
    "ask_time": AskTime(12_345_678),
    "tell_time": TellTime(12_345_678, 1_700_000_000_000, 1_700_000_000_007, Index(300)),
    "fetch_entries": FetchEntries((PREVIOUS, LogPoint(Index(300), Term(6), 2**32 - 1))),
    "fetch_entries_response": FetchEntriesResponse(
        Term(7),
        make_entries(PREVIOUS, [(3, b"one"), (7, b"\x00two")])[1:],
        (PREVIOUS,),
        PREVIOUS,
        LogPoint(Index(2), Term(1), 5),
    ),
    "confirm": Confirm(b"c" * 16),
    "confirmed": Confirmed(b"c" * 16),
    "challenge": Challenge(b"n" * 16),
    "proof": Proof(b"p" * 32),
}
"""The proof is the last: a parser reads nothing behind it before it has been taken."""

NUMBERS = st.integers(0, NUMBER_MAX) | st.integers(0, 300)
INDEXES = st.integers(0, INDEX_MAX) | st.integers(0, 300)
TIMES = st.integers(0, TIME_MAX)
SUMS = st.integers(0, 2**32 - 1)
NAMES = st.text(min_size=1, max_size=12).map(NodeId)
UUIDS = st.binary(min_size=16, max_size=16)
NONCES = st.binary(min_size=8, max_size=8)
LIVES = st.lists(st.builds(Life, INDEXES, NONCES), min_size=1, max_size=20).map(tuple)


@st.composite
def any_append_entries(draw: st.DrawFn) -> AppendEntries:
    """Return any AppendEntries that a leader might send, and many that none would."""
    terms = sorted(draw(st.lists(NUMBERS, min_size=2, max_size=5)))
    previous = LogPoint(Index(draw(st.integers(0, INDEX_MAX - 8))), Term(terms[0]), draw(SUMS))
    entries: list[Entry] = []
    point = previous
    for term in terms[1:-1]:
        entry = make_entry(
            previous=point,
            term=Term(term),
            kind=draw(st.sampled_from(EntryKind)),
            timestamp_ms=draw(TIMES),
            payload=draw(st.binary(max_size=40)),
        )
        entries.append(entry)
        point = LogPoint(entry.index, entry.term, entry.chain)
    commit, read_round = Index(draw(INDEXES)), draw(INDEXES)
    last_term = Term(terms[-1])
    return AppendEntries(last_term, previous.index, previous.term, previous.chain, tuple(entries), commit, read_round)


@st.composite
def any_chunk(draw: st.DrawFn) -> SnapshotChunk:
    """Return any piece of a snapshot whose records are sound."""
    keys = draw(st.lists(st.binary(max_size=6), max_size=4))
    chunk = chunk_of([make_record(key, draw(st.binary(max_size=9)), draw(NUMBERS)) for key in keys], keys)
    index = draw(INDEXES)
    configuration = None
    if index and draw(st.booleans()):
        names = draw(st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=3, unique=True))
        configuration = replace(configuration_of(sorted(names)), index=Index(draw(st.integers(1, index))))
    return chunk._replace(
        last_included_index=Index(index),
        has_key=draw(st.booleans()),
        state_hash=draw(HASHES),
        configuration=configuration,
        version=draw(st.integers(1, 2**16 - 1)),
    )


HASHES = st.integers(0, 2**64 - 1)

POINTS = st.builds(LogPoint, INDEXES, NUMBERS, SUMS)

MESSAGES: st.SearchStrategy[PeerMessage] = st.one_of(
    st.builds(Hello, NAMES, UUIDS, NAMES, st.text(max_size=12), UUIDS),
    st.builds(
        HelloReply,
        *(st.booleans(), st.text(max_size=40), NAMES, UUIDS, st.booleans(), st.booleans()),
        st.integers(0, PRIORITY_MAX),
    ),
    st.builds(TellMembers, INDEXES, st.binary(max_size=40)),
    st.builds(RequestVote, NUMBERS, INDEXES, NUMBERS, st.booleans(), st.booleans()),
    st.builds(TimeoutNow, NUMBERS),
    st.builds(RequestVoteResponse, NUMBERS, st.booleans(), st.booleans()),
    st.builds(
        AppendEntriesResponse,
        NUMBERS,
        st.booleans(),
        INDEXES,
        INDEXES,
        NUMBERS,
        INDEXES,
        INDEXES,
        is_voter=st.booleans(),
        asks_admission=st.booleans(),
    ),
    any_append_entries(),
    st.builds(InstallSnapshot, NUMBERS, INDEXES, NUMBERS, SUMS, INDEXES),
    st.builds(FetchSnapshot, INDEXES, st.booleans(), st.binary(max_size=9), INDEXES),
    any_chunk(),
    st.builds(StateHash, INDEXES, SUMS, INDEXES, HASHES),
    st.builds(Introduce, UUIDS, INDEXES, NONCES | st.just(b"")),
    st.builds(IntroduceResponse, UUIDS, st.booleans(), UUIDS, NONCES | st.just(b""), INDEXES),
    st.builds(Resume, UUIDS, LIVES, st.booleans(), st.booleans()),
    st.builds(AskTime, NUMBERS),
    st.builds(TellTime, NUMBERS, TIMES, TIMES, INDEXES),
    st.builds(ResumeResponse, NONCES, st.booleans(), st.booleans(), NUMBERS, NUMBERS, INDEXES, NUMBERS),
    st.builds(Confirm, UUIDS),
    st.builds(Confirmed, UUIDS),
    st.builds(FetchEntries, st.lists(POINTS, max_size=4).map(tuple)),
    st.builds(
        FetchEntriesResponse,
        NUMBERS,
        any_append_entries().map(lambda message: message.entries),
        st.lists(POINTS, max_size=4).map(tuple),
        POINTS,
        POINTS,
    ),
)
