"""What is wrong with stored bytes, as values: a wound says where, what was expected and what was found.

Readers collect wounds and go on; ``raise_wounds`` turns them into the error that stops a node. A record of a newer
format is a wound of its own kind and raises ``UnknownFormatVersion``: it is not damage (durability contract 9).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from durable_raft.errors import CorruptRecord, UnknownFormatVersion

_KEY_SHOWN_MAX: Final = 80
"""Bytes of a key that a message shows."""


class WoundKind(enum.Enum):
    """What a wound is."""

    MISSING = "missing"
    """A record that must be there is not."""
    CHECKSUM = "checksum"
    """The bytes do not give the checksum stored with them."""
    CHAIN = "chain"
    """The chain value does not continue the entry before."""
    ORDER = "order"
    """Term, timestamp or index does not follow the entry before."""
    DISAGREES = "disagrees"
    """Two records that must say the same do not, though each is valid by itself."""
    ORPHAN = "orphan"
    """A record that belongs to nothing."""
    SHAPE = "shape"
    """Lengths, padding or text that no version of this program writes."""
    TREE = "tree"
    """LMDB itself cannot walk its pages."""
    NEWER_FORMAT = "newer-format"
    """A valid record of a version, checksum algorithm or kind that this build does not know."""


@dataclass(frozen=True, slots=True)
class Wound:
    """One thing that is wrong."""

    table: str
    """``meta``, ``meta_copy``, ``ident``, ``log``, ``keys`` or ``deadlines``; ``environment`` for LMDB's own pages."""
    index: int | None
    """Index of the entry; None outside the log."""
    term: int | None
    """Term of the entry as far as a valid record tells it; else None."""
    expected: str
    found: str
    what: WoundKind
    key: bytes | None = None
    """A client's key; None outside the KV state."""

    def __str__(self) -> str:
        at = "" if self.index is None else f" index {self.index}"
        term = "" if self.term is None else f" term {self.term}"
        key = "" if self.key is None else f" key {shown_key(self.key)}"
        return f"{self.table}{at}{term}{key}: {self.what.value}: expected {self.expected}, found {self.found}"


def shown_key(key: bytes) -> str:
    """Return a client's key as messages show it: the beginning of a long one."""
    rest = len(key) - _KEY_SHOWN_MAX
    return repr(key) if rest <= 0 else f"{key[:_KEY_SHOWN_MAX]!r} and {rest} bytes more"


class WoundedLog(CorruptRecord):
    """Damage, with every wound that was found."""

    def __init__(self, wounds: Sequence[Wound]) -> None:
        self.wounds: Final = tuple(wounds)
        super().__init__(_summary(self.wounds))


class WoundedState(CorruptRecord):
    """Damage to the KV state at a checkpoint, with every wound that was found."""

    def __init__(self, wounds: Sequence[Wound]) -> None:
        self.wounds: Final = tuple(wounds)
        super().__init__(_summary(self.wounds))


class NewerFormat(UnknownFormatVersion):
    """Valid records of a newer format, with every one that was found."""

    def __init__(self, wounds: Sequence[Wound]) -> None:
        self.wounds: Final = tuple(wounds)
        super().__init__(_summary(self.wounds))


_NAMED_MAX: Final = 20
"""Wounds spelled out in a message; the error carries all, and ``raftlog stat`` lists all."""


def _summary(wounds: Sequence[Wound]) -> str:
    lines = [str(wound) for wound in wounds[:_NAMED_MAX]]
    if len(wounds) > _NAMED_MAX:
        lines.append(f"and {len(wounds) - _NAMED_MAX} more")
    return "; ".join(lines)


def raise_wounds(wounds: Sequence[Wound]) -> NoReturn:
    """Raise what ``wounds`` (at least one) amount to.

    Raises:
        NewerFormat: one of them is a record of a newer format.
        WoundedLog: all of them are damage.
    """
    if any(wound.what is WoundKind.NEWER_FORMAT for wound in wounds):
        raise NewerFormat(wounds)
    raise WoundedLog(wounds)
