"""Well-formed messages that say anything, made for the node that is to hear them: near to what it knows, or far off.

``MAKERS`` has one function for each message that nodes say to each other. A test holds it to the list of messages.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from durable_raft.kv.records import Record, make_record
from durable_raft.raft.configuration import encode
from durable_raft.raft.core import Raft
from durable_raft.raft.messages import (
    FETCH_ENTRIES_MAX,
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
    TermlessMessage,
    TermMessage,
    TimeoutNow,
)
from durable_raft.raft.types import ORIGIN, Configuration, DiskRoom, Entry, Index, Life, LogPoint, Term
from durable_raft.wire.fields import TIME_MAX
from durable_raft.wire.messages import (
    AskTime,
    FetchSnapshot,
    NodeMessage,
    SnapshotChunk,
    StateHash,
    TellMembers,
    TellTime,
)
from tests.support.raft_nodes import configuration_of

LogOf: TypeAlias = Callable[[Sequence[int]], tuple[Entry, ...]]
"""Makes the log whose entries have these terms; one (index, term) is always one entry."""

UUIDS: Final = (bytes(16), b"a" * 16, b"b" * 16)
RECORDS: Final = [(b"k%d" % n, make_record(b"k%d" % n, b"v" * n, 0 if n % 3 else 2**41)) for n in range(6)]


class Liar:
    """Whoever tells one node anything."""

    def __init__(self, rng: random.Random, raft: Raft, log_of: LogOf) -> None:
        """Lie to the node of ``raft``, about logs as ``log_of`` makes them."""
        self.rng, self.raft = rng, raft
        self._log_of = log_of
        self.offered = ORIGIN
        """Where the snapshot was taken that was offered last."""
        self._chunk: SnapshotChunk | None = None
        """The last piece of a snapshot, to go on from."""

    def message(self, kind: type[NodeMessage]) -> NodeMessage:
        """Return a message of ``kind``."""
        return MAKERS[kind](self)

    # -- parts ----------------------------------------------------------------------------------------------------

    def flag(self) -> bool:
        """Return whether."""
        return self.rng.random() < 0.5

    def term(self) -> Term:
        """Return a term."""
        now = self.raft.current_term
        return Term(max(0, self.rng.choice((now, now, now, now - 1, now + 1, now + 2, 2**40, 2**63 - 1, 0))))

    def index(self) -> Index:
        """Return an index."""
        log = self.raft.log
        last = log.last.index
        return Index(max(0, self.rng.choice((0, 1, 2, log.commit_index, last, last + 1, last - 1, 2**56))))

    def point(self) -> LogPoint:
        """Return a point of the log, or of another."""
        log, rng = self.raft.log, self.rng
        index = self.index()
        if log.base.index <= index <= log.last.index and rng.random() < 0.7:
            return LogPoint(index, log.term_at(index), log.chain_at(index))
        return LogPoint(index, Term(rng.randrange(5)), rng.randrange(2**32))

    def log(self) -> tuple[Entry, ...]:
        """Return a log."""
        return self._log_of(tuple(sorted(self.rng.randint(1, 4) for _ in range(self.rng.randint(0, 7)))))

    def uuid(self) -> bytes:
        """Return the uuid of a disk."""
        return self.rng.choice((*UUIDS, self.raft.state.config.node_uuid))

    def nonce(self) -> bytes:
        """Return what names a life."""
        return self.rng.choice((self.raft.state.config.life or b"none....", b"other...", b"before.."))

    def time_ms(self) -> int:
        """Return a time of day."""
        last = self.raft.log.last_timestamp_ms
        return self.rng.choice((0, last, last + 1000, last + 3_600_000, 1_000_000, TIME_MAX))

    # -- of the algorithm -----------------------------------------------------------------------------------------

    def request_vote(self) -> NodeMessage:
        """Return a candidate's question."""
        return RequestVote(self.term(), self.index(), Term(self.rng.randrange(6)), self.flag(), self.flag())

    def timeout_now(self) -> NodeMessage:
        """Return a leader's wish that somebody else leads."""
        return TimeoutNow(self.term())

    def request_vote_response(self) -> NodeMessage:
        """Return a vote."""
        return RequestVoteResponse(self.term(), self.flag(), self.flag())

    def append_entries(self) -> NodeMessage:
        """Return what a leader says."""
        rng, term, log = self.rng, self.term(), self.log()
        entries: tuple[Entry, ...] = ()
        point = self.point()
        if rng.random() < 0.7:
            after = rng.randrange(len(log) + 1)
            point = _point_of(log[after - 1]) if after else ORIGIN
            entries = tuple(each for each in log[after:] if each.term <= term)
        state = self.raft.state
        admits = state.config.node_uuid + state.config.life if rng.random() < 0.1 else b""
        return AppendEntries(
            term, point.index, point.term, point.chain, entries, self.index(), rng.randrange(9), admits
        )

    def append_entries_response(self) -> NodeMessage:
        """Return what a follower answers."""
        rng, term = self.rng, self.term()
        match, conflict, rejected = (self.index() if self.flag() else Index(0) for _ in range(3))
        is_voter = rng.random() < 0.9
        asks = rng.random() < (0.02 if is_voter else 0.5)
        room = rng.choice((DiskRoom.AMPLE, DiskRoom.AMPLE, *DiskRoom))
        return AppendEntriesResponse(
            term,
            self.flag(),
            match,
            conflict,
            Term(rng.choice((0, 1, 2, 9))),
            rejected,
            rng.randrange(3),
            is_voter,
            asks,
            room,
        )

    def install_snapshot(self) -> NodeMessage:
        """Return a leader's offer."""
        rng, log = self.rng, self.log()
        self.offered = point = rng.choice((self.point(), *map(_point_of, log[-1:])))
        return InstallSnapshot(self.term(), point.index, point.term, point.chain, self.rng.randrange(3))

    # -- of disks and wounds --------------------------------------------------------------------------------------

    def introduce(self) -> NodeMessage:
        """Return how a disk introduces itself."""
        return Introduce(self.uuid(), self.rng.randrange(4), self.rng.choice((b"", self.nonce())))

    def introduce_response(self) -> NodeMessage:
        """Return the answer to an introduction."""
        nonce = self.rng.choice((b"", self.nonce()))
        return IntroduceResponse(self.uuid(), self.flag(), self.uuid(), nonce, self.rng.choice((0, 1, 9, 2**56)))

    def resume(self) -> NodeMessage:
        """Return the lives of a directory."""
        rng = self.rng
        first = rng.choice((0, 1, 3, 9, 2**56 - 3))
        lives = tuple(Life(first + number, self.nonce()) for number in range(rng.randint(1, 4)))
        return Resume(self.uuid(), lives, rng.random() < 0.7, rng.random() < 0.1)

    def resume_response(self) -> NodeMessage:
        """Return the answer to a life."""
        rng, point = self.rng, self.point()
        owed = point if rng.random() < 0.3 else ORIGIN
        return ResumeResponse(
            self.nonce(), rng.random() < 0.1, self.flag(), self.term(), owed.term, owed.index, self.term()
        )

    def fetch_entries(self) -> NodeMessage:
        """Return a question for entries."""
        return FetchEntries((self.point(),) * self.rng.choice((0, 1, FETCH_ENTRIES_MAX)))

    def fetch_entries_response(self) -> NodeMessage:
        """Return the answer to it."""
        entries, absent = self.log(), (self.point(),) * self.rng.randrange(3)
        return FetchEntriesResponse(self.term(), entries[:: self.rng.randint(1, 3)], absent, self.point(), self.point())

    # -- of states and clocks -------------------------------------------------------------------------------------

    def fetch_snapshot(self) -> NodeMessage:
        """Return a question for a piece of a snapshot."""
        has_key, key = self.flag(), self.rng.choice((b"", b"k3", bytes(600)))
        return FetchSnapshot(self.index(), has_key, key, self.index())

    def snapshot_chunk(self) -> NodeMessage:
        """Return a piece of a snapshot: the next one, or the first of another."""
        rng, last = self.rng, self._chunk
        if last is not None and rng.random() < 0.8:
            records = [] if rng.random() < 0.5 else self._records()
            after = last.keys[-1] if last.keys else last.after_key
            chunk = last._replace(has_key=last.has_key or bool(last.keys), after_key=after)
        else:
            point, records = self.offered if rng.random() < 0.8 else self.point(), self._records()
            count = len(records) + rng.choice((0, 0, 1))
            total = sum(record.crc for _, record in records) + rng.choice((0, 0, 1))
            expires = sum(record.deadline_ms > 0 for _, record in records)
            at = (point.index, point.term, point.chain, self.time_ms())
            members = self._members(point.index)
            chunk = SnapshotChunk(*at, count, expires, total, False, b"", [], [], [], [], False, members)
        chunk = _holding(chunk, records)
        self._chunk = None if chunk.is_last else chunk
        return chunk

    def _members(self, index: Index) -> Configuration | None:
        """Return who votes in a snapshot taken at ``index``: mostly those of the first start, sometimes strangers."""
        rng = self.rng
        if index < 1 or rng.random() < 0.7:
            return None
        own = self.raft.configuration
        strangers = configuration_of(sorted(rng.sample(("n1", "n2", "s1", "s2", "s3"), rng.randint(1, 4))))
        return replace(rng.choice((own, strangers)), index=Index(rng.randint(max(1, index - 3), index)))

    def _records(self) -> list[tuple[bytes, Record]]:
        rng = self.rng
        first = rng.randrange(len(RECORDS))
        records = RECORDS[first : first + rng.randrange(5)]
        if rng.random() < 0.1:
            records = [(key, record._replace(crc=rng.randrange(2**32))) for key, record in records]
        return records if rng.random() < 0.9 else records[::-1]

    def state_hash(self) -> NodeMessage:
        """Return what a state is at an index."""
        own, log = self.raft.snapshot.index, self.raft.log
        index = Index(self.rng.choice((0, own, own, 2**40, self.index())))
        chain = log.chain_at(index) if log.base.index <= index <= log.last.index else 0
        return StateHash(index, self.rng.choice((0, chain)), self.rng.randrange(2), 0)

    def ask_time(self) -> NodeMessage:
        """Return a question for the time."""
        return AskTime(self.rng.choice((0, 10_000, 2**63 - 1)))

    def tell_time(self) -> NodeMessage:
        """Return the answer to it."""
        asked = self.rng.choice((0, 10_000, 10_500, 2**63 - 1))
        return TellTime(asked, self.time_ms(), self.time_ms(), self.index())

    def tell_members(self) -> NodeMessage:
        """Return what somebody says of who the members are: what it could say in a snapshot, or nonsense."""
        rng, newest = self.rng, self.raft.configuration.index
        index = Index(rng.choice((0, newest, newest + 1, newest + 5, 2**40)))
        members = self._members(Index(max(1, index))) or self.raft.configuration
        payload = encode(members)
        return TellMembers(index, payload if rng.random() < 0.9 else payload[: rng.randrange(len(payload))])


