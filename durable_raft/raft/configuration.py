"""Configurations as entries of the log: their bytes, the steps from one to the next, and those of one log (Raft §6).

The payload of an entry of the kind CONFIGURATION, version 1 (big-endian; a text is its length in bytes u16 and UTF-8)::

    version u8 | members u16 | per member, ascending: roles u8, node_id text, client_address text, peer_address text
    | former u16 | per former member, oldest first: node_id text
    | bytes of the filter u16 | the filter

``roles``: 1 votes, 2 votes in the configuration that goes, 4 leaves. Who has neither of the first two is a learner. The
entry's checksum covers it (types.py).

A change of voters has these stages, each an entry, and each begun when the one before is committed:

1. *joint*: the new voters and the old ones; agreement needs both majorities;
2. the new voters alone; who lost its vote is a learner now;
3. without those who leave.

A change without new or lost voters begins with the third, or is done with one entry. Every stage follows from the one
before alone, so whoever leads goes on with it (``next_stage``).

A node id is used once. The last ``FORMER_MAX`` that went are listed; those before are in a Bloom filter of fixed size.
It never forgets one. Of ids that were never used it takes one in 1,600 for used after a thousand removals: then another
name has to be found.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from durable_raft.errors import MalformedConfiguration
from durable_raft.raft.types import Configuration, Entry, Index, Member, NodeId

VERSION: Final = 1
FORMER_MAX: Final = 64
"""Former members that are listed by name."""
FILTER_BYTES: Final = 2048
_FILTER_HASHES: Final = 7
MEMBERS_MAX: Final = 64
"""Members of one configuration."""

_VOTES: Final = 1
_OUTGOING: Final = 2
_LEAVES: Final = 4

_U8: Final = struct.Struct(">B")
_U16: Final = struct.Struct(">H")

NO_MEMBERS: Final = Configuration(Index(0), (), ())
"""What a node goes by that was told of none: it waits to be added."""


# -- bytes ------------------------------------------------------------------------------------------------------------


def encode(configuration: Configuration) -> bytes:
    """Return the payload of the entry of ``configuration``; its index is the entry's."""
    parts = [_U8.pack(VERSION), _U16.pack(len(configuration.members))]
    for member in configuration.members:
        name = member.node_id
        roles = _VOTES * (name in configuration.voters) + _OUTGOING * (name in configuration.outgoing)
        roles += _LEAVES * (name in configuration.leaving)
        parts += [_U8.pack(roles), _text(name), _text(member.client_address), _text(member.peer_address)]
    parts += [_U16.pack(len(configuration.former)), *map(_text, configuration.former)]
    parts += [_U16.pack(len(configuration.former_filter)), configuration.former_filter]
    return b"".join(parts)


def decode(index: Index, payload: bytes) -> Configuration:
    """Return the configuration of the entry at ``index``.

    Raises:
        MalformedConfiguration: the payload is no configuration, or one of a version that is not known.
    """
    reader = _Reader(payload)
    try:
        if (version := reader.number(_U8)) != VERSION:
            raise MalformedConfiguration(f"entry {index}: a configuration of version {version}, known {VERSION}")
        rows = [(reader.number(_U8), reader.member()) for _ in range(reader.number(_U16))]
        former = tuple(NodeId(reader.text()) for _ in range(reader.number(_U16)))
        configuration = _of_rows(index, rows, former, reader.take(reader.number(_U16)))
        is_whole = reader.is_at_end and encode(configuration) == payload
    except (struct.error, ValueError) as error:
        raise MalformedConfiguration(f"entry {index}: no configuration: {error}") from error
    if not is_whole:
        raise MalformedConfiguration(f"entry {index}: a configuration that would be written otherwise")
    _check(configuration)
    return configuration


def _of_rows(
    index: Index, rows: list[tuple[int, Member]], former: tuple[NodeId, ...], former_filter: bytes
) -> Configuration:
    def having(role: int) -> tuple[NodeId, ...]:
        return tuple(member.node_id for roles, member in rows if roles & role)

    learners = tuple(member.node_id for roles, member in rows if not roles & (_VOTES | _OUTGOING))
    members = tuple(member for _, member in rows)
    return Configuration(
        index, members, having(_VOTES), having(_OUTGOING), learners, having(_LEAVES), former, former_filter
    )


def _check(configuration: Configuration) -> None:
    """Check what every configuration keeps (types.py)."""
    ids = configuration.ids()
    is_lawful = (
        0 < len(ids) <= MEMBERS_MAX
        and all(one < other for one, other in itertools.pairwise(ids))
        and configuration.voters
        and not set(configuration.leaving) & set(configuration.voters)
        and not set(ids) & set(configuration.former)
        and len(configuration.former) <= FORMER_MAX
        and len(configuration.former_filter) in (0, FILTER_BYTES)
    )
    if not is_lawful:
        raise MalformedConfiguration(f"entry {configuration.index}: no lawful configuration: {describe(configuration)}")


def describe(configuration: Configuration) -> str:
    """Return ``configuration`` in words, without addresses: for errors, logs and tools."""
    parts = [f"voters {' '.join(configuration.voters) or 'nobody'}"]
    if configuration.outgoing:
        parts.append(f"and, until it is left, {' '.join(configuration.outgoing)}")
    if configuration.learners:
        parts.append(f"learners {' '.join(configuration.learners)}")
    if configuration.leaving:
        parts.append(f"leaving {' '.join(configuration.leaving)}")
    return "; ".join(parts)


def describe_stored(stored: Configuration | None) -> str:
    """Return a configuration as a disk keeps it, in words; None: the fixed one of the first start."""
    return "the one of the first start" if stored is None else f"the one at {stored.index} ({describe(stored)})"


