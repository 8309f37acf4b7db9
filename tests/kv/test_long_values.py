"""A long value that grows is kept in pieces, and nobody can tell."""

from __future__ import annotations

import random

import pytest

from durable_raft.kv.keyspace import Keyspace
from durable_raft.kv.layer import CHANGE_BYTES
from durable_raft.kv.long_values import TAIL_BYTES, LongValue
from durable_raft.kv.machine import Machine
from durable_raft.kv.records import extended, make_record
from durable_raft.kv.steps import LARGE_BYTES
from durable_raft.wire.resp import encode_in_pieces, encode_reply
from tests.kv.state_views import PlainView


@pytest.mark.parametrize("seed", range(5))
def test_values_that_share_pieces_do_not_change(seed: int) -> None:
    """Whatever is put behind which of them, in whatever order."""
    rng = random.Random(seed)
    values: list[tuple[LongValue, bytes]] = [(LongValue.of(b"begin"), b"begin")]
    for _ in range(60):
        value, expected = rng.choice(values)
        suffix = rng.randbytes(rng.choice((0, 1, 100, TAIL_BYTES - 1, TAIL_BYTES, 2 * TAIL_BYTES)))
        values.append((value.append(suffix), expected + suffix))
    for value, expected in values:
        assert bytes(value) == expected, f"seed {seed}"
        assert len(value) == len(expected)
        assert value == expected


def test_the_checksum_goes_on_over_what_is_put_behind() -> None:
    """And is the one that the whole value has, for the disk, for other nodes and for older logs."""
    record = make_record(b"key", bytes(100_000), 77)
    whole = bytes(100_000)
    for suffix in (b"", b"x", b"y" * TAIL_BYTES, b"z"):
        record, whole = extended(record, suffix), whole + suffix
        expected = make_record(b"key", whole, 77).crc
        assert bytes(record.value) == whole
        assert record.crc == make_record(b"key", record.value, 77).crc == expected


def test_every_command_takes_a_long_value_as_any_other() -> None:
    """Those that read it, replace it, and give it another time to live."""
    machine, model = Machine(random.Random(1)), Machine(random.Random(1))
    whole = b"7" * (LARGE_BYTES - 1)
    machine.execute([b"set", b"k", whole])
    for _ in range(3):
        machine.execute([b"append", b"k", b"8"])
        whole += b"8"
    model.execute([b"set", b"k", whole])
    commands = (
        [b"get", b"k"],
        [b"mget", b"k", b"k"],
        [b"strlen", b"k"],
        [b"incr", b"k"],
        [b"pexpireat", b"k", b"5000"],
        [b"append", b"k", b"9"],
        [b"persist", b"k"],
        [b"set", b"k", b"short", b"nx", b"get"],
        [b"getset", b"k", b"short"],
        [b"get", b"k"],
    )
    for args in commands:
        found, expected = machine.execute(args), model.execute(args)
        assert encode_reply(found, 2) == b"".join(encode_in_pieces(found, 2)) == encode_reply(expected, 2), args
        assert machine.summary() == model.summary()
        assert machine.digest() == model.digest()


def test_a_byte_behind_a_long_value_copies_none_of_it() -> None:
    """However many there are, what was there is the same object, and the pieces are few."""
    keyspace = Keyspace()
    value = bytes(1_000_000)
    keyspace.put(b"k", value, None)
    for _ in range(3 * TAIL_BYTES):
        record = keyspace.find(b"k")
        assert record is not None
        keyspace.extend(b"k", record, b"x")
    found = keyspace.get(b"k")
    assert isinstance(found, LongValue)
    assert found.pieces()[0] is value
    assert len(found.pieces()) == 4


def test_what_a_frozen_layer_holds_is_not_counted_twice() -> None:
    """But as soon as the checkpoint has ended."""
    keyspace = Keyspace()
    value = bytes(LARGE_BYTES)
    keyspace.put(b"k", value, None)

    def append(suffix: bytes) -> None:
        record = keyspace.find(b"k")
        assert record is not None
        keyspace.extend(b"k", record, suffix)

    append(b"1")
    one = CHANGE_BYTES + 1 + len(value) + 1
    assert keyspace.overlay_bytes == one
    frozen = keyspace.freeze()
    append(b"2")
    append(b"3")
    assert keyspace.overlay_bytes == one + CHANGE_BYTES + 1 + 2
    assert bytes(frozen.changes[b"k"].value) == value + b"1"  # type: ignore[union-attr]
    keyspace.checkpointed(PlainView({b"k": make_record(b"k", value + b"1")}))
    assert keyspace.overlay_bytes == one + 2
    assert keyspace.get(b"k") == value + b"123"
    keyspace.put(b"k", b"", None)
    assert keyspace.overlay_bytes == CHANGE_BYTES + 1
