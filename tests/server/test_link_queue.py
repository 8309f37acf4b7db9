"""What waits for a link, over a real socket whose other end reads when the test says so."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import pairwise

import pytest

from durable_raft.raft.messages import AppendEntries, AppendEntriesResponse, RequestVote
from durable_raft.raft.types import ORIGIN, EntryKind, Index, LogPoint, NodeId, Term, make_entry
from durable_raft.server import link_queue
from durable_raft.server.link_queue import LinkQueue
from durable_raft.wire.peer import FrameEncoder, FrameParser, NodeMessage, PeerMessage
from durable_raft.wire.pieces import FRAME_BODY_BYTES_MAX
from tests.support.waiting import WAIT_S

CLUSTER_ID = b"c" * 16
ANSWER = AppendEntriesResponse(Term(1), True, Index(1), Index(0), Term(0), Index(0), 0)
MIB = 1 << 20


def entries_behind(previous: LogPoint, *sizes: int, term: int = 1) -> AppendEntries:
    """Return an AppendEntries with an entry of each of these sizes."""
    place, entries = previous, []
    for size in sizes:
        payload = b"%08d" % size * (size // 8)
        entry = make_entry(previous=place, term=Term(term), kind=EntryKind.COMMANDS, timestamp_ms=1, payload=payload)
        entries.append(entry)
        place = LogPoint(entry.index, entry.term, entry.chain)
    return AppendEntries(
        Term(term), previous.index, previous.term, previous.chain, tuple(entries), Index(0), read_round=0
    )


def end_of(message: AppendEntries) -> LogPoint:
    """Return the point of its last entry."""
    last = message.entries[-1]
    return LogPoint(last.index, last.term, last.chain)


def heartbeat_at(point: LogPoint, term: int = 1) -> AppendEntries:
    """Return an AppendEntries without entries."""
    return AppendEntries(Term(term), point.index, point.term, point.chain, (), Index(0), 7)


class _Writing(asyncio.Protocol):
    def __init__(self, queue: LinkQueue) -> None:
        self._queue = queue

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=0)
        self._queue.attach(transport)

    def pause_writing(self) -> None:
        self._queue.choke()

    def resume_writing(self) -> None:
        self._queue.unchoke()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._queue.detach()


class Link:
    """A link and the socket at its other end."""

    def __init__(self, queue: LinkQueue, sock: socket.socket) -> None:
        self.queue = queue
        self._sock = sock
        self._parser = FrameParser(CLUSTER_ID, FRAME_BODY_BYTES_MAX, 1 << 30)

    async def read(self, count: int) -> list[PeerMessage]:
        """Return the next messages, at least ``count``."""
        found: list[PeerMessage] = []
        async with asyncio.timeout(WAIT_S):
            while len(found) < count:
                found += self._parser.feed(await asyncio.get_running_loop().sock_recv(self._sock, 65_536))
        return found

    def cut(self) -> None:
        """End the connection."""
        self._sock.close()


def play(story: Callable[[Link], Awaitable[None]]) -> None:
    """Run ``story`` with a link."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        far.setblocking(False)
        queue = LinkQueue(NodeId("n2"), FrameEncoder(CLUSTER_ID), loop.call_soon)
        transport, _ = await loop.create_connection(partial(_Writing, queue), sock=near)
        await story(Link(queue, far))
        transport.abort()
        far.close()

    asyncio.run(run())


def test_small_messages_pass_large_ones() -> None:
    """Heartbeats that stand on nothing under way, answers and votes come before the entries that wait."""
    bulk = entries_behind(ORIGIN, 8 * MIB)
    small: list[NodeMessage] = [heartbeat_at(ORIGIN), ANSWER, RequestVote(Term(1), Index(1), Term(1), True)]

    async def story(link: Link) -> None:
        link.queue.send(bulk)
        for message in small:
            link.queue.send(message)
        assert await link.read(4) == [*small, bulk]
        assert link.queue.waiting_bytes == 0

    play(story)


def test_what_stands_on_entries_follows_them() -> None:
    """An AppendEntries whose previous entry is under way is not let pass, and what stands on that is not either."""
    bulk = entries_behind(ORIGIN, 8 * MIB)
    more = entries_behind(end_of(bulk), 100)
    probe = heartbeat_at(end_of(more))

    async def story(link: Link) -> None:
        for message in (bulk, more, probe, heartbeat_at(ORIGIN)):
            link.queue.send(message)
        assert await link.read(4) == [heartbeat_at(ORIGIN), bulk, more, probe]

    play(story)


