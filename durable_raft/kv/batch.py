"""The payload of a COMMANDS entry: one version byte, then a msgpack array of commands, each an array of byte strings.

The version stands for the meaning of the commands too: a later version of this program that executes a command
differently must write another one, and go on executing the old one as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgpack

from durable_raft.errors import CorruptRecord, UnknownFormatVersion

BATCH_VERSION: Final = 1
_PREFIX: Final = bytes([BATCH_VERSION])
_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


def encode_batch(commands: Sequence[Sequence[bytes]]) -> bytes:
    """Return the payload for ``commands``; none at all is legal and only moves the cluster time."""
    packed: bytes = _pack(commands)
    return _PREFIX + packed


def decode_batch(payload: bytes) -> list[list[bytes]]:
    """Return the commands in ``payload``.

    Raises:
        UnknownFormatVersion: another version than this build knows.
        CorruptRecord: not what ``encode_batch`` makes.
    """
    if payload[:1] != _PREFIX:
        found = payload[0] if payload else "none"
        raise UnknownFormatVersion(f"batch of version {found}; this build knows {BATCH_VERSION}")
    try:
        commands = msgpack.unpackb(memoryview(payload)[1:])
    except ValueError as error:
        raise CorruptRecord(f"batch of {len(payload)} bytes cannot be decoded: {error}") from error
    if not isinstance(commands, list) or not all(map(_is_command, commands)):
        raise CorruptRecord(f"batch of {len(payload)} bytes: expected a list of lists of byte strings")
    return commands


def _is_command(command: object) -> bool:
    return isinstance(command, list) and bool(command) and all(type(arg) is bytes for arg in command)
