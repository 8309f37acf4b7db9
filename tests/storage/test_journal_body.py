"""The body of a journaled group: what goes in comes out, and nothing else is taken for one."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_raft.errors import InvariantViolation, StorageError
from durable_raft.raft.ready import Write
from durable_raft.raft.types import ORIGIN, Base, Index, Standing
from durable_raft.storage.log.journal_body import pack_write, unpack_write
from tests.support.log_building import entries_after, vote, write

HARD_STATES = st.one_of(st.none(), st.builds(vote, st.integers(0, 1 << 63), st.sampled_from([None, "n1", "node-2"])))
STANDINGS = st.sampled_from([None, Standing(), Standing(is_voter=False, place=b"place")])
WRITES = st.builds(
    lambda hard_state, standing, cut, count, size: Write(
        7,
        hard_state,
        None if cut is None else Index(cut),
        tuple(entries_after(ORIGIN, count, payload=b"p" * size)),
        standing=standing,
    ),
    HARD_STATES,
    STANDINGS,
    st.one_of(st.none(), st.integers(1, 1 << 40)),
    st.integers(0, 4),
    st.integers(0, 3000),
)
GOLDEN = (
    "05 00 0001 0000000000000005 0000000000000003 01 0002 6e32 00000000 0000000000000001"
    "01 01 01 00 0000000000000003 00000000000003e9 00000001"
)


@given(WRITES)
def test_a_write_comes_back(written: Write) -> None:
    """All that a group may hold."""
    assert unpack_write(7, pack_write(written)) == written


@given(WRITES, st.data())
def test_what_is_cut_short_or_goes_on_is_none(written: Write, data: st.DataObject) -> None:
    """Though its sum were right."""
    body = pack_write(written)
    for wrong in (body[: data.draw(st.integers(0, len(body) - 1))], body + b"\0"):
        with pytest.raises((ValueError, struct.error, StorageError)):
            unpack_write(7, wrong)


@pytest.mark.parametrize("at", [0, 1, 11, 19, 20])
def test_what_no_version_writes_is_none(at: int) -> None:
    """Unknown parts, padding, a cut, a term or a vote where there should be none."""
    body = bytearray(pack_write(write(7)))
    body[at] = 8
    with pytest.raises((ValueError, struct.error)):
        unpack_write(7, bytes(body))


def test_what_goes_to_lmdb_directly_is_refused() -> None:
    """A snapshot, mended entries, and more entries than can be counted."""
    entries = tuple(entries_after(ORIGIN, 1))
    for wrong in (
        replace(write(7), new_base=Base(ORIGIN, 0)),
        replace(write(7), mended=entries),
        write(7, entries * (1 << 16)),
    ):
        with pytest.raises(InvariantViolation):
            pack_write(wrong)


def test_golden_bytes() -> None:
    """The layout of version 1 stays: an ident record's own is held by test_records.py."""
    entries = entries_after(ORIGIN, 1, term=3, payload=b"x")
    body = pack_write(write(7, entries, cut=5, hard_state=vote(3, "n2")))
    golden = bytes.fromhex(GOLDEN)
    assert (body[: len(golden)], len(body), body[-1:]) == (golden, len(golden) + 12 + 1, b"x")