def test_a_large_message_leaves_at_once_on_an_idle_link() -> None:
    """It needs no turn of its own to begin with; what is small behind it has at most one piece in front of it."""
    bulk = entries_behind(ORIGIN, 64 * MIB)

    async def story(link: Link) -> None:
        link.queue.send(bulk)
        assert link.queue.waiting_bytes > 64 * MIB
        transport = link.queue._transport
        assert transport is not None
        assert 0 < transport.get_write_buffer_size() <= FRAME_BODY_BYTES_MAX + 36
        link.queue.send(ANSWER)
        assert transport.get_write_buffer_size() <= FRAME_BODY_BYTES_MAX + 36 + 200
        assert await link.read(2) == [ANSWER, bulk]

    play(story)


def test_entries_of_an_older_term_are_not_sent_any_more() -> None:
    """Whoever is asked for a vote or led in a newer term refuses them; one that was begun is ended."""
    first, second, third = (entries_behind(ORIGIN, size * MIB) for size in (8, 9, 10))
    newer = heartbeat_at(ORIGIN, term=2)

    async def story(link: Link) -> None:
        for message in (first, second, third):
            link.queue.send(message)
        link.queue.send(newer)
        assert link.queue.dropped == 2
        assert link.queue.waiting_bytes < 9 * MIB
        link.queue.send(ANSWER)
        assert await link.read(3) == [newer, ANSWER, first]

    play(story)


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond the bound messages are dropped, which is said once; a single one may be larger, and small ones pass."""
    monkeypatch.setattr(link_queue, "BULK_BYTES_MAX", 10 * MIB)
    bulks = [entries_behind(ORIGIN, size * MIB) for size in (12, 3, 4)]

    async def story(link: Link) -> None:
        for message in bulks:
            link.queue.send(message)
        link.queue.send(ANSWER)
        assert link.queue.dropped == 2
        assert await link.read(2) == [ANSWER, bulks[0]]
        link.queue.send(bulks[1])
        assert await link.read(1) == [bulks[1]]

    with caplog.at_level(logging.WARNING):
        play(story)
    assert [record.getMessage() for record in caplog.records].count("peer_reads_too_slowly") <= 1
    assert len(caplog.records) == 1


def test_small_messages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that reads nothing does not let them pile up."""
    monkeypatch.setattr(link_queue, "SMALL_BYTES_MAX", 100_000)

    async def story(link: Link) -> None:
        for _ in range(200_000):
            link.queue.send(ANSWER)
        assert link.queue.dropped > 0
        transport = link.queue._transport
        assert transport is not None
        assert transport.get_write_buffer_size() < 101_000

    play(story)


def test_what_waits_is_dropped_with_the_link() -> None:
    """And counted; the next connection begins with what is sent on it."""

    async def story(link: Link) -> None:
        link.queue.send(entries_behind(ORIGIN, 8 * MIB))
        link.queue.send(entries_behind(ORIGIN, 9 * MIB))
        link.cut()
        async with asyncio.timeout(WAIT_S):
            while link.queue._transport is not None:
                await asyncio.sleep(0)
        assert link.queue.dropped == 2
        assert link.queue.waiting_bytes == 0
        link.queue.send(ANSWER)
        assert link.queue.dropped == 3

    play(story)


class _Endless(asyncio.Transport):
    """A kernel that takes all that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        self.written += len(data)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


def test_others_have_their_turn_between_pieces() -> None:
    """A link that is faster than the loop does not hold it until all is written."""
    turns: list[Callable[[], None]] = []
    transport = _Endless()
    queue = LinkQueue(NodeId("n2"), FrameEncoder(CLUSTER_ID), turns.append)
    queue.attach(transport)
    queue.send(entries_behind(ORIGIN, 16 * MIB))
    written = [transport.written]
    while turns:
        turns.pop()()
        written.append(transport.written)
        assert len(turns) <= 1
    steps = [after - before for before, after in pairwise([0, *written])]
    assert max(steps) <= link_queue.TURN_BYTES + FRAME_BODY_BYTES_MAX + 36
    assert sum(steps) > 16 * MIB
    assert queue.waiting_bytes == 0
