"""The same bytes as batch.py, written and read in slices: a batch of 64 MiB would hold up everybody else's commands.

Copying is what takes the time: a value is copied once into the payload, and on the other nodes once out of it. A slice
copies at most ``SLICE_BYTES``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from io import BytesIO
from typing import Final, NoReturn

import msgpack

from durable_raft.kv.batch import BATCH_VERSION, ROWS_VERSION, is_count, no_batch, version_of
from durable_raft.kv.runs import Run

LARGE_BYTES: Final = 4 << 20
"""Size from which a batch is worth more than one turn of the loop."""

SLICE_BYTES: Final = 4 << 20
"""Copied in one slice: two milliseconds where the memory is new."""

SLICE_ARGS: Final = 10_000
"""Arguments looked at in one slice."""

_BIN_32: Final = 0xC6
_BIN_HEADER: Final = struct.Struct(">BI")


class BatchEncoder:
    """Makes the payload of one batch; equal to what ``encode_batch`` makes."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._packer = msgpack.Packer(use_bin_type=True, autoreset=False)
        self._payload = BytesIO()
        self._runs = iter(runs)
        self._args: list[bytes] = []
        """Arguments of the run under way, the next one last."""
        self._large: memoryview | None = None
        """What is not written yet of a large argument."""
        self._is_done = False
        self._packer.pack(BATCH_VERSION)
        self._packer.pack_array_header(len(runs))

    def step(self) -> bool:
        """Write a slice; return whether the payload is complete."""
        end = self._payload.tell() + SLICE_BYTES
        for _ in range(SLICE_ARGS):
            if self._is_done or self._payload.tell() >= end:
                break
            self._write_next(end)
        self._take_packed()
        return self._is_done

    def payload(self) -> bytes:
        """Return the payload, all that is missing of it written at once."""
        while not self.step():
            pass
        return self._payload.getvalue()

    def _write_next(self, end: int) -> None:
        if self._large is not None:
            room = end - self._payload.tell()
            self._payload.write(self._large[:room])
            self._large = self._large[room:] if len(self._large) > room else None
        elif self._args:
            self._begin_arg(self._args.pop())
        else:
            run = next(self._runs, None)
            self._is_done = run is None
            if run is not None:
                self._packer.pack_array_header(2 + len(run.args))
                self._packer.pack(run.name)
                self._packer.pack(run.length)
                self._args = run.args[::-1]

    def _begin_arg(self, arg: bytes) -> None:
        if len(arg) < 1 << 16:
            self._packer.pack(arg)
        else:
            self._take_packed()
            self._payload.write(_BIN_HEADER.pack(_BIN_32, len(arg)))
            self._large = memoryview(arg)

    def _take_packed(self) -> None:
        self._payload.write(self._packer.bytes())
        self._packer.reset()


class BatchDecoder:
    """Reads the runs of one payload, of either version; the same as ``decode_batch`` returns."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._view = memoryview(payload)
        self._at = 1
        self._is_in_rows = False
        self._runs: list[Run] = []
        self._large = BytesIO()
        self._large_end = 0
        """Where the large argument ends of which a part was read; 0: there is none."""
        self._args_left = 0
        """Arguments that the last run is short of."""
        self._runs_left = -1
        """Runs that the batch is short of; -1: their number was not read yet."""

    def step(self) -> bool:
        """Read a slice; return whether the runs are complete.

        Raises:
            UnknownFormatVersion: another version than this build knows.
            CorruptRecord: no batch of its version.
        """
        if self._runs_left < 0:
            self._is_in_rows = version_of(self._payload) == ROWS_VERSION
            self._runs_left = self._array_header()
        budget = SLICE_BYTES
        for _ in range(SLICE_ARGS):
            if budget <= 0 or self._is_done():
                break
            budget -= self._read_next(budget)
        return self._is_done()

    def runs(self) -> list[Run]:
        """Return the runs, all that is missing of them read at once; raises as ``step``."""
        while not self.step():
            pass
        return self._runs

    def _is_done(self) -> bool:
        if self._runs_left or self._args_left or self._large_end:
            return False
        if self._at != len(self._payload):
            self._raise()
        return True

    def _read_next(self, budget: int) -> int:
        """Read an argument, a part of one, or the head of a run; return how many bytes were copied."""
        if self._large_end:
            return self._read_large(budget)
        if not self._args_left:
            return self._read_head()
        end = self._bin_end()  # Which goes on to where it begins.
        if end - self._at > SLICE_BYTES:
            self._large, self._large_end = BytesIO(), end
            return 0
        start, self._at = self._at, end
        self._runs[-1].args.append(self._payload[start:end])
        self._args_left -= 1
        return end - start

    def _read_head(self) -> int:
        """Read a run up to its first argument; return how many bytes were copied."""
        self._runs_left -= 1
        head = 1 if self._is_in_rows else 2
        self._args_left = self._array_header() - head
        if self._args_left < 0:
            self._raise()
        end = self._bin_end()
        name, self._at = self._payload[self._at : end], end
        count = 1 if self._is_in_rows else self._count()
        if not is_count(count, self._args_left):
            self._raise()
        self._runs.append(Run(name, count, []))
        return len(name)

    def _read_large(self, budget: int) -> int:
        end = min(self._large_end, self._at + budget)
        copied = self._large.write(self._view[self._at : end])
        self._at = end
        if end == self._large_end:
            self._runs[-1].args.append(self._large.getvalue())
            self._large, self._large_end = BytesIO(), 0
            self._args_left -= 1
        return copied

    def _array_header(self) -> int:
        """Return the number of elements of the array that begins here."""
        first = self._number(1)
        if 0x90 <= first <= 0x9F:
            return first & 0x0F
        if first not in (0xDC, 0xDD):
            self._raise()
        return self._number(2 if first == 0xDC else 4)

    def _bin_end(self) -> int:
        """Go to the first byte of the byte string whose header stands here; return where the string ends."""
        first = self._number(1)
        if not 0xC4 <= first <= _BIN_32:
            self._raise()
        length = self._number(1 << (first - 0xC4))
        end = self._at + length
        if end > len(self._payload):
            self._raise()
        return end

    def _count(self) -> int:
        """Return the number that stands here."""
        first = self._number(1)
        if first < 0x80:
            return first
        if not 0xCC <= first <= 0xD3:
            self._raise()
        return self._number(1 << (first & 3), is_signed=first >= 0xD0)

    def _number(self, size: int, *, is_signed: bool = False) -> int:
        data = self._payload[self._at : self._at + size]
        if len(data) < size:
            self._raise()
        self._at += size
        return int.from_bytes(data, "big", signed=is_signed)

    def _raise(self) -> NoReturn:
        raise no_batch(self._payload)
