"""Checkpoints at the agreed places: every replica takes them, whatever else is under way, and tells what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from durable_raft.errors import CorruptRecord, InvariantViolation
from durable_raft.raft.types import ORIGIN, Entry, EntryKind, LogPoint, Term, make_entry
from durable_raft.server.state import state_hashes
from durable_raft.server.state.checkpoints import PERIOD_S_MIN
from tests.support.batches import batch_of
from tests.support.desk import N1, N2, Desk, desk_at


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """Node n1, a follower; every fourth index is a place, and no time."""
    monkeypatch.setattr(state_hashes, "AGREED_ENTRIES", 4)
    monkeypatch.setattr(state_hashes, "AGREED_MS", 1 << 60)
    with desk_at(tmp_path / "n1") as made:
        yield made


def entries(count: int) -> tuple[Entry, ...]:
    """Return the first entries of a log, one second after the other."""
    log: list[Entry] = []
    previous = ORIGIN
    for number in range(1, count + 1):
        payload = batch_of([[b"set", b"k%d" % number, b"v"]])
        kind, at = EntryKind.COMMANDS, 1_000_000 + 1000 * number
        log.append(make_entry(previous=previous, term=Term(1), kind=kind, timestamp_ms=at, payload=payload))
        previous = LogPoint(log[-1].index, log[-1].term, log[-1].chain)
    return tuple(log)


def told(desk: Desk) -> list[int]:
    """Return the places of which the node has told what its state is."""
    return list(desk.node.keeper.hashes._said[N1])


def held_worker(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Callable[[], Any], Callable[[Any], None]]]:
    """Have what is given to the thread that writes checkpoints wait; return it."""
    waiting: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []
    worker = desk.node.keeper.checkpointer._worker
    monkeypatch.setattr(worker, "submit", lambda work, done: waiting.append((work, done)))
    return waiting


def follow_one_by_one(desk: Desk, log: tuple[Entry, ...]) -> None:
    """Apply entries, each by itself."""
    for entry in log:
        desk.follow(N2, entry, after=entry.index - 1)


def test_a_place_that_comes_while_another_is_written_waits_for_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is applied waits. Each is told of under its own index; a third one is left out."""
    waiting = held_worker(desk, monkeypatch)
    follow_one_by_one(desk, entries(13))
    assert desk.node.keeper.applied_index == 13, "applying goes on"
    assert (told(desk), len(waiting)) == ([], 1)
    assert desk.machine.counts == (13, 0)
    while waiting:
        work, done = waiting.pop(0)
        done(work())
        desk.turn()
    assert told(desk) == [4, 8]
    said = desk.node.keeper.hashes._said[N1]
    assert [each.key_count for each in said.values()] == [4, 8]
    assert [each.chain for each in said.values()] == [entry.chain for entry in entries(8) if entry.index % 4 == 0]
    assert desk.raft.snapshot.index == 8
    assert desk.machine.counts == (13, 0)
    assert desk.node.keeper.checkpointer.settled.summary.key_count == 8


def test_the_worker_hurries_while_another_state_waits_for_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Applying may wait for the memory of both; that little changed since the second was frozen says nothing."""
    slept: list[float] = []
    monkeypatch.setattr(desk, "sleep", slept.append)
    waiting = held_worker(desk, monkeypatch)
    log = entries(9)
    follow_one_by_one(desk, log[:5])
    work, _ = waiting[0]
    work()
    assert slept, "nothing waits"
    slept.clear()
    follow_one_by_one(desk, log[5:])
    desk.node.keeper.checkpointer._pause()
    assert slept == [], "the state at entry 8 waits"


def test_several_entries_at_once_leave_no_place_out(desk: Desk) -> None:
    """The checkpoint is of the state right behind the place, though more is applied in the same turn."""
    desk.follow(N2, *entries(7))
    assert told(desk) == [4]
    assert desk.raft.snapshot.index == 4


def test_periods_that_pass_in_no_time_are_few_checkpoints(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As while old entries are applied; later the next period counts again."""
    monkeypatch.setattr(state_hashes, "AGREED_ENTRIES", 1 << 40)
    monkeypatch.setattr(state_hashes, "AGREED_MS", 1000)
    log = entries(12)
    follow_one_by_one(desk, log[:10])
    assert told(desk) == [2], "the first entry of all begins no period"
    desk.wait(PERIOD_S_MIN)
    follow_one_by_one(desk, log[10:])
    assert told(desk) == [2, 11]


def test_what_is_applied_must_be_what_the_log_says(desk: Desk) -> None:
    """An entry twice, one left out, or another one in its place ends the node."""
    log = entries(3)
    desk.follow(N2, *log[:2])
    keeper = desk.node.keeper
    other = make_entry(previous=ORIGIN, term=Term(1), kind=EntryKind.NOOP, timestamp_ms=1, payload=b"")
    for wrong in (log[1], log[0], Entry(log[2].index, Term(1), EntryKind.NOOP, 1, b"", other.crc, log[2].chain)):
        with pytest.raises(InvariantViolation, match="was applied behind 2"):
            keeper.applied(wrong)
    keeper.applied(log[2])
    assert keeper.applied_index == 3


def test_keys_are_told_as_they_were_known_last(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it takes too long to count them; damage that is met while they are counted ends the node."""
    keeper = desk.node.keeper
    follow_one_by_one(desk, entries(9))
    monkeypatch.setattr(keeper.machine, "settle", lambda: False)
    assert keeper.counts() == (8, 0), "at the last checkpoint"
    monkeypatch.undo()
    assert keeper.counts() == (9, 0)

    def damaged() -> bool:
        raise CorruptRecord("rot")

    monkeypatch.setattr(keeper.machine, "settle", damaged)
    with pytest.raises(CorruptRecord, match="rot"):
        keeper.counts()