def _point_of(entry: Entry) -> LogPoint:
    return LogPoint(entry.index, entry.term, entry.chain)


def _holding(chunk: SnapshotChunk, records: Sequence[tuple[bytes, Record]]) -> SnapshotChunk:
    """Return ``chunk`` with these records; with none it is the last."""
    return chunk._replace(
        keys=[key for key, _ in records],
        values=[bytes(record.value) for _, record in records],
        deadlines_ms=[record.deadline_ms for _, record in records],
        checksums=[record.crc for _, record in records],
        is_last=not records,
    )


MAKERS: Final[dict[type[NodeMessage], Callable[[Liar], NodeMessage]]] = {
    RequestVote: Liar.request_vote,
    RequestVoteResponse: Liar.request_vote_response,
    TimeoutNow: Liar.timeout_now,
    AppendEntries: Liar.append_entries,
    AppendEntriesResponse: Liar.append_entries_response,
    InstallSnapshot: Liar.install_snapshot,
    Introduce: Liar.introduce,
    IntroduceResponse: Liar.introduce_response,
    Resume: Liar.resume,
    ResumeResponse: Liar.resume_response,
    FetchEntries: Liar.fetch_entries,
    FetchEntriesResponse: Liar.fetch_entries_response,
    FetchSnapshot: Liar.fetch_snapshot,
    SnapshotChunk: Liar.snapshot_chunk,
    StateHash: Liar.state_hash,
    AskTime: Liar.ask_time,
    TellTime: Liar.tell_time,
    TellMembers: Liar.tell_members,
}
"""What makes each message that is said on a link which is up."""

CORE_KINDS: Final = [
    *(3 * [AppendEntries] + 2 * [AppendEntriesResponse]),
    *(kind for kind in MAKERS if issubclass(kind, TermMessage | TermlessMessage)),
]
"""What the core is told, the commonest more often."""

NODE_KINDS: Final = [*CORE_KINDS, *3 * (kinds := [kind for kind in MAKERS if kind not in CORE_KINDS])]
"""What a whole node is told: that, and what is none of the core's."""
