"""What the fields of a frame between nodes may be: a check for each kind of field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from durable_raft.errors import DamagedFrame
from durable_raft.raft.types import PRIORITY_MAX, DiskRoom, EntryKind
from durable_raft.raft.versions import FIRST, VERSION_MAX

NUMBER_MAX: Final = 2**63 - 1
INDEX_MAX: Final = 1 << 56
"""No log, and no count of rounds, is so long: 22,000 years of 100,000 entries a second. Behind it there is room."""
TIME_MAX: Final = NUMBER_MAX // 1_000_000
"""Milliseconds since 1970: as far as a clock of nanoseconds goes, the year 2262."""
UUID_BYTES: Final = 16
PROOF_BYTES: Final = 32
NONCE_BYTES: Final = 8
LIVES_MAX: Final = 64


class Check(NamedTuple):
    """What one field must be."""

    expected: str
    holds: Callable[[Any], bool]


ENTRY_KINDS: Final = {int(kind): kind for kind in EntryKind}

NUMBER: Final = Check("an integer in [0, 2^63)", lambda value: type(value) is int and 0 <= value <= NUMBER_MAX)
INDEX: Final = Check("an integer in [0, 2^56]", lambda value: type(value) is int and 0 <= value <= INDEX_MAX)
TIME: Final = Check("a time up to 2262", lambda value: type(value) is int and 0 <= value <= TIME_MAX)
SUM: Final = Check("an integer in [0, 2^32)", lambda value: type(value) is int and 0 <= value < 2**32)
FLAG: Final = Check("a boolean", lambda value: type(value) is bool)
SWITCH: Final = Check("0 or 1", lambda value: value in (0, 1))
TEXT: Final = Check("text", lambda value: type(value) is str)
NAME: Final = Check("text that is not empty", lambda value: type(value) is str and value != "")
UUID: Final = Check("16 bytes", lambda value: type(value) is bytes and len(value) == UUID_BYTES)
PROOF: Final = Check("32 bytes", lambda value: type(value) is bytes and len(value) == PROOF_BYTES)
ARRAY: Final = Check("an array", lambda value: type(value) is list)
PAYLOAD: Final = Check("bytes", lambda value: type(value) is bytes)
KEY: Final = PAYLOAD
HASH: Final = Check("an integer in [0, 2^64)", lambda value: type(value) is int and 0 <= value < 2**64)
KEYS: Final = Check("an array of bytes", lambda value: type(value) is list and all(type(v) is bytes for v in value))
NUMBERS: Final = Check(
    "an array of integers in [0, 2^63)", lambda value: type(value) is list and all(map(NUMBER.holds, value))
)
SUMS: Final = Check(
    "an array of integers in [0, 2^32)", lambda value: type(value) is list and all(map(SUM.holds, value))
)
DISK: Final = Check(
    "16 or 24 bytes or none",
    lambda value: type(value) is bytes and len(value) in (0, UUID_BYTES, UUID_BYTES + NONCE_BYTES),
)
NONCE: Final = Check("8 bytes", lambda value: type(value) is bytes and len(value) == NONCE_BYTES)
LIFE: Final = Check("8 bytes or none", lambda value: type(value) is bytes and len(value) in (0, NONCE_BYTES))
PRIORITY: Final = Check("an election priority", lambda value: type(value) is int and 0 <= value <= PRIORITY_MAX)
VERSION: Final = Check("a version above 1", lambda value: type(value) is int and FIRST < value <= VERSION_MAX)
ROOM: Final = Check("a room", lambda value: type(value) is int and 0 <= value <= DiskRoom.NONE)
ENTRY_KIND: Final = Check("an entry kind", lambda value: type(value) is int and value in ENTRY_KINDS)


def check_fields(where: str, names: Sequence[str], checks: Sequence[Check], fields: object) -> None:
    """Check that ``fields`` is an array with one value for each check, of its kind.

    Raises:
        DamagedFrame: naming ``where``, the field, what was found and what was expected.
    """
    if type(fields) is not list or len(fields) != len(checks):
        raise DamagedFrame(f"{where}: {_brief(fields)}, expected an array of {len(checks)}: {', '.join(names)}")
    for name, check, value in zip(names, checks, fields, strict=True):
        if not check.holds(value):
            raise DamagedFrame(f"{where}: {name} is {_brief(value)}, expected {check.expected}")


def _brief(value: object) -> str:
    if isinstance(value, list):
        return f"an array of {len(value)}"
    return f"{value!r:.60}"
