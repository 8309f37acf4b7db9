"""The payload of a COMMANDS entry: one version byte, then msgpack.

::

    version 2    [run, ...]        run      [name, length, argument, ...]     arguments column by column (runs.py)
    version 1    [command, ...]    command  [name, argument, ...]            read for ever, written no more

Names and arguments are byte strings. A run has at least one command, and exactly one if there are no arguments.

The version stands for the meaning of the commands too: a later version of this program that executes a command
differently must write another one, and go on executing the old one as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import msgpack

from durable_raft.errors import CorruptRecord, UnknownFormatVersion
from durable_raft.kv.keyspace import DROP_MAX, DROP_MAX_BEFORE
from durable_raft.kv.runs import Run, commands_of

BATCH_VERSION: Final = 2
ROWS_VERSION: Final = 1
"""Of the payloads that hold each command by itself."""

_PREFIX: Final = bytes([BATCH_VERSION])
VERSIONS: Final = (ROWS_VERSION, BATCH_VERSION)
_SHAPES: Final = {ROWS_VERSION: "a list of lists of byte strings", BATCH_VERSION: "a list of runs of byte strings"}
_IS_BYTES: Final = frozenset((bytes,)).issuperset
_new_run: Final = tuple.__new__
_packer = msgpack.Packer(use_bin_type=True, autoreset=False)


def encode_batch(runs: Sequence[Run]) -> bytes:
    """Return the payload for ``runs``; none at all is legal and only moves the cluster time."""
    try:
        # The number is packed as the byte that it is; so nothing large is copied to put it in front.
        _packer.pack(BATCH_VERSION)
        _packer.pack([[name, length, *args] for name, length, args in runs])
        payload: bytes = _packer.bytes()
    finally:
        _packer.reset()
    return payload


def decode_batch(payload: bytes) -> list[Run]:
    """Return the runs in ``payload``, of either version.

    Raises:
        UnknownFormatVersion: another version than this build knows.
        CorruptRecord: no batch of its version.
    """
    version = version_of(payload)
    try:
        found = msgpack.unpackb(memoryview(payload)[1:])
    except ValueError as error:
        raise CorruptRecord(f"batch of {len(payload)} bytes cannot be decoded: {error}") from error
    if type(found) is not list:
        raise no_batch(payload)
    runs = map(_of_row if version == ROWS_VERSION else _of_run, found)
    if None in (decoded := [*runs]):
        raise no_batch(payload)
    return cast("list[Run]", decoded)


def decode_commands(payload: bytes) -> list[list[bytes]]:
    """Return the commands in ``payload`` one by one, each with its name first; raises as ``decode_batch``."""
    return commands_of(decode_batch(payload))


def version_of(payload: bytes) -> int:
    """Return the version of ``payload``.

    Raises:
        UnknownFormatVersion: another one than this build knows, or none.
    """
    if payload[:1] and payload[0] in VERSIONS:
        return payload[0]
    found = payload[0] if payload else "none"
    known = " and ".join(map(str, VERSIONS))
    raise UnknownFormatVersion(f"batch of version {found}; this build knows {known}")


def drop_max_of(payload: bytes) -> int:
    """Return how many expired keys the entry with this payload drops at most (keyspace.py)."""
    return DROP_MAX if payload[:1] == _PREFIX else DROP_MAX_BEFORE


def no_batch(payload: bytes) -> CorruptRecord:
    """Return the error for a payload that is not what its version says."""
    return CorruptRecord(f"batch of {len(payload)} bytes: expected {_SHAPES[payload[0]]}")


def is_count(count: object, args: int) -> bool:
    """Return whether a run of ``args`` arguments may say that it has ``count`` commands."""
    if type(count) is not int or count < 1:
        return False
    return not args % count if args else count == 1


def _of_row(found: Any) -> Run | None:
    """Return the run that an element of version 1 is, if it is a list of byte strings that is not empty."""
    if type(found) is not list or not found or not _IS_BYTES(map(type, found)):
        return None
    name, *args = found
    return _new_run(Run, (name, 1, args))


def _of_run(found: Any) -> Run | None:
    """Return the run that an element of version 2 is, if it is one."""
    if type(found) is not list or len(found) < 2:
        return None
    name, length, *args = found
    if type(name) is not bytes or not is_count(length, len(args)) or not _IS_BYTES(map(type, args)):
        return None
    return _new_run(Run, (name, length, args))
