"""Large batches in slices: the same bytes and the same commands as at once, and no slice that takes long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durable_raft.errors import CorruptRecord, UnknownFormatVersion
from durable_raft.kv import large_batch
from durable_raft.kv.batch import decode_batch, encode_batch
from durable_raft.kv.large_batch import BatchDecoder, BatchEncoder
from durable_raft.kv.runs import commands_of
from tests.kv.test_batch import COMMAND_LISTS
from tests.support.batches import batch_of, runs_of
from tests.support.growth import require_even_as_in_a_node

MIB = 1 << 20


def sets_of(*sizes: int) -> list[list[bytes]]:
    """Return a SET of a value of each of these sizes."""
    return [[b"set", b"k%d" % size, b"%08d" % size * (size // 8) + b"x" * (size % 8)] for size in sizes]


@pytest.mark.parametrize(
    "commands",
    [
        [],
        sets_of(0, 1, 255, 256, 65_535, 65_536, 65_537),
        sets_of(10 * MIB),
        sets_of(4 * MIB, 4 * MIB + 1, 8 * MIB, 3),
        [[b"mset", *[b"v" * (MIB + 1)] * 20], [b"get", b"x"]],
        [[b"incr", b"%d" % number] for number in range(70_000)],
        [[b"x"] * 70_000],
    ],
    ids=range(7),
)
def test_same_as_at_once(commands: list[list[bytes]]) -> None:
    """Whoever writes it, every node reads it."""
    runs = list(runs_of(commands))
    payload = encode_batch(runs)
    assert BatchEncoder(runs).payload() == payload
    assert BatchDecoder(payload).runs() == runs
    assert commands_of(BatchDecoder(b"\x01" + msgpack.packb(commands)).runs()) == commands
    encoder, decoder = BatchEncoder(runs), BatchDecoder(payload)
    while not encoder.step():
        pass
    while not decoder.step():
        pass
    assert encoder.payload() == payload
    assert decoder.runs() == runs


@pytest.fixture
def _tiny_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_batch, "SLICE_BYTES", 7)
    monkeypatch.setattr(large_batch, "SLICE_ARGS", 3)


@pytest.mark.usefixtures("_tiny_slices")
@given(COMMAND_LISTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_commands_in_any_slices(commands: list[list[bytes]]) -> None:
    """Wherever a slice ends."""
    runs = list(runs_of(commands))
    assert BatchEncoder(runs).payload() == encode_batch(runs)
    assert BatchDecoder(encode_batch(runs)).runs() == runs
    assert commands_of(BatchDecoder(b"\x01" + msgpack.packb(commands)).runs()) == commands


@pytest.mark.usefixtures("_tiny_slices")
@given(COMMAND_LISTS, st.integers(0, 10_000), st.binary(max_size=3), st.integers(0, 3), st.booleans())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_named_as_at_once(
    commands: list[list[bytes]], at: int, added: bytes, removed: int, is_in_rows: bool
) -> None:
    """What is not a batch raises what ``decode_batch`` raises, or is read as the same commands."""
    good = b"\x01" + msgpack.packb(commands) if is_in_rows else batch_of(commands)
    at %= len(good)
    damaged = good[:at] + added + good[at + removed :]
    expected: object = None
    with suppress(CorruptRecord, UnknownFormatVersion):
        expected = decode_batch(damaged)
    if expected is None:
        with pytest.raises((CorruptRecord, UnknownFormatVersion)):
            BatchDecoder(damaged).runs()
    else:
        assert BatchDecoder(damaged).runs() == expected


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x03\x90",
        b"\x01",
        b"\x01\xc0",
        b"\x01" + msgpack.packb([1]),
        b"\x01" + msgpack.packb([[]]),
        b"\x01" + msgpack.packb([[b"get", "text"]]),
        b"\x01" + msgpack.packb([[b"get"]]) + b"x",
        b"\x01" + msgpack.packb([[b"x" * 5 * MIB]])[:-1],
        b"\x02",
        b"\x02\x91\x92\xc4\x01x\xd0\xff",
        b"\x02" + msgpack.packb([[b"set", 1, b"x" * 5 * MIB]])[:-1],
    ],
    ids=range(12),
)
def test_what_is_no_batch(payload: bytes) -> None:
    """The same error as at once, and the same class."""
    with pytest.raises((CorruptRecord, UnknownFormatVersion)) as at_once:
        decode_batch(payload)
    with pytest.raises(type(at_once.value)):
        BatchDecoder(payload).runs()


def encoded_in_slices() -> Iterator[None]:
    """Return the slices of encoding a value of 64 MiB."""
    return slices_of(BatchEncoder(list(runs_of(sets_of(64 * MIB)))).step)


def decoded_in_slices() -> Iterator[None]:
    """Return the slices of decoding one."""
    return slices_of(BatchDecoder(batch_of(sets_of(64 * MIB))).step)


@pytest.mark.parametrize("work", [encoded_in_slices, decoded_in_slices])
def test_no_slice_takes_long(work: Callable[[], Iterator[None]]) -> None:
    """Of a value of 64 MiB no slice takes much of the time."""
    assert len(list(work())) >= 16
    require_even_as_in_a_node(work, 1 / 4)


def slices_of(step: Callable[[], bool]) -> Iterator[None]:
    """Take one step after the other until the work is done."""
    is_done = False
    while not is_done:
        is_done = step()
        yield
