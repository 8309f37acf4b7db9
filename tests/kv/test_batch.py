"""The payload of a COMMANDS entry: golden bytes, there and back again, and what damage is called."""

from __future__ import annotations

import contextlib

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_raft.errors import CorruptRecord, UnknownFormatVersion
from durable_raft.kv.batch import BATCH_VERSION, decode_batch, decode_commands, encode_batch
from durable_raft.kv.large_batch import BatchDecoder
from durable_raft.kv.runs import Run
from tests.support.batches import batch_of, runs_of

COMMAND_LISTS = st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=6), max_size=6)

ROWS = [
    ([], "0190"),
    ([[b"get", b"k"]], "019192c403676574c4016b"),
    (
        [[b"set", b"\xff\x00", b""], [b"del", b"a"]],
        "019293c403736574c402ff00c40092c40364656cc40161",
    ),
    ([[b"set", b"k", b"v" * 256]], "019193c403736574c4016bc50100" + "76" * 256),
    ([[b"x"] * 16], "0191dc0010" + "c40178" * 16),
]
"""Batches of version 1, which held each command by itself; these lines are only ever added to."""

GOLDEN = [
    ([], "0290"),
    ([Run(b"get", 1, [b"k"])], "029193c40367657401c4016b"),
    ([Run(b"flushall", 1, [])], "029192c408666c757368616c6c01"),
    (
        [Run(b"set", 2, [b"\xff\x00", b"b", b"", b"2"]), Run(b"del", 1, [b"a"])],
        "029296c40373657402c402ff00c40162c400c4013293c40364656c01c40161",
    ),
    ([Run(b"set", 1, [b"k", b"v" * 256])], "029194c40373657401c4016bc50100" + "76" * 256),
    ([Run(b"incr", 200, [b"x"] * 200)], "0291dc00cac404696e6372ccc8" + "c40178" * 200),
]
"""Batches of version 2; these lines are only ever added to."""


def test_the_version_that_is_written() -> None:
    """Another one is another meaning."""
    assert BATCH_VERSION == 2


@pytest.mark.parametrize(("commands", "payload"), ROWS, ids=range(len(ROWS)))
def test_golden_bytes_of_version_1(commands: list[list[bytes]], payload: str) -> None:
    """They are read for as long as logs of version 1 exist, whole or in slices."""
    assert decode_commands(bytes.fromhex(payload)) == commands
    assert decode_batch(bytes.fromhex(payload)) == BatchDecoder(bytes.fromhex(payload)).runs()


@pytest.mark.parametrize(("runs", "payload"), GOLDEN, ids=range(len(GOLDEN)))
def test_golden_bytes(runs: list[Run], payload: str) -> None:
    """Version 2 is written as these bytes and read back from them, for as long as logs of version 2 exist."""
    assert encode_batch(runs).hex() == payload
    assert decode_batch(bytes.fromhex(payload)) == runs


@given(COMMAND_LISTS)
def test_any_commands_of_version_1(commands: list[list[bytes]]) -> None:
    """As its encoder wrote them."""
    assert decode_commands(b"\x01" + msgpack.packb(commands)) == commands


@given(COMMAND_LISTS)
def test_round_trip(commands: list[list[bytes]]) -> None:
    """Any commands come back as they went in, and so do the runs."""
    runs = list(runs_of(commands))
    assert decode_batch(encode_batch(runs)) == runs
    assert decode_commands(encode_batch(runs)) == commands


def test_large_values_come_back() -> None:
    """A value of 16 MiB, and 70,000 commands in one batch, are within the format."""
    large = [[b"set", b"k", bytes(1 << 24)]]
    assert decode_commands(batch_of(large)) == large
    many = [[b"incr", b"%d" % number] for number in range(70_000)]
    assert decode_commands(batch_of(many)) == many


@pytest.mark.parametrize("first", [0, 3, 4, 0x90, 0xFF])
def test_unknown_version(first: int) -> None:
    """Another version is not damage: the error says which was found and which is known, whatever stands behind it."""
    for rest in (b"", b"\x90", b"\xc1\xc1"):
        with pytest.raises(UnknownFormatVersion, match=rf"version {first}; this build knows 1 and 2"):
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
    for version in (b"\x01", b"\x02"):
        for decode in (decode_batch, lambda payload: BatchDecoder(payload).runs()):
            with pytest.raises(CorruptRecord, match=f"batch of {len(body) + 1} bytes"):
                decode(version + body)


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
        [[b"a", 1, 2]],
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
    with pytest.raises(CorruptRecord, match="expected a list of runs of byte strings"):
        decode_batch(b"\x02" + packed)


@pytest.mark.parametrize(
    "run",
    [
        [],
        [b"set"],
        [1, b"set"],
        [b"set", b"k", b"v"],
        ["set", 1, b"k"],
        [b"set", 0],
        [b"set", 0, b"k"],
        [b"set", -1, b"k"],
        [b"set", True, b"k"],
        [b"set", 1.0, b"k"],
        [b"set", None, b"k"],
        [b"set", 2, b"k"],
        [b"set", 2, b"k", b"l", b"v"],
        [b"set", 2**63, b"k"],
        [b"flushall", 2],
        [b"flushall", 2**32],
        [b"set", 1, "k"],
        [b"set", 1, [b"k"]],
    ],
    ids=repr,
)
def test_runs_that_are_none(run: list[object]) -> None:
    """A length that does not fit the arguments would make commands of another shape, or without end."""
    payload = b"\x02" + msgpack.packb([[b"get", 1, b"k"], run])
    for decode in (decode_batch, lambda payload: BatchDecoder(payload).runs()):
        with pytest.raises(CorruptRecord, match="expected a list of runs of byte strings"):
            decode(payload)


@given(COMMAND_LISTS, st.data())
def test_every_cut_is_noticed(commands: list[list[bytes]], data: st.DataObject) -> None:
    """A payload that lacks its end, or has something behind it, is never taken for a batch."""
    payload = batch_of(commands)
    cut = data.draw(st.integers(1, len(payload) - 1))
    for damaged in (payload[:cut], payload + data.draw(st.binary(min_size=1, max_size=5))):
        with pytest.raises(CorruptRecord):
            decode_batch(damaged)


@given(st.binary(max_size=60), st.sampled_from([b"", b"\x01", b"\x02"]))
@settings(max_examples=1000)
def test_rubbish_raises_nothing_else(rubbish: bytes, version: bytes) -> None:
    """Whatever the bytes, only the two errors that callers expect come out."""
    with contextlib.suppress(CorruptRecord, UnknownFormatVersion):
        decoded = decode_commands(version + rubbish)
        assert all(type(arg) is bytes for command in decoded for arg in command)
