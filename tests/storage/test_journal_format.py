"""What the commit journal's ring holds after power cuts and rot: its end is told from damage."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_raft.checksum import crc32c
from durable_raft.errors import CorruptRecord, UnknownFormatVersion
from durable_raft.storage.log import journal_format
from durable_raft.storage.log.journal import Journal
from durable_raft.storage.log.journal_format import (
    BLOCK_BYTES,
    HEAD_BYTES,
    RING_AT,
    SECTOR_BYTES,
    Header,
    copy_bytes,
    pack_group,
    pack_header,
    read_groups,
    read_header,
)
from durable_raft.storage.log.meta import JournalMark
from tests.support.journal_files import MemoryJournalFile

UUID = b"journal-uuid-16b"
RING_BYTES = 24 * BLOCK_BYTES
BODIES = st.lists(st.integers(0, 9000).map(lambda size: bytes(size % 251 for _ in range(size))), min_size=1, max_size=9)

NAMED_BYTES = 40
"""Of a head, up to the number."""

GOLDEN_HEADER = "4452 4a46 01 01 0000 6a6f75726e616c2d757569642d313662 0000000000000005 0000000000018000"
GOLDEN_HEAD = (
    "44524a47 01 01 0000 6a6f75726e616c2d757569642d313662 0000000000000005 0000000000000009 0000000000000007"
    "0000000000002000 00000004 000000aa"
)


class Written:
    """A journal that groups were appended to, and what was acknowledged."""

    def __init__(self, bodies: list[bytes], moved: int = 0, generation: int = 5) -> None:
        """Append ``bodies``, the first ``moved`` of them released as soon as they are durable."""
        self.mark = JournalMark(UUID, generation, 6, 0)
        self.file = MemoryJournalFile(Header(UUID, generation, RING_BYTES))
        self.journal = Journal(self.file, self.mark, RING_BYTES)
        self.bodies: list[bytes] = []
        """Of the groups that LMDB does not hold."""
        for body in bodies:
            if self.append(body) and moved:
                moved -= 1
                self.move()

    def append(self, body: bytes) -> bool:
        """Append a group if there is room, and return whether there was."""
        if not self.journal.has_room(len(body)):
            return False
        self.journal.append(self.mark.number + len(self.bodies) + 1, body)
        self.bodies.append(body)
        return True

    def move(self) -> None:
        """Have LMDB hold all groups."""
        number = self.mark.number + len(self.bodies)
        self.mark = self.journal.mark(number)
        self.journal.release(number)
        self.bodies = []

    def ring(self) -> bytes:
        """Return what is on the disk."""
        return bytes(self.file.durable[RING_AT:])

    def found(self) -> list[bytes]:
        """Return the bodies that a start finds."""
        return [group.body for group in read_groups(self.ring(), self.mark)]


@given(BODIES, st.integers(0, 9))
def test_what_was_flushed_is_found(bodies: list[bytes], moved: int) -> None:
    """In order, and nothing of what LMDB holds already, however often the ring went round."""
    written = Written(bodies, moved)
    assert written.found() == written.bodies


@settings(max_examples=200)
@given(BODIES, st.integers(0, 9), st.binary(max_size=9000), st.data())
def test_a_torn_group_is_the_end(bodies: list[bytes], moved: int, torn: bytes, data: st.DataObject) -> None:
    """Whatever sectors of a group that was not flushed reached the disk: it is there as a whole, or not at all."""
    written = Written(bodies, moved)
    flush, written.file.flush = written.file.flush, lambda: None  # type: ignore[method-assign]
    if not written.append(torn):
        return
    written.file.flush = flush  # type: ignore[method-assign]
    acknowledged = written.bodies[:-1]
    count = len(written.file.sectors())
    written.file.cut_power(data.draw(st.sets(st.integers(0, count - 1))))
    assert written.found() in (acknowledged, [*acknowledged, torn])


@settings(max_examples=200)
@given(BODIES, st.integers(0, 9), st.data())
def test_one_damaged_page_loses_nothing(bodies: list[bytes], moved: int, data: st.DataObject) -> None:
    """Each group is in two places that share no page."""
    written = Written(bodies, moved)
    block = data.draw(st.integers(0, RING_BYTES // BLOCK_BYTES - 1))
    kind = data.draw(st.sampled_from([bytes(BLOCK_BYTES), b"\xff" * BLOCK_BYTES, written.ring()[:BLOCK_BYTES]]))
    written.file.damage(RING_AT + block * BLOCK_BYTES, kind)
    assert written.found() == written.bodies


@given(BODIES, st.data())
def test_one_flipped_bit_loses_nothing(bodies: list[bytes], data: st.DataObject) -> None:
    """A bit anywhere, in a head too, does not end the log early."""
    written = Written(bodies)
    at = RING_AT + data.draw(st.integers(0, len(bodies) * 3 * BLOCK_BYTES)) % RING_BYTES
    written.file.damage(at, bytes([written.file.durable[at] ^ 1 << data.draw(st.integers(0, 7))]))
    assert written.found() == written.bodies


@given(st.integers(1, 4), st.integers(0, 3))
def test_a_group_that_is_not_whole_is_damage_when_a_later_one_was_begun(count: int, lost: int) -> None:
    """It was acknowledged: the later one is written only then. Of the last one nobody can tell by a later sector."""
    written = Written([bytes([number + 1]) * 1000 for number in range(count)])
    lost %= count
    for block in (2 * lost, 2 * lost + 1):
        written.file.damage(RING_AT + block * BLOCK_BYTES + SECTOR_BYTES, b"rotten")
    if lost == count - 1:
        assert written.found() == written.bodies[:-1]
    else:
        with pytest.raises(CorruptRecord, match=f"group {7 + lost}"):
            written.found()


@settings(max_examples=200)
@given(BODIES, st.integers(0, 9), st.data())
def test_copies_that_rot_in_different_sectors_are_put_together(
    bodies: list[bytes], moved: int, data: st.DataObject
) -> None:
    """Of every group, in up to three sectors of each copy, the heads' among them: nothing is lost."""
    written = Written(bodies, moved)
    for head, _, at in list(journal_format._heads(written.ring(), UUID)):
        if at != head.offset or head.number <= written.mark.number:
            continue
        size = copy_bytes(head.length)
        sectors = data.draw(st.sets(st.integers(0, size // SECTOR_BYTES - 1), max_size=6))
        for count, sector in enumerate(sorted(sectors)):
            place = RING_AT + head.offset + (count % 2) * size + sector * SECTOR_BYTES
            written.file.damage(place, bytes(SECTOR_BYTES))
    assert written.found() == written.bodies


@given(st.binary(max_size=600), st.data())
def test_both_copies_of_the_last_group_that_rot_are_damage(body: bytes, data: st.DataObject) -> None:
    """A bit behind what names the group, in the head or in a body that ends with the sector: no torn write does so."""
    written = Written([b"before", body])
    end = HEAD_BYTES + len(body)
    bit = data.draw(st.integers(8 * NAMED_BYTES, 8 * (end if end <= SECTOR_BYTES else HEAD_BYTES) - 1))
    for block in (2, 3):
        at = RING_AT + block * BLOCK_BYTES + bit // 8
        written.file.damage(at, bytes([written.file.durable[at] ^ 1 << bit % 8]))
    with pytest.raises(CorruptRecord, match=r"group 8.*no torn write"):
        written.found()


def test_a_torn_group_tells_that_the_one_before_was_flushed() -> None:
    """The head of a group that was never acknowledged is enough to see that an acknowledged one is lost."""
    written = Written([b"first", b"second" * 100])
    for block in (0, 1):
        written.file.damage(RING_AT + block * BLOCK_BYTES, bytes(BLOCK_BYTES))
    for block in (2, 3):
        written.file.damage(RING_AT + block * BLOCK_BYTES + SECTOR_BYTES, bytes(SECTOR_BYTES))
    with pytest.raises(CorruptRecord, match="group 7"):
        written.found()


def test_another_generation_is_not_believed() -> None:
    """What an earlier load found was moved; what a later one wrote means that LMDB went back."""
    written = Written([b"one", b"two"])
    later = JournalMark(UUID, 6, 6, 0)
    assert read_groups(written.ring(), later) == []
    with pytest.raises(CorruptRecord, match="generation 4"):
        read_groups(written.ring(), JournalMark(UUID, 4, 6, 0))
    assert read_groups(written.ring(), JournalMark(b"another--journal", 4, 6, 0)) == []


def test_lmdb_that_forgot_a_group_is_noticed() -> None:
    """A group says what LMDB held when it was written."""
    written = Written([b"one", b"two"], moved=1)
    with pytest.raises(CorruptRecord, match="it held 7"):
        read_groups(written.ring(), JournalMark(UUID, 5, 6, 0))


def test_groups_of_another_chain_are_damage() -> None:
    """Each group names the sum of the one before it."""
    written = Written([b"one", b"two"])
    with pytest.raises(CorruptRecord, match="chain"):
        read_groups(written.ring(), JournalMark(UUID, 5, 6, 1))


def test_a_group_in_another_place_is_none() -> None:
    """A misdirected write, or a client's value that looks like a group."""
    written = Written([b"one"])
    copy = written.ring()[:BLOCK_BYTES]
    written.file.damage(RING_AT, bytes(2 * BLOCK_BYTES))
    written.file.damage(RING_AT + 7 * BLOCK_BYTES, copy)
    assert written.found() == []


def test_two_whole_copies_that_differ_are_damage() -> None:
    """Nobody writes two groups under one number."""
    written = Written([b"one"])
    other, _ = pack_group(written.mark, 7, 0, b"two")
    written.file.damage(RING_AT + BLOCK_BYTES, other)
    with pytest.raises(CorruptRecord, match="disagrees"):
        written.found()


def test_golden_bytes() -> None:
    """The layout of version 1 stays."""
    header = bytes.fromhex(GOLDEN_HEADER)
    packed = pack_header(Header(UUID, 5, RING_BYTES))
    assert packed[: len(header)] == header
    assert packed[:BLOCK_BYTES] == packed[BLOCK_BYTES:]
    assert read_header(packed) == Header(UUID, 5, RING_BYTES)
    head = bytes.fromhex(GOLDEN_HEAD)
    group, total = pack_group(JournalMark(UUID, 5, 7, 0xAA), 9, 2 * BLOCK_BYTES, b"body")
    assert len(group) == copy_bytes(4) == BLOCK_BYTES
    assert group[: len(head)] == head
    assert total == crc32c(head + b"body") == int.from_bytes(group[64:68], "big")
    assert group[HEAD_BYTES : HEAD_BYTES + 4] == b"body"


def test_the_newer_copy_of_the_header_counts() -> None:
    """A crash may leave one of each; one rotten copy is none."""
    older, newer = (pack_header(Header(UUID, generation, RING_BYTES)) for generation in (3, 4))
    assert read_header(older[:BLOCK_BYTES] + newer[BLOCK_BYTES:]).generation == 4
    assert read_header(newer[:BLOCK_BYTES] + older[BLOCK_BYTES:]).generation == 4
    assert read_header(bytes(BLOCK_BYTES) + older[BLOCK_BYTES:]).generation == 3
    with pytest.raises(CorruptRecord):
        read_header(bytes(2 * BLOCK_BYTES))
    other = pack_header(Header(b"another--journal", 3, RING_BYTES))
    with pytest.raises(CorruptRecord):
        read_header(older[:BLOCK_BYTES] + other[BLOCK_BYTES:])


def test_a_newer_format_is_not_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the header and of a group: right proofs, another version."""
    with monkeypatch.context() as patch:
        patch.setattr(journal_format, "JOURNAL_VERSION", 2)
        header = pack_header(Header(UUID, 5, RING_BYTES))
        newer, _ = pack_group(JournalMark(UUID, 5, 6, 0), 7, 0, b"")
    with pytest.raises(UnknownFormatVersion):
        read_header(header)
    with pytest.raises(UnknownFormatVersion):
        read_groups(newer * 2 + bytes(RING_BYTES - 2 * len(newer)), JournalMark(UUID, 5, 6, 0))


def test_sectors_divide_a_block() -> None:
    """The header's copies fit into a sector each, so that a torn one is the old or the new."""
    assert BLOCK_BYTES % SECTOR_BYTES == 0
    assert len(pack_header(Header(UUID, 5, RING_BYTES))[:BLOCK_BYTES].rstrip(b"\0")) <= SECTOR_BYTES
