"""Backups: what is written comes back, and no damaged, cut or unfinished file is taken for a backup."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from durable_raft.errors import CorruptRecord, UnknownFormatVersion
from durable_raft.kv.records import Record, StateSummary, make_record, order_key
from durable_raft.raft.types import Base, Index, LogPoint, Term
from durable_raft.storage.state.backup import BackupReader, BackupWriter, Item
from durable_raft.storage.state.meta import KvMeta
from tests.support.log_building import IDENTITY, MEMBERSHIP


def state(keys: int = 40, seed: int = 1) -> list[Item]:
    """Return some records in order: an empty key, a long one, deadlines, a large value."""
    rng = random.Random(seed)
    records: dict[bytes, Record] = {b"": make_record(b"", b""), b"l" * 2000: make_record(b"l" * 2000, b"x", 77)}
    for number in range(keys):
        key = b"key%d" % number
        records[key] = make_record(key, rng.randbytes(rng.randrange(30)), rng.choice((0, 10**12)))
    return sorted(records.items(), key=lambda item: order_key(item[0]))


def meta_of(items: list[Item]) -> KvMeta:
    """Return the meta record that announces ``items``."""
    records = [record for _, record in items]
    summary = StateSummary(
        len(items), sum(bool(record.deadline_ms) for record in records), sum(record.crc for record in records)
    )
    return KvMeta(5, IDENTITY, MEMBERSHIP, Base(LogPoint(Index(9), Term(3), 0x1234), 10**12), summary)


def written(path: Path, items: list[Item], piece: int = 7) -> bytes:
    """Write a backup in pieces; return its bytes."""
    with BackupWriter(path, meta_of(items)) as writer:
        for at in range(0, len(items), piece):
            writer.write_items(items[at : at + piece])
        writer.complete()
    return path.read_bytes()


def read(path: Path) -> list[Item]:
    """Return every record of a backup."""
    with BackupReader(path) as reader:
        return [item for piece in reader.pieces() for item in piece]


def test_backup_comes_back_as_it_was(tmp_path: Path) -> None:
    """Records, order and meta are those that were written, and nothing else lies beside the file."""
    items = state()
    items = sorted([*items, (b"zz", make_record(b"zz", bytes(3 << 20)))], key=lambda item: order_key(item[0]))
    written(tmp_path / "b", items)
    assert read(tmp_path / "b") == items
    with BackupReader(tmp_path / "b") as reader:
        assert reader.meta == meta_of(items)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_empty_state_can_be_backed_up(tmp_path: Path) -> None:
    """A backup of nothing is a whole file."""
    written(tmp_path / "b", [])
    assert read(tmp_path / "b") == []


def test_every_flipped_byte_is_found_and_has_a_place(tmp_path: Path) -> None:
    """No byte of the file can change unseen; the error says where."""
    path = tmp_path / "b"
    whole = written(path, state(6))
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(
            (CorruptRecord, UnknownFormatVersion), match=r"head|piece \d+ at offset|end at offset|newer"
        ):
            read(path)


def test_every_cut_is_found(tmp_path: Path) -> None:
    """A file that ends too early, wherever, and one that goes on behind its end, are refused."""
    path = tmp_path / "b"
    whole = written(path, state(6))
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptRecord):
            read(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(CorruptRecord, match="end of the file"):
        read(path)


def test_pieces_that_change_places_are_found(tmp_path: Path) -> None:
    """A piece that is sound by itself is refused where another should be."""
    path = tmp_path / "b"
    items = [(key, make_record(key, b"same")) for key in (b"a", b"b", b"c")]
    whole = written(path, items, piece=1)
    start = len(written(tmp_path / "empty", [])) - 20
    size = (len(whole) - start - 20) // 3
    pieces = [whole[start + size * number : start + size * (number + 1)] for number in range(3)]
    for order in ((1, 0, 2), (0, 0, 1), (0, 2, 2), (0, 2)):
        path.write_bytes(whole[:start] + b"".join(pieces[number] for number in order) + whole[-20:])
        with pytest.raises(CorruptRecord):
            read(path)


def test_interrupted_backup_leaves_nothing(tmp_path: Path) -> None:
    """Without ``finish``, or when the records are not those announced, there is no file afterwards."""
    items = state()
    with BackupWriter(tmp_path / "b", meta_of(items)) as writer:
        writer.write_items(items[:5])
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
    with BackupWriter(tmp_path / "b", meta_of(items)) as writer:
        writer.write_items(items[:5])
        with pytest.raises(CorruptRecord, match="expected"):
            writer.complete()
    assert list(tmp_path.iterdir()) == []


def test_records_are_checked_as_they_are_written(tmp_path: Path) -> None:
    """A record with a wrong checksum, or out of order, never gets into a file."""
    items = state()
    wrong = (b"zzz", Record(b"v", 0, 1))
    for bad in ([wrong], [items[3], items[2]], [items[3], items[3]]):
        with pytest.raises(CorruptRecord), BackupWriter(tmp_path / "b", meta_of(items)) as writer:
            writer.write_items(bad)


def test_newer_version_is_not_damage(tmp_path: Path) -> None:
    """A file whose checksum is right and whose version is not known is refused as that."""
    from durable_raft.checksum import crc32c

    path = tmp_path / "b"
    whole = bytearray(written(path, []))
    whole[8] = 2
    head = len(whole) - 20
    whole[head - 4 : head] = crc32c(bytes(whole[: head - 4])).to_bytes(4, "big")
    path.write_bytes(whole)
    with pytest.raises(UnknownFormatVersion, match="version 2"):
        read(path)
    assert replace(meta_of([]), sequence=5) == meta_of([])
