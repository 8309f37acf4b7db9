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
preflight.py; a tree's record is described in log/pages.py.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from durable_raft.storage.directory import DATA_FILE

_HEADER_BYTES: Final = 16
_P_BRANCH: Final = 0x01
_BIG_DATA: Final = 0x01
"""Of a leaf's node: its value lies on pages of its own, and 8 bytes name the first."""
_SUB_TREE: Final = 0x02
"""Of a leaf's node: its value is the record of a table."""
_PAGE_NUMBER_BYTES: Final = 8
_NO_PAGE: Final = (1 << 64) - 1
_PROBLEMS_MAX: Final = 20
_PAGE_SIZE_AT: Final = 40
_TRANSACTION_AT: Final = 144
_TREES_AT: Final = (40, 88)
"""In a meta page: the tree of free pages and the main tree."""
_TREE: Final = struct.Struct("=IHHQQQQQ")
_PAGE: Final = struct.Struct("=QHHHH")
_NODE: Final = struct.Struct("=HHHH")
_U32: Final = struct.Struct("=I")
_U64: Final = struct.Struct("=Q")


@dataclass(frozen=True, slots=True)
class _Node:
    """One node of a page."""

    offset: int
    end: int
    flags: int
    child: int
    """Of a branch: the page that it names."""
    key: bytes
    value: bytes
    """Of a table's record; else empty."""


@dataclass(frozen=True, slots=True)
class _Tree:
    """One tree to be walked."""

    name: str
    root: int
    is_free_list: bool = False
    """Whose keys are numbers in the byte order of the machine."""


def shape_problems(environment: Path) -> list[str]:
    """Return what is wrong with the shape of the trees in ``environment/data.mdb``, read without mapping it."""
    with (environment / DATA_FILE).open("rb") as file:
        walk = _Walk(file)
        try:
            walk.run()
        except (struct.error, ValueError, OverflowError) as error:
            walk.problems.append(f"a page is not what the one above it says: {error}")
        return walk.problems


class _Walk:
    """Walks every tree of a file once."""

    def __init__(self, file: BinaryIO) -> None:
        self.problems: list[str] = []
        self._file = file
        head = file.read(_TRANSACTION_AT + _U64.size)
        (self._page_bytes,) = _U32.unpack_from(head, _PAGE_SIZE_AT)
        file.seek(self._page_bytes)
        self._meta = max(head, file.read(len(head)), key=lambda page: int(_U64.unpack_from(page, _TRANSACTION_AT)[0]))

    def run(self) -> None:
        """Walk all trees; stops when enough was found."""
        free, main = (_TREE.unpack_from(self._meta, at)[-1] for at in _TREES_AT)
        trees = [_Tree("free", free, is_free_list=True), _Tree("main", main)]
        for tree in trees:
            for node in self._leaves(tree, tree.root, b"", None):
                if node.flags & _SUB_TREE:
                    trees.append(self._table(node))
                if len(self.problems) >= _PROBLEMS_MAX:
                    return

    def _table(self, node: _Node) -> _Tree:
        name = node.key.decode(errors="backslashreplace")
        _, flags, *_, root = _TREE.unpack(node.value)
        if flags:
            self.problems.append(f"table {name}: flags {flags:#x}, expected none")
        return _Tree(name, root)

    def _leaves(self, tree: _Tree, number: int, low: bytes, high: bytes | None) -> Iterator[_Node]:
        """Yield the nodes of the leaves at and below page ``number``, whose keys must be in [low, high)."""
        if number == _NO_PAGE:
            return
        is_branch, nodes = self._page(tree, number)
        if not is_branch:
            for node in nodes:
                if not _is_between(tree, low, node.key, high):
                    self.problems.append(f"{tree.name}: page {number}: key {node.key!r} is out of reach of a search")
                yield node
            return
        # The key of the first node says nothing: no search looks at it.
        lows = [low, *(node.key for node in nodes[1:])]
        for node, begin, end in zip(nodes, lows, [*lows[1:], high], strict=True):
            yield from self._leaves(tree, node.child, begin, end)

    def _page(self, tree: _Tree, number: int) -> tuple[bool, list[_Node]]:
        """Read a page; its nodes must fill it."""
        self._file.seek(number * self._page_bytes)
        data = self._file.read(self._page_bytes)
        _, _, flags, lower, upper = _PAGE.unpack_from(data)
        is_branch = bool(flags & _P_BRANCH)
        count = (lower - _HEADER_BYTES) // 2
        offsets = struct.unpack_from(f"={count}H", data, _HEADER_BYTES)
        nodes = [_node(data, offset, is_branch=is_branch) for offset in offsets]
        at = upper
        for node in sorted(nodes, key=lambda node: node.offset):
            if node.offset != at:
                self.problems.append(f"{tree.name}: page {number}: a node begins at {node.offset}, expected {at}")
                break
            at = node.end
        else:
            if at != len(data):
                self.problems.append(f"{tree.name}: page {number}: its nodes end at {at}, expected {len(data)}")
        return is_branch, nodes


def _node(data: bytes, offset: int, *, is_branch: bool) -> _Node:
    low, middle, flags, key_bytes = _NODE.unpack_from(data, offset)
    key_at = offset + _NODE.size
    value_at = key_at + key_bytes
    key = data[key_at:value_at]
    if is_branch:
        return _Node(offset, value_at + (value_at & 1), 0, low | middle << 16 | flags << 32, key, b"")
    stored = _PAGE_NUMBER_BYTES if flags & _BIG_DATA else low | middle << 16
    end = value_at + stored
    value = data[value_at:end] if flags & _SUB_TREE else b""
    return _Node(offset, end + (end & 1), flags, 0, key, value)


def _is_between(tree: _Tree, low: bytes, key: bytes, high: bytes | None) -> bool:
    if not tree.is_free_list:
        return low <= key and (high is None or key < high)
    number = int.from_bytes(key, sys.byteorder)
    return int.from_bytes(low, sys.byteorder) <= number and (
        high is None or number < int.from_bytes(high, sys.byteorder)
    )
