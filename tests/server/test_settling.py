"""The number of keys is looked up on a disk that may be cold: no turn of the event loop takes long for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_raft.kv.keyspace import SETTLED_A_STEP
from durable_raft.kv.layer import Layer
from durable_raft.raft.types import ORIGIN, Entry, EntryKind, LogPoint, Term, make_entry
from durable_raft.storage.state.view import LmdbStateView
from tests.support.batches import batch_of
from tests.support.desk import N2, Desk, desk_at

KEYS = 4_000
PAGES = 3_000
"""For which a checkpoint is due."""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Node n1 with many keys on the disk, and none of them in memory."""
    with desk_at(tmp_path / "n1", checkpoint_pages=PAGES) as made:
        set_keys(made, 0, KEYS)
        made.node.request_checkpoint()
        made.turn()
        assert made.node.keeper.checkpointer.settled.summary.key_count == KEYS
        made.machine._keyspace._written = Layer()
        yield made


@pytest.fixture
def looked_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the keys that are looked for on the disk; each takes a millisecond."""
    found: list[bytes] = []
    head = LmdbStateView.head

    def slow_head(view: LmdbStateView, key: bytes) -> tuple[int, int] | None:
        found.append(key)
        desk.now += 0.001
        return head(view, key)

    monkeypatch.setattr(LmdbStateView, "head", slow_head)
    return found


def set_keys(desk: Desk, first: int, count: int) -> None:
    """Have n1 follow entries that set so many keys, a hundred in each."""
    log: list[Entry] = []
    previous = desk.raft.log.last if desk.raft.log.last.index else ORIGIN
    for start in range(first, first + count, 100):
        payload = batch_of([[b"set", b"k%d" % number, b"v"] for number in range(start, start + 100)])
        kind = EntryKind.COMMANDS
        log.append(make_entry(previous=previous, term=Term(1), kind=kind, timestamp_ms=1, payload=payload))
        previous = LogPoint(log[-1].index, log[-1].term, log[-1].chain)
    desk.follow(N2, *log)


def test_who_asks_how_many_keys_there_are_holds_no_turn_for_long(desk: Desk, looked_for: list[bytes]) -> None:
    """The answer is what it was until it can be told; each key is looked for once."""
    set_keys(desk, KEYS - 500, 600)
    told = [desk.node.keeper.counts()]
    while told[-1] == (KEYS, 0):
        before = len(looked_for)
        told.append(desk.node.keeper.counts())
        assert 0 < len(looked_for) - before <= SETTLED_A_STEP
    assert told[-1] == (KEYS + 100, 0)
    assert len(told) == -(-600 // SETTLED_A_STEP)
    assert len(set(looked_for)) == len(looked_for) == 600


def test_a_checkpoint_that_is_due_anyway_asks_nobody_which_keys_are_new(desk: Desk, looked_for: list[bytes]) -> None:
    """As of a state that has more pages than a checkpoint may change."""
    before = desk.raft.snapshot.index
    desk.node.keeper.checkpointer._pages = PAGES
    set_keys(desk, KEYS - 100, PAGES)
    assert desk.raft.snapshot.index == before + PAGES // 100
    assert looked_for == []


def test_a_cold_disk_holds_no_turn_for_long_that_is_asked_which_keys_are_new(
    desk: Desk, looked_for: list[bytes]
) -> None:
    """Of each entry's turn."""
    desk.node.keeper.checkpointer._pages = PAGES - 100
    for first in range(0, PAGES, 100):
        before = len(looked_for)
        set_keys(desk, first, 100)
        assert len(looked_for) - before <= SETTLED_A_STEP
    assert looked_for


def test_keys_that_were_there_are_no_new_pages(desk: Desk) -> None:
    """They are looked up before their number decides: all of a small state may be written over again and again."""
    desk.node.keeper.checkpointer._pages = PAGES - 100
    before = desk.raft.snapshot.index
    for first in range(0, KEYS, 100):
        set_keys(desk, first, 100)
    assert desk.raft.snapshot.index == before
    assert desk.machine.overlay_changes == KEYS > PAGES
    set_keys(desk, KEYS, 100)
    assert desk.raft.snapshot.index == before
    set_keys(desk, KEYS + 100, 100)
    assert desk.raft.snapshot.index > before, "two new ones are a page"
