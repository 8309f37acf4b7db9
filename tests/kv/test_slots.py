"""Hash slots: the specification's examples, its rules on tags, and redis-server's CLUSTER KEYSLOT."""

from __future__ import annotations

import random
from binascii import crc_hqx
from pathlib import Path

import pytest

from durable_raft.kv.slots import SLOTS, key_slot
from tests.support.redis_oracle import running_redis


@pytest.mark.parametrize(
    ("key", "slot"),
    [(b"foo", 12182), (b"123456789", 12739), (b"", 0), (b"{user1000}.following", 3443), (b"somekey", 11058)],
)
def test_known_slots(key: bytes, slot: int) -> None:
    """Slots that Redis's documents print; 123456789 is the check value of CRC-16/XMODEM, 0x31C3."""
    assert key_slot(key) == slot


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"{user1000}.following", b"user1000"),
        (b"{user1000}.followers", b"user1000"),
        (b"a{b}c", b"b"),
        (b"foo{}{bar}", b"foo{}{bar}"),
        (b"foo{{bar}}zap", b"{bar"),
        (b"foo{bar}{zap}", b"bar"),
        (b"{}", b"{}"),
        (b"{", b"{"),
        (b"}{", b"}{"),
        (b"}a{b}", b"b"),
        (b"{a", b"{a"),
        (b"a}b", b"a}b"),
    ],
)
def test_only_the_first_tag_counts(key: bytes, hashed: bytes) -> None:
    """What stands between the first { and the next } is hashed, if there is anything; otherwise the whole key is."""
    assert key_slot(key) == crc_hqx(hashed, 0) % SLOTS


def test_slots_are_those_of_a_redis_cluster(tmp_path: Path) -> None:
    """Random keys with and without braces fall into the slot that redis-server names."""
    rng = random.Random(3)
    keys = [bytes(rng.choices(b"ab{}\xff\0", k=rng.randint(0, 12))) for _ in range(2000)]
    with running_redis(tmp_path, "--cluster-enabled", "yes") as oracle:
        for key in keys:
            slot = key_slot(key)
            assert 0 <= slot < SLOTS
            assert oracle.ask(b"CLUSTER", b"KEYSLOT", key) == slot, key
