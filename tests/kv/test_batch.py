"""The payload of a COMMANDS entry: golden bytes, there and back again, and what damage is called."""

from __future__ import annotations

import contextlib

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_raft.errors import CorruptRecord, UnknownFormatVersion
from durable_raft.kv.batch import BATCH_VERSION, decode_batch, encode_batch

COMMAND_LISTS = st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=6), max_size=6)

GOLDEN = [
    ([], "0190"),
    ([[b"get", b"k"]], "019192c403676574c4016b"),
    (
        [[b"set", b"\xff\x00", b""], [b"del", b"a"]],
        "019293c403736574c402ff00c40092c40364656cc40161",
    ),
    ([[b"set", b"k", b"v" * 256]], "019193c403736574c4016bc50100" + "76" * 256),
    ([[b"x"] * 16], "0191dc0010" + "c40178" * 16),
]
"""Batches of version 1; these lines are only ever added to."""


@pytest.mark.parametrize(("commands", "payload"), GOLDEN, ids=range(len(GOLDEN)))
def test_golden_bytes(commands: list[list[bytes]], payload: str) -> None:
    """Version 1 is written as these bytes and read back from them, for as long as logs of version 1 exist."""
    assert BATCH_VERSION == 1
    assert encode_batch(commands).hex() == payload
    assert decode_batch(bytes.fromhex(payload)) == commands


@given(COMMAND_LISTS)
def test_round_trip(commands: list[list[bytes]]) -> None:
    """Any commands come back as they went in."""
    assert decode_batch(encode_batch(commands)) == commands


def test_large_values_come_back() -> None:
    """A value of 16 MiB, and 70,000 commands in one batch, are within the format."""
    large = [[b"set", b"k", bytes(1 << 24)]]
    assert decode_batch(encode_batch(large)) == large
    many = [[b"incr", b"%d" % number] for number in range(70_000)]
    assert decode_batch(encode_batch(many)) == many


@pytest.mark.parametrize("first", [0, 2, 3, 0x90, 0xFF])
def test_unknown_version(first: int) -> None:
    """Another version is not damage: the error says which was found and which is known, whatever stands behind it."""
    for rest in (b"", b"\x90", b"\xc1\xc1"):
        with pytest.raises(UnknownFormatVersion, match=rf"version {first}; this build knows {BATCH_VERSION}"):
            decode_batch(bytes([first]) + rest)


def test_empty_payload() -> None:
    """A payload without even a version is refused."""
    with pytest.raises(UnknownFormatVersion, match="version none"):
        decode_batch(b"")


NESTED = b"\x91" * 100_000 + b"\x90"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x91",
        b"\x90\x90",
        NESTED,
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91\x91\xc6\xff\xff\xff\xff",
        b"\x81\x90\x90",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xd7\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x91\x91\xc4\x02a",
        b"\x91\x91\xa1\xff",
    ],
    ids=range(13),
)
def test_bytes_that_are_no_batch(body: bytes) -> None:
    """Cut, overlong, nested without end or claiming more than there is: one error, that of damage."""
    with pytest.raises(CorruptRecord, match=f"batch of {len(body) + 1} bytes"):
        decode_batch(b"\x01" + body)


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        b"x",
        "x",
        {},
        {b"a": [b"b"]},
        [b"x"],
        [None],
        [[]],
        [[b"a"], []],
        [["a"]],
        [[b"a", 1]],
        [[b"a", [b"b"]]],
        [{b"a": 1}],
    ],
    ids=repr,
)
def test_other_shapes(value: object) -> None:
    """What decodes to anything but lists of byte strings, none of them empty, is damage."""
    packed: bytes = msgpack.packb(value)
    with pytest.raises(CorruptRecord, match="expected a list of lists of byte strings"):
        decode_batch(b"\x01" + packed)


@given(COMMAND_LISTS, st.data())
def test_every_cut_is_noticed(commands: list[list[bytes]], data: st.DataObject) -> None:
    """A payload that lacks its end, or has something behind it, is never taken for a batch."""
    payload = encode_batch(commands)
    cut = data.draw(st.integers(1, len(payload) - 1))
    for damaged in (payload[:cut], payload + data.draw(st.binary(min_size=1, max_size=5))):
        with pytest.raises(CorruptRecord):
            decode_batch(damaged)


@given(st.binary(max_size=60), st.booleans())
@settings(max_examples=1000)
def test_rubbish_raises_nothing_else(rubbish: bytes, with_version: bool) -> None:
    """Whatever the bytes, only the two errors that callers expect come out."""
    with contextlib.suppress(CorruptRecord, UnknownFormatVersion):
        decoded = decode_batch(b"\x01" + rubbish if with_version else rubbish)
        assert all(type(arg) is bytes for command in decoded for arg in command)
