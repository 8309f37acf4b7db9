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

from durable_raft.errors import CorruptRecord
from durable_raft.kv.batch import BATCH_VERSION, decode_batch

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

    def __init__(self, commands: Sequence[Sequence[bytes]]) -> None:
        self._packer = msgpack.Packer(use_bin_type=True, autoreset=False)
        self._payload = BytesIO()
        self._commands = iter(commands)
        self._args: list[bytes] = []
        """Arguments of the command under way, the next one last."""
        self._large: memoryview | None = None
        """What is not written yet of a large argument."""
        self._is_done = False
        self._packer.pack(BATCH_VERSION)
        self._packer.pack_array_header(len(commands))

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
            command = next(self._commands, None)
            self._is_done = command is None
            if command is not None:
                self._packer.pack_array_header(len(command))
                self._args = list(reversed(command))

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
    """Reads the commands of one payload; the same as ``decode_batch`` returns."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._view = memoryview(payload)
        self._at = 1
        self._commands: list[list[bytes]] = []
        self._large = BytesIO()
        self._large_end = 0
        """Where the large argument ends of which a part was read; 0: there is none."""
        self._args_left = 0
        """Arguments that the last command is short of."""
        self._commands_left = -1
        """Commands that the batch is short of; -1: their number was not read yet."""

    def step(self) -> bool:
        """Read a slice; return whether the commands are complete.

        Raises:
            UnknownFormatVersion: another version than this build knows.
            CorruptRecord: not what ``encode_batch`` makes.
        """
        if self._commands_left < 0:
            # A payload of another version, or one that is no batch at all, is named as ever.
            if self._payload[:1] != bytes([BATCH_VERSION]):
                decode_batch(self._payload[:1])
            self._commands_left = self._array_header()
        budget = SLICE_BYTES
        for _ in range(SLICE_ARGS):
            if budget <= 0 or self._is_done():
                break
            budget -= self._read_next(budget)
        return self._is_done()

    def commands(self) -> list[list[bytes]]:
        """Return the commands, all that is missing of them read at once; raises as ``step``."""
        while not self.step():
            pass
        return self._commands

    def _is_done(self) -> bool:
        if self._commands_left or self._args_left or self._large_end:
            return False
        if self._at != len(self._payload):
            self._raise()
        return True

    def _read_next(self, budget: int) -> int:
        """Read an argument, a part of one, or the head of a command; return how many bytes were copied."""
        if self._large_end:
            return self._read_large(budget)
        if not self._args_left:
            self._commands_left -= 1
            self._args_left = self._array_header()
            if not self._args_left:
                self._raise()
            self._commands.append([])
            return 0
        length = self._bin_header()
        end = self._at + length
        if end > len(self._payload):
            self._raise()
        if length > SLICE_BYTES:
            self._large, self._large_end = BytesIO(), end
            return 0
        self._commands[-1].append(self._payload[self._at : end])
        self._at = end
        self._args_left -= 1
        return length

    def _read_large(self, budget: int) -> int:
        end = min(self._large_end, self._at + budget)
        copied = self._large.write(self._view[self._at : end])
        self._at = end
        if end == self._large_end:
            self._commands[-1].append(self._large.getvalue())
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

    def _bin_header(self) -> int:
        """Return the length of the byte string that begins here."""
        first = self._number(1)
        if not 0xC4 <= first <= _BIN_32:
            self._raise()
        return self._number(1 << (first - 0xC4))

    def _number(self, size: int) -> int:
        data = self._payload[self._at : self._at + size]
        if len(data) < size:
            self._raise()
        self._at += size
        return int.from_bytes(data, "big")

    def _raise(self) -> NoReturn:
        raise CorruptRecord(f"batch of {len(self._payload)} bytes: expected a list of lists of byte strings")
