"""Which images to look at: for every cut, what the power may have spared of the pending operations, by kind.

The first five kinds are finite and few enough to be made for every cut (``essentials``); tears and subsets are made one
by one for as long as more images are wanted (``Supply``).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from tests.power_loss.disk import ALL, PAGE, Choice, Pending, PendingWrite, Snapshot

PREFIX: Final = "prefix"
"""The first operations in their order and none of the rest; all of them, as after a killed process, is one of these."""
DROPPED: Final = "dropped"
"""All, all but one, or only one of the writes lost, with the names all kept, and all lost with them."""
DIRECTORY: Final = "directory"
"""Names in every prefix, one lost, one kept, some; with all of the data and with none."""
EXTENDED: Final = "extended"
"""Writes lost, the size they gave to the file kept."""
TORN_512: Final = "torn 512"
"""One write in part, by sectors; the others kept, or lost."""
TORN_4096: Final = "torn 4096"
"""The same by pages; and the kernel's own order, pages of a file ascending."""
SUBSET: Final = "subset"
"""Any part of each."""

KINDS: Final = (PREFIX, DROPPED, DIRECTORY, EXTENDED, TORN_512, TORN_4096, SUBSET)

SUBSETS_IN_A_ROUND: Final = 4
TEARS_IN_A_ROUND: Final = 4

Choices = Iterator[tuple[str, Choice]]


def everything(snapshot: Snapshot) -> Choice:
    """Return the choice that spares all: what a killed process leaves."""
    return _kept(_numbers(snapshot))


def essentials(snapshot: Snapshot) -> Choices:
    """Yield the choices that no campaign leaves out, the plainest first."""
    numbers = _numbers(snapshot)
    names = {pending.number for pending in snapshot.names}
    data = [number for number in numbers if number not in names]
    yield PREFIX, _kept(numbers)
    yield DROPPED, _kept(names)
    if names:
        yield DROPPED, _kept(())
        yield from _directories(snapshot, data)
    for end in range(len(numbers) - 1, -1, -1):
        yield PREFIX, _kept(numbers[:end])
    for number in data:
        yield DROPPED, _kept(each for each in numbers if each != number)
        yield DROPPED, _kept([number, *names])
    if any(_grows(snapshot, pending) for pending in snapshot.writes):
        yield EXTENDED, Choice(dict.fromkeys(names, ALL), is_extended=True)
        for number in data:
            yield EXTENDED, Choice(dict.fromkeys([*names, number], ALL), is_extended=True)


def _directories(snapshot: Snapshot, data: Sequence[int]) -> Choices:
    names = [pending.number for pending in snapshot.names]
    for spared in (data, ()):
        for end in range(len(names) + 1):
            yield DIRECTORY, _kept([*spared, *names[:end]])
        for number in names:
            yield DIRECTORY, _kept([*spared, *(each for each in names if each != number)])
            yield DIRECTORY, _kept([*spared, number])


class Supply:
    """The tears and subsets of one cut, in an order that only the random generator knows."""

    def __init__(self, snapshot: Snapshot, rng: random.Random) -> None:
        self._snapshot = snapshot
        self._rng = rng
        self._tears = [(TORN_512, self._shuffled(1)), (TORN_4096, self._shuffled(PAGE))]
        self.is_exhausted = sum(len(each.pieces) for each in _writes(snapshot)) + len(snapshot.names) < 2
        """Whether ``essentials`` were all there is."""

    def round(self) -> Choices:
        """Yield some more of each kind."""
        for kind, tears in self._tears:
            for _ in range(TEARS_IN_A_ROUND):
                if (choice := next(tears, None)) is None:
                    break
                yield kind, choice
        for _ in range(SUBSETS_IN_A_ROUND):
            yield SUBSET, self._subset()
        if len(self._snapshot.names) > 2:
            yield DIRECTORY, self._some_names()

    def _shuffled(self, unit: int) -> Iterator[Choice]:
        """Yield all tears between units: pieces for 1, pages for ``PAGE``."""
        plans = [(each, part) for each in _writes(self._snapshot) for part in _parts(each, unit)]
        self._rng.shuffle(plans)
        numbers = _numbers(self._snapshot)
        names = [pending.number for pending in self._snapshot.names]
        for torn, mask in plans:
            for others in (numbers, names):
                yield Choice(dict.fromkeys(others, ALL) | {torn.number: mask})
        if unit == PAGE:
            yield from self._ascending()

    def _ascending(self) -> Iterator[Choice]:
        """Yield what the kernel's writeback leaves when it is cut short: the pending pages of a file up to one."""
        names = {pending.number: ALL for pending in self._snapshot.names}
        numbers = {each.number: ALL for each in self._snapshot.writes}
        for state in self._snapshot.files.values():
            writes = [each for each in state.pending if isinstance(each, PendingWrite)]
            for end in sorted({page for each in writes for page in each.pages}):
                own = {each.number: _mask(page < end for page in each.pages) for each in writes}
                yield Choice(names | numbers | own)

    def _subset(self) -> Choice:
        rng, snapshot = self._rng, self._snapshot
        kept: dict[int, int] = {}
        share = rng.choice((0.1, 0.5, 0.5, 0.9))
        for each in snapshot.writes:
            unit = rng.choice((1, PAGE, None)) if isinstance(each, PendingWrite) else None
            if unit is None or not isinstance(each, PendingWrite):
                kept[each.number] = ALL if rng.random() < share else 0
            else:
                chosen = {page for page in each.pages if rng.random() < share}
                kept[each.number] = _mask(
                    page in chosen if unit == PAGE else rng.random() < share for page in each.pages
                )
        return Choice(kept | self._names(), is_extended=rng.random() < 0.1)

    def _some_names(self) -> Choice:
        data = [each.number for each in self._snapshot.writes] if self._rng.random() < 0.5 else []
        return Choice(dict.fromkeys(data, ALL) | self._names())

    def _names(self) -> dict[int, int]:
        """Return a choice of names: all, a prefix, or any."""
        names = [pending.number for pending in self._snapshot.names]
        match self._rng.randrange(3):
            case 0:
                return dict.fromkeys(names, ALL)
            case 1:
                return dict.fromkeys(names[: self._rng.randint(0, len(names))], ALL)
        return {number: ALL for number in names if self._rng.random() < 0.5}


def _numbers(snapshot: Snapshot) -> list[int]:
    """Return the numbers of all pending operations that have a meaning, in their order."""
    return sorted([each.number for each in snapshot.writes] + [pending.number for pending in snapshot.names])


def _kept(numbers: Iterable[int]) -> Choice:
    return Choice(dict.fromkeys(numbers, ALL))


def _writes(snapshot: Snapshot) -> list[PendingWrite]:
    return [each for each in snapshot.writes if isinstance(each, PendingWrite)]


def _grows(snapshot: Snapshot, pending: Pending) -> bool:
    return isinstance(pending, PendingWrite) and any(
        pending in state.pending and pending.end > len(state.base) for state in snapshot.files.values()
    )


def _mask(bits: Iterable[bool]) -> int:
    return sum(1 << position for position, bit in enumerate(bits) if bit)


def _parts(write: PendingWrite, unit: int) -> Iterator[int]:
    """Yield masks of parts of a write: every beginning, every end, all but one unit, one unit alone."""
    units = list(write.pages) if unit == PAGE else list(range(len(write.pieces)))
    different = sorted(set(units))
    if len(different) < 2:
        return
    for border in different[1:]:
        yield _mask(each < border for each in units)
        yield _mask(each >= border for each in units)
    for one in different:
        yield _mask(each != one for each in units)
        yield _mask(each == one for each in units)
