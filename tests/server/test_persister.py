"""server/persister.py: which thread flushes a write, and what leaves when it is flushed."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_raft.errors import InvariantViolation
from durable_raft.raft.messages import AppendEntriesResponse, Envelope
from durable_raft.raft.ready import Write
from durable_raft.raft.types import ORIGIN, Index, LogPoint, NodeId, Term
from durable_raft.server.clock import SystemClock
from durable_raft.server.crash_points import CrashPoints
from durable_raft.server.log_writer import Flushed, LogWriter
from durable_raft.server.persister import LONE_BYTES_MAX, QUICK_FLUSH_S, QUICK_FLUSHES, Persister
from tests.support.log_building import JournalShelf, LmdbShelf, entries_after, point_of, vote, write

FLUSH_S = 60.0
"""How long a flush of the thread is waited for before it is called lost."""


class Desk:
    """A persister, its log writer with a real thread, and a real store."""

    def __init__(self, shelf: LmdbShelf | JournalShelf) -> None:
        store = shelf.open()
        store.load()
        self.flushed: queue.Queue[Flushed] = queue.Queue()
        self.writer = LogWriter(store, SystemClock(), CrashPoints(), self.flushed.put, lambda _: None)
        self.persister = Persister(self.writer)
        self.writer.start()
        self._number = 0
        self._last: LogPoint = ORIGIN

    def write(self, payload: bytes = b"x") -> Write:
        """Return the core's next write: one entry."""
        (entry,) = entries_after(self._last, 1, payload=payload)
        self._number, self._last = self._number + 1, point_of(entry)
        return write(self._number, [entry])

    def trust_the_disk(self) -> None:
        """Tell the persister of quick flushes, whatever this machine's disk takes."""
        for _ in range(QUICK_FLUSHES):
            self.persister.submit(self.write())
            numbers = self.flushed.get(timeout=FLUSH_S).numbers
            self.persister.flushed(Flushed(numbers, QUICK_FLUSH_S / 2))


@pytest.fixture(params=[LmdbShelf, JournalShelf], ids=["lmdb", "journal"])
def desk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Desk]:
    """A persister on a new log."""
    shelf = request.param(tmp_path / "node")
    made = Desk(shelf)
    yield made
    assert made.writer.stop(FLUSH_S)
    shelf.close()


def promise(index: int) -> list[Envelope]:
    """Return an acknowledgement of the entry at ``index``."""
    answer = AppendEntriesResponse(Term(1), True, Index(index), Index(0), Term(0), Index(0), 0)
    return [Envelope(NodeId("n2"), answer)]


def test_what_promises_a_write_waits_for_it_and_for_all_before_it(desk: Desk) -> None:
    """Two writes are under way: what promises the second leaves when both are flushed, in order of promise."""
    desk.persister.submit(desk.write())
    first = promise(1)
    assert desk.persister.hold(first) == []
    desk.persister.submit(desk.write())
    second = promise(2)
    assert desk.persister.hold(second) == []
    assert desk.persister.flushed(Flushed((1,), QUICK_FLUSH_S)) == first
    assert desk.persister.flushed(Flushed((2,), QUICK_FLUSH_S)) == second
    assert desk.persister.hold(promise(2)) == promise(2)


def test_a_small_write_on_a_quick_disk_is_kept_for_the_calling_thread(desk: Desk) -> None:
    """It is not durable before ``persist_lone``, and durable when that returns: what promises it waits until then."""
    desk.trust_the_disk()
    desk.persister.submit(desk.write())
    held = promise(QUICK_FLUSHES + 1)
    assert desk.persister.hold(held) == []
    assert desk.flushed.empty()
    flushed = desk.persister.persist_lone()
    assert flushed is not None
    assert flushed.numbers == (QUICK_FLUSHES + 1,)
    assert desk.persister.flushed(flushed) == held
    assert desk.persister.persist_lone() is None


def test_no_write_passes_one_that_was_kept(desk: Desk) -> None:
    """A turn that broke off between the two would have left it: nothing may become durable before it."""
    desk.trust_the_disk()
    desk.persister.submit(desk.write())
    with pytest.raises(InvariantViolation, match="would pass write"):
        desk.persister.submit(desk.write())


@pytest.mark.parametrize("why", ["no trust yet", "a slow flush", "too large", "not alone", "hard state"])
def test_any_other_write_goes_to_the_thread(desk: Desk, why: str) -> None:
    """A disk that was slow, a large write, one that is not alone or changes the term is waited for by the thread."""
    if why != "no trust yet":
        desk.trust_the_disk()
    if why == "a slow flush":
        desk.persister.submit(desk.write(b"y"))
        lone = desk.persister.persist_lone()
        assert lone is not None
        desk.persister.flushed(Flushed(lone.numbers, QUICK_FLUSH_S))
    if why == "not alone":
        desk.persister.submit(desk.write(bytes(LONE_BYTES_MAX + 1)))
    subject = desk.write(bytes(LONE_BYTES_MAX + 1) if why == "too large" else b"x")
    if why == "hard state":
        subject = write(subject.number, subject.entries, hard_state=vote(2))
    desk.persister.submit(subject)
    assert desk.persister.persist_lone() is None
    while subject.number not in (flushed := desk.flushed.get(timeout=FLUSH_S)).numbers:
        desk.persister.flushed(flushed)


def test_a_lone_write_goes_to_the_thread_while_that_is_at_the_disk(desk: Desk) -> None:
    """It drops a prefix of the log, say: the loop does not wait for it."""
    desk.trust_the_disk()
    desk.persister.submit(desk.write())
    with desk.writer._at_work:
        assert desk.persister.persist_lone() is None
    assert desk.flushed.get(timeout=FLUSH_S).numbers == (QUICK_FLUSHES + 1,)
