"""The payload of a COMMANDS entry: one version byte, then a msgpack array of commands, each an array of byte strings.

The version stands for the meaning of the commands too: a later version of this program that executes a command
differently must write another one, and go on executing the old one as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Final, cast

import msgpack

from durable_raft.errors import CorruptRecord, UnknownFormatVersion

BATCH_VERSION: Final = 1
_PREFIX: Final = bytes([BATCH_VERSION])
_packer = msgpack.Packer(use_bin_type=True, autoreset=False)


def encode_batch(commands: Sequence[Sequence[bytes]]) -> bytes:
    """Return the payload for ``commands``; none at all is legal and only moves the cluster time."""
    try:
        # The number is packed as the byte that it is; so nothing large is copied to put it in front.
        _packer.pack(BATCH_VERSION)
        _packer.pack(commands)
        payload: bytes = _packer.bytes()
    finally:
        _packer.reset()
    return payload


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
    if not _are_commands(commands):
        raise CorruptRecord(f"batch of {len(payload)} bytes: expected a list of lists of byte strings")
    return cast("list[list[bytes]]", commands)


def _are_commands(commands: object) -> bool:
    """Return whether these are lists of byte strings, none of them empty; every loop runs in C."""
    if type(commands) is not list:
        return False
    are_lists = set(map(type, commands)) <= {list}
    return are_lists and all(commands) and set(map(type, chain.from_iterable(commands))) <= {bytes}
