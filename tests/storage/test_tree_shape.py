"""The shape of LMDB's trees: sound whatever was written, and each bit that writing relies on is missed when it rots."""

from __future__ import annotations

import random
import secrets
import struct
from pathlib import Path

import lmdb
import lmdb.verify
import pytest

from durable_raft.storage.preflight import page_problems
from durable_raft.storage.tree_shape import shape_problems

PAGE = 4096
HEADER = struct.Struct("=QHHHH")
NODE = struct.Struct("=HHHH")
BRANCH, LEAF = 1, 2
KEY = struct.Struct(">Q")
TABLE = b"records"


def written(path: Path, seed: int, rounds: int) -> None:
    """Make an environment by random transactions: puts, replacements and deletions, values from 0 to 9,000 bytes."""
    rng = random.Random(seed)
    environment = lmdb.open(str(path), max_dbs=2, map_size=1 << 28, sync=False, lib_version=0)
    tables = [environment.open_db(name) for name in (TABLE, b"other")]
    for _ in range(rounds):
        with environment.begin(write=True) as transaction:
            begin = rng.randrange(2_000)
            share = rng.random()
            for at in range(begin, begin + rng.randrange(1, 60)):
                key = KEY.pack(at) + bytes(rng.choice((0, 0, at % 300)))
                if rng.random() < share:
                    transaction.put(key, bytes(rng.choice((0, 30, 31, 200, 1_500, 9_000))), db=rng.choice(tables))
                else:
                    transaction.delete(key, db=rng.choice(tables))
    environment.close()


def numbered(path: Path, count: int = 1_000) -> bytearray:
    """Make an environment of ``count`` records; return its bytes."""
    environment = lmdb.open(str(path), max_dbs=1, map_size=1 << 28, sync=False, lib_version=0)
    table = environment.open_db(TABLE)
    with environment.begin(write=True) as transaction:
        for number in range(count):
            transaction.put(KEY.pack(number), bytes(100), db=table)
    environment.close()
    assert page_problems(path) == []
    return bytearray((path / "data.mdb").read_bytes())


def pages_of(data: bytearray, kind: int) -> list[int]:
    """Return where the pages of ``kind`` begin that have several nodes."""
    found = []
    for at in range(2 * PAGE, len(data), PAGE):
        _, _, flags, nodes_end, _ = HEADER.unpack_from(data, at)
        if flags == kind and nodes_end >= HEADER.size + 6:
            found.append(at)
    return found


def is_passed_by_lmdb(path: Path) -> bool:
    """Return whether LMDB's own check finds nothing."""
    return not lmdb.verify.verify(str(path))  # type: ignore[no-untyped-call]


def node_at(data: bytearray, page: int, number: int) -> int:
    """Return where node ``number`` of the page at ``page`` lies."""
    return page + int(struct.unpack_from("=H", data, page + HEADER.size + 2 * number)[0])


def test_whatever_was_written_has_a_sound_shape(tmp_path: Path) -> None:
    """Splits, merges, emptied tables, values on pages of their own: LMDB leaves what is expected of it."""
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")
    for number in range(8):
        written(tmp_path / str(number), seed + number, 60 * number)
        assert shape_problems(tmp_path / str(number)) == []


def test_a_separator_that_hides_keys_is_a_problem(tmp_path: Path) -> None:
    """It is in order among the others, so only the keys below it tell."""
    data = numbered(tmp_path)
    separator = node_at(data, pages_of(data, BRANCH)[0], 2) + NODE.size
    (first,) = KEY.unpack_from(data, separator)
    for other in (first + 1, first - 1):
        KEY.pack_into(data, separator, other)
        (tmp_path / "data.mdb").write_bytes(data)
        assert is_passed_by_lmdb(tmp_path)
        assert "is out of reach of a search" in page_problems(tmp_path)[0]


def test_a_length_that_moves_other_nodes_is_a_problem(tmp_path: Path) -> None:
    """The length of a value, of any node of a leaf: that at the end of the page, too."""
    sound = numbered(tmp_path)
    page = pages_of(sound, LEAF)[0]
    for number in (0, 1, 5):
        data = bytearray(sound)
        node = node_at(data, page, number)
        length, *_ = NODE.unpack_from(data, node)
        struct.pack_into("=H", data, node, length - 8)
        (tmp_path / "data.mdb").write_bytes(data)
        assert is_passed_by_lmdb(tmp_path)
        assert shape_problems(tmp_path)


def test_a_gap_before_the_first_node_is_a_problem(tmp_path: Path) -> None:
    """The next node would be written where it is thought to end."""
    data = numbered(tmp_path)
    page = pages_of(data, LEAF)[0]
    (upper,) = struct.unpack_from("=H", data, page + 14)
    struct.pack_into("=H", data, page + 14, upper - 16)
    (tmp_path / "data.mdb").write_bytes(data)
    assert is_passed_by_lmdb(tmp_path)
    assert f"expected {upper - 16}" in shape_problems(tmp_path)[0]


@pytest.mark.parametrize("flag", [0x02, 0x04, 0x10])
def test_flags_of_a_table_are_a_problem(tmp_path: Path, flag: int) -> None:
    """A key of it would be compared or stored by other rules."""
    data = numbered(tmp_path, 1)
    record = data.rindex(TABLE) + len(TABLE)
    data[record + 4] ^= flag
    (tmp_path / "data.mdb").write_bytes(data)
    assert f"table records: flags {flag:#x}, expected none" in shape_problems(tmp_path)


def test_what_cannot_be_read_is_a_problem_and_no_exception(tmp_path: Path) -> None:
    """A value among the tables that is no table's record; ``lmdb.verify`` takes it for any value."""
    environment = lmdb.open(str(tmp_path), max_dbs=1, map_size=1 << 28, sync=False, lib_version=0)
    with environment.begin(write=True) as transaction:
        transaction.put(b"key", b"value")
    environment.close()
    assert is_passed_by_lmdb(tmp_path)
    assert "not what the one above it says" in page_problems(tmp_path)[0]
