"""Many keys in order: all of them, and nothing done at one stretch that grows with their number."""

from __future__ import annotations

import random

import pytest

from durable_raft.kv.records import order_key
from durable_raft.kv.sorting import PIECE_KEYS, RANGE_KEYS, sorted_ranges

MANY = 40 * PIECE_KEYS


def keys_in(order: str, count: int) -> list[bytes]:
    """Return ``count`` keys that are all different, in one of the orders in which clients write them."""
    rng = random.Random(7)
    match order:
        case "ascending":
            return [b"%08d" % number for number in range(count)]
        case "descending":
            return [b"%08d" % number for number in reversed(range(count))]
        case "random":
            return [b"%08d" % number for number in rng.sample(range(10**8), count)]
        case "by turns":
            # Every key that the sample looks at is smaller than all others.
            step = RANGE_KEYS // 8
            return [b"%d%08d" % (bool(number % step), number) for number in range(count)]
        case _:
            return [b"same beginning " * 40 + b"%d" % number for number in rng.sample(range(10**8), count)]


ORDERS = ["ascending", "descending", "random", "by turns", "long"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("count", [0, 1, 2, PIECE_KEYS, PIECE_KEYS + 1, 5 * PIECE_KEYS])
def test_ranges_are_the_keys_in_order(order: str, count: int) -> None:
    """Whatever order they come in, and whatever they are ordered by."""
    keys = keys_in(order, count)
    for place in (None, order_key):
        ranges = list(sorted_ranges(list(keys), place))
        assert [key for found in ranges for key in found] == sorted(keys, key=place)
        assert all(0 < len(found) <= PIECE_KEYS for found in ranges)


@pytest.mark.parametrize("order", ORDERS)
def test_ranges_are_few(order: str) -> None:
    """About as many as are wanted, also where the first sample says nothing about the others."""
    ranges = list(sorted_ranges(keys_in(order, MANY), None))
    assert len(ranges) <= 3 * MANY // RANGE_KEYS


def test_nothing_is_sorted_before_it_is_asked_for() -> None:
    """But for the sample: whoever takes one range does not wait for all."""
    keys = keys_in("random", MANY)
    first = next(sorted_ranges(list(keys), None))
    assert first == sorted(keys)[: len(first)]
    assert len(first) < MANY // 10
