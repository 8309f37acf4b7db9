"""The short way through a record of the KV state believes no more than the long one."""

from __future__ import annotations

import pytest

from durable_raft.kv.records import SHORT_KEY_BYTES_MAX, Record, make_record
from durable_raft.storage.state.records import pack_record, plain_crc, stored_key, unpack_record
from durable_raft.storage.wounds import WoundedState


def flipped(content: bytes, bit: int) -> bytes:
    """Return ``content`` with one bit flipped."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def stored(key: bytes, record: Record) -> tuple[bytes, bytes]:
    """Return the item of table ``keys``."""
    return stored_key(key), pack_record(key, record)


@pytest.mark.parametrize("value", [b"", b"value", b"v" * 5000])
def test_every_flipped_bit_is_seen(value: bytes) -> None:
    """In the key, the checksum, the deadline and the value; and unharmed, both ways tell the same checksum."""
    name, content = stored(b"key", make_record(b"key", value))
    assert plain_crc(name, content) == unpack_record(name, content)[1].crc
    for bit in range(len(name) * 8):
        assert plain_crc(flipped(name, bit), content) is None
    for bit in range(len(content) * 8):
        assert plain_crc(name, flipped(content, bit)) is None


@pytest.mark.parametrize("length", range(12))
def test_a_record_that_is_cut_off_is_seen(length: int) -> None:
    """Shorter than a record can be."""
    name, content = stored(b"key", make_record(b"key", b""))
    assert plain_crc(name, content[:length]) is None
    with pytest.raises(WoundedState):
        unpack_record(name, content[:length])


@pytest.mark.parametrize(
    ("key", "deadline_ms"), [(b"key", 1_800_000_000_000), (b"k" * (SHORT_KEY_BYTES_MAX + 1), 0), (b"", 1)]
)
def test_what_is_not_plain_is_left_to_the_other(key: bytes, deadline_ms: int) -> None:
    """A deadline is looked up in another table; a long key stands in the value."""
    record = make_record(key, b"value", deadline_ms)
    name, content = stored(key, record)
    assert plain_crc(name, content) is None
    assert unpack_record(name, content) == (key, record)
