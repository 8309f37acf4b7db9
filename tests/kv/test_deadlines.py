"""The heap of deadlines: always the first that counts, of bounded size, and tidied a little at a time."""

from __future__ import annotations

import random

import pytest

from durable_raft.kv.deadlines import HEAP_SLACK, PASS_PIECE, Deadlines, Due
from durable_raft.kv.records import Kept, make_record


class Watched(dict[bytes, Kept | None]):
    """What is kept of keys; counts how often it is asked."""

    asked = 0

    def get(self, key: bytes, default: object = None) -> Kept | None:
        """Return what is kept of a key."""
        assert default is None
        self.asked += 1
        return super().get(key)


def put(changes: dict[bytes, Kept | None], due: Deadlines, key: bytes, deadline_ms: int) -> None:
    """Set a key's deadline, as a layer does."""
    changes[key] = make_record(key, b"v", deadline_ms)
    due.push((deadline_ms, key, key))


def earliest(due: Deadlines) -> Due | None:
    """Return the first deadline that counts."""
    while not due.tidy(3, lambda _: False):
        pass
    return due.first()


def drain(changes: dict[bytes, Kept | None], due: Deadlines) -> list[Due]:
    """Return all deadlines that count, first first; their keys are gone then."""
    found = []
    while (first := earliest(due)) is not None:
        found.append(first)
        changes[first[2]] = None
    return found


@pytest.mark.parametrize("seed", range(6))
def test_the_first_that_counts_is_always_known(seed: int) -> None:
    """Beside a plain search, while keys are set, set to what they were before, made eternal and removed."""
    rng = random.Random(seed)
    changes: dict[bytes, Kept | None] = {}
    due = Deadlines(changes)
    times = rng.choice([3, 1000, 10**6])
    for number in range(12_000):
        key = b"%d" % rng.randrange(40)
        what = rng.randrange(10)
        if what < 8:
            put(changes, due, key, 1 + rng.randrange(times))
        else:
            changes[key] = None if what == 8 else b"for ever"
        if not number % 7:
            counts = [(kept[1], key, key) for key, kept in changes.items() if kept and not isinstance(kept, bytes)]
            assert earliest(due) == min(counts, default=None), f"seed {seed}, step {number}"
        # What comes while old items are looked at is on top.
        assert len(due) <= 2 * (2 * len(changes) + HEAP_SLACK) + 1, f"seed {seed}, step {number}"
    counts = [(kept[1], key, key) for key, kept in changes.items() if kept and not isinstance(kept, bytes)]
    assert sorted(set(drain(changes, due))) == sorted(counts)


def test_no_item_waits_for_all_others_to_be_looked_at() -> None:
    """A million keys whose time to live is set again are tidied with no stop."""
    changes = Watched()
    due = Deadlines(changes)
    keys = [b"%d" % number for number in range(5_000)]
    lengths = []
    for turn in range(6):
        for key in keys:
            asked = changes.asked
            put(changes, due, key, 1_000_000 - turn)
            assert changes.asked - asked <= PASS_PIECE
            lengths.append(len(due))
    assert max(lengths) > 2 * len(keys)
    assert len(due) < 3 * len(keys) + HEAP_SLACK
    assert len(set(drain(changes, due))) == len(keys)


@pytest.mark.parametrize("deadlines", [1, 2])
def test_deadlines_that_come_and_go_do_not_pile_up(deadlines: int) -> None:
    """A key that is given the same one again and again, or two in turn: its old items say what the record says."""
    changes: dict[bytes, Kept | None] = {}
    due = Deadlines(changes)
    for number in range(100_000):
        put(changes, due, b"k", 1_000 + number % deadlines)
    assert len(due) <= 2 * (2 + HEAP_SLACK)
    assert set(drain(changes, due)) == {(999 + deadlines, b"k", b"k")}


def test_what_counts_no_more_is_dropped_in_pieces() -> None:
    """The first of many keys is given another time to live last: all others before it count no more by then."""
    changes: dict[bytes, Kept | None] = {}
    due = Deadlines(changes)
    keys = [b"%d" % number for number in range(900)]
    for number, key in enumerate(keys):
        put(changes, due, key, 1 + number)
    for key in reversed(keys):
        put(changes, due, key, 10_000)
    before = len(due)
    assert due.tidy(100, lambda _: False) == 0
    assert len(due) == before - 100
    assert due.first() == (101, keys[100], keys[100]), "no deadline comes before it"
    assert earliest(due) == (10_000, min(keys), min(keys))
    assert due.tidy(100, lambda key: key == min(keys)) == 99, "a layer above says otherwise about that one"


def test_deadlines_dissolve() -> None:
    """Also in the middle of being tidied."""
    changes: dict[bytes, Kept | None] = {}
    due = Deadlines(changes)
    number = 0
    while not (due._old and due._passed):
        put(changes, due, b"%d" % (number % 9), number + 1)
        number += 1
    due.dissolve()
    assert (len(due), earliest(due), due._passed) == (0, None, {})
