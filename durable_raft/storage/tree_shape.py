"""What LMDB's writing takes for granted about its pages and ``lmdb.verify`` does not look at.

A page that can be read may still ruin what a later transaction does with it. LMDB moves the nodes of a page by the
lengths that they state, so a length that is wrong moves others wrongly. It looks keys up by the separators of branches,
so a separator that is wrong hides keys from every search, though a walk still meets them: then a deletion finds nothing
to delete, and a new key lands where no search comes. And a table whose flags say that a key may have several values is
written by other rules. So this holds of every sound file:

- the nodes of a page fill it without gap and overlap, from where its free room ends to the end of the page;
- the keys below each child of a branch lie between the separators beside it;
- no table but the list of free pages has flags.

Asked only of files in which ``lmdb.verify`` finds nothing, so page numbers and offsets are within bounds. Layout: see
page_layout.py.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from durable_raft.storage.directory import DATA_FILE
from durable_raft.storage.page_layout import HEADER_BYTES, NO_PAGE, NODE, P_BRANCH, child_at, key_at, newest_meta

_BIG_DATA: Final = 0x01
"""Of a leaf's node: its value lies on pages of its own, and 8 bytes name the first."""
_PAGE_NUMBER_BYTES: Final = 8
_PROBLEMS_MAX: Final = 20
_TREES_AT: Final = (40, 88)
"""In a meta page: the tree of free pages and the main tree."""
_TREE: Final = struct.Struct("=IHHQQQQQ")
_PAGE: Final = struct.Struct("=QHHHH")


@dataclass(frozen=True, slots=True)
class _Tree:
    """One tree to be walked."""

    name: str
    root: int
    is_free_list: bool = False
    """Whose keys are numbers in the byte order of the machine."""
    has_tables: bool = False
    """Whose values are records of tables, each with a tree of its own."""

    def is_between(self, low: bytes, key: bytes, high: bytes | None) -> bool:
        """Return whether ``key`` is in [low, high), as LMDB orders the keys of this tree."""
        if not self.is_free_list:
            return low <= key and (high is None or key < high)
        number = int.from_bytes(key, sys.byteorder)
        is_below = high is None or number < int.from_bytes(high, sys.byteorder)
        return int.from_bytes(low, sys.byteorder) <= number and is_below


def shape_problems(environment: Path) -> list[str]:
    """Return what is wrong with the shape of the trees in ``environment/data.mdb``, read without mapping it."""
    with (environment / DATA_FILE).open("rb") as file:
        walk = _Walk(file)
        try:
            walk.run()
        except (struct.error, ValueError, OverflowError, IndexError) as error:
            walk.problems.append(f"a page is not what the one above it says: {error}")
        return walk.problems


class _Walk:
    """Walks every tree of a file once."""

    def __init__(self, file: BinaryIO) -> None:
        self.problems: list[str] = []
        self._file = file
        self._trees: list[_Tree] = []
        self._meta, self._page_bytes = newest_meta(file)

    def run(self) -> None:
        """Walk all trees; stops when enough was found."""
        free, main = (_TREE.unpack_from(self._meta, at)[-1] for at in _TREES_AT)
        self._trees = [_Tree("free", free, is_free_list=True), _Tree("main", main, has_tables=True)]
        for tree in self._trees:
            if tree.root != NO_PAGE:
                self._below(tree, tree.root, b"", None)

    def _below(self, tree: _Tree, number: int, low: bytes, high: bytes | None) -> None:
        """Walk page ``number`` and all below, whose keys must be in [low, high)."""
        if len(self.problems) >= _PROBLEMS_MAX:
            return
        data, offsets, is_branch = self._page(tree, number)
        if is_branch:
            # The key of the first node says nothing: no search looks at it.
            lows = [low, *(key_at(data, offset) for offset in offsets[1:])]
            for offset, begin, end in zip(offsets, lows, [*lows[1:], high], strict=True):
                self._below(tree, child_at(data, offset), begin, end)
            return
        # The keys are in order, which was looked at before.
        for offset in (offsets[0], offsets[-1]):
            if not tree.is_between(low, key := key_at(data, offset), high):
                self.problems.append(f"{tree.name}: page {number}: key {key!r} is out of reach of a search")
        if tree.has_tables:
            self._trees += [self._table(data, offset) for offset in offsets]

    def _table(self, data: bytes, offset: int) -> _Tree:
        key = key_at(data, offset)
        name = key.decode(errors="backslashreplace")
        _, flags, *_, root = _TREE.unpack_from(data, offset + NODE.size + len(key))
        if flags:
            self.problems.append(f"table {name}: flags {flags:#x}, expected none")
        return _Tree(name, root)

    def _page(self, tree: _Tree, number: int) -> tuple[bytes, tuple[int, ...], bool]:
        """Read a page, whose nodes must fill it: (its bytes, offsets of its nodes, whether it is a branch)."""
        self._file.seek(number * self._page_bytes)
        data = self._file.read(self._page_bytes)
        _, _, flags, lower, upper = _PAGE.unpack_from(data)
        is_branch = bool(flags & P_BRANCH)
        offsets = struct.unpack_from(f"={(lower - HEADER_BYTES) // 2}H", data, HEADER_BYTES)
        at, unpack = upper, NODE.unpack_from
        for offset in sorted(offsets):
            if offset != at:
                self.problems.append(f"{tree.name}: page {number}: a node begins at {offset}, expected {at}")
                break
            value_low, value_high, node_flags, key_bytes = unpack(data, offset)
            at = offset + NODE.size + key_bytes
            if not is_branch:
                at += _PAGE_NUMBER_BYTES if node_flags & _BIG_DATA else value_low | value_high << 16
            at += at & 1
        else:
            if at != len(data):
                self.problems.append(f"{tree.name}: page {number}: its nodes end at {at}, expected {len(data)}")
        return data, offsets, is_branch
