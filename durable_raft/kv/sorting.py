"""Many keys in order, never busy long at one stretch: a thread sorts while the event loop wants the interpreter.

A few keys of the whole are sorted first. They cut all others into ranges of about ``RANGE_KEYS``, and each range is
sorted when it is asked for. So a key is looked at twice and compared in C only. To merge sorted pieces instead takes
steps of the interpreter for each key.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Final

PIECE_KEYS: Final = 2048
"""Keys sorted at once, about half a millisecond: nothing else runs in the process meanwhile."""

RANGE_KEYS: Final = 1024
"""Keys in a range, about: as many again are no matter."""

_SAMPLES: Final = 8
"""Keys looked at for each range: with more the ranges are more even."""


def sorted_ranges(keys: list[bytes], place: Callable[[bytes], bytes] | None) -> Iterator[list[bytes]]:
    """Yield ``keys``, which are all different, in order: lists of at most ``PIECE_KEYS`` that follow each other.

    Args:
        keys: are let go of meanwhile.
        place: what a key is ordered by; None: itself.
    """
    # The next range last. One that is too large is cut again.
    left = [keys]
    while left:
        found = left.pop()
        if len(found) > PIECE_KEYS:
            left += reversed(_cut(found, place))
        elif found:
            found.sort(key=place)
            yield found


def _cut(keys: list[bytes], place: Callable[[bytes], bytes] | None) -> list[list[bytes]]:
    """Return ranges that follow each other, at least two of them not empty, and empty ``keys``."""
    places = place or _itself
    sample = sorted(map(places, keys[:: max(1, RANGE_KEYS // _SAMPLES)]))
    # The sample has more than two bounds, and keys that are in it lie before the first and behind it: so each range is
    # smaller than the whole.
    bounds = sample[_SAMPLES // 2 :: _SAMPLES]
    ranges: list[list[bytes]] = [[] for _ in range(len(bounds) + 1)]
    while keys:
        piece = sorted(keys[-PIECE_KEYS:], key=place)
        del keys[-PIECE_KEYS:]
        of_piece = piece if place is None else [*map(place, piece)]
        start = 0
        for number, bound in enumerate(bounds):
            end = bisect_right(of_piece, bound, start)
            ranges[number] += piece[start:end]
            start = end
        ranges[-1] += piece[start:]
    return ranges


def _itself(key: bytes) -> bytes:
    return key