def _text(value: str) -> bytes:
    encoded = value.encode()
    return _U16.pack(len(encoded)) + encoded


class _Reader:
    """Takes values off the front of a payload; ``struct.error`` or ``ValueError`` when they are not there."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._payload)

    def number(self, layout: struct.Struct) -> int:
        (value,) = layout.unpack_from(self._payload, self._at)
        self._at += layout.size
        return int(value)

    def take(self, length: int) -> bytes:
        taken = self._payload[self._at : self._at + length]
        if len(taken) != length:
            raise ValueError(f"{length} bytes at {self._at}, but {len(taken)} are left")
        self._at += length
        return taken

    def text(self) -> str:
        return self.take(self.number(_U16)).decode()

    def member(self) -> Member:
        return Member(NodeId(self.text()), self.text(), self.text())


# -- stages -----------------------------------------------------------------------------------------------------------


def next_stage(configuration: Configuration) -> Configuration | None:
    """Return what has to follow ``configuration`` once it is committed; None when it is at rest. Its index is open."""
    if configuration.outgoing:
        learners = sorted({*configuration.learners, *configuration.outgoing} - {*configuration.voters})
        return replace(configuration, outgoing=(), learners=tuple(learners))
    if configuration.leaving:
        stay = tuple(member for member in configuration.members if member.node_id not in configuration.leaving)
        learners = sorted({*configuration.learners} - {*configuration.leaving})
        left = replace(configuration, members=stay, learners=tuple(learners), leaving=())
        return _with_former(left, configuration.leaving)
    return None


def was_used(configuration: Configuration, node_id: NodeId) -> bool:
    """Return whether ``node_id`` is, was, or may have been a member, so that no other node may have it."""
    if node_id in configuration.ids() or node_id in configuration.former:
        return True
    bits = configuration.former_filter
    return bool(bits) and all(bits[place // 8] & 1 << place % 8 for place in _places(node_id))


def _with_former(configuration: Configuration, gone: Iterable[NodeId]) -> Configuration:
    former = (*configuration.former, *gone)
    kept, forgotten = former[-FORMER_MAX:], former[:-FORMER_MAX]
    if not forgotten:
        return replace(configuration, former=kept)
    bits = bytearray(configuration.former_filter or bytes(FILTER_BYTES))
    for node_id in forgotten:
        for place in _places(node_id):
            bits[place // 8] |= 1 << place % 8
    return replace(configuration, former=kept, former_filter=bytes(bits))


def _places(node_id: NodeId) -> list[int]:
    """Return which bits of the filter stand for ``node_id``."""
    digest = hashlib.sha256(node_id.encode()).digest()
    return [
        int.from_bytes(digest[4 * number : 4 * number + 4], "big") % (8 * FILTER_BYTES)
        for number in range(_FILTER_HASHES)
    ]


# -- the configurations of one log ------------------------------------------------------------------------------------


class Configurations:
    """Those that count or may count again: the one at the log's base, and those of the entries behind it.

    A configuration counts from the moment its entry is appended, and until that is cut (Raft §6).
    """

    def __init__(self, initial: Configuration, stored: Iterable[Configuration] = ()) -> None:
        """Begin with ``stored``, ascending, or with the fixed one of the first start."""
        self._initial = initial
        self._all: list[Configuration] = list(stored)
        if not self._all:
            self._all.append(initial)
        elif self._all[0].index > initial.index:
            self._all.insert(0, initial)
        self.changed: Callable[[Configuration], None] = _ignore
        """Is told the newest whenever that is another."""

    @property
    def newest(self) -> Configuration:
        """The one that counts."""
        return self._all[-1]

    def at(self, index: Index) -> Configuration:
        """Return the one that counts where the log ends at ``index``, which is not before its base."""
        return next((each for each in reversed(self._all) if each.index <= index), self._all[0])

    def stored_at(self, index: Index) -> Configuration | None:
        """Return what the disk is to keep of the one that counts at ``index``: nothing of the fixed one."""
        found = self.at(index)
        return found if found.index else None

    def since(self, index: Index) -> list[Configuration]:
        """Return the one at ``index`` and all behind it: those that may count when so much is committed."""
        first = self.at(index)
        return [each for each in self._all if each.index >= first.index]

    def append(self, entry: Entry) -> None:
        """Go by the configuration in ``entry``.

        Raises:
            MalformedConfiguration: it has none.
        """
        self._all.append(decode(entry.index, entry.payload))
        self.changed(self.newest)

    def cut(self, index: Index) -> None:
        """Forget those of the entries from ``index`` on; the one before counts again, with its own index."""
        if self.newest.index < index:
            return
        self._all = [each for each in self._all if each.index < index]
        self.changed(self.newest)

    def compact(self, base: Index) -> None:
        """Forget those that another replaced up to ``base``."""
        first = self.at(base)
        self._all = [each for each in self._all if each.index >= first.index]

    def install(self, stored: Configuration | None) -> None:
        """Go by ``stored`` alone, or by the fixed one: it is a snapshot's, which took the log's place."""
        before, self._all = self.newest, [stored or self._initial]
        if before == self.newest:
            # Those who go by it have this very one.
            self._all = [before]
        else:
            self.changed(self.newest)


def stored_at(stored: Iterable[Configuration], index: Index) -> Configuration | None:
    """Return which of a log's stored ones counts at ``index``; None: the fixed one of the first start, kept nowhere."""
    return Configurations(NO_MEMBERS, stored).stored_at(index)


def _ignore(_configuration: Configuration) -> None:
    pass
