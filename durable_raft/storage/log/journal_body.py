"""The body of a group in the commit journal, version 1: one write, with the records that LMDB would get.

::

    parts u8 | zero u8 | entries u16 | cut u64 | term u64 | vote: has_vote u8, voted_for text
    | standing: length u32, as many bytes as in meta version 3
    | per entry: index u64 | ident record, 36 bytes (records.py) | payload

``parts`` says what is there: 1 hard state (term and vote), 2 standing, 4 cut. What is not there is zero or empty. An
ident record proves itself and its index, and names length and checksum of the payload.

A new base and mended entries never come here: such groups go to LMDB directly (journaled_store.py).
"""

from __future__ import annotations

import struct
from typing import Final

from durable_raft.errors import InvariantViolation
from durable_raft.raft.ready import Write
from durable_raft.raft.types import Entry, HardState, Index, NodeId, Standing, Term
from durable_raft.storage.log.meta import pack_standing, read_standing
from durable_raft.storage.log.records import IDENT_BYTES, IDENT_KEY, entry_of, pack_idents, unpack_ident
from durable_raft.storage.proven import ProvenReader, pack_text

_HARD_STATE: Final = 1
_STANDING: Final = 2
_CUT: Final = 4

_START: Final = struct.Struct(">BBHQQB")
_U32: Final = struct.Struct(">I")
ENTRY_HEAD_BYTES: Final = IDENT_KEY.size + IDENT_BYTES
"""What an entry takes beside its payload."""

ENTRIES_MAX: Final = (1 << 16) - 1
"""Entries that one group can count."""


def pack_write(write: Write) -> bytes:
    """Return the body of the group that makes ``write`` true.

    Raises:
        InvariantViolation: it has what no group holds.
    """
    if write.new_base is not None or write.mended or len(write.entries) > ENTRIES_MAX:
        raise InvariantViolation(f"write {write.number} is not for the journal")
    hard_state, standing, cut = write.hard_state, write.standing, write.truncate_from
    vote = None if hard_state is None else hard_state.voted_for
    parts = (
        _HARD_STATE * (hard_state is not None) | _STANDING * (standing is not None) | _CUT * (cut is not None),
        0,
        len(write.entries),
        cut or 0,
        0 if hard_state is None else hard_state.current_term,
        vote is not None,
    )
    packed = b"" if standing is None else pack_standing(standing)
    pieces = [_START.pack(*parts), pack_text(vote or ""), _U32.pack(len(packed)), packed]
    for (key, ident), entry in zip(pack_idents(write.entries), write.entries, strict=True):
        pieces += (key, ident, entry.payload)
    return b"".join(pieces)


def unpack_write(number: int, body: bytes) -> Write:
    """Return the write that a body holds, under ``number``.

    Raises:
        ValueError: it is none that ``pack_write`` makes.
        struct.error: it ends too early.
        WoundedLog: the ident record of an entry is damaged.
        NewerFormat: or of a newer format.
    """
    parts, zero, count, cut, term, has_vote = _START.unpack_from(body)
    reader = ProvenReader(body, _START.size)
    vote = reader.text()
    if zero or parts > _HARD_STATE | _STANDING | _CUT or has_vote > 1 or (vote and not has_vote):
        raise ValueError(f"parts {parts}, padding {zero}, has_vote {has_vote}, vote {vote!r}")
    if ((term or has_vote) and not parts & _HARD_STATE) or (cut and not parts & _CUT):
        raise ValueError(f"parts {parts}, but term {term}, has_vote {has_vote} and cut {cut}")
    standing = _standing(reader, is_there=bool(parts & _STANDING))
    entries = _entries(body, reader.position, count)
    hard_state = HardState(Term(term), NodeId(vote) if has_vote else None) if parts & _HARD_STATE else None
    return Write(number, hard_state, Index(cut) if parts & _CUT else None, entries, standing=standing)


def _standing(reader: ProvenReader, *, is_there: bool) -> Standing | None:
    length = reader.number(_U32)
    end = reader.position + length
    standing = read_standing(reader) if is_there else None
    if reader.position != end:
        raise ValueError(f"a standing of {length} bytes that ends {reader.position - end} bytes behind its end")
    return standing


def _entries(body: bytes, position: int, count: int) -> tuple[Entry, ...]:
    entries = []
    for _ in range(count):
        head = position + IDENT_KEY.size
        key, ident = body[position:head], unpack_ident(body[position:head], body[head : head + IDENT_BYTES])
        start = head + IDENT_BYTES
        position = start + ident.length
        if position > len(body):
            raise ValueError(f"an entry of {ident.length} bytes at {start}, but the body has {len(body)}")
        entries.append(entry_of(int.from_bytes(key, "big"), ident, body[start:position]))
    if position != len(body):
        raise ValueError(f"{len(body) - position} bytes behind the last entry")
    return tuple(entries)
